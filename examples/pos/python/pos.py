"""A point of sale: customers ask it for a product, and it asks the stock.

    python pos.py serve [STOCK_ADDRESS]
    python pos.py ask POS_ADDRESS PRODUCT

A customer sends `["ask", from, product]` and gets `["print", product]` or `["print", text]`. The stock is a process of the product_stock
example, by default `server@server`. It is called, so that each answer finds its question, however many customers ask at once.
"""

import asyncio
import json
import sys

import pillion
from pillion import Message


async def serve(stock: str = "server@server") -> None:
    async with pillion.connect(name="pos") as app:
        await app.register("pos")
        print("registered as pos", flush=True)
        asking: set[asyncio.Task[None]] = set()
        async for event in app:
            match event:
                case Message(["ask", sender, product]):
                    print(f"{sender} wants to know if get a product", flush=True)
                    task = asyncio.create_task(answer(app, stock, sender, product))
                    asking.add(task)
                    task.add_done_callback(asking.discard)
        await asyncio.gather(*asking)


async def answer(app: pillion.Client, stock: str, customer: str, product: str) -> None:
    try:
        products = await app.call(stock, ["status"])
    except pillion.PillionError as error:
        await app.send(customer, ["print", f"The stock does not answer: {error.code}"])
        return
    found = next((each for each in products if each["name"] == product), f"There is no Product {product}")
    await app.send(customer, ["print", found])


async def ask(address: str, product: str) -> None:
    async with pillion.connect(name="customer") as app:
        await app.send(address, ["ask", app.pid, product], confirm=True)
        answer = await app.receive(lambda event: isinstance(event, Message), timeout=10)
        match answer:
            case Message(["print", str(text)]):
                print(text)
            case Message(["print", found]):
                print(json.dumps(found, separators=(",", ":"), ensure_ascii=False))
            case _:
                sys.exit(f"{address} does not answer")


def main() -> None:
    match sys.argv[1:]:
        case ["serve", *stock]:
            work = serve(*stock)
        case ["ask", address, product]:
            work = ask(address, product)
        case _:
            sys.exit(__doc__)
    try:
        asyncio.run(work)
    except pillion.PillionError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
