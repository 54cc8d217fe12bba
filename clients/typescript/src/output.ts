/** What frames are made of, written: see `cbor.ts`. */
import { write } from "./values";

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

  private byte(byte: number): void {
    this.room(1);
    this.buffer[this.at++] = byte;
  }

  /**
   * Writes any value: a word, a whole number or bytes here, all else by the library. Throws a `TypeError` for what cannot be one,
   * with half of it written: take {@link at} back then.
   */
  item(value: unknown): void {
    if (typeof value === "string") this.text(value);
    else if (typeof value === "number" && Number.isSafeInteger(value) && !Object.is(value, -0)) {
      if (value >= 0) this.head(0x00, value);
      else this.head(0x20, -1 - value);
    } else if (value instanceof Uint8Array) {
      this.head(0x40, value.length);
      this.bytes(value);
    } else if (typeof value === "boolean") this.byte(value ? 0xf5 : 0xf4);
    else if (value === null || value === undefined) this.byte(0xf6);
    else this.bytes(write(value));
  }
}
