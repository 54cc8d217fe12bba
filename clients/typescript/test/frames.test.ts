import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { Output } from "../src/cbor";
import { putCommand, typed } from "../src/commands";
import { Frames } from "../src/frame";
import { toEvent } from "../src/incoming";

function golden(name: string): string | undefined {
  for (let at = __dirname; dirname(at) !== at; at = dirname(at)) {
    const path = join(at, "tests/wire/golden", name);
    if (existsSync(path)) return readFileSync(path, "utf8");
  }
  return undefined;
}

const skip = golden("events.txt") === undefined ? "the golden frames are not here: this is not the repository" : false;

/** The lines of a golden file: what the JSON dialect says, and the frame. */
function frames(name: string): { json: Record<string, unknown>; bytes: Buffer }[] {
  const all: { json: Record<string, unknown>; bytes: Buffer }[] = [];
  let json: Record<string, unknown> | undefined;
  for (const line of golden(name)!.split("\n")) {
    const [kind, text] = [line.slice(0, line.indexOf(" ")), line.slice(line.indexOf(" ")).trim()];
    if (kind === "json") json = JSON.parse(text) as Record<string, unknown>;
    else if (kind === "frame" && json !== undefined) all.push({ json, bytes: Buffer.from(text, "hex") });
  }
  assert.ok(all.length > 30, `${all.length} frames in ${name}`);
  return all;
}

test("every event of the protocol is read, however its bytes come", { skip }, () => {
  const all = frames("events.txt");
  const bytes = Buffer.concat(all.map((each) => each.bytes));
  for (const size of [1, 2, 3, 5, 7, 64, 1000, bytes.length]) {
    const read: Record<string, unknown>[] = [];
    const reader = new Frames((frame) => {
      const event = toEvent(frame);
      if (event !== undefined) read.push(event as unknown as Record<string, unknown>);
      else read.push({ ev: frame.ev, id: frame.id, ...frame.members() });
    });
    for (let at = 0; at < bytes.length; at += size) {
      const chunk = Buffer.from(bytes.subarray(at, at + size));
      reader.push(chunk);
      chunk.fill(0xff);
    }
    assert.equal(read.length, all.length);
    read.forEach((event, i) => {
      const { json } = all[i]!;
      for (const [key, value] of Object.entries(json)) {
        if (key === "pid" && event["pid"] === undefined) continue;
        if (JSON.stringify(value).includes('"$')) continue;
        const got: unknown = event[key];
        if (value === null && (got === undefined || got === null)) continue;
        assert.deepStrictEqual(got, value, `${key} of ${JSON.stringify(json)}`);
      }
    });
  }
});

test("commands are the bytes that the protocol says", { skip }, () => {
  const wanted = frames("commands.txt").map((each) => each.bytes.toString("hex"));
  const written = (put: (out: Output) => void) => {
    const out = new Output();
    put(out);
    return out.buffer.subarray(0, out.at).toString("hex");
  };
  const send = (body: unknown) => written((out) => putCommand(out, "send", undefined, "to", "stock", undefined, undefined, body));
  for (const frame of [
    send({ take: 3, of: "apples" }),
    send(typed("text/plain", "hello")),
    written((out) => putCommand(out, "call", undefined, undefined, "", { id: 32, to: "stock" }, undefined, ["get", "apples"])),
    written((out) => putCommand(out, "reply", undefined, undefined, "", { ref: 7 }, undefined, 3)),
    written((out) => putCommand(out, "more", undefined, undefined, "", { n: 128 }, undefined, undefined)),
    written((out) => putCommand(out, "publish", undefined, "topic", "shop.tea", undefined, undefined, { left: 3 })),
  ]) {
    assert.ok(wanted.includes(frame), frame);
  }
});

test("a command that cannot be written leaves no trace", () => {
  const out = new Output(64);
  putCommand(out, "send", undefined, "to", "a", undefined, undefined, 1);
  const before = out.at;
  for (const body of [() => 1, [Symbol("x")]]) {
    assert.throws(() => putCommand(out, "send", undefined, "to", "a", undefined, undefined, body), { code: "badarg" });
  }
  assert.throws(() => putCommand(out, "send", undefined, "to", "a".repeat(70_000), undefined, undefined, 1), { code: "too_large" });
  assert.equal(out.at, before);
});

test("bytes that are no frame end the connection and nothing else", () => {
  for (const bytes of ["00000001ff", "0000000300ffa0", "000000020000", "00000003000180", "ffffffff", "00000004000240a0"]) {
    const reader = new Frames(() => assert.fail("no frame"));
    assert.throws(() => reader.push(Buffer.from(bytes, "hex")), { name: "Malformed" });
  }
});

test("a body that is no CBOR is bytes", () => {
  const events: unknown[] = [];
  const reader = new Frames((frame) => events.push(toEvent(frame)));
  const head = Buffer.from("a2626576676d6573736167656466726f6d6161", "hex");
  const frame = Buffer.concat([Buffer.alloc(4), Buffer.from([0, head.length]), head, Buffer.from("9f01", "hex")]);
  frame.writeUInt32BE(frame.length - 4);
  reader.push(frame);
  assert.deepStrictEqual(events, [{ ev: "message", from: "a", body: Buffer.from("9f01", "hex"), ct: "application/octet-stream" }]);
});
