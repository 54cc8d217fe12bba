"""The app's functions in threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def contained(function: Callable[..., T], *args: object) -> T:
    """Calls a function whose outcome an event loop waits for.

    `SystemExit` would end that loop, and with it everybody else's work; `StopIteration` cannot be told to who waits, so that he would wait
    for ever. Both become a `RuntimeError`, as Python does with `StopIteration` in a coroutine.
    """
    try:
        return function(*args)
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            raise
        text = f": {error}" if str(error) else ""
        raise RuntimeError(f"it raised {type(error).__name__}{text}") from error
