/** CBOR that is read: see `cbor.ts`. */
import { DEPTH_MAX, Malformed, Simple, Tag } from "./items";

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

function half(bits: number): number {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const sign = bits & 0x8000 ? -1 : 1;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25);
}
