import assert from "node:assert/strict";
import { test } from "node:test";
import { decode, encode, Malformed, Tag } from "pillion";

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

/** RFC 8949, Appendix A: what is read from, and where it is written the same way. */
const VECTORS: [string, unknown, "same" | "read"][] = [
  ["00", 0, "same"],
  ["01", 1, "same"],
  ["0a", 10, "same"],
  ["17", 23, "same"],
  ["1818", 24, "same"],
  ["1864", 100, "same"],
  ["1903e8", 1000, "same"],
  ["1a000f4240", 1000000, "same"],
  ["1b000000e8d4a51000", 1000000000000, "same"],
  ["1bffffffffffffffff", 18446744073709551615n, "same"],
  ["c249010000000000000000", 18446744073709551616n, "same"],
  ["3bffffffffffffffff", -18446744073709551616n, "same"],
  ["c349010000000000000000", -18446744073709551617n, "same"],
  ["20", -1, "same"],
  ["29", -10, "same"],
  ["3863", -100, "same"],
  ["3903e7", -1000, "same"],
  ["f90000", 0, "read"],
  ["f98000", -0, "same"],
  ["f93c00", 1, "read"],
  ["fb3ff199999999999a", 1.1, "same"],
  ["f93e00", 1.5, "same"],
  ["f97bff", 65504, "read"],
  ["fa47c35000", 100000, "read"],
  ["fa7f7fffff", 3.4028234663852886e38, "same"],
  ["fb7e37e43c8800759c", 1e300, "same"],
  ["f90001", 5.960464477539063e-8, "same"],
  ["f90400", 0.00006103515625, "same"],
  ["fbc010666666666666", -4.1, "same"],
  ["f97c00", Infinity, "same"],
  ["f97e00", NaN, "same"],
  ["f9fc00", -Infinity, "same"],
  ["f4", false, "same"],
  ["f5", true, "same"],
  ["f6", null, "same"],
  ["f7", undefined, "read"],
  ["c11a514b67b0", new Date(1363896240000), "same"],
  ["c1fb41d452d9ec200000", new Date(1363896240500), "same"],
  ["d74401020304", new Tag(23, Buffer.from([1, 2, 3, 4])), "same"],
  ["d818456449455446", new Tag(24, Buffer.from("6449455446", "hex")), "same"],
  ["40", Buffer.alloc(0), "same"],
  ["4401020304", Buffer.from([1, 2, 3, 4]), "same"],
  ["60", "", "same"],
  ["6161", "a", "same"],
  ["6449455446", "IETF", "same"],
  ["62225c", '"\\', "same"],
  ["62c3bc", "\u00fc", "same"],
  ["63e6b0b4", "\u6c34", "same"],
  ["64f0908591", "\ud800\udd51", "same"],
  ["80", [], "same"],
  ["83010203", [1, 2, 3], "same"],
  ["8301820203820405", [1, [2, 3], [4, 5]], "same"],
  ["98190102030405060708090a0b0c0d0e0f101112131415161718181819", Array.from({ length: 25 }, (_, i) => i + 1), "same"],
  ["a0", {}, "same"],
  ["a201020304", new Map([[1, 2], [3, 4]]), "same"],
  ["a26161016162820203", { a: 1, b: [2, 3] }, "same"],
  ["826161a161626163", ["a", { b: "c" }], "same"],
  ["5f42010243030405ff", Buffer.from([1, 2, 3, 4, 5]), "read"],
  ["7f657374726561646d696e67ff", "streaming", "read"],
  ["9fff", [], "read"],
  ["9f018202039f0405ffff", [1, [2, 3], [4, 5]], "read"],
  ["83018202039f0405ff", [1, [2, 3], [4, 5]], "read"],
  ["bf61610161629f0203ffff", { a: 1, b: [2, 3] }, "read"],
  ["bf6346756ef563416d7421ff", { Fun: true, Amt: -2 }, "read"],
];

test("every example of RFC 8949 is read, and written where there is one way", () => {
  for (const [bytes, value, how] of VECTORS) {
    assert.deepStrictEqual(decode(Buffer.from(bytes, "hex")), value, bytes);
    if (how === "same") assert.equal(hex(encode(value)), bytes);
  }
});

/** A generator that gives the same numbers in every run. */
function numbers(seed: number): (below: number) => number {
  return (below) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((seed / 2 ** 32) * below);
  };
}

function anything(pick: (below: number) => number, depth: number): unknown {
  switch (pick(depth > 3 ? 7 : 9)) {
    case 0:
      return pick(2) === 0 ? pick(300) : pick(2 ** 32) * pick(2 ** 20);
    case 1:
      return -pick(2 ** 32) * (1 + pick(2 ** 20));
    case 2:
      return pick(1000) / 7;
    case 3:
      return "x\u00e9\u6c34y".repeat(pick(30)).slice(pick(4));
    case 4:
      return "abc-_.".repeat(pick(200));
    case 5:
      return [true, false, null][pick(3)];
    case 6:
      return Buffer.from("ab".repeat(pick(40)), "hex");
    case 7:
      return Array.from({ length: pick(6) }, () => anything(pick, depth + 1));
    default:
      return Object.fromEntries(Array.from({ length: pick(6) }, (_, i) => [`k${i}${"y".repeat(pick(70))}`, anything(pick, depth + 1)]));
  }
}

test("what is written is read the same", () => {
  const pick = numbers(7);
  for (let i = 0; i < 3000; i++) {
    const value = anything(pick, 0);
    assert.deepStrictEqual(decode(encode(value)), value);
  }
});

test("no truncation and no flipped byte does more than say that it is malformed", () => {
  const pick = numbers(11);
  for (let i = 0; i < 2000; i++) {
    const bytes = encode(anything(pick, 0));
    const bad = Buffer.from(bytes);
    if (bad.length > 1 && pick(2) === 0) {
      assert.throws(() => decode(bad, 0, pick(bad.length)), Malformed);
      continue;
    }
    bad[pick(bad.length)] = pick(256);
    try {
      decode(bad);
    } catch (error) {
      assert.ok(error instanceof Malformed, String(error));
    }
  }
});

test("a length is not believed before its bytes are there, and no nesting overflows the stack", () => {
  for (const bomb of ["9affffffff", "bbffffffffffffffff", "5a7fffffff", "7b0000ffffffffffff", "9a01c9c380".repeat(1000), "81".repeat(1 << 20), "c1".repeat(1 << 20), "9f".repeat(1 << 20)]) {
    const before = process.memoryUsage().rss;
    assert.throws(() => decode(Buffer.from(bomb, "hex")), Malformed);
    assert.ok(process.memoryUsage().rss - before < 256 * 1024 * 1024);
  }
});

test("nothing is read that is no CBOR, or has no meaning", () => {
  const bad = ["", "1c", "3f", "ff", "81ff", "8201ff", "a161", "a16161", "a16161ff", "bf6161ff", "bf01ff", "c1ff", "df00", "5f6161ff", "7f4161ff", "5f5f4161ffff", "5f41", "5f", "62", "6261", "0000"];
  // Simple values that nobody has given a meaning.
  bad.push("e0", "f0", "f818", "f8ff");
  for (const bytes of bad) assert.throws(() => decode(Buffer.from(bytes, "hex")), Malformed, bytes);
});

test("whole numbers stay whole, whatever their size", () => {
  for (const n of [2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 53 - 1]) {
    for (const value of [n, -n, [n, -n]]) assert.deepStrictEqual(decode(encode(value)), value);
  }
  assert.equal(hex(encode(2 ** 32)), "1b0000000100000000");
  assert.equal(hex(encode([-(2 ** 32) - 1])), "813b0000000100000000");
  for (const n of [2n ** 53n, 2n ** 64n - 1n, 2n ** 64n, 2n ** 200n]) {
    for (const value of [n, -n, [n, { n: -n }]]) assert.deepStrictEqual(decode(encode(value)), value);
  }
  assert.deepStrictEqual(decode(encode([7n, -7n])), [7, -7]);
});

test("maps are objects where all keys are texts, at every depth", () => {
  const inner = { a: new Map<unknown, unknown>([[1, { b: [{ c: 1 }] }], [[2], "x"]]), d: {} };
  for (const value of [inner, [inner], new Map<unknown, unknown>([["t", inner], [null, 1]]), new Tag(99, inner)]) {
    assert.deepStrictEqual(decode(encode(value)), value);
  }
  assert.deepStrictEqual(decode(encode(new Map([["t", 1]]))), { t: 1 });
  assert.deepStrictEqual(decode(Buffer.from("a201026474657874a1695f5f70726f746f5f5f01", "hex")), new Map<unknown, unknown>([[1, 2], ["text", JSON.parse('{"__proto__":1}')]]));
});

test("bytes are a Buffer of their own, and tags keep their numbers", () => {
  const bytes = encode([Buffer.from("abc"), Buffer.alloc(0), new Tag(2n ** 60n, 1), new Tag(2, "no bytes"), new Tag(1, "no number")]);
  const value = decode(bytes) as unknown[];
  bytes.fill(0xff);
  assert.deepStrictEqual(value, [Buffer.from("abc"), Buffer.alloc(0), new Tag(2n ** 60n, 1), new Tag(2, "no bytes"), new Tag(1, "no number")]);
});

test("what is nested as deep as may be is read and written, and nothing deeper", () => {
  let deep: unknown = 1;
  for (let i = 0; i < 256; i++) deep = i % 2 === 0 ? [deep] : { a: deep };
  assert.deepStrictEqual(decode(encode(deep)), deep);
  assert.throws(() => encode([deep]), TypeError);
  assert.throws(() => decode(Buffer.concat([Buffer.from([0x81]), encode(deep)])), Malformed);
  // Side by side is not deep.
  const wide = Array.from({ length: 1000 }, () => [{ a: [new Tag(99, [])] }]);
  assert.deepStrictEqual(decode(encode(wide)), wide);
});

test("a key __proto__ is a key and nothing more", () => {
  const value = decode(Buffer.from("a1695f5f70726f746f5f5fa1617801", "hex")) as Record<string, unknown>;
  assert.deepEqual(Object.keys(value), ["__proto__"]);
  assert.equal((value as { x?: unknown }).x, undefined);
});

test("members that are undefined are left out, and what is no value is refused", () => {
  assert.deepStrictEqual(decode(encode({ a: undefined, b: 1, c: [undefined] })), { b: 1, c: [null] });
  assert.deepStrictEqual(decode(encode([new Set([1]), new Float64Array([1.5]), new Uint8Array([7]).buffer])), [[1], [1.5], Buffer.from([7])]);
  for (const no of [() => 1, [() => 1], Symbol("x"), { a: Promise.resolve() }, [new Error("x")]]) assert.throws(() => encode(no), TypeError);
  class Point {
    x = 1;
    #y = 2;
    get y() {
      return this.#y;
    }
  }
  assert.deepStrictEqual(decode(encode([new Point()])), [{ x: 1 }]);
  const round: unknown[] = [];
  round.push(round);
  assert.throws(() => encode(round), TypeError);
});

test("texts of every length come back, whatever they are made of", () => {
  for (let length = 0; length < 300; length++) {
    for (const letter of ["a", "\u00e9", "\u6c34", "\ud83d\ude00", "\ufeff"]) {
      const text = letter.repeat(length);
      assert.equal(decode(encode(text)), text);
      assert.deepStrictEqual(decode(encode([text])), [text]);
    }
  }
});
