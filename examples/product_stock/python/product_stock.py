"""The stock of several shops, in one process that everybody can reach.

    python product_stock.py serve [NAME]
    python product_stock.py add ADDRESS PRODUCT QTY
    python product_stock.py status ADDRESS

Messages are `["add", from, {"name", "qty"}]` and `["status", from]`; the answer is a message: the whole stock, newest first. The same
asked as calls, without `from`, is replied.
"""

import asyncio
import json
import sys
from typing import Any

import pillion
from pillion import Call, Message

Product = dict[str, Any]


async def handle_stock(app: pillion.Client) -> None:
    stock: list[Product] = []
    async for event in app:
        match event:
            case Message(["add", sender, product]):
                stock = [product, *stock]
                await app.send(sender, stock)
                log(sender, "added a new item on stock")
            case Message(["status", sender]):
                await app.send(sender, stock)
                log(sender, "checked the stock")
            case Call(["add", product], sender):
                stock = [product, *stock]
                await event.reply(stock)
                log(sender, "added a new item on stock")
            case Call(["status"], sender):
                await event.reply(stock)
                log(sender, "checked the stock")


def log(pid: str, what: str) -> None:
    print(f"{pid} {what}", flush=True)


async def serve(name: str = "product_stock") -> None:
    async with pillion.connect(name="product_stock") as app:
        await app.register(name)
        print(f"registered as {name}", flush=True)
        await handle_stock(app)


async def ask(address: str, *request: Any) -> None:
    """Sends a request with the own pid, and prints what comes back."""
    verb, *rest = request
    async with pillion.connect(name="shop") as app:
        await app.send(address, [verb, app.pid, *rest], confirm=True)
        answer = await app.receive(lambda event: isinstance(event, Message), timeout=5)
        if answer is None:
            sys.exit(f"{address} does not answer")
        print(json.dumps(answer.body, separators=(",", ":"), ensure_ascii=False))


def main() -> None:
    match sys.argv[1:]:
        case ["serve", *name]:
            work = serve(*name)
        case ["add", address, product, qty]:
            work = ask(address, "add", {"name": product, "qty": int(qty)})
        case ["status", address]:
            work = ask(address, "status")
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
