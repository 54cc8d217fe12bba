"""A bot: a linked task that answers in a loop.

    python bot.py serve
    python bot.py help ADDRESS
    python bot.py date ADDRESS

Messages are `["help", from]` and `["date_today", from]`; the answers are texts.
"""

import asyncio
import sys
from datetime import datetime, timezone

import pillion
from pillion import Message


async def loop(me: pillion.Process) -> None:
    await me.register("bot")
    print("registered as bot", flush=True)
    async for event in me:
        match event:
            case Message(["help", caller]):
                await me.send(caller, "You can ask me what today's date is by passing date_today")
            case Message(["date_today", caller]):
                await me.send(caller, f"Today's date is {datetime.now(timezone.utc).date()}")
            case Message([_, str(caller)]):
                await me.send(caller, "Unknown message type")
            case Message(_, sender):
                await me.send(sender, "Unknown message type")


async def serve() -> None:
    async with pillion.connect(name="bot") as app:
        await app.task(loop)


async def ask(address: str, what: str) -> None:
    async with pillion.connect(name="caller") as app:
        await app.send(address, [what, app.pid], confirm=True)
        answer = await app.receive(lambda event: isinstance(event, Message), timeout=5)
        if answer is None:
            sys.exit(f"{address} does not answer")
        print(answer.body)


def main() -> None:
    match sys.argv[1:]:
        case ["serve"]:
            work = serve()
        case ["help", address]:
            work = ask(address, "help")
        case ["date", address]:
            work = ask(address, "date_today")
        case ["say", address, what]:
            work = ask(address, what)
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
