/**
 * The session: commands out, answers back to who waits for them, events into mailboxes, over one connection after the other.
 *
 * ```text
 * connecting -> (hello, welcome) -> open -> broken: connecting ...
 *                   |                         drained: connecting, every second
 *                   `-> declaring -> open     closed: the end
 * ```
 *
 * While it is not open commands wait. {@link Keeper} makes the connections and declares; {@link Drain} drains.
 */
import { Encoded, putCommand, Typed, type Fields } from "./commands";
import { type Connection, DONE, type Listener } from "./connection";
import { answerError, ClosedError, LostError, OverloadedError, type PillionError, raised, TimeoutError, TooLargeError } from "./errors";
import type { CallEvent, ClientEvents, Report, RpcEvent } from "./events";
import type { Frame } from "./frame";
import { toEvent } from "./incoming";
import { Keeper, type KeepOptions } from "./keeper";
import { now, type Pending, type Take, takeNothing, type Waiting } from "./pending";
import type { Process } from "./process";

/** How long what has no deadline of its own waits for a connection, in ms. */
export const WAIT_MS = 10_000;
/** How many commands wait for a connection at most. */
const WAITING_MAX = 100_000;
/** A reply of more bytes is confirmed by the node, which may not take so much. */
const ASKED_BYTES = 64 * 1024;
/** How many `more` are remembered, to tell them from commands of the app. */
const MORES_MAX = 4096;

/** Where the session is. */
export type Phase = "connecting" | "declaring" | "open" | "closed";

/** How a command is asked for. */
export interface Asking {
  /** The member behind `op`. */
  key?: string;
  to?: () => string;
  fields?: Fields;
  body?: unknown;
  take: Take;
  /** The deadline, in ms from now; the node has it from the asker. */
  timeout?: number;
  signal?: AbortSignal | undefined;
  onPart?: (frame: Frame) => void;
}

/** A call that was given to the app. */
export interface Given {
  event: CallEvent | RpcEvent;
  process: Process;
  /** Its answer is on its way to the node. */
  answered: boolean;
}

/** What hears of the client's own events. */
export interface Emitter {
  has(event: keyof ClientEvents): boolean;
  emit<E extends keyof ClientEvents>(event: E, ...told: ClientEvents[E]): void;
}

/** See the head of this file. */
export class Session implements Listener {
  phase: Phase = "connecting";
  connection: Connection | undefined;
  /** The session's own process. */
  own!: Process;
  /** The processes of this session, by pid as it is now. */
  readonly byPid = new Map<string, Process>();
  /** All of them, also while they have no pid. */
  readonly processes = new Set<Process>();
  /** Calls that were given to the app and not answered. */
  readonly unanswered = new Map<number, Given>();
  readonly keeper: Keeper;
  /** Called when less is pending or unanswered than before. */
  onLess: (() => void) | undefined;
  /** Called once when `draining` is heard. */
  onDraining: (() => void) | undefined;

  /** How many commands were written in this session, as the node counts them. */
  commands = 0;
  /** Those without an id, `more` left out; and how many there were when the last answered command was written. */
  private plain = 0;
  private answered = { seq: 0, plain: 0 };
  private mores: number[] = [];
  /** How many frames were received in this session. */
  seen = 0;
  private lastId = 0;
  private readonly pending = new Map<number, Pending>();
  private waiting = new Set<Waiting>();
  private touched: Process[] = [];

  constructor(
    readonly options: KeepOptions,
    readonly emitter: Emitter,
  ) {
    this.keeper = new Keeper(this);
  }

  // ===== commands out =====

  /** A command with an answer, written now or once there is a connection. `process` acts. */
  request<T>(process: Process, op: string, asking: Asking): Promise<T> {
    const signal = asking.signal;
    if (signal?.aborted) return Promise.reject(signal.reason as Error);
    if (this.phase === "open") return this.ask<T>(process, op, asking);
    const until = now() + (asking.timeout ?? WAIT_MS);
    return new Promise<T>((resolve, reject) => {
      const waiting = this.wait(until, reject, () => {
        signal?.removeEventListener("abort", abort);
        const left = asking.timeout === undefined ? asking : { ...asking, timeout: Math.max(1, Math.ceil(until - now())) };
        this.ask<T>(process, op, left).then(resolve, reject);
      });
      const abort = () => {
        this.endWait(waiting);
        reject(signal!.reason as Error);
      };
      signal?.addEventListener("abort", abort, { once: true });
    });
  }

  /** A command with an answer, written now: the connection must be there. */
  ask<T>(process: Process, op: string, asking: Asking): Promise<T> {
    const connection = this.connection!;
    const id = ++this.lastId;
    const { timeout, signal } = asking;
    let fields = asking.fields;
    // The node's own deadline is 5 s.
    if (timeout !== undefined && timeout !== 5000) fields = { ...fields, timeout_ms: timeout };
    try {
      putCommand(connection.out, op, id, asking.key, asking.to === undefined ? "" : asking.to(), fields, this.actor(process), asking.body);
    } catch (error) {
      return Promise.reject(error as Error);
    }
    this.commands++;
    connection.written();
    return new Promise<T>((resolve, reject) => {
      const pending: Pending = {
        resolve: resolve as (value: unknown) => void,
        reject,
        take: asking.take,
        op,
        seq: this.commands,
        plain: this.plain,
        deadline: timeout === undefined ? Infinity : now() + timeout,
        timer: undefined,
        onPart: asking.onPart,
      };
      this.pending.set(id, pending);
      if (signal !== undefined) this.abortable(pending, signal);
    });
  }

  private abortable(pending: Pending, signal: AbortSignal): void {
    const { resolve, reject } = pending;
    // The answer is still waited for: it says how far the node has come.
    const abort = () => reject(signal.reason as Error);
    pending.resolve = (value) => {
      signal.removeEventListener("abort", abort);
      resolve(value);
    };
    pending.reject = (error) => {
      signal.removeEventListener("abort", abort);
      reject(error);
    };
    signal.addEventListener("abort", abort, { once: true });
  }

  /** A command without an answer. Done once it is on its way and not too much is. */
  tell(process: Process, op: string, key: string | undefined, to: () => string, fields?: Fields, body?: unknown): Promise<void> {
    const connection = this.connection;
    if (this.phase !== "open" || connection === undefined) {
      return new Promise((resolve, reject) => {
        this.wait(now() + WAIT_MS, reject, () => this.tell(process, op, key, to, fields, body).then(resolve, reject));
      });
    }
    try {
      putCommand(connection.out, op, undefined, key, key === undefined ? "" : to(), fields, this.actor(process), body);
    } catch (error) {
      return Promise.reject(error as Error);
    }
    return this.told(connection);
  }

  private told(connection: Connection): Promise<void> {
    this.commands++;
    this.plain++;
    connection.written();
    return connection.room();
  }

  /** The call that this event is, if it is still to be answered. In a new session its number may be that of another call. */
  given(event: CallEvent | RpcEvent): Given | undefined {
    const given = event.ref === undefined ? undefined : this.unanswered.get(event.ref);
    return given?.event === event && !given.answered ? given : undefined;
  }

  /**
   * Ends a call. Done as what `tell` tells is; a long reply once the node has taken it. A reply that is too large is raised to the
   * caller, who would wait in vain; what cannot be written otherwise leaves the call unanswered.
   */
  answer(given: Given, op: "reply" | "raise", fields: Fields, body?: unknown): Promise<void> {
    const { connection } = this;
    const ref = given.event.ref!;
    given.answered = true;
    if (this.phase !== "open" || connection === undefined) {
      return new Promise<void>((resolve, reject) => {
        const failed = (error: Error) => {
          this.ended(given);
          reject(error);
        };
        this.wait(now() + WAIT_MS, failed, () => {
          // Nobody waits for it any more.
          if (this.unanswered.get(ref) !== given) resolve();
          else this.answer(given, op, fields, body).then(resolve, reject);
        });
      });
    }
    const { out } = connection;
    const start = out.at;
    try {
      putCommand(out, op, undefined, undefined, "", { ref, ...fields }, this.actor(given.process), body);
    } catch (error) {
      return this.refused(given, op, error as Error);
    }
    if (op === "reply" && out.at - start > ASKED_BYTES) {
      const at = start + 6 + out.buffer.readUInt16BE(start + 4);
      const written = body instanceof Typed ? body : new Encoded(Buffer.from(out.buffer.subarray(at, out.at)));
      out.at = start;
      return this.ask<void>(given.process, op, { fields: { ref }, body: written, take: takeNothing }).then(
        () => this.ended(given),
        (error: Error) => this.refused(given, op, error),
      );
    }
    this.ended(given);
    return this.told(connection);
  }

  private refused(given: Given, op: string, error: Error): Promise<never> {
    if (error instanceof TooLargeError && op === "reply") this.answer(given, "raise", raised(error)).catch(() => {});
    else if (error instanceof LostError || error instanceof ClosedError) this.ended(given);
    else given.answered = false;
    return Promise.reject(error);
  }

  private ended(given: Given): void {
    const ref = given.event.ref!;
    if (this.unanswered.get(ref) !== given) return;
    this.unanswered.delete(ref);
    this.onLess?.();
  }

  private actor(process: Process): string | undefined {
    return process === this.own ? undefined : process.pid;
  }

  private wait(until: number, reject: (error: Error) => void, run: () => void): Waiting {
    const waiting: Waiting = { run, reject, timer: undefined };
    if (this.phase === "closed") {
      reject(new ClosedError("closed", "the client is closed"));
      return waiting;
    }
    if (this.waiting.size >= WAITING_MAX) {
      reject(new OverloadedError("overloaded", "too many commands wait for the connection to the node"));
      return waiting;
    }
    if (until !== Infinity) {
      waiting.timer = setTimeout(() => {
        this.endWait(waiting);
        reject(new LostError("lost", "there was no connection to the node in time"));
      }, Math.min(until - now(), 2 ** 31 - 1));
    }
    this.waiting.add(waiting);
    return waiting;
  }

  private endWait(waiting: Waiting): void {
    clearTimeout(waiting.timer);
    this.waiting.delete(waiting);
    this.onLess?.();
  }

  /** Commands are written from now on, first of all those that wait. */
  open(): void {
    this.phase = "open";
    const waiting = this.waiting;
    this.waiting = new Set();
    for (const each of waiting) {
      clearTimeout(each.timer);
      each.run();
    }
    for (const process of this.processes) this.touch(process);
  }

  // ===== what was consumed =====

  /** Something of this process was consumed: told with the next write, or at once at half a window. */
  touch(process: Process): void {
    if (process.touched || this.phase !== "open") return;
    process.touched = true;
    this.touched.push(process);
    this.connection?.schedule();
  }

  /** Tells what a process has consumed. */
  more(process: Process, n: number): void {
    const connection = this.connection;
    if (connection === undefined || this.phase !== "open") return;
    putCommand(connection.out, "more", undefined, undefined, "", { n }, this.actor(process), undefined);
    this.commands++;
    if (this.mores.length >= MORES_MAX) this.mores.splice(0, MORES_MAX / 2);
    this.mores.push(this.commands);
    connection.written();
  }

  onFlush(): void {
    const touched = this.touched;
    if (touched.length === 0) return;
    this.touched = [];
    for (const process of touched) {
      process.touched = false;
      process.tellConsumed();
    }
  }

  // ===== frames in =====

  onFrame(frame: Frame): void {
    this.seen++;
    this.keeper.onFrame(frame);
    switch (frame.ev) {
      case "ok":
        this.onAnswer(frame, false);
        return;
      case "error":
        this.onAnswer(frame, true);
        return;
      case "part": {
        const pending = this.pending.get(frame.id as number);
        if (pending === undefined) return;
        if (pending.deadline !== Infinity && pending.timer === undefined) pending.deadline = now() + 5000;
        pending.onPart?.(frame);
        return;
      }
      case "welcome":
        this.keeper.onWelcome(frame.members());
        return;
      case "draining":
        // Before the session is open the keeper remembers it.
        if (this.phase === "open") this.onDraining?.();
        return;
      case "failed":
        this.onFailed(frame.members());
        return;
      case "died":
        this.onDied(frame.pid, String(frame.rest["reason"]));
        return;
      case "cancel":
        this.unanswered.get(frame.ref!)?.process.onCancel(frame.ref!);
        this.unanswered.delete(frame.ref!);
        this.onLess?.();
        return;
      default: {
        const process = this.processOf(frame);
        if (process === undefined) return;
        const event = toEvent(frame);
        if (event === undefined) return;
        if (event.ev === "call" || (event.ev === "rpc" && event.ref !== undefined)) this.unanswered.set(event.ref!, { event, process, answered: false });
        process.deliver(event);
      }
    }
  }

  private processOf(frame: Frame): Process | undefined {
    return frame.pid === undefined ? this.own : this.byPid.get(frame.pid);
  }

  private onAnswer(frame: Frame, failed: boolean): void {
    const id = frame.id as number;
    const pending = this.pending.get(id);
    if (pending === undefined) return;
    this.pending.delete(id);
    if (pending.seq > this.answered.seq) {
      this.answered.seq = pending.seq;
      this.answered.plain = pending.plain;
      while (this.mores.length > 0 && this.mores[0]! <= pending.seq) this.mores.shift();
    }
    clearTimeout(pending.timer);
    if (failed) pending.reject(answerError(frame.members()));
    else pending.resolve(pending.take(frame));
    this.onLess?.();
  }

  private onFailed(members: Record<string, unknown>): void {
    const { op, to, code, message, count } = members as Record<string, string> & { count: number };
    this.failed(op ?? "", to ?? "", code ?? "", message ?? "", count);
  }

  /** Something failed that nobody waits for. */
  failed(op: string, to: string, code: string, message: string, count = 1): void {
    if (this.emitter.has("failed")) this.emitter.emit("failed", { op, to, code, message, count });
    else warn(`${op}${to ? ` to ${to}` : ""} failed ${count === 1 ? "" : `${count} times `}(${code})${message ? `: ${message}` : ""}`);
  }

  private onDied(pid: string | undefined, reason: string): void {
    if (pid === undefined) return;
    if (pid === this.own.pid) {
      this.keeper.program?.over(reason);
      this.connection?.break(new Error(`the app's own process died: ${reason}`));
    } else this.byPid.get(pid)?.died(reason);
  }

  // ===== connections come and go =====

  onBroken(why: Error): void {
    this.connection = undefined;
    this.touched = [];
    for (const process of this.processes) process.touched = false;
    if (this.phase === "closed") return;
    const before = this.phase;
    this.phase = "connecting";
    for (const pending of this.pending.values()) this.arm(pending);
    this.keeper.onBroken(why, before);
  }

  /** While there is no connection a deadline is the client's own. */
  private arm(pending: Pending): void {
    if (pending.deadline === Infinity) return;
    pending.timer = setTimeout(
      () => pending.reject(new TimeoutError("timeout", "there was no answer in time; the connection to the node is lost", { maybeApplied: true })),
      Math.max(0, Math.min(pending.deadline - now(), 2 ** 31 - 1)),
    );
  }

  /** The session lives on; the node has carried out so many commands, the last one of them this `hello`. Gives how many were lost. */
  resumed(commands: number): number {
    const done = commands - 1;
    const behind = this.commands - done;
    let known = 0;
    for (const seq of this.mores) if (seq > done) known++;
    for (const [id, pending] of this.pending) {
      clearTimeout(pending.timer);
      pending.timer = undefined;
      if (pending.seq <= done) continue;
      known++;
      this.pending.delete(id);
      pending.reject(new LostError("lost", `the connection to the node broke before \`${pending.op}\` was carried out`));
    }
    this.mores = [];
    for (const pending of this.pending.values()) pending.seq = 0;
    this.commands = commands;
    this.plain = 0;
    this.answered = { seq: commands, plain: 0 };
    return Math.max(0, behind - known);
  }

  /** Answers may be among what was lost: nobody waits for those of before any more. */
  forgetAnswers(): void {
    for (const [id, pending] of this.pending) {
      if (pending.seq !== 0) continue;
      this.pending.delete(id);
      pending.reject(this.lost(pending.op));
    }
    this.onLess?.();
  }

  /** A new session has begun with this many commands. Gives how many commands of the one before nobody knows of. */
  began(commands: number): number {
    const unsure = this.plain - this.answered.plain;
    for (const [id, pending] of this.pending) {
      clearTimeout(pending.timer);
      this.pending.delete(id);
      pending.reject(this.lost(pending.op));
    }
    this.mores = [];
    this.commands = commands;
    this.plain = 0;
    this.answered = { seq: commands, plain: 0 };
    this.unanswered.clear();
    this.byPid.clear();
    this.onLess?.();
    return unsure;
  }

  private lost(op: string): PillionError {
    return new LostError("lost", `the connection to the node broke before \`${op}\` was answered`, { maybeApplied: true });
  }

  /** Tells what became of a break. */
  report(report: Report): void {
    if (this.emitter.has("report")) this.emitter.emit("report", report);
    else if (report.lostEvents + report.lostCommands + report.unsureCommands > 0 || !report.resumed) {
      warn(
        `the connection to the node was lost and is back (${report.resumed ? "resumed" : "begun anew"}): ${report.lostEvents} events and ` +
          `${report.lostCommands} commands were lost, of ${report.unsureCommands} commands nobody knows`,
      );
    }
  }

  /** How many commands wait for an answer or a connection. */
  get underWay(): number {
    return this.pending.size + this.waiting.size;
  }

  /** Everything ends. */
  end(): void {
    this.phase = "closed";
    const error = () => new ClosedError("closed", "the client is closed");
    for (const pending of this.pending.values()) {
      clearTimeout(pending.timer);
      pending.reject(error());
    }
    this.pending.clear();
    for (const waiting of this.waiting) {
      clearTimeout(waiting.timer);
      waiting.reject(error());
    }
    this.waiting.clear();
    for (const process of [...this.processes]) process.ended(error());
    this.connection?.close();
    this.connection = undefined;
    this.onLess?.();
  }

  /** Done when there is room for more. */
  room(): Promise<void> {
    return this.connection?.room() ?? DONE;
  }
}

/** Says something to who runs the program. */
export function warn(text: string): void {
  process.emitWarning(text, "PillionWarning");
}
