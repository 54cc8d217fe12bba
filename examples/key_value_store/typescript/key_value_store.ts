/**
 * Values by keys, in a GenServer.
 *
 *     ./run serve
 *     ./run set ADDRESS KEY VALUE
 *     ./run get ADDRESS KEY
 *     ./run delete ADDRESS KEY
 *
 * It is cast `["set", key, value]` and `["delete", key]`, and called `["get", key]`.
 */
import { connect, GenServer, type Client, type To } from "pillion";

class KeyValueStore extends GenServer {
  private readonly state: Map<string, unknown>;

  constructor(initial: Iterable<[string, unknown]> = []) {
    super();
    this.state = new Map(initial);
  }

  override handleCast(request: unknown): void {
    const [what, key, value] = request as [string, string, unknown];
    if (what === "set") this.state.set(key, value);
    else if (what === "delete") this.state.delete(key);
  }

  override handleCall(request: unknown): unknown {
    const [what, key] = request as [string, string];
    if (what !== "get") throw new RangeError(`a store cannot ${what}`);
    return this.state.get(key) ?? null;
  }
}

export function start(app: Client, name = "primary_store"): Promise<KeyValueStore> {
  return app.start(new KeyValueStore(), { name });
}

export function set(app: Client, server: To, key: string, value: unknown): Promise<void> {
  return app.cast(server, ["set", key, value]);
}

export function get(app: Client, server: To, key: string): Promise<unknown> {
  return app.call(server, ["get", key]);
}

export function remove(app: Client, server: To, key: string): Promise<void> {
  return app.cast(server, ["delete", key]);
}

async function main([command, address, key, value, ...rest]: string[]): Promise<void> {
  if (command === "serve" && address === undefined) {
    const app = await connect({ name: "key_value_store" });
    await start(app);
    console.log("registered as primary_store");
    return;
  }
  const right = rest.length === 0 && key !== undefined && (command === "set") === (value !== undefined);
  if (!right || !["set", "get", "delete"].includes(command ?? "")) {
    throw new Error("usage: key_value_store serve | set ADDRESS KEY VALUE | get ADDRESS KEY | delete ADDRESS KEY");
  }
  const app = await connect({ name: "shop" });
  try {
    if (command === "set") await set(app, address!, key, value);
    else if (command === "delete") await remove(app, address!, key);
    else {
      const found = await get(app, address!, key);
      console.log(typeof found === "string" ? found : JSON.stringify(found));
    }
  } finally {
    await app.close();
  }
}

main(process.argv.slice(2)).catch((error: Error) => {
  console.error(error.message);
  process.exitCode = 1;
});
