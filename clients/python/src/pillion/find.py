"""Finding the node's socket when nobody says which."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from .errors import Unreachable

_OPERATOR = ".operator.sock"


def named(explicit: str | os.PathLike[str] | None) -> str | None:
    """The socket that was named: by the argument, else by `PILLION_SOCKET`."""
    if explicit is not None:
        return os.fspath(explicit)
    return os.environ.get("PILLION_SOCKET") or None


def directory() -> Path:
    """Where nodes of this user have their sockets: `PILLION_DIR`, else `/tmp/pillion-<uid>`."""
    return Path(os.environ.get("PILLION_DIR") or f"/tmp/pillion-{os.geteuid()}")


def find(explicit: str | os.PathLike[str] | None = None) -> str:
    """The path of the socket: the one that was named, else the only one of this user that answers.

    A named one is not tried: connecting to it says more. Raises `Unreachable` when there is none, when several answer, and when the
    directory belongs to another user, who could listen to everything.
    """
    path = named(explicit)
    if path is not None:
        return path
    below = directory()
    try:
        owner = os.lstat(below).st_uid
    except OSError:
        raise _none(below) from None
    if owner not in (os.geteuid(), 0):
        raise Unreachable(f"{below} belongs to another user; name the socket, or set PILLION_SOCKET")
    found = sorted(str(path) for path in below.glob("*/*.sock") if not path.name.endswith(_OPERATOR) and _answers(path))
    if not found:
        raise _none(below)
    if len(found) > 1:
        listed = "".join(f"\n  PILLION_SOCKET={path}" for path in found)
        raise Unreachable(f"{len(found)} nodes run here; name one, or choose it with PILLION_SOCKET:{listed}")
    return found[0]


def _none(below: Path) -> Unreachable:
    return Unreachable(
        f"no pillion runs here: nothing answers under {below}. Start one with `pillion up`, or name its socket with PILLION_SOCKET"
    )


def _answers(path: Path) -> bool:
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            probe.connect(os.fspath(path))
    except OSError:
        return False
    return True


def is_no_path(error: Exception) -> bool:
    """Whether this cannot be the path of a socket at all, so that another try would be in vain."""
    return isinstance(error, OSError) and error.errno is None and "path too long" in str(error)


def unfit(path: str, error: Exception) -> str | None:
    """What is wrong with a path that was named, and what to do, where that is not simply that no node runs."""
    if is_no_path(error):
        return f"cannot be the path of a socket ({error}): the system takes about 100 bytes; give the node a shorter one by `--dir`"
    if isinstance(error, PermissionError):
        return "may not be opened by this user; run the app as the node's user, or let its group in by the node's `--socket-mode`"
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return None
    if stat.S_ISDIR(mode):
        return "is a directory; name the socket of a node in it, `<mesh>/<node>.sock`, or set PILLION_DIR to where nodes have theirs"
    if not stat.S_ISSOCK(mode):
        return "is no socket; name the one that `pillion up` says"
    return None
