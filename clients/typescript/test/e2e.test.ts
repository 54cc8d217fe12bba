import assert from "node:assert/strict";
import { test } from "node:test";
import {
  ExceptionError,
  GenServer,
  NO_REPLY,
  NoConnectionError,
  NoProcError,
  TimeoutError,
  UndefError,
  UnreachableError,
  connect,
  typed,
  type Event,
  type Failed,
  type From,
  type Process,
} from "pillion";
import { promise, skip, within } from "./node";

class Store extends GenServer {
  values = new Map<string, unknown>();
  readonly seen: unknown[] = [];
  readonly ends: string[] = [];
  private held: From[] = [];

  override handleCall(request: unknown, from: From): unknown {
    const [what, key] = request as [string, string];
    if (what === "get") return this.values.get(key) ?? null;
    if (what === "later") return new Promise((resolve) => setImmediate(() => resolve(key)));
    if (what === "parts") return this.parts();
    if (what === "hold") {
      this.held.push(from);
      return NO_REPLY;
    }
    if (what === "stop") {
      this.stop();
      return "ok";
    }
    throw new RangeError("it broke");
  }

  private async *parts(): AsyncGenerator<number, string> {
    yield 1;
    yield 2;
    return "done";
  }

  override handleCast(request: unknown): void {
    const [what, key, value] = request as [string, string, unknown];
    if (what === "set") this.values.set(key, value);
    else if (what === "release") for (const from of this.held.splice(0)) void from.reply(key);
    else throw new TypeError("no such cast");
  }

  override handleInfo(event: Event): void {
    this.seen.push(event);
  }

  override terminate(reason: string): void {
    this.ends.push(reason);
  }
}

test("what is sent between two nodes arrives in order, and calls are answered", { skip }, () =>
  within(async (mesh) => {
    const a = await mesh.node("a", "--strategy", "local");
    const b = await mesh.node("b", "--strategy", "local");
    const [here, there] = [await mesh.client(a), await mesh.client(b)];
    await here.waitFor({ nodes: [there.node] });
    await there.waitFor({ nodes: [here.node] });
    await there.register("inbox");
    const count = 20_000;
    await there.flag({ mailbox: { policy: "wait" } });
    const all = (async () => {
      for (let i = 0; i < count; i++) {
        const event = await there.receive();
        assert.ok(event.ev === "message" && event.body === i && event.from === here.pid, JSON.stringify(event));
      }
    })();
    for (let i = 0; i < count; i++) await here.send("inbox@b", i);
    await all;
    const store = await there.start(new Store(), { name: "store" });
    await here.cast(`store@${there.node}`, ["set", "tea", 3]);
    assert.equal(await here.call(`store@${there.node}`, ["get", "tea"]), 3);
    assert.equal(await here.call(store, ["get", "coffee"]), null);
  }),
);

test("a GenServer answers now, later and in parts, and ends with the reason of its error", { skip }, () =>
  within(async (mesh) => {
    const client = await mesh.client(await mesh.node("a"), { trapExit: true });
    const store = await client.start(new Store(), { name: "store", link: true });
    assert.equal(await client.call("store", ["later", "x"]), "x");
    const held = client.call("store", ["hold"]);
    await client.cast("store", ["release", "free"]);
    assert.equal(await held, "free");
    const stream = client.stream("store", ["parts"]);
    const parts = [];
    for await (const part of stream) parts.push(part);
    assert.deepEqual([parts, await stream.value], [[1, 2], "done"]);
    await client.send("store", "hello");
    const monitor = await client.monitor("store");
    await assert.rejects(client.call("store", ["boom"]), (error: ExceptionError) => {
      assert.ok(error instanceof ExceptionError);
      assert.deepEqual([error.class, error.reason, error.maybeApplied], ["RangeError", "it broke", true]);
      assert.match(error.remoteStack ?? "", /handleCall/);
      return true;
    });
    const down = await client.receive({ match: "down" });
    assert.ok(down.ev === "down" && down.ref === monitor.ref && down.reason === "RangeError: it broke");
    const exit = await client.receive({ match: "exit" });
    assert.ok(exit.ev === "exit" && exit.from === store.pid && exit.reason === "RangeError: it broke");
    assert.deepEqual(store.ends, ["RangeError: it broke"]);
    assert.ok(store.seen.some((event) => (event as Event).ev === "message"));
    await assert.rejects(client.call("store", ["get", "x"]), NoProcError);
    const other = await client.start(new Store(), { name: "store" });
    assert.equal(await client.call("store", ["stop"]), "ok");
    await client.monitor(other);
    await client.receive({ match: "down" });
    assert.deepEqual(other.ends, ["normal"]);
  }),
);

test("functions are served to other nodes, side by side, and cancelled when nobody waits", { skip }, () =>
  within(async (mesh) => {
    const a = await mesh.client(await mesh.node("a", "--strategy", "local"));
    const b = await mesh.client(await mesh.node("b", "--strategy", "local"));
    await a.waitFor({ nodes: [b.node] });
    const cancelled = promise<boolean>();
    const [first, second] = [promise<number>(), promise<number>()];
    await b.serve("stock", {
      add: (x: number, y: number) => x + y,
      one: () => first.done,
      two: () => second.done,
      fail() {
        throw new RangeError("empty");
      },
      wait() {
        this.signal.addEventListener("abort", () => cancelled.resolve(true));
        return new Promise(() => {});
      },
      *count(to: number) {
        for (let i = 1; i < to; i++) yield i;
        return to;
      },
    });
    assert.equal(await a.rpc(b.node, "stock", "add", [1, 2]), 3);
    const [one, two] = [a.rpc(b.node, "stock", "one"), a.rpc(b.node, "stock", "two")];
    second.resolve(2);
    assert.equal(await two, 2);
    first.resolve(1);
    assert.equal(await one, 1);
    await assert.rejects(a.rpc(b.node, "stock", "fail"), { code: "exception", class: "RangeError", reason: "empty" });
    await assert.rejects(a.rpc(b.node, "stock", "nothing"), UndefError);
    await assert.rejects(a.rpc(b.node, "stock", "wait", [], { timeout: 50 }), TimeoutError);
    assert.equal(await cancelled.done, true);
    await assert.rejects(a.rpc("nobody@nowhere", "stock", "add", [1, 2]), NoConnectionError);
  }),
);

test("an answer that cannot be sent is an error of the callee, and its caller's at once", { skip }, () =>
  within(async (mesh) => {
    const client = await mesh.client(await mesh.node("a"));
    await client.serve("odd", { now: () => () => 1, later: async () => Symbol("x"), large: () => Buffer.alloc(80 * 1024 * 1024) });
    for (const name of ["now", "later", "large"]) {
      await assert.rejects(client.rpc("any", "odd", name), { code: "exception", class: name === "large" ? "TooLargeError" : "BadArgError" });
    }
    class Odd extends GenServer {
      override handleCall(): unknown {
        return () => 1;
      }
    }
    await client.start(new Odd(), { name: "odd" });
    await assert.rejects(client.call("odd"), { code: "exception", class: "BadArgError" });
    await assert.rejects(client.call("odd"), NoProcError);
  }),
);

test("subscriptions are iterators, and what was kept of a topic comes first", { skip }, () =>
  within(async (mesh) => {
    const a = await mesh.client(await mesh.node("a", "--strategy", "local"));
    const b = await mesh.client(await mesh.node("b", "--strategy", "local"));
    await a.waitFor({ nodes: [b.node] });
    await b.waitFor({ nodes: [a.node] });
    await a.publish("shop.tea", { left: 3 }, { retain: true, confirm: true });
    await using subscription = await a.subscribe("shop.*", { sync: true });
    await b.publish("shop.milk", 1);
    await b.publish("other", 2);
    await b.publish("shop.milk", 3);
    const heard: unknown[] = [];
    for await (const { topic, body, retained } of subscription) {
      heard.push([topic, body, retained]);
      if (body === 3) break;
    }
    assert.deepEqual(heard, [
      ["shop.tea", { left: 3 }, true],
      ["shop.milk", 1, undefined],
      ["shop.milk", 3, undefined],
    ]);
    assert.equal(await a.isAlive(subscription.pid), false);
    assert.deepEqual(await a.publish("shop.milk", 1, { report: true }), { nodes: 0, local: 0 });
  }),
);

test("presence, groups and names are seen on every node, and go with their process", { skip }, () =>
  within(async (mesh) => {
    const a = await mesh.client(await mesh.node("a", "--strategy", "local"));
    const b = await mesh.client(await mesh.node("b", "--strategy", "local"));
    await a.waitFor({ nodes: [b.node] });
    await b.waitFor({ nodes: [a.node] });
    const watch = await a.watchPresence("room");
    const group = await a.watchGroup("tills");
    assert.deepEqual((await watch.next())?.joins, []);
    assert.deepEqual((await group.next())?.joined, []);
    const till = await b.spawn({ label: "till" });
    await till.track("room", "ann", { at: "desk" });
    assert.deepEqual((await watch.next())?.joins.map(({ key, metadata }) => [key, metadata]), [["ann", { at: "desk" }]]);
    await till.join("tills");
    assert.deepEqual((await group.next())?.joined, [till.pid]);
    await till.register("till", { scope: "global" });
    await a.send("group:tills", "close");
    assert.equal(((await till.receive()) as { body: unknown }).body, "close");
    await till.exit();
    assert.deepEqual((await watch.next())?.leaves.map(({ key }) => key), ["ann"]);
    assert.deepEqual((await group.next())?.left, [till.pid]);
    await watch.close();
    assert.equal(await watch.next(), null);
  }),
);

test("tasks give their result, fail with their error, and end with their process", { skip }, () =>
  within(async (mesh) => {
    const client = await mesh.client(await mesh.node("a"), { trapExit: true });
    const twice = await client.task(async (process: Process) => {
      const event = await process.receive({ match: "message" });
      return (event as { body: number }).body * 2;
    });
    await client.send(twice, 21);
    assert.equal(await twice.result({ timeout: 5000 }), 42);
    const failing = await client.task(() => {
      throw new RangeError("no");
    });
    await assert.rejects(failing.result(), RangeError);
    const exit = await client.receive({ match: (event) => event.ev === "exit" && event.from === failing.pid });
    assert.equal((exit as { reason: string }).reason, "RangeError: no");
    const aborted = promise<boolean>();
    const killed = await client.task((_process, signal) => new Promise(() => signal.addEventListener("abort", () => aborted.resolve(true))));
    await assert.rejects(killed.result({ timeout: 1 }), TimeoutError);
    await client.kill(killed);
    await assert.rejects(killed.result(), { code: "exit", reason: "killed" });
    assert.equal(await aborted.done, true);
    const cancelled = await client.task((process: Process) => process.receive());
    await cancelled.cancel();
    await assert.rejects(cancelled.result(), { code: "exit", reason: "shutdown" });
  }),
);

test("errors have a type, a code, and say whether it may have happened", { skip }, () =>
  within(async (mesh) => {
    const failures: Failed[] = [];
    const heard = promise<Failed>();
    const client = await mesh.client(await mesh.node("a"), { on: { failed: (failed) => (failures.push(failed), heard.resolve(failed)) } });
    await assert.rejects(client.call("nobody", 1), NoProcError);
    await assert.rejects(client.call("<x@y.0000000000000001.100>", 1), NoConnectionError);
    await assert.rejects(client.request("nonsense"), { code: "badop", name: "BadOpError" });
    await assert.rejects(client.send("nobody", 1, { confirm: true }), NoProcError);
    await assert.rejects(client.send("nobody", () => 1), { code: "badarg", maybeApplied: false });
    await client.send("nobody", 1);
    assert.deepEqual([(await heard.done).code, failures.length], ["noproc", 1]);
    const silent = await client.spawn();
    await assert.rejects(client.call(silent, 1, { timeout: 20 }), { code: "timeout", maybeApplied: true });
    const controller = new AbortController();
    const given = client.call(silent, 1, { signal: controller.signal });
    controller.abort(new Error("enough"));
    await assert.rejects(given, { message: "enough" });
    await assert.rejects(client.receive({ signal: AbortSignal.timeout(5) }), { name: "TimeoutError" });
  }),
);

test("bytes, other content types and wide numbers arrive as they were sent", { skip }, () =>
  within(async (mesh) => {
    const client = await mesh.client(await mesh.node("a"));
    const bodies = [Buffer.from([0, 255]), 2 ** 40, 2n ** 60n, -(2n ** 63n), 2n ** 70n, 1.5, "\u6c34", [null, true], { a: { b: [] } }, "x".repeat(500_000)];
    for (const body of bodies) {
      await client.send(client, body);
      assert.deepStrictEqual(((await client.receive()) as { body: unknown }).body, body);
    }
    await client.send(client, typed("text/plain", "hello"));
    assert.deepStrictEqual(await client.receive(), { ev: "message", from: client.pid, body: Buffer.from("hello"), ct: "text/plain" });
  }),
);

test("timers fire, and those that are cancelled do not", { skip }, () =>
  within(async (mesh) => {
    const client = await mesh.client(await mesh.node("a"));
    const never = await client.sendAfter(client, 60_000, "never");
    await client.sendAfter(client, 5, "soon");
    assert.equal(((await client.receive()) as { body: unknown }).body, "soon");
    assert.ok(((await never.left()) ?? 0) > 30_000);
    assert.ok(((await never.cancel()) ?? 0) > 30_000);
    assert.equal(await never.cancel(), null);
  }),
);

test("no node is an error that says what to do, and a closed client is done", { skip }, async () => {
  await assert.rejects(connect({ socket: "/tmp/there-is-no-such.sock", timeout: 50 }), (error: UnreachableError) => {
    assert.ok(error instanceof UnreachableError);
    assert.match(error.message, /there-is-no-such\.sock.*pillion up/);
    return true;
  });
  await within(async (mesh) => {
    const node = await mesh.node("a");
    const client = await connect({ socket: node.socket });
    const loop = (async () => {
      const events = [];
      for await (const event of client) events.push(event);
      return events.length;
    })();
    const waiting = client.receive({ match: "down" });
    await client.send(client, 1);
    await Promise.all([client.close(), assert.rejects(waiting, { code: "closed" })]);
    assert.ok((await loop) <= 1);
    await assert.rejects(client.call("x"), { code: "closed" });
  });
});

test("an app that starts before its node is connected once that is there", { skip }, () =>
  within(async (mesh) => {
    const node = await mesh.node("a");
    await node.kill("SIGKILL");
    const early = mesh.client(node, { timeout: 20_000 });
    await node.start();
    assert.match((await early).pid, /^<a@/);
  }),
);
