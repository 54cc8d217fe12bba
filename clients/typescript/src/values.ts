/** Values that are more than a word, a whole number or bytes: read and written by cborg, with what it leaves to its caller. */
import { decodeFirst, encode, objectToTokens, Token, Tokenizer, Type } from "./cborg/cborg";
import { bigIntEncoder, negativeZeroEncoder } from "./cborg/lib/taglib";
import { DEPTH_MAX, Malformed, Tag } from "./items";

type EncodeOptions = NonNullable<Parameters<typeof encode>[1]>;
type DecodeOptions = NonNullable<Parameters<typeof decodeFirst>[1]>;
type TypeEncoder = NonNullable<EncodeOptions["typeEncoders"]>[string];

/** Lets cborg go on where a value is not too deep in others. */
const notTooDeep: TypeEncoder = (_value, _type, _options, parents) => {
  let depth = 0;
  for (let parent = parents; parent !== undefined; parent = parent.parent) depth++;
  if (depth >= DEPTH_MAX) throw new TypeError(`what is nested deeper than ${DEPTH_MAX} cannot be sent`);
  return null;
};
const asArray: TypeEncoder = (value, _type, options, parents) => objectToTokens(Array.from(value as Iterable<unknown>), options, parents);
const asSeconds: TypeEncoder = (date, _type, options) => [new Token(Type.tag, 1), objectToTokens((date as Date).getTime() / 1000, options)];

const WRITING: EncodeOptions = {
  // As they come: the order of members says nothing, and sorting costs.
  mapSorter: undefined as unknown as NonNullable<EncodeOptions["mapSorter"]>,
  ignoreUndefinedProperties: true,
  typeEncoders: {
    Array: notTooDeep,
    Object: notTooDeep,
    Map: notTooDeep,
    undefined: () => new Token(Type.null, null),
    number: negativeZeroEncoder,
    bigint: bigIntEncoder,
    Date: asSeconds,
    Set: asArray,
  },
};
for (const type of ["Uint8Clamped", "Uint16", "Uint32", "Int8", "Int16", "Int32", "Float32", "Float64", "BigInt64", "BigUint64"]) {
  WRITING.typeEncoders![`${type}Array`] = asArray;
}

/** A value as CBOR. Throws a `TypeError` for what cannot be one. */
export function write(value: unknown): Uint8Array {
  try {
    return encode(value, WRITING);
  } catch (error) {
    if (!(error instanceof Error) || !error.message.startsWith("CBOR ")) throw error;
    throw new TypeError(`it cannot be sent: ${error.message.replace(/^CBOR \w+ error: /, "")}`);
  }
}

/**
 * What cborg's own reader does not do: texts and bytes in pieces, a bound to the depth, an end only where one may be, texts that
 * begin with U+FEFF, and bytes as `Buffer`.
 */
class Reader extends Tokenizer {
  /** How many items each list, map and tag that is open still wants; without a length: infinity for a list, for a map less than 0. */
  private readonly open: number[] = [];

  override next(): Token {
    const { open, data } = this;
    while (open.length > 0 && open[open.length - 1] === 0) open.pop();
    const first = data[this._pos]!;
    if (first === 0xff) {
      const left = open.pop();
      if (left !== Infinity && !(left !== undefined && left < 0 && left % 2 !== 0)) throw new Malformed("an end of nothing");
      return super.next();
    }
    if (open.length > 0) open[open.length - 1]!--;
    if (first === 0x5f || first === 0x7f) return this.pieces(first >> 5);
    const at = this._pos;
    const token = super.next();
    const { type, value } = token;
    if (type === Type.bytes) return new Token(type, Buffer.from(value.buffer, value.byteOffset, value.length));
    if (type === Type.string) {
      const size = first & 31;
      const text = at + (size < 24 ? 1 : 1 + (1 << (size - 24)));
      const marked = this._pos - text >= 3 && data[text] === 0xef && data[text + 1] === 0xbb && data[text + 2] === 0xbf;
      return marked ? new Token(type, `\ufeff${value}`) : token;
    }
    if (type === Type.array) open.push(value);
    else if (type === Type.map) open.push(value === Infinity ? -1 : value * 2);
    else if (type === Type.tag) open.push(1);
    else return token;
    if (open.length > DEPTH_MAX) throw new Malformed(`nested deeper than ${DEPTH_MAX}`);
    return token;
  }

  private pieces(major: number): Token {
    const parts: Buffer[] = [];
    for (this._pos++; this.data[this._pos] !== 0xff; ) {
      const start = this._pos;
      if (this.done() || this.data[start]! >> 5 !== major) throw new Malformed("a piece of another kind");
      const size = this.data[start]! & 31;
      super.next();
      parts.push(Buffer.from(this.data.subarray(start + (size < 24 ? 1 : 1 + (1 << (size - 24))), this._pos)));
    }
    this._pos++;
    const all = Buffer.concat(parts);
    return major === 2 ? new Token(Type.bytes, all) : new Token(Type.string, all.toString("utf8"));
  }
}

/** Every tag: those of RFC 8949 that have a meaning in JavaScript, and the others as they are. */
const tags = new Proxy<NonNullable<DecodeOptions["tags"]>>(
  {},
  {
    get: (_target, name) => (decode: () => unknown) => {
      const value = decode();
      if ((name === "2" || name === "3") && Buffer.isBuffer(value)) {
        const size = BigInt(`0x0${value.toString("hex")}`);
        return name === "2" ? size : -1n - size;
      }
      if (name === "1" && typeof value === "number") return new Date(value * 1000);
      const tag = BigInt(name as string);
      return new Tag(tag <= Number.MAX_SAFE_INTEGER ? Number(tag) : tag, value);
    },
  },
);

/** Maps with none but text keys as objects. */
function plain(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(plain);
  if (value instanceof Tag) return new Tag(value.tag, plain(value.value));
  if (!(value instanceof Map)) return value;
  const entries = [...value].map(([key, member]): [unknown, unknown] => [plain(key), plain(member)]);
  return entries.every(([key]) => typeof key === "string") ? Object.fromEntries(entries as [string, unknown][]) : new Map(entries);
}

function readBy(bytes: Uint8Array, useMaps: boolean): { value: unknown; length: number } {
  const tokenizer = new Reader(bytes, { allowBigInt: true });
  const [value] = decodeFirst(bytes, { tokenizer, tags, useMaps }) as [unknown, Uint8Array];
  return { value: useMaps ? plain(value) : value, length: tokenizer.pos() };
}

/** The item that begins there, and how long it is. Throws {@link Malformed}. */
export function read(source: Uint8Array, from: number, to: number): { value: unknown; length: number } {
  // No `Buffer`: a slice of that would be no copy.
  const bytes = new Uint8Array(source.buffer, source.byteOffset + from, to - from);
  try {
    return readBy(bytes, false);
  } catch {
    // Perhaps because of a key that is no text.
  }
  try {
    return readBy(bytes, true);
  } catch (error) {
    throw error instanceof Malformed ? error : new Malformed((error as Error).message);
  }
}
