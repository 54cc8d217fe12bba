/**
 * Keeps the session connected: finds the socket, waits for the node, says `hello`, takes the session up again or begins a new one
 * and declares in it all that there was.
 */
import { putCommand } from "./commands";
import { Connection } from "./connection";
import { answerError, PillionError, UnreachableError } from "./errors";
import { answering, find, type Place, SeveralNodes } from "./find";
import type { Frame } from "./frame";
import { now } from "./pending";
import { type Phase, type Session, warn } from "./session";

/** What the keeper is told by the app. */
export interface KeepOptions {
  place: Place;
  /** What people see the app as. */
  client: string;
  /** How long the node keeps the session after a break, in ms. */
  graceMs: number;
  /** How long the first connection is tried for, in ms. */
  connectMs: number;
  /** `PILLION_PROCESS`, which makes the first connection that of a hosted process. */
  process: string | undefined;
}

/** Messages and calls that a process is given before it has consumed them. */
export const WINDOW = 256;
/** No answer to a `hello` within this time is a broken connection, in ms. */
const HELLO_MS = 10_000;
/** How long a report waits for a `gap`, in ms. */
const GAP_MS = 100;
/** How often a drained client looks for a node that is not leaving, in ms. */
const LOOK_MS = 1000;
/** How long behind its welcome a node may say that it is leaving, in ms. */
const LEAVING_MS = 50;

/** The `hello` that is under way. */
interface Greeting {
  id: string;
  resuming: boolean;
  /** Frames that this connection has given. */
  frames: number;
  done(): void;
  failed(error: Error): void;
}

/** A program that is one GenServer, which is the client's own process. */
export interface Program {
  /** A node hosts it: it lasts as long as that node's session. */
  hosted: boolean;
  /** Its process has died, or its node is gone. */
  over(reason: string): void;
}

/** See the head of this file. */
export class Keeper {
  /** What `run` made of this app. */
  program: Program | undefined;
  /** The name of the node; empty before the first connection. */
  node = "";
  private path: string | undefined;
  private sessionId = 0;
  private secret = "";
  private greeting: Greeting | undefined;
  private greetings = 0;
  private fresh = true;
  private resumable = false;
  /** All that there was has been declared in this session. */
  private declared = true;
  /** The client is drained: it looks for a node that is not leaving. */
  drained = false;
  /** `draining` was heard on this connection. */
  leaving = false;
  private reporting: { lostCommands: number; timer: NodeJS.Timeout } | undefined;
  private sleeping: (() => void) | undefined;
  private running = false;
  private warned = "";

  constructor(private readonly session: Session) {}

  /** The first connection. Tries silently until the time is over. */
  async connect(signal?: AbortSignal): Promise<void> {
    const until = now() + this.session.options.connectMs;
    this.running = true;
    const abort = () => this.session.connection?.break(new Error("given up"));
    signal?.addEventListener("abort", abort, { once: true });
    try {
      for (let delay = 10; ; delay = Math.min(delay * 2, 1000)) {
        signal?.throwIfAborted();
        try {
          await this.tryOnce();
          return;
        } catch (error) {
          if (this.session.phase === "closed") throw error;
          if (error instanceof SeveralNodes || (error instanceof PillionError && !(error instanceof UnreachableError))) throw error;
          const left = until - now();
          if (left <= 0) throw this.unreachable(error as Error);
          await this.sleep(Math.min(delay, left), signal);
        }
      }
    } finally {
      signal?.removeEventListener("abort", abort);
      this.running = false;
    }
  }

  private unreachable(error: Error): Error {
    if (error instanceof PillionError) return error;
    const where = this.path ?? this.session.options.place.directory;
    return new UnreachableError("unreachable", `no node answers at ${where} (${error.message}); start one there with \`pillion up\``);
  }

  /** One try: a socket, and a `hello` that is answered. */
  private async tryOnce(path?: string): Promise<void> {
    const session = this.session;
    path ??= this.path ?? (await find(session.options.place));
    this.leaving = false;
    const connection = await Connection.open(path, session);
    if (session.phase === "closed") {
      connection.close();
      throw new Error("closed");
    }
    this.path = path;
    session.connection = connection;
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => connection.break(new Error("the node did not answer `hello`")), HELLO_MS);
      const over = () => {
        clearTimeout(timer);
        this.greeting = undefined;
      };
      this.greeting = {
        id: `hello ${++this.greetings}`,
        resuming: this.resumable,
        frames: 0,
        done: () => {
          over();
          resolve();
        },
        failed: (error) => {
          over();
          reject(error);
        },
      };
      this.hello();
    });
  }

  private hello(): void {
    const { options, connection, seen } = this.session;
    const greeting = this.greeting!;
    const fields: Record<string, unknown> = { version: 1, client: options.client, delivery: { window: WINDOW }, id: greeting.id };
    if (options.graceMs > 0) fields["grace_ms"] = options.graceMs;
    if (greeting.resuming) {
      fields["resume"] = { session: this.sessionId, secret: this.secret, seen };
    } else if (this.fresh && options.process !== undefined) {
      fields["process"] = options.process;
    }
    putCommand(connection!.out, "hello", undefined, undefined, "", fields, undefined, undefined);
    connection!.flush();
  }

  /** Every frame passes here first. */
  onFrame(frame: Frame): void {
    const greeting = this.greeting;
    if (greeting !== undefined) {
      greeting.frames++;
      if (frame.ev === "error" && frame.id === greeting.id) this.onRefused(greeting, answerError(frame.members()));
    }
    if (frame.ev === "draining") this.leaving = true;
    if (this.reporting !== undefined && !(frame.ev === "ok" && typeof frame.id === "string")) this.onAfterResume(frame);
  }

  private onRefused(greeting: Greeting, error: PillionError): void {
    if (!greeting.resuming || error.code !== "not_found" || this.program?.hosted) {
      greeting.failed(error);
      this.session.connection?.break(error);
      return;
    }
    // The node was restarted, or grace is over.
    this.resumable = greeting.resuming = false;
    greeting.id = `hello ${++this.greetings}`;
    this.hello();
  }

  /** A `hello` is answered. What comes behind it may be in the same read, so all is decided here. */
  onWelcome(welcome: Record<string, unknown>): void {
    const greeting = this.greeting;
    if (greeting === undefined) return;
    const session = this.session;
    const connection = session.connection!;
    const commands = Number(welcome["commands"]);
    this.node = String(welcome["node"]);
    this.sessionId = Number(welcome["session"]);
    this.secret = String(welcome["secret"]);
    const restarted = !this.fresh && !greeting.resuming;
    if (greeting.resuming) {
      const lostCommands = session.resumed(commands);
      if (!this.declared) {
        // Half of it is there, with names that the other half would find taken: it ends, and all begins anew.
        this.resumable = false;
        putCommand(session.connection!.out, "bye", undefined, undefined, "", undefined, undefined, undefined);
        session.connection!.flush();
        return;
      }
      greeting.done();
      this.open();
      // What was lost on the way stays counted as unconsumed else.
      for (const process of session.processes) session.more(process, WINDOW);
      this.reporting = { lostCommands, timer: setTimeout(() => this.tellResumed(0), GAP_MS) };
      return;
    }
    session.seen = greeting.frames;
    const unsureCommands = session.began(commands);
    session.own.began(String(welcome["pid"]));
    this.fresh = false;
    this.resumable = true;
    if (this.drained) {
      // Whether it is about to leave is said before the welcome or right behind it.
      setTimeout(() => this.onBack(greeting, connection), LEAVING_MS);
      return;
    }
    greeting.done();
    if (restarted) this.beginAgain(unsureCommands, true);
    else this.open();
  }

  private open(): void {
    this.session.open();
    if (this.leaving) this.session.onDraining?.();
  }

  /** A drained client has met a node. */
  private onBack(greeting: Greeting, connection: Connection): void {
    if (this.session.connection !== connection || this.greeting !== greeting) return;
    if (this.leaving) {
      this.resumable = false;
      const error = new UnreachableError("unreachable", "the node is leaving");
      greeting.failed(error);
      connection.break(error);
      return;
    }
    this.drained = false;
    greeting.done();
    this.beginAgain(0, false);
  }

  private beginAgain(unsureCommands: number, lost: boolean): void {
    const { session } = this;
    session.phase = "declaring";
    this.declared = false;
    for (const process of [...session.processes]) process.restarted(lost);
    void this.declare(unsureCommands, lost);
  }

  private onAfterResume(frame: Frame): void {
    if (frame.ev === "gap" && frame.rest["reason"] === "resumed") {
      this.session.forgetAnswers();
      this.tellResumed(Number(frame.rest["lost"]));
    } else if (frame.ev !== "welcome") {
      this.tellResumed(0);
    }
  }

  private tellResumed(lostEvents: number): void {
    const reporting = this.reporting;
    if (reporting === undefined) return;
    this.reporting = undefined;
    clearTimeout(reporting.timer);
    const { lostCommands } = reporting;
    setImmediate(() => this.session.report({ resumed: true, lostEvents, lostCommands, unsureCommands: 0 }));
  }

  /** All that there was in the session before: processes first, since the rest names their pids. */
  private async declare(unsureCommands: number, lost: boolean): Promise<void> {
    const session = this.session;
    const connection = session.connection;
    const others = [...session.processes].filter((process) => process !== session.own);
    await Promise.all(others.map((process) => process.spawnAgain()));
    if (session.connection !== connection || session.phase !== "declaring") return;
    const declared = [...session.processes].flatMap((process) => process.declarations());
    declared.sort((a, b) => a.order - b.order);
    for (const each of declared) each.declare();
    this.declared = true;
    this.open();
    for (const process of [...session.processes]) process.again();
    if (lost) session.report({ resumed: false, lostEvents: 0, lostCommands: 0, unsureCommands });
  }

  /** The connection is over. */
  onBroken(why: Error, before: Phase): void {
    if (this.reporting !== undefined) this.tellResumed(0);
    const greeting = this.greeting;
    if (greeting !== undefined) {
      greeting.failed(why);
      return;
    }
    if (this.running || before === "closed") return;
    void this.reconnect();
  }

  /** Said goodbye: from now on another node, or this one once it is back, is looked for. */
  onDrained(): void {
    this.drained = true;
    this.resumable = false;
  }

  private async reconnect(): Promise<void> {
    this.running = true;
    const session = this.session;
    try {
      for (let delay = 10; session.phase === "connecting"; delay = Math.min(delay * 2, 1000)) {
        if (this.drained) {
          await this.sleep(LOOK_MS);
          if (await this.look()) return;
          continue;
        }
        try {
          await this.tryOnce();
          return;
        } catch (error) {
          if (this.program?.hosted) {
            // Its node is gone, and this run of it with that.
            this.program.over("noconnection");
            return;
          }
          if (error instanceof PillionError && error.message !== this.warned) warn((this.warned = error.message));
          await this.sleep(delay);
        }
      }
    } finally {
      this.running = false;
      if (session.phase === "connecting" && session.connection === undefined) void this.reconnect();
    }
  }

  /** Looks at every node that may be meant. */
  private async look(): Promise<boolean> {
    const sockets = await answering(this.session.options.place).catch(() => []);
    for (const path of sockets) {
      try {
        await this.tryOnce(path);
        return true;
      } catch {
        if (this.session.phase === "closed") return false;
      }
    }
    return false;
  }

  private sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", done);
        this.sleeping = undefined;
        resolve();
      };
      const timer = setTimeout(done, ms);
      signal?.addEventListener("abort", done, { once: true });
      this.sleeping = done;
    });
  }

  /** Nothing is tried any more. */
  stop(): void {
    this.sleeping?.();
    clearTimeout(this.reporting?.timer);
    this.reporting = undefined;
    this.greeting?.failed(new UnreachableError("unreachable", "the client was closed"));
  }
}
