"""The articles' key-value store as a program of its own: `python -m tests.store [sync]`."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import pillion
from pillion import Call, GenServer, sync


class Boom(Exception):
    pass


class Store(GenServer):
    def init(self, state: dict[str, Any]) -> None:
        self.state = dict(state)
        print("registered", flush=True)

    def handle_call(self, request: Any, call: Call) -> Any:
        match request:
            case ["get", key]:
                return self.state.get(key)
            case ["boom"]:
                raise Boom("it broke")
            case ["stop", reason]:
                self.stop(reason)
                return "ok"
            case ["os_pid"]:
                return os.getpid()
            case ["slow", value]:
                print("working", flush=True)
                time.sleep(0.3)
                return value

    def handle_cast(self, request: Any) -> None:
        match request:
            case ["set", key, value]:
                self.state[key] = value

    def terminate(self, reason: str) -> None:
        print("ended:", reason, flush=True)


if __name__ == "__main__":
    (sync.run if "sync" in sys.argv else pillion.run)(Store, {"foo": 1}, name="primary_store")
