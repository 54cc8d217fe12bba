"""A key-value store: a GenServer, registered as `primary_store`.

    python key_value_store.py serve
    python key_value_store.py set ADDRESS KEY VALUE
    python key_value_store.py get ADDRESS KEY
    python key_value_store.py delete ADDRESS KEY

Casts are `["set", key, value]` and `["delete", key]`; the call `["get", key]` replies the value, or null.
"""

import asyncio
import json
import sys
from typing import Any

import pillion
from pillion import Call, Client, GenServer


class KeyValueStore(GenServer):
    def init(self, state: dict[str, Any] | None = None) -> None:
        self.state = dict(state or {})

    def handle_cast(self, request: Any) -> None:
        match request:
            case ["set", key, value]:
                self.state[key] = value
            case ["delete", key]:
                self.state.pop(key, None)

    def handle_call(self, request: Any, call: Call) -> Any:
        match request:
            case ["get", key]:
                return self.state.get(key)


async def start(app: Client, initial_state: dict[str, Any] | None = None) -> KeyValueStore:
    return await app.start(KeyValueStore, initial_state, name="primary_store")


async def set(app: Client, server: str, key: str, value: Any) -> None:
    await app.cast(server, ["set", key, value], confirm=True)


async def get(app: Client, server: str, key: str) -> Any:
    return await app.call(server, ["get", key])


async def delete(app: Client, server: str, key: str) -> None:
    await app.cast(server, ["delete", key], confirm=True)


async def main() -> None:
    async with pillion.connect(name="key_value_store") as app:
        match sys.argv[1:]:
            case ["serve"]:
                store = await start(app)
                print("registered as primary_store", flush=True)
                await store.wait()
            case ["set", server, key, value]:
                await set(app, server, key, value)
            case ["get", server, key]:
                value = await get(app, server, key)
                print(value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False))
            case ["delete", server, key]:
                await delete(app, server, key)
            case _:
                sys.exit(__doc__)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except pillion.PillionError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass
