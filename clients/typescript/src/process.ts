/** A mailbox with a pid, and what one does with it. */
import type { Fields } from "./commands";
import { DONE } from "./connection";
import { BadArgError, NoProcError, raised } from "./errors";
import type { CallEvent, Event, RpcEvent } from "./events";
import { type Declaration, ORDER, type Resident } from "./declared";
import { WINDOW } from "./keeper";
import { Mailbox } from "./mailbox";
import type {
  CallOptions,
  Monitor,
  PublishOptions,
  ReceiveOptions,
  RegisterOptions,
  SendOptions,
  SpawnOptions,
  Timer,
  To,
  Waits,
} from "./options";
import { takeBody, takeMember, takeMembers, takeNothing } from "./pending";
import type { Session } from "./session";
import { CallStream } from "./stream";

interface Declared extends Declaration {
  key: string;
}

/** The pid of an address, or itself. */
export function addressOf(to: To): string {
  const address = typeof to === "string" ? to : (to as { pid?: unknown } | null | undefined)?.pid;
  if (typeof address !== "string") throw new BadArgError("badarg", "an address is a text, or what has a pid");
  return address;
}

/** A mailbox with a pid. The client itself is one; {@link spawn} makes more. */
export class Process implements AsyncIterable<Event> {
  /** @internal */
  readonly session: Session;
  /** @internal */
  readonly mailbox: Mailbox;
  /** @internal */
  resident: Resident | undefined;
  /** @internal */
  touched = false;
  /** @internal It is given calls, and finishes them when the client drains. */
  serves = false;
  /** @internal It has an iterator only, and ends with that. */
  feeds = false;
  /** @internal Not wanted any more before its spawn was answered. */
  unwanted = false;
  private current = "";
  private over: Error | null | undefined;
  private declared: Declared[] = [];
  private readonly monitors = new Map<number, string>();
  private readonly links = new Set<To>();
  private number = 0;

  /** @internal Processes are made by {@link spawn}. */
  constructor(
    session: Session | ((process: Process) => Session),
    private readonly options: SpawnOptions = {},
  ) {
    this.session = typeof session === "function" ? session(this) : session;
    this.mailbox = new Mailbox(() => this.onConsumed());
  }

  /** The pid, as it is now: after a restart of the node it is another one. */
  get pid(): string {
    return this.current;
  }

  /** Whether it has not ended. */
  get alive(): boolean {
    return this.over === undefined;
  }

  // ===== messages =====

  /**
   * Sends a message. Done once it is on its way: at once, unless more than 1 MiB is unwritten or there is no connection. Without
   * `confirm` a failure is told by the client's event `failed`.
   */
  send(to: To, body?: unknown, options?: SendOptions): Promise<void> {
    return this.tell("send", to, body, options);
  }

  /** Sends a request that wants no answer, for a GenServer's `handleCast`. As {@link send}. */
  cast(to: To, body?: unknown, options?: SendOptions): Promise<void> {
    return this.tell("cast", to, body, options);
  }

  private tell(op: string, to: To, body: unknown, options: SendOptions | undefined): Promise<void> {
    if (options === undefined) return this.session.tell(this, op, "to", () => addressOf(to), undefined, body);
    const { mode, checked, confirm, signal } = options;
    const fields = { mode, checked };
    if (signal?.aborted) return Promise.reject(signal.reason as Error);
    if (!confirm) return this.session.tell(this, op, "to", () => addressOf(to), fields, body);
    return this.session.request(this, op, { key: "to", to: () => addressOf(to), fields, body, take: takeNothing, signal });
  }

  /**
   * Calls a process and waits for its reply. Fails with the node's error: `noproc`, `noconnection`, `exit`, `exception`,
   * `overloaded`, `timeout` and others; `maybeApplied` says whether the callee may have acted.
   */
  call<T = unknown>(to: To, body?: unknown, options?: CallOptions): Promise<T> {
    return this.session.request<T>(this, "call", {
      key: "to",
      to: () => addressOf(to),
      body,
      take: takeBody,
      timeout: options?.timeout ?? 5000,
      signal: options?.signal,
    });
  }

  /** The same where the answer comes in parts: iterate over them, and await `value` for the last one. */
  stream<T = unknown>(to: To, body?: unknown, options?: CallOptions): CallStream<T> {
    return new CallStream<T>((onPart) =>
      this.session.request<T>(this, "call", {
        key: "to",
        to: () => addressOf(to),
        body,
        take: takeBody,
        timeout: options?.timeout ?? 5000,
        signal: options?.signal,
        onPart,
      }),
    );
  }

  /** Calls a function of a module on a node, or on `any` that serves it. Fails as {@link call} does; `undef` where there is none. */
  rpc<T = unknown>(node: string, module: string, name: string, args: unknown[] = [], options?: CallOptions): Promise<T> {
    return this.session.request<T>(this, "rpc", {
      fields: { node, module, function: name },
      body: args,
      take: takeBody,
      timeout: options?.timeout ?? 5000,
      signal: options?.signal,
    });
  }

  /** Calls a function without waiting for anything. */
  rpcCast(node: string, module: string, name: string, args: unknown[] = []): Promise<void> {
    return this.session.tell(this, "rpc_cast", undefined, none, { node, module, function: name }, args);
  }

  /**
   * The next event that is wanted, in the order in which they came; those that are not stay. With `timeout`, in ms, `null` when it
   * is over. Fails when the process has ended. Giving up by `signal` takes nothing.
   */
  receive(options?: ReceiveOptions & { timeout?: undefined }): Promise<Event>;
  receive(options: ReceiveOptions & { timeout?: number | undefined }): Promise<Event | null>;
  async receive(options: ReceiveOptions & { timeout?: number | undefined } = {}): Promise<Event | null> {
    const { match, timeout, signal } = options;
    const wanted = typeof match === "string" ? (event: Event) => event.ev === match : match;
    const event = await this.mailbox.receive(wanted, timeout, signal);
    if (event === null && timeout === undefined) throw this.over ?? new NoProcError("noproc", "the process has ended");
    return event;
  }

  /** Events as they come, until the process ends or the client drains. */
  [Symbol.asyncIterator](): AsyncIterator<Event, undefined, undefined> {
    const { mailbox } = this;
    // By hand: a generator would take several turns for each event.
    const next = (): Promise<IteratorResult<Event, undefined>> => {
      const event = mailbox.take();
      if (event !== null) return Promise.resolve({ value: event, done: false });
      return mailbox.receive(undefined, undefined, undefined, true).then(resultOf);
    };
    return { next };
  }

  /**
   * Answers a call. With `more` it is a part, and others follow: done when there is room for the next. One of more than 64 KiB is done
   * once the node has taken it. One that is too large for the node fails with `too_large`, and that is raised to the caller.
   */
  reply(call: CallEvent | RpcEvent, value?: unknown, options: { more?: boolean } = {}): Promise<void> {
    // Else nobody waits for it any more, or it is answered.
    const given = this.session.given(call);
    if (given === undefined) return DONE;
    if (options.more) {
      return this.session.request(this, "reply", { fields: { ref: call.ref, more: true }, body: value, take: takeNothing });
    }
    return this.session.answer(given, "reply", {}, value);
  }

  /** Ends a call with an error: one of the language, or what is given. */
  raise(call: CallEvent | RpcEvent, error: unknown): Promise<void> {
    const given = this.session.given(call);
    if (given === undefined) return DONE;
    const plain = typeof error === "object" && error !== null && !(error instanceof Error);
    const fields: Fields = plain ? { ...(error as Fields) } : raised(error);
    for (const key of ["reason", "stack"]) if (fields[key] === "") delete fields[key];
    return this.session.answer(given, "raise", fields);
  }

  /** Publishes to a topic: whoever has subscribed hears it, on every node. As {@link send}. */
  publish(topic: string, body?: unknown, options?: PublishOptions & { report?: false }): Promise<void>;
  publish(topic: string, body: unknown, options: PublishOptions & { report: true }): Promise<{ nodes: number; local: number }>;
  publish(topic: string, body?: unknown, options?: PublishOptions): Promise<void | { nodes: number; local: number }> {
    if (options === undefined) return this.session.tell(this, "publish", "topic", () => topic, undefined, body);
    const { mode, retain, scope, node, exclude, report, confirm, signal } = options;
    if (signal?.aborted) return Promise.reject(signal.reason as Error);
    const fields = { mode, retain, scope, node, exclude, report };
    if (!confirm && !report) return this.session.tell(this, "publish", "topic", () => topic, fields, body);
    const take = report ? takeMembers : takeNothing;
    return this.session.request(this, "publish", { key: "topic", to: () => topic, fields, body, take, signal });
  }

  /** Sends a message after so many ms, to whomever the address means then. */
  async sendAfter(to: To, ms: number, body?: unknown): Promise<Timer> {
    const timer = await this.session.request<number>(this, "send_after", {
      key: "to",
      to: () => addressOf(to),
      fields: { after_ms: ms },
      body,
      take: takeMember("timer"),
    });
    const ask = (op: string) => this.session.request<number | null>(this, op, { fields: { timer }, take: takeMember("left_ms") });
    return { cancel: () => ask("cancel_timer"), left: () => ask("read_timer") };
  }

  /** Any command, with its members as the protocol names them. Gives its answer's body if it has one, else its other members. */
  request<T = unknown>(op: string, fields: Fields = {}, body?: unknown, options: Waits = {}): Promise<T> {
    const take = (frame: import("./frame").Frame) => (frame.as === undefined && frame.hasBody ? frame.body() : withoutId(frame.members(), frame.as));
    return this.session.request<T>(this, op, { fields, body, take, signal: options.signal });
  }

  // ===== processes =====

  /** A new process of this app. Links and monitors are this process'. */
  async spawn(options: SpawnOptions = {}): Promise<Process> {
    const child = new Process(this.session, options);
    await this.spawnInto(child, options);
    return child;
  }

  /** @internal */
  async spawnInto(child: Process, options: SpawnOptions): Promise<void> {
    try {
      await this.session.request(this, "spawn", {
        fields: { ...child.spawnFields(), link: options.link, monitor: options.monitor },
        take: (frame) => {
          child.began(frame.pid!);
          if (frame.ref !== undefined) this.monitors.set(frame.ref, frame.pid!);
          if (child.unwanted) void child.exit().catch(() => {});
        },
        signal: options.signal,
      });
    } catch (error) {
      child.unwanted = true;
      throw error;
    }
    if (options.link) this.links.add(child);
  }

  private spawnFields(): Fields {
    const { name, label, trapExit, mailbox } = this.options;
    return { name, label, trap_exit: trapExit, mailbox };
  }

  /** Ends this process with a reason: links and monitors hear it. The client's own process ends the whole session. */
  async exit(reason?: string): Promise<void> {
    if (this.over !== undefined) return;
    const done = this.session.request<void>(this, "exit", { fields: { reason }, take: takeNothing });
    if (this !== this.session.own) this.ended(null);
    await done;
  }

  /** An exit signal; `kill`, the default, cannot be trapped. Says nothing of whether anybody died. */
  kill(to: To, reason?: string): Promise<void> {
    return this.session.request(this, "kill", { key: "to", to: () => addressOf(to), fields: { reason }, take: takeNothing });
  }

  /** Ties this process and another together: when one dies, the other hears its exit signal. */
  async link(to: To): Promise<void> {
    await this.session.request(this, "link", { key: "to", to: () => addressOf(to), take: takeNothing });
    this.links.add(typeof to === "string" ? (this.session.byPid.get(to) ?? to) : to);
  }

  /** Takes a link back; after that no exit signal of it is heard. */
  async unlink(to: To): Promise<void> {
    const pid = addressOf(to);
    for (const linked of this.links) if (addressOf(linked) === pid) this.links.delete(linked);
    await this.session.request(this, "unlink", { key: "to", to: () => pid, take: takeNothing });
  }

  /** One `down` will come, when that process dies, is not there, or its node is lost. */
  async monitor(to: To): Promise<Monitor> {
    const address = addressOf(to);
    return this.session.request<Monitor>(this, "monitor", {
      key: "to",
      to: () => addressOf(to),
      take: (frame) => {
        this.monitors.set(frame.ref!, address);
        return { ref: frame.ref! };
      },
    });
  }

  /** No `down` of this monitor any more; one that has come already is taken out of the mailbox. */
  async demonitor(monitor: Monitor): Promise<void> {
    const { ref } = monitor;
    this.monitors.delete(ref);
    await this.session.request(this, "demonitor", { fields: { ref, flush: true }, take: takeNothing });
    this.mailbox.take((event) => event.ev === "down" && event.ref === ref);
  }

  /** Gives this process a name. Fails as `taken` when somebody has it. */
  async register(name: string, options: RegisterOptions = {}): Promise<void> {
    const { scope, onConflict, replace, signal } = options;
    const fields = { scope, on_conflict: onConflict, replace };
    await this.request("register", { name, ...fields }, undefined, { signal });
    this.declareAs(`name ${scope ?? "local"} ${name}`, ORDER.name, "register", { name, ...fields });
  }

  /** Takes a name back. */
  async unregister(name: string, options: { scope?: "local" | "global" } = {}): Promise<void> {
    for (const process of this.session.processes) process.undeclare(`name ${options.scope ?? "local"} ${name}`);
    await this.request("unregister", { name, scope: options.scope });
  }

  /** Joins a group: once more, if it is in already. */
  async join(group: string): Promise<void> {
    await this.request("join", { group });
    this.declareAs(`group ${group} ${this.number++}`, ORDER.group, "join", { group });
  }

  /** Takes one `join` back. */
  async leave(group: string): Promise<void> {
    const joined = this.declared.find((each) => each.key.startsWith(`group ${group} `));
    if (joined !== undefined) this.undeclare(joined.key);
    await this.request("leave", { group });
  }

  /** Is present under a topic and a key from now on, on every node, until it is untracked or dies. */
  async track(topic: string, key: string, metadata?: unknown): Promise<void> {
    await this.request("track", { topic, key, metadata });
    this.declareAs(`presence ${topic} ${key}`, ORDER.presence, "track", { topic, key, metadata });
  }

  /** Changes what is known of a presence. */
  async updatePresence(topic: string, key: string, metadata?: unknown): Promise<void> {
    await this.request("update_presence", { topic, key, metadata });
    this.declareAs(`presence ${topic} ${key}`, ORDER.presence, "track", { topic, key, metadata });
  }

  /** Is present no more: under this key, under no key of the topic, or nowhere. */
  async untrack(topic?: string, key?: string): Promise<void> {
    const prefix = topic === undefined ? "presence " : `presence ${topic} `;
    if (key !== undefined) this.undeclare(prefix + key);
    else for (const each of [...this.declared]) if (each.key.startsWith(prefix)) this.undeclare(each.key);
    await this.request("untrack", { topic, key });
  }

  /** Changes the process: exit signals become events or not, what people see, who may look at its messages, its mailbox' bounds. */
  async flag(flags: { trapExit?: boolean; sensitive?: boolean; label?: string; mailbox?: SpawnOptions["mailbox"] }): Promise<void> {
    const { trapExit, sensitive, label, mailbox } = flags;
    await this.request("flag", { trap_exit: trapExit, sensitive, label, mailbox });
    if (trapExit !== undefined) this.options.trapExit = trapExit;
    if (label !== undefined) this.options.label = label;
    if (mailbox !== undefined) this.options.mailbox = { ...this.options.mailbox, ...mailbox };
    if (sensitive !== undefined) this.declareAs("flag", ORDER.link, "flag", { sensitive });
    // Nobody spawns the own process.
    if (this === this.session.own) this.declareAs("flags", ORDER.link, "flag", { ...this.spawnFields() });
  }

  // ===== the session's side =====

  /** @internal Something has come. */
  deliver(event: Event): void {
    if (event.ev === "down") this.monitors.delete(event.ref);
    else if (event.ev === "exit") {
      for (const linked of this.links) if (addressOf(linked) === event.from) this.links.delete(linked);
    }
    this.mailbox.push(event);
  }

  /** @internal */
  onCancel(ref: number): void {
    this.resident?.onCancel?.(ref);
  }

  private onConsumed(): void {
    if (this.mailbox.consumed >= WINDOW / 2) this.tellConsumed();
    else if (!this.touched) this.session.touch(this);
  }

  /** @internal Tells what was consumed, where it is due: half a window, or nothing waits here. */
  tellConsumed(): void {
    const { mailbox } = this;
    if (mailbox.consumed === 0 || this.session.phase !== "open" || this.over !== undefined) return;
    if (mailbox.consumed < WINDOW / 2 && !mailbox.waits) return;
    const n = mailbox.consumed;
    mailbox.consumed = 0;
    this.session.more(this, n);
  }

  /** @internal It has this pid from now on. */
  began(pid: string): void {
    this.current = pid;
    if (this !== this.session.own) this.session.byPid.set(pid, this);
    this.session.processes.add(this);
    this.mailbox.consumed = 0;
  }

  /** @internal The session before is over: what it held by links and monitors is heard of. */
  restarted(lost: boolean): void {
    const reason = "noconnection";
    const downs = [...this.monitors];
    this.monitors.clear();
    for (const [ref, to] of downs) {
      if (to.startsWith("<")) this.mailbox.push({ ev: "down", ref, from: to, reason });
      else this.mailbox.push({ ev: "down", ref, from: null, name: to, reason });
    }
    const others = [...this.links].filter((to) => !(to instanceof Process));
    for (const to of others) this.links.delete(to);
    if (others.length > 0 && !this.options.trapExit && this !== this.session.own) {
      this.died(reason);
      return;
    }
    if (this.options.trapExit) for (const to of others) this.mailbox.push({ ev: "exit", from: addressOf(to), reason });
    if (lost) this.mailbox.push({ ev: "gap", lost: 0, reason: "restarted" });
  }

  /** @internal */
  async spawnAgain(): Promise<void> {
    try {
      await this.session.ask(this.session.own, "spawn", { fields: this.spawnFields(), take: (frame) => this.began(frame.pid!) });
    } catch (error) {
      const { code, message } = error as { code?: string; message: string };
      if (code === "lost" || code === "closed") return;
      this.session.failed("spawn", this.options.name ?? "", code ?? "error", message);
      this.died(message);
    }
  }

  /** @internal */
  again(): void {
    this.mailbox.resume();
    this.resident?.again();
  }

  /** @internal */
  declarations(): Declaration[] {
    const links = [...this.links].map((to) => this.declaration("", ORDER.link, "link", () => ({ to: addressOf(to) })));
    return [...links, ...this.declared];
  }

  /** @internal What is declared under this key from now on. */
  declareAs(key: string, order: number, op: string, fields: Fields): void {
    const next = this.declaration(key, order, op, () => fields);
    const at = this.declared.findIndex((each) => each.key === key);
    if (at >= 0) this.declared[at] = next;
    else this.declared.push(next);
  }

  private declaration(key: string, order: number, op: string, fields: () => Fields): Declared {
    const declare = () => {
      this.session.ask(this, op, { fields: fields(), take: takeMembers }).catch((error: { code?: string; message: string }) => {
        if (error.code === "lost" || error.code === "closed") return;
        this.session.failed(op, key.split(" ").pop() ?? "", error.code ?? "error", error.message);
      });
    };
    return { key, order, declare };
  }

  /** @internal */
  undeclare(key: string): void {
    this.declared = this.declared.filter((each) => each.key !== key);
  }

  /** @internal It died by a signal. */
  died(reason: string): void {
    this.ended(new NoProcError("noproc", `the process has exited: ${reason}`, { reason }));
    this.resident?.died(reason);
  }

  /** @internal Nothing comes any more. */
  ended(error: Error | null): void {
    if (this.over !== undefined) return;
    this.over = error;
    this.session.processes.delete(this);
    if (this.session.byPid.get(this.current) === this) this.session.byPid.delete(this.current);
    for (const process of this.session.processes) process.links.delete(this);
    this.mailbox.end(error);
  }
}

/** What an iterator gives. */
export function resultOf<E>(event: E | null): IteratorResult<E, undefined> {
  return event === null ? { value: undefined, done: true } : { value: event, done: false };
}

const none = () => "";

function withoutId(members: Record<string, unknown>, as: string | undefined): unknown {
  return as !== undefined && Object.keys(members).length === 1 ? members[as] : members;
}
