/** What a process was sent and has not taken yet, in order. */
import type { Event } from "./events";

/** Whether an event is wanted. */
export type Match = (event: Event) => boolean;

interface Waiter {
  /** It is an iterator, which ends where others go on. */
  iterating: boolean;
  match: Match | undefined;
  resolve(event: Event | null): void;
  reject(error: unknown): void;
}

/** Whether the window of a process counts this event. */
export function isCounted(event: Event): boolean {
  switch (event.ev) {
    case "message":
    case "cast":
    case "call":
    case "rpc":
      return true;
    default:
      return false;
  }
}

/** A queue with selective receive. Whoever takes an event has consumed it. */
export class Mailbox {
  private queue: Event[] = [];
  private first = 0;
  private waiters: Waiter[] = [];
  private over: { error: unknown } | undefined;
  /** Iterators end once it is empty. */
  private ending = false;
  /** Messages that were consumed and not told to the node yet. */
  consumed = 0;
  /** Called when something has come, in the place of who receives. */
  handler: (() => void) | undefined;

  /** `onConsumed` hears that `consumed` went up. */
  constructor(private readonly onConsumed: () => void) {}

  /** How many events wait here. */
  get length(): number {
    return this.queue.length - this.first;
  }

  /** Whether somebody waits for what comes next, or nothing is here. */
  get waits(): boolean {
    return this.waiters.length > 0 || this.length === 0;
  }

  /** Something has come. */
  push(event: Event): void {
    if (this.over !== undefined) return;
    const waiters = this.waiters;
    for (let i = 0; i < waiters.length; i++) {
      const waiter = waiters[i]!;
      if (waiter.match !== undefined && !this.wanted(waiter, event)) {
        // One whose predicate has failed is gone.
        if (waiters[i] !== waiter) i--;
        continue;
      }
      if (i === 0) waiters.shift();
      else waiters.splice(i, 1);
      this.consume(event);
      waiter.resolve(event);
      return;
    }
    this.queue.push(event);
    if (this.handler !== undefined) this.handler();
  }

  private wanted(waiter: Waiter, event: Event): boolean {
    try {
      return waiter.match!(event);
    } catch (error) {
      this.forget(waiter);
      waiter.reject(error);
      return false;
    }
  }

  /** Takes the first event that is wanted and here already; `null` when there is none. */
  take(match?: Match): Event | null {
    const event = this.takeUnconsumed(match);
    if (event !== null) this.consume(event);
    return event;
  }

  /** The same, for whoever calls {@link consume} later. */
  takeUnconsumed(match?: Match): Event | null {
    const queue = this.queue;
    if (match === undefined) {
      if (this.first === queue.length) {
        if (this.consumed > 0) this.onConsumed();
        return null;
      }
      const event = queue[this.first]!;
      queue[this.first++] = undefined as unknown as Event;
      if (this.first === queue.length) {
        queue.length = this.first = 0;
      } else if (this.first >= 1024) {
        queue.splice(0, this.first);
        this.first = 0;
      }
      return event;
    }
    for (let i = this.first; i < queue.length; i++) {
      const event = queue[i]!;
      if (!match(event)) continue;
      queue.splice(i, 1);
      return event;
    }
    return null;
  }

  /** An event that was taken counts as consumed. */
  consume(event: Event): void {
    if (!isCounted(event)) return;
    this.consumed++;
    this.onConsumed();
  }

  /**
   * The next event that is wanted. `null` when `timeout` ms are over, or when iterators end and `iterating`. Whoever gives up by
   * `signal` has taken nothing.
   */
  receive(match?: Match, timeout?: number, signal?: AbortSignal, iterating = false): Promise<Event | null> {
    if (signal?.aborted) return Promise.reject(signal.reason as Error);
    let event: Event | null;
    try {
      event = this.take(match);
    } catch (error) {
      return Promise.reject(error as Error);
    }
    if (event !== null) return Promise.resolve(event);
    if (this.over !== undefined) {
      return this.over.error === null ? Promise.resolve(null) : Promise.reject(this.over.error as Error);
    }
    if ((iterating && this.ending) || (timeout !== undefined && timeout <= 0)) return Promise.resolve(null);
    return new Promise((resolve, reject) => {
      const waiter: Waiter = { iterating, match, resolve, reject };
      if (timeout !== undefined || signal !== undefined) this.guard(waiter, timeout, signal);
      this.waiters.push(waiter);
      if (this.consumed > 0) this.onConsumed();
    });
  }

  private guard(waiter: Waiter, timeout: number | undefined, signal: AbortSignal | undefined): void {
    const { resolve, reject } = waiter;
    let timer: NodeJS.Timeout | undefined;
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    };
    const abort = () => {
      this.forget(waiter);
      waiter.reject(signal!.reason);
    };
    waiter.resolve = (event) => {
      done();
      resolve(event);
    };
    waiter.reject = (error) => {
      done();
      reject(error);
    };
    if (timeout !== undefined && timeout < 2 ** 31) {
      timer = setTimeout(() => {
        this.forget(waiter);
        waiter.resolve(null);
      }, timeout);
    }
    signal?.addEventListener("abort", abort);
  }

  private forget(waiter: Waiter): void {
    const at = this.waiters.indexOf(waiter);
    if (at >= 0) this.waiters.splice(at, 1);
  }

  /** Iterators end once what is here was taken, until {@link resume}. */
  endIterators(): void {
    this.ending = true;
    for (const waiter of this.waiters.filter((each) => each.iterating)) {
      this.forget(waiter);
      waiter.resolve(null);
    }
  }

  /** Iterators go on. */
  resume(): void {
    this.ending = false;
  }

  /** Nothing comes any more; what is here can be taken. Then `error`, or `null` where that is no error. */
  end(error: unknown): void {
    if (this.over !== undefined) return;
    this.over = { error };
    const waiters = this.waiters;
    this.waiters = [];
    for (const waiter of waiters) {
      if (error === null || waiter.iterating) waiter.resolve(null);
      else waiter.reject(error);
    }
  }
}
