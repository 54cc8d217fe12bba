/** A process with callbacks, Erlang's `gen_server`. */
import { DONE } from "./connection";
import { BadArgError, exitReason, TooLargeError } from "./errors";
import type { CallEvent, Event } from "./events";
import type { Resident } from "./declared";
import type { Process } from "./process";
import { warn } from "./session";

/** What `handleCall` returns when the answer comes later, by `from.reply`. */
export const NO_REPLY: unique symbol = Symbol("pillion.NO_REPLY");

/** Who called, and the way to answer. */
export class From {
  /** The caller's pid. */
  readonly pid: string;

  /** @internal */
  constructor(
    private readonly process: Process,
    private readonly event: CallEvent,
    private readonly onDone: (ref: number) => void,
  ) {
    this.pid = event.from;
  }

  /** Answers. With `more` it is a part: done when there is room for the next. Who waits no longer is not told of. */
  reply(value?: unknown, options: { more?: boolean } = {}): Promise<void> {
    if (!options.more) this.onDone(this.event.ref);
    return this.process.reply(this.event, value, options);
  }

  /** Ends the call with an error. */
  raise(error: unknown): Promise<void> {
    this.onDone(this.event.ref);
    return this.process.raise(this.event, error);
  }
}

/**
 * Extend it, and start it with {@link Client.start}. It handles one event at a time: what a callback returns is awaited before the
 * next one. An error in a callback ends the process with the reason `CLASS: TEXT`, after `terminate`; one in `handleCall` is
 * raised to the caller before that.
 */
export abstract class GenServer {
  /** Its process, from `init` on. */
  protected process!: Process;
  /** @internal */
  runner: Runner | undefined;

  /** Its pid, once it is started. */
  get pid(): string {
    return this.process.pid;
  }

  /** Before anything else; again when a drained client begins anew at another node. */
  init(): void | Promise<void> {}

  /** Answers a call by what it returns. `NO_REPLY`: `from.reply` does later. What it yields are parts of the answer. */
  handleCall(request: unknown, from: From): unknown {
    void from;
    throw new Error(`nobody handles the call ${JSON.stringify(request)}`);
  }

  /** A request that wants no answer. */
  handleCast(request: unknown, from: string): void | Promise<void> {
    void [request, from];
  }

  /** Any other event: messages, `down`, `exit`, `gap`. */
  handleInfo(event: Event): void | Promise<void> {
    void event;
  }

  /** The last that is called, with the reason of the end. */
  terminate(reason: string): void | Promise<void> {
    void reason;
  }

  /** Ends the server once the callback that runs has returned, and been answered. */
  protected stop(reason = "normal"): void {
    this.runner?.stop(reason);
  }

  /** @internal */
  attach(process: Process, runner: Runner): void {
    this.process = process;
    this.runner = runner;
  }
}

/** Runs a GenServer in a process. */
export class Runner implements Resident {
  private busy = false;
  private over = false;
  private drained = false;
  private stopping: string | undefined;
  private readonly open = new Set<number>();
  private idle: (() => void)[] = [];
  private told!: (reason: string) => void;
  /** Why it has ended, once it has. */
  readonly ended = new Promise<string>((resolve) => (this.told = resolve));

  constructor(
    private readonly server: GenServer,
    private readonly process: Process,
  ) {}

  /** Runs `init`; its error is the process' end, and thrown. */
  async begin(): Promise<void> {
    this.server.attach(this.process, this);
    this.process.resident = this;
    try {
      await this.server.init();
    } catch (error) {
      this.over = true;
      await this.process.exit(exitReason(error));
      throw error;
    }
    this.process.mailbox.handler = () => this.pump();
    this.pump();
  }

  private pump(): void {
    const { mailbox } = this.process;
    while (!this.busy && !this.over) {
      if (this.stopping !== undefined) {
        void this.end(this.stopping);
        return;
      }
      const event = mailbox.take();
      if (event === null) break;
      const handled = this.handle(event);
      if (handled !== undefined) this.wait(handled);
    }
    this.settle();
  }

  private wait(handled: Promise<unknown>): void {
    this.busy = true;
    handled.then(
      () => {
        this.busy = false;
        this.pump();
      },
      (error: unknown) => this.crash(error),
    );
  }

  private handle(event: Event): Promise<unknown> | undefined {
    try {
      if (event.ev === "call") return this.onCall(event);
      const done = event.ev === "cast" ? this.server.handleCast(event.body, event.from) : this.server.handleInfo(event);
      return isPromise(done) ? done : undefined;
    } catch (error) {
      this.crash(error);
      return undefined;
    }
  }

  private onCall(event: CallEvent): Promise<unknown> | undefined {
    const from = new From(this.process, event, (ref) => this.answered(ref));
    this.open.add(event.ref);
    const failed = (error: unknown): never => {
      from.raise(error).catch(() => {});
      throw error;
    };
    // What cannot be sent is the server's error; that nobody can be told any more is not.
    const unsent = (error: unknown) => {
      if (error instanceof BadArgError || error instanceof TooLargeError) failed(error);
    };
    let value: unknown;
    try {
      value = this.server.handleCall(event.body, from);
    } catch (error) {
      return failed(error);
    }
    if (isPromise(value)) {
      return value.then((value) => (value === NO_REPLY ? undefined : from.reply(value).catch(unsent)), failed);
    }
    if (isParts(value)) return replyParts(value, from).catch(failed);
    if (value === NO_REPLY) return undefined;
    const told = from.reply(value);
    return told === DONE ? undefined : told.catch(unsent);
  }

  private answered(ref: number): void {
    this.open.delete(ref);
    this.settle();
  }

  private settle(): void {
    if (this.idle.length === 0 || this.busy || this.open.size > 0 || (this.process.mailbox.length > 0 && !this.over)) return;
    for (const resolve of this.idle.splice(0)) resolve();
  }

  private crash(error: unknown): void {
    this.busy = false;
    void this.end(exitReason(error));
  }

  stop(reason: string): void {
    this.stopping ??= reason;
    if (!this.busy) queueMicrotask(() => this.pump());
  }

  private async end(reason: string): Promise<void> {
    if (this.over) return;
    this.over = true;
    await this.terminate(reason);
    await this.process.exit(reason === "normal" ? undefined : reason).catch(() => {});
    this.open.clear();
    this.settle();
    this.told(reason);
  }

  private async terminate(reason: string): Promise<void> {
    try {
      await this.server.terminate(reason);
    } catch (error) {
      warn(`terminate failed: ${exitReason(error)}`);
    }
  }

  /** Answers what it was given, and ends; it begins anew by {@link again}. */
  async finish(reason: string): Promise<void> {
    if (this.over) return;
    await new Promise<void>((resolve) => {
      this.idle.push(resolve);
      this.settle();
    });
    if (this.over) return;
    this.over = true;
    this.drained = true;
    await this.terminate(reason);
    // The client's own process ends last, with the session.
    if (this.process === this.process.session.own) this.told(reason);
    else await this.process.request("exit", { reason }).catch(() => {});
  }

  /** The client is closed: only `terminate` is left to do. */
  async close(reason: string): Promise<void> {
    if (this.over) return;
    this.over = true;
    await this.terminate(reason);
    this.told(reason);
  }

  again(): void {
    if (!this.drained) return;
    this.over = this.drained = false;
    this.stopping = undefined;
    this.open.clear();
    this.begin().catch((error: unknown) => warn(`init failed: ${exitReason(error)}`));
  }

  died(reason: string): void {
    if (this.over) return;
    this.over = true;
    this.open.clear();
    void this.terminate(reason).then(() => this.told(reason));
    this.settle();
  }

  onCancel(ref: number): void {
    this.answered(ref);
  }
}

/** Whether something is to be awaited. */
export function isPromise(value: unknown): value is Promise<unknown> {
  return typeof value === "object" && value !== null && typeof (value as { then?: unknown }).then === "function";
}

/** Whether something yields parts of an answer: what a generator function returns. */
export function isParts(value: unknown): value is AsyncGenerator | Generator {
  if (typeof value !== "object" || value === null) return false;
  const parts = value as { next?: unknown; [Symbol.asyncIterator]?: unknown; [Symbol.iterator]?: unknown };
  return typeof parts.next === "function" && (parts[Symbol.asyncIterator] ?? parts[Symbol.iterator]) !== undefined;
}

/** Replies with what is yielded, each part when there is room for it, and then with what is returned. */
export async function replyParts(
  parts: AsyncGenerator | Generator,
  to: { reply(value?: unknown, options?: { more?: boolean }): Promise<void> },
): Promise<void> {
  for (;;) {
    const { done, value } = await parts.next();
    if (done) return to.reply(value);
    try {
      await to.reply(value, { more: true });
    } catch (error) {
      await parts.return(undefined);
      throw error;
    }
  }
}
