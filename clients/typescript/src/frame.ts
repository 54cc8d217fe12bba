/**
 * What the node writes, frame by frame: `u32 length of the rest | u16 length of the header | header | body`.
 *
 * There is one {@link Frame}, used again and again: what is to be kept of it is taken before the next one is read.
 */
import { decode, Input, Malformed } from "./cbor";

/** Nothing longer is a frame of this protocol. */
export const FRAME_BYTES_MAX = 64 * 1024 * 1024 + 128 * 1024;

/** The frame that is being read: its header, and where its body is. */
export class Frame {
  ev = "";
  id: number | string | undefined;
  /** Whose mailbox it is for; not there for the session's own process. In `died` who died. */
  pid: string | undefined;
  /** Null in a `down` where no pid is known. */
  from: string | null | undefined;
  ref: number | undefined;
  topic: string | undefined;
  ct: string | undefined;
  as: string | undefined;
  /** All other members. */
  rest: Record<string, unknown> = NONE;
  private source: Buffer = Buffer.alloc(0);
  private start = 0;
  private end = 0;
  private readonly input = new Input();

  /** Reads what is behind the length. Throws {@link Malformed}. */
  read(source: Buffer, at: number, end: number): void {
    if (end - at < 2) throw new Malformed("a frame without a header");
    const head = (source[at]! << 8) | source[at + 1]!;
    const input = this.input;
    this.start = at + 2 + head;
    this.end = end;
    this.source = source;
    if (this.start > end) throw new Malformed("a header longer than its frame");
    input.open(source, at + 2, this.start);
    this.ev = "";
    this.id = this.pid = this.from = this.ref = this.topic = this.ct = this.as = undefined;
    this.rest = NONE;
    const first = source[input.at++]!;
    if (head === 0 || first >> 5 !== 5) throw new Malformed("a header that is no map");
    for (let left = input.count(first & 31); left > 0; left--) this.member(input.text(), input);
    if (input.at !== this.start) throw new Malformed("there is something behind the header");
  }

  private member(key: string, input: Input): void {
    switch (key) {
      case "ev":
        this.ev = input.text();
        return;
      case "id":
        this.id = input.item() as number | string;
        return;
      case "ref":
        this.ref = input.item() as number;
        return;
      case "from":
        this.from = input.item() as string | null;
        return;
      case "topic":
        this.topic = input.text();
        return;
      case "ct":
        this.ct = input.text();
        return;
      case "as":
        this.as = input.text();
        return;
      case "pid":
        this.pid = input.item() as string;
        return;
      default:
        if (this.rest === NONE) this.rest = {};
        this.rest[key] = input.item();
    }
  }

  /**
   * The body. Nothing where there is none; bytes where it has a `ct`, or is no CBOR in fact, which gives it the `ct`
   * `application/octet-stream`.
   */
  body(): unknown {
    if (this.start === this.end) return undefined;
    if (this.ct === undefined) {
      try {
        return decode(this.source, this.start, this.end);
      } catch {
        this.ct = "application/octet-stream";
      }
    }
    return Buffer.from(this.source.subarray(this.start, this.end));
  }

  /** Whether it has a body. */
  get hasBody(): boolean {
    return this.start < this.end;
  }

  /** How long its body is. */
  get bodyBytes(): number {
    return this.end - this.start;
  }

  /** All members but the name and the id; the body under its name, or as `body`. */
  members(): Record<string, unknown> {
    const { rest, as } = this;
    const all: Record<string, unknown> = rest === NONE ? {} : rest;
    if (this.pid !== undefined) all["pid"] = this.pid;
    if (this.from !== undefined) all["from"] = this.from;
    if (this.ref !== undefined) all["ref"] = this.ref;
    if (this.topic !== undefined) all["topic"] = this.topic;
    const body = this.body();
    if (body !== undefined) all[as ?? "body"] = body;
    if (this.ct !== undefined) all["ct"] = this.ct;
    return all;
  }
}

const NONE: Record<string, unknown> = Object.freeze({});

/** Cuts what comes from the socket into frames. */
export class Frames {
  private partial: Buffer | undefined;
  private have = 0;
  private readonly head = Buffer.alloc(4);
  private headHave = 0;
  readonly frame = new Frame();

  constructor(private readonly onFrame: (frame: Frame) => void) {}

  /** Takes bytes that have come; they may be overwritten afterwards. Throws {@link Malformed}, which is the end. */
  push(chunk: Buffer, length = chunk.length): void {
    let at = 0;
    const frame = this.frame;
    while (at < length) {
      if (this.partial !== undefined) {
        const taken = Math.min(this.partial.length - this.have, length - at);
        chunk.copy(this.partial, this.have, at, at + taken);
        this.have += taken;
        at += taken;
        if (this.have < this.partial.length) return;
        const whole = this.partial;
        this.partial = undefined;
        frame.read(whole, 0, whole.length);
        this.onFrame(frame);
        continue;
      }
      if (this.headHave > 0 || length - at < 4) {
        while (this.headHave < 4 && at < length) this.head[this.headHave++] = chunk[at++]!;
        if (this.headHave < 4) return;
        this.headHave = 0;
        this.begin(this.head.readUInt32BE(0));
        continue;
      }
      const bytes = chunk.readUInt32BE(at);
      at += 4;
      if (at + bytes > length) {
        this.begin(bytes);
        continue;
      }
      frame.read(chunk, at, at + bytes);
      at += bytes;
      this.onFrame(frame);
    }
  }

  private begin(bytes: number): void {
    if (bytes > FRAME_BYTES_MAX) throw new Malformed(`a frame of ${bytes} bytes`);
    if (bytes < 2) throw new Malformed("a frame without a header");
    this.partial = Buffer.allocUnsafe(bytes);
    this.have = 0;
  }
}
