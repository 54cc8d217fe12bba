/**
 * CBOR (RFC 8949), as far as messages need it: written straight into the buffer that goes to the socket, read straight from the
 * one that came from it. What was received decides over nothing but its own size: no length is believed before its bytes are
 * there, and nothing is nested deeper than {@link DEPTH_MAX}.
 *
 * | JavaScript | CBOR |
 * | --- | --- |
 * | whole numbers up to 2^53 either way, `bigint` | integers; beyond 64 bits bignums |
 * | other numbers | floats, of 32 bits where that loses nothing |
 * | `string`, `boolean`, `null` | the same |
 * | `Uint8Array` and so `Buffer`, `ArrayBuffer` | byte strings, read as `Buffer` |
 * | arrays, sets, other typed arrays | arrays |
 * | `Map` | a map; read where a key is no text |
 * | `Date` | tag 1 |
 * | {@link Tag}, {@link Simple} | that |
 * | other objects | a map of their own enumerable members, without those that are `undefined` |
 */

/** Deepest nesting that is read or written. */
export const DEPTH_MAX = 256;

/** An item with a tag that has no meaning here. */
export class Tag {
  constructor(
    /** Its number. */
    readonly tag: number | bigint,
    /** What is tagged. */
    readonly value: unknown,
  ) {}
}

/** A simple value without a meaning here. */
export class Simple {
  constructor(
    /** 0 to 255. */
    readonly value: number,
  ) {}
}

/** Bytes that are no CBOR. */
export class Malformed extends Error {
  override readonly name = "Malformed";
}

/** A buffer that grows, and where its end is. */
export class Output {
  buffer: Buffer;
  at = 0;

  constructor(bytes = 64 * 1024) {
    this.buffer = Buffer.allocUnsafeSlow(bytes);
  }

  /** Makes sure of room for so many bytes more. */
  room(bytes: number): void {
    if (this.at + bytes > this.buffer.length) this.grow(bytes);
  }

  private grow(bytes: number): void {
    const next = Buffer.allocUnsafeSlow(Math.max(this.buffer.length * 2, this.at + bytes));
    this.buffer.copy(next, 0, 0, this.at);
    this.buffer = next;
  }

  /** Appends bytes as they are. */
  bytes(bytes: Uint8Array): void {
    this.room(bytes.length);
    this.buffer.set(bytes, this.at);
    this.at += bytes.length;
  }

  /** Writes the head of an item: its major type, shifted, and its length or value below 2^53. */
  head(major: number, n: number): void {
    this.room(9);
    const buffer = this.buffer;
    let at = this.at;
    if (n < 24) {
      buffer[at++] = major | n;
    } else if (n < 0x100) {
      buffer[at++] = major | 24;
      buffer[at++] = n;
    } else if (n < 0x10000) {
      buffer[at++] = major | 25;
      buffer[at++] = n >> 8;
      buffer[at++] = n;
    } else if (n < 0x100000000) {
      buffer[at] = major | 26;
      buffer.writeUInt32BE(n, at + 1);
      at += 5;
    } else {
      buffer[at] = major | 27;
      buffer.writeUInt32BE(Math.floor(n / 0x100000000), at + 1);
      buffer.writeUInt32BE(n >>> 0, at + 5);
      at += 9;
    }
    this.at = at;
  }

  /** Writes a text. */
  text(text: string): void {
    const length = text.length;
    if (length < 64) {
      this.room(2 + length * 3);
      const buffer = this.buffer;
      const start = this.at;
      let at = start + (length < 24 ? 1 : 2);
      let i = 0;
      for (; i < length; i++) {
        const code = text.charCodeAt(i);
        if (code > 0x7f) break;
        buffer[at++] = code;
      }
      if (i === length) {
        if (length < 24) buffer[start] = 0x60 | length;
        else {
          buffer[start] = 0x78;
          buffer[start + 1] = length;
        }
        this.at = at;
        return;
      }
    }
    const bytes = Buffer.byteLength(text);
    this.head(0x60, bytes);
    this.room(bytes);
    this.buffer.write(text, this.at, "utf8");
    this.at += bytes;
  }

  /** Writes a number. */
  number(n: number): void {
    if (Number.isSafeInteger(n) && !(n === 0 && 1 / n < 0)) {
      if (n >= 0) this.head(0x00, n);
      else this.head(0x20, -1 - n);
      return;
    }
    this.room(9);
    if (n !== n) {
      this.buffer[this.at] = 0xf9;
      this.buffer.writeUInt16BE(0x7e00, this.at + 1);
      this.at += 3;
    } else if (Math.fround(n) === n) {
      this.buffer[this.at] = 0xfa;
      this.buffer.writeFloatBE(n, this.at + 1);
      this.at += 5;
    } else {
      this.buffer[this.at] = 0xfb;
      this.buffer.writeDoubleBE(n, this.at + 1);
      this.at += 9;
    }
  }

  private bigint(n: bigint): void {
    const negative = n < 0n;
    const rest = negative ? -1n - n : n;
    if (rest <= 0xffffffffffffffffn) {
      if (rest <= 0x1fffffffffffffn) {
        this.head(negative ? 0x20 : 0x00, Number(rest));
        return;
      }
      this.room(9);
      this.buffer[this.at] = (negative ? 0x20 : 0x00) | 27;
      this.buffer.writeBigUInt64BE(rest, this.at + 1);
      this.at += 9;
      return;
    }
    const hex = rest.toString(16);
    const bytes = Buffer.from(hex.length % 2 ? `0${hex}` : hex, "hex");
    this.head(0xc0, negative ? 3 : 2);
    this.head(0x40, bytes.length);
    this.bytes(bytes);
  }

  private byte(byte: number): void {
    this.room(1);
    this.buffer[this.at++] = byte;
  }

  /** Writes any value. Throws a `TypeError` for what cannot be one, with half of it written: take {@link at} back then. */
  item(value: unknown, depth = 0): void {
    switch (typeof value) {
      case "string":
        this.text(value);
        return;
      case "number":
        this.number(value);
        return;
      case "boolean":
        this.byte(value ? 0xf5 : 0xf4);
        return;
      case "undefined":
        this.byte(0xf6);
        return;
      case "bigint":
        this.bigint(value);
        return;
      case "object":
        if (value === null) this.byte(0xf6);
        else this.object(value, depth);
        return;
      default:
        throw new TypeError(`a ${typeof value} cannot be sent`);
    }
  }

  private object(value: object, depth: number): void {
    if (depth >= DEPTH_MAX) throw new TypeError(`what is nested deeper than ${DEPTH_MAX} cannot be sent`);
    if (Array.isArray(value)) {
      this.head(0x80, value.length);
      for (let i = 0; i < value.length; i++) this.item(value[i], depth + 1);
      return;
    }
    const prototype: unknown = Object.getPrototypeOf(value);
    if (prototype === Object.prototype || prototype === null) {
      this.members(value as Record<string, unknown>, depth);
    } else if (value instanceof Uint8Array) {
      this.head(0x40, value.length);
      this.bytes(value);
    } else if (value instanceof Map) {
      this.head(0xa0, value.size);
      for (const [key, member] of value) {
        this.item(key, depth + 1);
        this.item(member, depth + 1);
      }
    } else if (value instanceof Date) {
      this.head(0xc0, 1);
      this.number(value.getTime() / 1000);
    } else if (value instanceof Tag) {
      if (typeof value.tag === "number") this.head(0xc0, value.tag);
      else this.bigTag(value.tag);
      this.item(value.value, depth + 1);
    } else if (value instanceof Simple) {
      if (value.value < 24) this.byte(0xe0 | value.value);
      else this.head(0xe0, value.value);
    } else if (value instanceof ArrayBuffer) {
      this.object(new Uint8Array(value), depth);
    } else if (value instanceof Set || (ArrayBuffer.isView(value) && !(value instanceof DataView))) {
      this.object(Array.from(value as Iterable<unknown>), depth);
    } else {
      this.members(value as Record<string, unknown>, depth);
    }
  }

  private bigTag(tag: bigint): void {
    const start = this.at;
    this.bigint(tag);
    this.buffer[start] = this.buffer[start]! | 0xc0;
  }

  private members(value: Record<string, unknown>, depth: number): void {
    const keys = Object.keys(value);
    let count = keys.length;
    for (const key of keys) if (value[key] === undefined) count--;
    this.head(0xa0, count);
    for (const key of keys) {
      const member = value[key];
      if (member === undefined) continue;
      this.text(key);
      this.item(member, depth + 1);
    }
  }
}

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
  const value = input.item(0);
  if (input.at !== to) throw new Malformed("there is something behind the item");
  return value;
}

/** Short texts that come again and again: keys, pids, operations. A slot holds the one that came last. */
const WORDS: string[] = new Array<string>(2048).fill("");
const WORD_MAX = 64;
const BREAK = Symbol("break");

/** Where one is in bytes that are being read. */
export class Input {
  source: Buffer = Buffer.alloc(0);
  at = 0;
  to = 0;

  open(bytes: Uint8Array, from: number, to: number): void {
    if (this.source !== bytes) {
      this.source = Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    }
    this.at = from;
    this.to = to;
  }

  /** The length or value behind a first byte whose lower five bits are these; -1 for an indefinite one. */
  count(info: number): number {
    if (info < 24) return info;
    const source = this.source;
    const at = this.at;
    switch (info) {
      case 24:
        this.at = at + 1;
        this.check();
        return source[at]!;
      case 25:
        this.at = at + 2;
        this.check();
        return (source[at]! << 8) | source[at + 1]!;
      case 26:
        this.at = at + 4;
        this.check();
        return source.readUInt32BE(at);
      case 27:
        this.at = at + 8;
        this.check();
        return source.readUInt32BE(at) * 0x100000000 + source.readUInt32BE(at + 4);
      case 31:
        return -1;
      default:
        throw new Malformed("a reserved length");
    }
  }

  private check(): void {
    if (this.at > this.to) throw new Malformed("it ends in the middle");
  }

  /** A text of so many bytes from here. */
  textOf(length: number): string {
    const at = this.at;
    const end = at + length;
    if (end > this.to) throw new Malformed("a text ends in the middle");
    this.at = end;
    const source = this.source;
    if (length > WORD_MAX) return source.toString("utf8", at, end);
    let hash = length;
    let high = 0;
    for (let i = at; i < end; i++) {
      const byte = source[i]!;
      high |= byte;
      hash = (Math.imul(hash, 31) + byte) | 0;
    }
    if (high > 0x7f) return source.toString("utf8", at, end);
    const slot = (hash ^ (hash >>> 11)) & 2047;
    const word = WORDS[slot]!;
    if (word.length === length) {
      let i = 0;
      while (i < length && word.charCodeAt(i) === source[at + i]) i++;
      if (i === length) return word;
    }
    const text = source.toString("latin1", at, end);
    WORDS[slot] = text;
    return text;
  }

  /** The next item, which must be a text. */
  text(): string {
    if (this.at >= this.to) throw new Malformed("it ends in the middle");
    const first = this.source[this.at++]!;
    if (first >> 5 !== 3) throw new Malformed("a key that is no text");
    const length = this.count(first & 31);
    return length < 0 ? (this.chunks(3) as string) : this.textOf(length);
  }

  /** The next item. */
  item(depth: number): unknown {
    const item = this.any(depth);
    if (item === BREAK) throw new Malformed("an end of nothing");
    return item;
  }

  private any(depth: number): unknown {
    if (this.at >= this.to) throw new Malformed("it ends in the middle");
    const first = this.source[this.at++]!;
    const info = first & 31;
    switch (first >> 5) {
      case 0: {
        if (info < 24) return info;
        const n = this.whole(info);
        return n <= Number.MAX_SAFE_INTEGER ? n : this.long(this.at - 8);
      }
      case 1: {
        const n = this.whole(info);
        return n < Number.MAX_SAFE_INTEGER ? -1 - n : -1n - this.long(this.at - 8);
      }
      case 2: {
        const length = this.count(info);
        return length < 0 ? this.chunks(2) : this.bytesOf(length);
      }
      case 3: {
        const length = this.count(info);
        return length < 0 ? this.chunks(3) : this.textOf(length);
      }
      case 4:
        return this.array(this.count(info), depth + 1);
      case 5:
        return this.map(this.count(info), depth + 1);
      case 6:
        return this.tagged(info, depth + 1);
      default:
        return this.simple(info);
    }
  }

  private whole(info: number): number {
    const n = this.count(info);
    if (n < 0) throw new Malformed("a number without a value");
    return n;
  }

  private long(at: number): bigint {
    return this.source.readBigUInt64BE(at);
  }

  private bytesOf(length: number): Buffer {
    const at = this.at;
    if (at + length > this.to) throw new Malformed("bytes end in the middle");
    this.at = at + length;
    return Buffer.from(this.source.subarray(at, this.at));
  }

  private chunks(major: 2 | 3): unknown {
    const parts: Buffer[] = [];
    for (;;) {
      if (this.at >= this.to) throw new Malformed("it ends in the middle");
      const first = this.source[this.at++]!;
      if (first === 0xff) break;
      const length = this.count(first & 31);
      if (first >> 5 !== major || length < 0) throw new Malformed("a piece of another kind");
      parts.push(this.bytesOf(length));
    }
    const all = Buffer.concat(parts);
    return major === 2 ? all : all.toString("utf8");
  }

  private deeper(depth: number): void {
    if (depth > DEPTH_MAX) throw new Malformed(`nested deeper than ${DEPTH_MAX}`);
  }

  private array(length: number, depth: number): unknown[] {
    this.deeper(depth);
    // Each item has a byte at least, so a length that cannot be is found before there is room for it.
    if (length > this.to - this.at) throw new Malformed("an array ends in the middle");
    const list: unknown[] = [];
    for (let i = 0; i !== length; i++) {
      const item = this.any(depth);
      if (item === BREAK) {
        if (length < 0) break;
        throw new Malformed("an end in the middle of an array");
      }
      list.push(item);
    }
    return list;
  }

  private map(length: number, depth: number): unknown {
    this.deeper(depth);
    if (length * 2 > this.to - this.at) throw new Malformed("a map ends in the middle");
    const object: Record<string, unknown> = {};
    let map: Map<unknown, unknown> | undefined;
    for (let i = 0; i !== length; i++) {
      const key = this.any(depth);
      if (key === BREAK) {
        if (length < 0) break;
        throw new Malformed("an end in the middle of a map");
      }
      const value = this.item(depth);
      if (map === undefined && typeof key !== "string") map = new Map(Object.entries(object));
      if (map !== undefined) map.set(key, value);
      else if (key === "__proto__") {
        Object.defineProperty(object, key, { value, enumerable: true, configurable: true, writable: true });
      } else object[key as string] = value;
    }
    return map ?? object;
  }

  private tagged(info: number, depth: number): unknown {
    this.deeper(depth);
    const n = this.whole(info);
    const tag = n <= Number.MAX_SAFE_INTEGER ? n : this.long(this.at - 8);
    const value = this.item(depth);
    if ((tag === 2 || tag === 3) && Buffer.isBuffer(value)) {
      const size = value.length === 0 ? 0n : BigInt(`0x${value.toString("hex")}`);
      return tag === 2 ? size : -1n - size;
    }
    if (tag === 1 && typeof value === "number") return new Date(value * 1000);
    return new Tag(tag, value);
  }

  private simple(info: number): unknown {
    const source = this.source;
    const at = this.at;
    switch (info) {
      case 20:
        return false;
      case 21:
        return true;
      case 22:
        return null;
      case 23:
        return undefined;
      case 24:
        this.at = at + 1;
        this.check();
        return new Simple(source[at]!);
      case 25:
        this.at = at + 2;
        this.check();
        return half((source[at]! << 8) | source[at + 1]!);
      case 26:
        this.at = at + 4;
        this.check();
        return source.readFloatBE(at);
      case 27:
        this.at = at + 8;
        this.check();
        return source.readDoubleBE(at);
      case 31:
        return BREAK;
      default:
        if (info > 27) throw new Malformed("a reserved value");
        return new Simple(info);
    }
  }
}

const INPUT = new Input();

function half(bits: number): number {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const sign = bits & 0x8000 ? -1 : 1;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25);
}
