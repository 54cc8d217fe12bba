/** What is bounded: parts that nobody takes, and replies that the node does not take. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type CallEvent, type CallStream, type Client, type From, GenServer, NO_REPLY, OverloadedError, TooLargeError, typed } from "pillion";
import { type Mesh, skip, within } from "./node";

const TIMEOUT = 60_000;
const WAITING_MAX = 64 * 1024 * 1024;
const PART = Buffer.alloc(1024 * 1024 - 64);

/** A stream, the call that it makes, and the client of both. */
async function stream(mesh: Mesh): Promise<{ client: Client; parts: CallStream<unknown>; call: CallEvent }> {
  const client = await mesh.client(await mesh.node("a"));
  const callee = await client.spawn();
  const parts = client.stream(callee, "go", { timeout: TIMEOUT });
  const call = (await callee.receive({ match: "call" })) as CallEvent;
  return { client, parts, call };
}

test("parts that nobody takes end as overloaded beyond 64 MiB", { skip }, () =>
  within(async (mesh) => {
    const { client, parts, call } = await stream(mesh);
    for (let sent = 0; sent <= WAITING_MAX + 2 * PART.length; sent += PART.length) await client.reply(call, PART, { more: true });
    await client.reply(call, "end");
    assert.equal(await parts.value, "end");
    let got = 0;
    const all = (async () => {
      for await (const part of parts) got += (part as Buffer).length;
    })();
    await assert.rejects(all, (error: OverloadedError) => error instanceof OverloadedError && error.code === "overloaded" && error.maybeApplied);
    assert.ok(got > WAITING_MAX - 2 * PART.length && got <= WAITING_MAX, `${got}`);
  }),
);

test("parts that are taken may be more than may wait, and come in their order", { skip }, () =>
  within(async (mesh) => {
    const { client, parts, call } = await stream(mesh);
    const iterator = parts[Symbol.asyncIterator]();
    for (let sent = 0; sent <= WAITING_MAX + 2 * PART.length; sent += PART.length) {
      await client.reply(call, PART, { more: true });
      assert.equal(((await iterator.next()).value as Buffer).length, PART.length);
    }
    for (let i = 0; i < 5000; i++) void client.reply(call, i, { more: true });
    for (let i = 0; i < 5000; i++) assert.equal((await iterator.next()).value, i);
    await client.reply(call, "end");
    assert.equal((await iterator.next()).done, true);
    assert.equal(await parts.value, "end");
  }),
);

test("a stream that was left or closed keeps no parts, and its value still comes", { skip }, () =>
  within(async (mesh) => {
    const { client, parts, call } = await stream(mesh);
    const kept = (of: CallStream<unknown>) => (of as unknown as { parts: unknown[] }).parts.length;
    for (const part of [1, 2, 3]) await client.reply(call, part, { more: true });
    for await (const part of parts) if (part === 1) break;
    assert.equal(kept(parts), 0);
    await client.reply(call, 4, { more: true });
    assert.equal(kept(parts), 0);
    await client.reply(call, "end");
    assert.equal(await parts.value, "end");

    const callee = await client.spawn();
    const closed = client.stream(callee, "go", { timeout: TIMEOUT });
    const second = (await callee.receive({ match: "call" })) as CallEvent;
    await client.reply(second, 1, { more: true });
    const iterator = closed[Symbol.asyncIterator]();
    assert.equal((await iterator.next()).value, 1);
    const waiting = iterator.next();
    closed.close();
    assert.equal((await waiting).done, true);
    await client.reply(second, 2, { more: true });
    assert.equal(kept(closed), 0);
  }),
);

class Big extends GenServer {
  override handleCall(request: unknown, from: From): unknown {
    const [when, bytes] = request as [string, number];
    if (when === "now") return Buffer.alloc(bytes);
    if (when === "typed") return typed("image/png", Buffer.alloc(bytes));
    if (when === "nested") return { in: ["x".repeat(bytes)] };
    from.reply(Buffer.alloc(bytes)).catch(() => {});
    return NO_REPLY;
  }
}

test("a long reply arrives whole, and one that the node does not take is its caller's error at once", { skip }, () =>
  within(async (mesh) => {
    const client = await mesh.client(await mesh.node("a"));
    const most = 1024 * 1024;
    const refused = { code: "exception", class: "TooLargeError", reason: /body-max/ };
    const options = { timeout: TIMEOUT };
    const began = performance.now();
    const ask = async (when: string, bytes: number) => client.call((await client.start(new Big())).pid, [when, bytes], options);
    assert.equal(((await ask("now", most - 64)) as Buffer).length, most - 64);
    assert.equal(((await ask("typed", most)) as Buffer).length, most);
    assert.deepEqual(await ask("nested", 70_000), { in: ["x".repeat(70_000)] });
    for (const when of ["now", "typed", "nested", "later"]) await assert.rejects(ask(when, most + 1), refused);

    await client.serve("big", { now: (n: number) => Buffer.alloc(n), later: async (n: number) => Buffer.alloc(n) });
    for (const name of ["now", "later"]) {
      assert.equal((await client.rpc<Buffer>("any", "big", name, [70_000], options)).length, 70_000);
      await assert.rejects(client.rpc("any", "big", name, [most + 1], options), refused);
    }

    const callee = await client.spawn();
    const calling = assert.rejects(client.call(callee, "go", options), refused);
    const call = (await callee.receive({ match: "call" })) as CallEvent;
    await assert.rejects(callee.reply(call, Buffer.alloc(most + 1)), TooLargeError);
    await calling;
    await callee.reply(call, "a second one is dropped");
    assert.ok(performance.now() - began < TIMEOUT, "a caller waited for its deadline");
  }),
);

test("a reply of before a restart does not answer a call of after it", { skip }, () =>
  within(async (mesh) => {
    const node = await mesh.node("a");
    const client = await mesh.client(node, { on: { report: () => {} } });
    const callee = await client.spawn({ name: "callee" });
    const first = assert.rejects(client.call("callee", 1, { timeout: TIMEOUT }), { code: "lost" });
    const before = (await callee.receive({ match: "call" })) as CallEvent;
    await node.kill("SIGKILL");
    while (client.session.phase === "open") await new Promise(setImmediate);
    const second = client.call("callee", 2, { timeout: TIMEOUT });
    const late = callee.reply(before, "of before");
    await node.start();
    await Promise.all([first, late]);
    const after = (await callee.receive({ match: "call" })) as CallEvent;
    await callee.reply(after, "of after");
    assert.equal(await second, "of after");
    assert.equal(after.ref, before.ref);
  }),
);
