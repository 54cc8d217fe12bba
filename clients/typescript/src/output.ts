/** CBOR that is written: see `cbor.ts`. */
import { DEPTH_MAX, Simple, Tag } from "./items";

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
