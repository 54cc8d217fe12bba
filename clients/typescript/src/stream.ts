/** The answer to a call, in parts. */

/** Parts as they come; `value` is the last one, and what went wrong. Iterate once. */
export class CallStream<T> implements AsyncIterable<unknown> {
  /** The last part. Fails as the call does. */
  readonly value: Promise<T>;
  private readonly parts: unknown[] = [];
  private over = false;
  private wake: (() => void) | undefined;

  /** @internal */
  constructor(start: (onPart: (part: unknown) => void) => Promise<T>) {
    this.value = start((part) => {
      this.parts.push(part);
      this.wake?.();
    });
    const end = () => {
      this.over = true;
      this.wake?.();
    };
    this.value.then(end, end);
  }

  /** The parts before the last one. Fails as the call does, behind the parts that came. */
  async *[Symbol.asyncIterator](): AsyncGenerator<unknown, void, undefined> {
    for (;;) {
      while (this.parts.length > 0) yield this.parts.shift();
      if (this.over) break;
      await new Promise<void>((resolve) => (this.wake = resolve));
    }
    await this.value;
  }
}
