/** How one sends, calls, receives, spawns and registers. */
import type { Event } from "./events";
import type { Match } from "./mailbox";

/** An address: a pid, a name, `name@node`, `global:name`, `group:name`; or what has a pid. */
export type To = string | { readonly pid: string };

/** For what waits: `signal` gives it up; what was written stays written. */
export interface Waits {
  signal?: AbortSignal | undefined;
}

/** How a message is sent. */
export interface SendOptions extends Waits {
  /** Wait for the node's answer, and fail with its error. Else what fails is told by the client's event `failed`. */
  confirm?: boolean;
  /** What to do where a queue is full: `wait` (the default), `try` (fail as `overloaded`), `lossy` (lose it). */
  mode?: "wait" | "try" | "lossy";
  /** Fail where this node knows that nobody is there. */
  checked?: boolean;
}

/** How something is published. */
export interface PublishOptions extends Waits {
  /** Wait for the node's answer, and fail with its error. */
  confirm?: boolean;
  /** As for {@link SendOptions}. */
  mode?: "wait" | "try" | "lossy";
  /** The node keeps it as the last value of its topic, for who subscribes later. */
  retain?: boolean;
  /** `local`: only this node. */
  scope?: "all" | "local";
  /** Only this node. */
  node?: string;
  /** Leave out the subscriptions of this process (`true`), or of another one. */
  exclude?: boolean | string;
  /** Tell to how many other nodes it went, and how many subscriptions here. */
  report?: boolean;
}

/** How something is called. */
export interface CallOptions extends Waits {
  /** Deadline, in ms: 5000 unless told otherwise. */
  timeout?: number;
}

/** How something is received. */
export interface ReceiveOptions extends Waits {
  /** Which events are wanted: a predicate, or the name of the events. The others stay in the mailbox. */
  match?: Match | Event["ev"];
}

/** What a new process is like. */
export interface SpawnOptions extends Waits {
  /** A name of this node. */
  name?: string;
  /** For people. */
  label?: string;
  /** Exit signals become `exit` events. */
  trapExit?: boolean;
  /** It and the process that spawns it die together. */
  link?: boolean;
  /** The process that spawns it hears its `down`. */
  monitor?: boolean;
  /** Bounds of its mailbox in the node. */
  mailbox?: { entries?: number; bytes?: number; policy?: "drop_newest" | "drop_oldest" | "exit" | "wait" };
}

/** How a name is taken. */
export interface RegisterOptions extends Waits {
  /** A name of this node (`local`, the default) or of the whole mesh. */
  scope?: "local" | "global";
  onConflict?: "keep_oldest" | "keep_newest" | "notify" | "kill_loser";
  /** Take it from whoever has it. */
  replace?: boolean;
}

/** A monitor: one `down` with this `ref` will come. */
export interface Monitor {
  readonly ref: number;
}

/** A message that is sent later. The end of the process or of the session cancels it. */
export interface Timer {
  /** Cancels it. Gives how many ms were left; `null` when it has fired. */
  cancel(): Promise<number | null>;
  /** How many ms are left; `null` when it has fired. */
  left(): Promise<number | null>;
}
