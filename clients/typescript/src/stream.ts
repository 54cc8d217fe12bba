/** The answer to a call, in parts. */
import { OverloadedError } from "./errors";
import type { Frame } from "./frame";

/** Bytes of parts that wait to be taken out of one stream. */
export const PARTS_BYTES_MAX = 64 * 1024 * 1024;
/** What a part takes beside its bytes. */
const PART_BYTES = 128;

/**
 * Parts as they come; `value` is the last one, and what went wrong. Iterate once.
 *
 * The connection is read always, so parts that come faster than they are taken wait here. Beyond 64 MiB of them the stream is given
 * up: what has come may be taken, then iterating fails with `overloaded`. One whose loop was left, or that is closed, drops its parts
 * and those to come; the callee is not told, and `value` still comes.
 */
export class CallStream<T> implements AsyncIterable<unknown> {
  /** The last part. Fails as the call does. */
  readonly value: Promise<T>;
  private parts: { part: unknown; size: number }[] = [];
  /** How many of them are taken. */
  private taken = 0;
  private bytes = 0;
  private over = false;
  private closed = false;
  private overflown = false;
  private wake: (() => void) | undefined;

  /** @internal */
  constructor(start: (onPart: (frame: Frame) => void) => Promise<T>) {
    this.value = start((frame) => this.onPart(frame));
    const end = () => {
      this.over = true;
      this.wake?.();
    };
    this.value.then(end, end);
  }

  private onPart(frame: Frame): void {
    if (this.closed || this.overflown) return;
    const size = frame.bodyBytes + PART_BYTES;
    if (this.bytes + size > PARTS_BYTES_MAX) this.overflown = true;
    else {
      this.bytes += size;
      this.parts.push({ part: frame.body(), size });
    }
    this.wake?.();
  }

  private take(): unknown {
    const { part, size } = this.parts[this.taken]!;
    this.parts[this.taken++] = TAKEN;
    this.bytes -= size;
    // Not one by one: moving the others each time would cost.
    if (this.taken === this.parts.length || this.taken >= 1024) {
      if (this.taken * 2 >= this.parts.length) {
        this.parts = this.parts.slice(this.taken);
        this.taken = 0;
      }
    }
    return part;
  }

  /** The parts before the last one. Fails as the call does, behind the parts that came. */
  async *[Symbol.asyncIterator](): AsyncGenerator<unknown, void, undefined> {
    try {
      for (;;) {
        while (this.taken < this.parts.length) yield this.take();
        if (this.closed) return;
        if (this.overflown) {
          throw new OverloadedError(
            "overloaded",
            `parts came faster than they were taken, and more than ${PARTS_BYTES_MAX >> 20} MiB of them wait; take them sooner, or let the ` +
              "callee send the next ones only when it is asked for them",
            { maybeApplied: true },
          );
        }
        if (this.over) break;
        await new Promise<void>((resolve) => (this.wake = resolve));
      }
    } finally {
      this.close();
    }
    await this.value;
  }

  /** Takes no more: the parts that have come, and those to come, are dropped. Iterating ends. */
  close(): void {
    this.closed = true;
    this.parts = [];
    this.taken = this.bytes = 0;
    this.wake?.();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

const TAKEN = { part: undefined, size: 0 };
