/** A function that runs in a process of its own. */
import { ExitError, exitReason, TimeoutError } from "./errors";
import type { SpawnOptions, Waits } from "./options";
import type { Process } from "./process";
import { warn } from "./session";

/** How a task runs. */
export interface TaskOptions extends Waits {
  /** A name of this node. */
  name?: string;
  /** For people. */
  label?: string;
  /** Tied to the process that starts it, so that both die together; true unless told otherwise. */
  link?: boolean;
}

/** What a task does: `process` is its own, `signal` is aborted when that dies. */
export type Work<T> = (process: Process, signal: AbortSignal) => T | Promise<T>;

/**
 * A function that runs in a process of its own, linked with the one that started it: an error in it ends its process with the reason
 * `CLASS: TEXT`, and so the other one, unless that traps exits or the task was started with `link: false`.
 */
export class Task<T> {
  private readonly controller = new AbortController();
  private readonly done: Promise<T>;
  private asked = false;
  private reject!: (error: unknown) => void;

  /** @internal */
  constructor(
    /** Its process. */
    readonly process: Process,
    work: Work<T>,
  ) {
    process.resident = this;
    this.done = new Promise<T>((resolve, reject) => {
      this.reject = reject;
      // Who started it goes on first.
      queueMicrotask(() => void this.run(work, resolve));
    });
    this.done.catch(() => {});
  }

  /** @internal */
  static optionsOf(options: TaskOptions): SpawnOptions {
    return { label: "task", ...options, link: options.link ?? true };
  }

  private async run(work: Work<T>, resolve: (value: T) => void): Promise<void> {
    try {
      const value = await work(this.process, this.controller.signal);
      resolve(value);
      await this.process.exit();
    } catch (error) {
      this.reject(error);
      if (!this.process.alive) return;
      if (!this.asked) warn(`a task failed: ${exitReason(error)}`);
      await this.process.exit(exitReason(error)).catch(() => {});
    }
  }

  /** Its pid. */
  get pid(): string {
    return this.process.pid;
  }

  /** What the function returns. Fails with its error, as `exit` when its process died, as `timeout` after so many ms: it goes on then. */
  result(options: Waits & { timeout?: number } = {}): Promise<T> {
    this.asked = true;
    const { timeout, signal } = options;
    if (signal?.aborted) return Promise.reject(signal.reason as Error);
    if (timeout === undefined && signal === undefined) return this.done;
    return new Promise<T>((resolve, reject) => {
      const over = () => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", abort);
      };
      const abort = () => {
        over();
        reject(signal!.reason as Error);
      };
      const late = () => {
        over();
        reject(new TimeoutError("timeout", `the task has no result within ${timeout} ms`, { maybeApplied: true }));
      };
      const timer = timeout === undefined ? undefined : setTimeout(late, timeout);
      signal?.addEventListener("abort", abort, { once: true });
      this.done.then(resolve, reject).finally(over);
    });
  }

  /** Ends its process, and aborts its signal. */
  async cancel(reason = "shutdown"): Promise<void> {
    this.asked = true;
    const done = this.process.exit(reason);
    this.died(reason);
    await done;
  }

  /** @internal */
  died(reason: string): void {
    const error = new ExitError("exit", `the task's process exited: ${reason}`, { reason, maybeApplied: true });
    this.reject(error);
    this.controller.abort(error);
  }

  /** @internal */
  finish(): Promise<void> {
    return Promise.resolve();
  }

  /** @internal */
  again(): void {}
}
