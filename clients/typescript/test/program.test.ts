import assert from "node:assert/strict";
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { promisify } from "node:util";
import { ExceptionError, type Client, type DownEvent } from "pillion";
import { binary, type Node, skip, within } from "./node";

const store = join(__dirname, "store.js");
const long = { timeout: 60_000 };

interface Running {
  child: ChildProcess;
  lines: AsyncIterator<string>;
  /** Its status, what else it printed, and what it said on standard error. */
  end(): Promise<[number | null, string[], string]>;
}

/** Starts the store by itself, and waits until it is registered. */
async function program(node: Node): Promise<Running> {
  const child = spawn(process.execPath, [store], { env: { PATH: process.env["PATH"], PILLION_SOCKET: node.socket }, stdio: ["ignore", "pipe", "pipe"] });
  const closed = once(child, "close");
  let said = "";
  child.stderr!.setEncoding("utf8").on("data", (text: string) => (said += text));
  const lines = createInterface(child.stdout!)[Symbol.asyncIterator]();
  const end = async (): Promise<[number | null, string[], string]> => {
    const rest: string[] = [];
    for (let line = await lines.next(); !line.done; line = await lines.next()) rest.push(line.value);
    await closed;
    return [child.exitCode, rest, said];
  };
  assert.equal((await lines.next()).value, "registered", said);
  return { child, lines, end };
}

async function down(client: Client, ref: number): Promise<string> {
  const event = await client.receive({ match: (event) => event.ev === "down" && event.ref === ref });
  return (event as DownEvent).reason;
}

async function until<T>(holds: () => Promise<T | undefined>): Promise<T> {
  for (;;) {
    const value = await holds().catch(() => undefined);
    if (value !== undefined) return value;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test("a supervisor starts a store that crashed anew, and leaves one that stopped", { skip }, () =>
  within(async (mesh) => {
    const node = await mesh.node("a");
    const client = await mesh.client(node);
    const host = ["--socket", node.socket, "host", "primary_store", "--restart", "transient", "--", process.execPath, store];
    await promisify(execFile)(binary()!, host);
    const before = await client.whereis("primary_store");
    const first = await client.monitor("primary_store");
    await client.cast("primary_store", ["set", "bar", 2]);
    assert.equal(await client.call("primary_store", ["get", "bar"], long), 2);

    await assert.rejects(client.call("primary_store", ["boom"], long), (error: unknown) => {
      assert(error instanceof ExceptionError);
      assert.deepEqual([error.class, error.reason], ["Boom", "it broke"]);
      return true;
    });
    assert.equal(await down(client, first.ref), "Boom: it broke");
    const foo = await until(async () => {
      const pid = await client.whereis("primary_store");
      return pid === null || pid === before ? undefined : client.call("primary_store", ["get", "foo"], long);
    });
    assert.equal(foo, 1);
    assert.equal(await client.call("primary_store", ["get", "bar"], long), null);

    const second = await client.monitor("primary_store");
    assert.equal(await client.call("primary_store", ["stop", "normal"], long), "ok");
    assert.equal(await down(client, second.ref), "normal");
    await until(async () => {
      type Child = { name: string; state: string; last: string | null };
      const tree = await client.request<{ children: Child[] }[]>("tree");
      const child = tree.flatMap((each) => each.children).find((each) => each.name === "primary_store");
      return child?.state === "stopped" && child.last === "normal" ? true : undefined;
    });
    assert.equal(await client.whereis("primary_store"), null);
  }),
);

test("a failure is status 1 and one line that says why", { skip }, () =>
  within(async (mesh) => {
    const node = await mesh.node("a");
    const client = await mesh.client(node);
    const running = await program(node);
    await assert.rejects(client.call("primary_store", ["boom"], long), ExceptionError);
    assert.deepEqual(await running.end(), [1, ["ended: Boom: it broke"], "primary_store has ended: Boom: it broke\n"]);

    const signalled = await program(node);
    await client.kill("primary_store", "out of stock");
    assert.deepEqual(await signalled.end(), [1, ["ended: out of stock"], "primary_store has ended: out of stock\n"]);
  }),
);

test("a stop that is no failure is status 0", { skip }, () =>
  within(async (mesh) => {
    const node = await mesh.node("a");
    const client = await mesh.client(node);
    for (const reason of ["normal", "shutdown", "shutdown: moved"]) {
      const running = await program(node);
      await client.call("primary_store", ["stop", reason], long);
      assert.deepEqual(await running.end(), [0, [`ended: ${reason}`], ""]);
    }
  }),
);

test("SIGTERM answers what the server was given, and is status 0", { skip }, () =>
  within(async (mesh) => {
    const node = await mesh.node("a");
    const client = await mesh.client(node);
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      const running = await program(node);
      const { ref } = await client.monitor("primary_store");
      const answer = client.call("primary_store", ["slow", 7], long);
      assert.equal((await running.lines.next()).value, "working");
      running.child.kill(signal);
      assert.equal(await answer, 7);
      assert.deepEqual(await running.end(), [0, ["ended: shutdown"], ""]);
      assert.equal(await down(client, ref), "shutdown");
    }
  }),
);

test("a node that leaves ends the program with status 0", { skip }, () =>
  within(async (mesh) => {
    const node = await mesh.node("a");
    const running = await program(node);
    await node.kill("SIGTERM");
    assert.deepEqual(await running.end(), [0, ["ended: shutdown"], ""]);
  }),
);
