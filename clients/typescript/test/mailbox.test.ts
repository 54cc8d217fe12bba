import assert from "node:assert/strict";
import { test } from "node:test";
import type { Event, MessageEvent } from "pillion";
import { Mailbox } from "../src/mailbox";

const message = (body: unknown): Event => ({ ev: "message", from: "a", body });
const is = (body: unknown) => (event: Event) => event.ev === "message" && event.body === body;
const body = (event: Event | null) => (event as MessageEvent | null)?.body;

test("events come out in the order in which they came, with what was passed over in its place", async () => {
  const box = new Mailbox(() => {});
  for (let i = 0; i < 3000; i++) box.push(message(i));
  assert.equal(body(await box.receive(is(1500))), 1500);
  assert.equal(body(await box.receive(is(3))), 3);
  for (let i = 0; i < 3000; i++) if (i !== 3 && i !== 1500) assert.equal(body(await box.receive()), i);
  assert.equal(box.length, 0);
  assert.equal(box.consumed, 3000);
});

test("who waits for something else is passed over, and the first who wants it gets it", async () => {
  const box = new Mailbox(() => {});
  const first = box.receive(is("x"));
  const second = box.receive();
  const third = box.receive(is("y"));
  for (const text of ["y", "y", "x", "z"]) box.push(message(text));
  assert.deepEqual([body(await second), body(await third), body(await first), body(box.take())], ["y", "y", "x", "z"]);
});

test("who gives up has taken nothing", async () => {
  const box = new Mailbox(() => {});
  const aborted = new AbortController();
  const waiting = box.receive(undefined, undefined, aborted.signal);
  const late = box.receive(undefined, 1);
  assert.equal(await late, null);
  aborted.abort(new Error("enough"));
  await assert.rejects(waiting, { message: "enough" });
  box.push(message(1));
  assert.equal(box.length, 1);
  assert.equal(box.consumed, 0);
});

test("signals are not counted, and a predicate that throws is its caller's error alone", async () => {
  const box = new Mailbox(() => {});
  const bad = box.receive(() => {
    throw new Error("broken");
  });
  const good = box.receive();
  box.push({ ev: "down", ref: 1, from: null, reason: "noproc" });
  await assert.rejects(bad, { message: "broken" });
  assert.equal((await good)?.ev, "down");
  assert.equal(box.consumed, 0);
});

test("the end is heard behind what came before it", async () => {
  const box = new Mailbox(() => {});
  box.push(message(1));
  box.end(new Error("over"));
  box.push(message(2));
  assert.equal(body(await box.receive()), 1);
  await assert.rejects(box.receive(), { message: "over" });
});
