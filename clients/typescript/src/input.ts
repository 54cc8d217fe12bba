/** What frames are made of, read: see `cbor.ts`. */
import { Malformed } from "./items";
import { read } from "./values";

/** Short texts that come again and again: keys, pids, operations. A slot holds the one that came last. */
const WORDS: string[] = new Array<string>(2048).fill("");
const WORD_MAX = 64;

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

  /** The length or value, below 2^32, behind a first byte whose lower five bits are these. */
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
      default:
        throw new Malformed("a length that no frame has");
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
    const text = this.item();
    if (typeof text !== "string") throw new Malformed("a key that is no text");
    return text;
  }

  /** The next item: a word, a whole number or bytes here, all else by the library. */
  item(): unknown {
    const start = this.at;
    if (start >= this.to) throw new Malformed("it ends in the middle");
    const first = this.source[start]!;
    const info = first & 31;
    this.at = start + 1;
    if (first === 0xf4) return false;
    if (first === 0xf5) return true;
    if (first === 0xf6) return null;
    if (info <= 26) {
      const major = first >> 5;
      if (major === 3) return this.textOf(this.count(info));
      if (major === 2) return this.bytesOf(this.count(info));
      if (major === 0) return this.count(info);
    }
    const { value, length } = read(this.source, start, this.to);
    this.at = start + length;
    return value;
  }

  private bytesOf(length: number): Buffer {
    const at = this.at;
    if (at + length > this.to) throw new Malformed("bytes end in the middle");
    this.at = at + length;
    return Buffer.from(this.source.subarray(at, this.at));
  }
}
