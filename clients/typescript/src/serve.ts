/** Functions that other apps call, by `rpc`. */
import { isParts, isPromise, replyParts } from "./gen_server";
import type { RpcEvent } from "./events";
import { ORDER } from "./declared";
import type { Process } from "./process";
import { warn } from "./session";

/** The functions of a module. What one returns, or what its promise gives, is the reply; what a generator yields are parts of it. */
// Functions take whatever arguments they like: that of others is not ours to know.
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export type Functions = Record<string, (this: Invocation, ...args: any[]) => unknown>;

/** One call of a function: its `this`. */
export class Invocation {
  private controller: AbortController | undefined;
  private cancelled = false;

  /** @internal */
  constructor(private readonly event: RpcEvent) {}

  /** The caller's pid. */
  get from(): string {
    return this.event.from;
  }
  /** The module that was called. */
  get module(): string {
    return this.event.module;
  }
  /** The function that was called. */
  get function(): string {
    return this.event.function;
  }
  /** Aborted when nobody waits for the answer any more. */
  get signal(): AbortSignal {
    if (this.controller === undefined) {
      this.controller = new AbortController();
      if (this.cancelled) this.controller.abort();
    }
    return this.controller.signal;
  }

  /** @internal */
  cancel(): void {
    this.cancelled = true;
    this.controller?.abort();
  }
}

/** A module that is being served. */
export class Service {
  private readonly running = new Map<number | symbol, Invocation>();
  private idle: (() => void)[] = [];

  /** @internal */
  constructor(
    /** Its name. */
    readonly module: string,
    private readonly functions: Functions,
    /** @internal */
    readonly process: Process,
  ) {
    process.resident = this;
    process.mailbox.handler = () => this.pump();
  }

  /** The pid of the process that serves it. */
  get pid(): string {
    return this.process.pid;
  }

  /** @internal */
  async begin(): Promise<void> {
    const fields = { module: this.module, functions: Object.keys(this.functions) };
    await this.process.request("serve", fields);
    this.process.declareAs("module", ORDER.module, "serve", fields);
  }

  /** Serves no more. What was given is lost for its callers: they hear `exit`. */
  stop(): Promise<void> {
    return this.process.exit();
  }

  private pump(): void {
    const { mailbox } = this.process;
    for (;;) {
      const event = mailbox.takeUnconsumed();
      if (event === null) break;
      if (event.ev === "rpc") this.run(event);
      else {
        mailbox.consume(event);
        if (event.ev === "gap") warn(`calls of \`${this.module}\` may be lost (${event.reason})`);
        else if (event.ev === "call") this.process.raise(event, { class: "undef" }).catch(() => {});
      }
    }
    this.settle();
  }

  private run(event: RpcEvent): void {
    const { process } = this;
    const run = Object.hasOwn(this.functions, event.function) ? this.functions[event.function] : undefined;
    if (typeof run !== "function") {
      process.mailbox.consume(event);
      process.raise(event, { class: "undef" }).catch(() => {});
      return;
    }
    const args: unknown[] = Array.isArray(event.body) ? event.body : event.body === undefined ? [] : [event.body];
    const invocation = new Invocation(event);
    let value: unknown;
    try {
      value = run.apply(invocation, args);
    } catch (error) {
      process.mailbox.consume(event);
      process.raise(event, error).catch(() => {});
      return;
    }
    if (!isPromise(value) && !isParts(value)) {
      process.mailbox.consume(event);
      process.reply(event, value).catch((error: unknown) => process.raise(event, error).catch(() => {}));
      return;
    }
    const key = event.ref ?? Symbol("nobody waits");
    this.running.set(key, invocation);
    const reply = (value?: unknown, options?: { more?: boolean }) => process.reply(event, value, options);
    const done = isPromise(value) ? value.then((value) => reply(value)) : replyParts(value, { reply });
    void done
      .catch((error: unknown) => process.raise(event, error).catch(() => {}))
      .then(() => {
        this.running.delete(key);
        process.mailbox.consume(event);
        this.settle();
      });
  }

  private settle(): void {
    if (this.running.size > 0 || this.idle.length === 0) return;
    for (const resolve of this.idle.splice(0)) resolve();
  }

  /** @internal */
  onCancel(ref: number): void {
    this.running.get(ref)?.cancel();
  }

  /** @internal */
  finish(): Promise<void> {
    return new Promise((resolve) => {
      this.idle.push(resolve);
      this.settle();
    });
  }

  /** @internal */
  again(): void {}

  /** @internal */
  died(): void {
    for (const invocation of this.running.values()) invocation.cancel();
  }
}
