"""Pillion for Python: processes, messages, calls and topics on a mesh of nodes.

    import asyncio, pillion

    async def main():
        async with pillion.connect() as app:
            await app.send("stock", ["status", app.pid])
            print(await app.receive(timeout=5))

    asyncio.run(main())

`pillion.sync` is the same for programs without an event loop.
"""

from .acting import Address
from .client import Client, connect
from .errors import (
    BadArg,
    BadOp,
    CallingSelf,
    Cancelled,
    CannotStart,
    Closed,
    Denied,
    Draining,
    Exited,
    Lost,
    NoConnection,
    NoProc,
    NotFound,
    Overloaded,
    PillionError,
    RemoteError,
    Taken,
    Timeout,
    TooLarge,
    Undef,
    Unreachable,
    Unsupported,
)
from .events import (
    Call,
    Cast,
    Down,
    Event,
    Exit,
    Gap,
    GroupChange,
    Message,
    NameConflict,
    NodeDown,
    NodeUp,
    PresenceChange,
    Present,
    Rpc,
)
from .frames import ABSENT
from .gen_server import NOREPLY, GenServer
from .process import Monitor, Process, Timer
from .program import run
from .queries import Result
from .report import Report
from .serve import Module
from .stream import Stream
from .task import Task
from .topics import GroupWatch, NodeWatch, PresenceWatch, Subscription

__version__ = "0.1.0"

__all__ = [
    "ABSENT", "Address", "BadArg", "BadOp", "Call", "CallingSelf", "Cancelled", "CannotStart", "Cast", "Client", "Closed", "Denied",
    "Down", "Draining", "Event", "Exit", "Exited", "Gap", "GenServer", "GroupChange", "GroupWatch", "Lost", "Message", "Module", "Monitor",
    "NOREPLY", "NameConflict", "NoConnection", "NoProc", "NodeDown", "NodeUp", "NodeWatch", "NotFound", "Overloaded", "PillionError",
    "Present", "PresenceChange", "PresenceWatch", "Process", "RemoteError", "Report", "Result", "Rpc", "Stream", "Subscription", "Taken",
    "Task", "Timeout", "Timer", "TooLarge", "Undef", "Unreachable", "Unsupported", "connect", "run",
]  # fmt: skip
