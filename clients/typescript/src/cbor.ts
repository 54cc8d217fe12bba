/**
 * CBOR (RFC 8949) by cborg. What every frame is made of, which are words, whole numbers and bytes, is written straight into the buffer
 * that goes to the socket and read straight from the one that came from it, and needs no library. What was received decides over
 * nothing but its own size: no length is believed before its bytes are there, and nothing is nested deeper than {@link DEPTH_MAX}.
 *
 * | JavaScript | CBOR |
 * | --- | --- |
 * | whole numbers up to 2^53 either way, `bigint` | integers; beyond 64 bits bignums |
 * | other numbers | floats, as short as loses nothing |
 * | `string`, `boolean`, `null` | the same |
 * | `Uint8Array` and so `Buffer`, `ArrayBuffer`, `DataView` | byte strings, read as `Buffer` |
 * | arrays, sets, other typed arrays | arrays |
 * | `Map` | a map; read where a key is no text |
 * | `Date` | tag 1 |
 * | {@link Tag} | that |
 * | other objects | a map of their own enumerable members, without those that are `undefined` |
 *
 * Functions, symbols, promises, errors and the like are no values. Nor are CBOR's simple values that nobody has given a meaning.
 */
import { Input } from "./input";
import { Malformed } from "./items";
import { Output } from "./output";

export { DEPTH_MAX, Malformed, Tag } from "./items";
export { Input, Output };

/** One value as CBOR. */
export function encode(value: unknown): Buffer {
  const out = new Output(256);
  out.item(value);
  return Buffer.from(out.buffer.subarray(0, out.at));
}

/** The value that these bytes are, all of them. Throws {@link Malformed}. */
export function decode(bytes: Uint8Array, from = 0, to = bytes.length): unknown {
  const input = INPUT;
  input.open(bytes, from, to);
  const value = input.item();
  if (input.at !== to) throw new Malformed("there is something behind the item");
  return value;
}

const INPUT = new Input();
