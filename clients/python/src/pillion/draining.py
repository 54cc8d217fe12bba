"""How an app leaves a node that is about to leave, and loses nothing."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from .errors import PillionError

if TYPE_CHECKING:
    from .client import Client

log = logging.getLogger("pillion")
_LOOK_SECONDS = 0.01


async def leave(client: Client) -> None:
    """Takes nothing new, answers what was given, ends servers and iterators, and says `bye`."""
    session = client._session
    servers = list(client._servers)
    modules = [module for module in client._modules.values() if module.process is not None]
    serving = [server.process for server in servers]
    serving += [module.process for module in modules if module.process is not None]
    link = session.conn
    if link is None:
        return
    flags = [session.post(process._acting({"op": "flag", "delivery": "pull"}), b"") for process in serving]
    for answer in await asyncio.gather(*flags, return_exceptions=True):
        if isinstance(answer, PillionError):
            log.debug("a process could not stop taking: %s", answer)
    await asyncio.gather(*(server._leave() for server in servers), return_exceptions=True)
    client.mailbox.finish()
    for process in list(session.processes.values()):
        process.mailbox.finish()
    while session.conn is link and not _is_idle(client):
        await asyncio.sleep(_LOOK_SECONDS)
    if session.conn is not link or session.closing:
        return  # The connection broke meanwhile: the next one decides.
    for watch in list(client._watches):
        watch._end()
    if client._program is not None:
        await client._exit_own("shutdown")  # It is the whole program that goes, and looks for no other node.
        return
    client._is_drained = True
    await session.leave()
    client._on_left()


def _is_idle(client: Client) -> bool:
    session = client._session
    if any(not waiting.answer.done() for waiting in session.pending.waiting.values()):
        return False
    return not session.given and all(module.is_idle for module in client._modules.values())
