/** What lies in a mailbox, and what the client itself tells. */

/** A message: sent, or published to a topic. */
export interface MessageEvent {
  ev: "message";
  /** The pid of who sent it. */
  from: string;
  body: unknown;
  /** The content type of a body that is no CBOR: then it is bytes. */
  ct?: string;
  /** What it was published to. */
  topic?: string;
  /** It is the last value that was kept of its topic. */
  retained?: true;
  /** Another member of the queue group had not taken it. */
  redelivered?: true;
}

/** A request that wants no answer. */
export interface CastEvent {
  ev: "cast";
  from: string;
  body: unknown;
  ct?: string;
}

/** A request that wants an answer: give the event to `reply` or `raise`. */
export interface CallEvent {
  ev: "call";
  from: string;
  ref: number;
  body: unknown;
  ct?: string;
}

/** A call of a function that the process serves. Without `ref` nobody waits for an answer. */
export interface RpcEvent {
  ev: "rpc";
  from: string;
  ref?: number;
  module: string;
  function: string;
  body: unknown;
  ct?: string;
}

/** A monitored process is gone, or was not there. */
export interface DownEvent {
  ev: "down";
  /** What `monitor` gave. */
  ref: number;
  /** Who died; null where no pid is known. */
  from: string | null;
  /** The address, when the monitor was set by name. */
  name?: string;
  reason: string;
}

/** An exit signal, to a process that traps exits. */
export interface ExitEvent {
  ev: "exit";
  from: string;
  reason: string;
}

/**
 * Messages are missing here: `overflow` of the mailbox, frames lost between two connections (`resumed`), or nobody knows how
 * many because the node was restarted (`restarted`, with `lost` 0).
 */
export interface GapEvent {
  ev: "gap";
  lost: number;
  reason: string;
}

/** A node is connected, or is lost. */
export interface NodeEvent {
  ev: "nodeup" | "nodedown";
  node: string;
  incarnation?: string;
  labels?: Record<string, string>;
  hidden?: boolean;
  /** Of `nodedown`. */
  reason?: string;
}

/** Who is in a group has changed; the first one has all that are there. */
export interface GroupEvent {
  ev: "group";
  ref: number;
  group: string;
  joined?: string[];
  left?: string[];
}

/** One who is present. */
export interface Presence {
  key: string;
  pid: string;
  /** The version of what is known of this presence. */
  ref: number;
  metadata?: unknown;
  /** The version before, of one that stays. */
  prev?: number;
}

/** Who is present under a topic has changed; the first events have all who are there. */
export interface PresenceEvent {
  ev: "presence";
  ref: number;
  topic: string;
  joins: Presence[];
  leaves: Presence[];
  /** Some of those who are there are still to come. */
  more?: boolean;
}

/** Two processes were found to have the same global name. */
export interface NameConflictEvent {
  ev: "name_conflict";
  name: string;
  winner: string | null;
}

/** What lies in a mailbox. */
export type Event =
  | MessageEvent
  | CastEvent
  | CallEvent
  | RpcEvent
  | DownEvent
  | ExitEvent
  | GapEvent
  | NodeEvent
  | GroupEvent
  | PresenceEvent
  | NameConflictEvent;

/** What became of the session when the connection was lost and came back. */
export interface Report {
  /** The session lives on; else the node was restarted or grace was over, and all was declared again. */
  resumed: boolean;
  /** Events that were lost between the two connections. */
  lostEvents: number;
  /** Commands without an answer that were not carried out. */
  lostCommands: number;
  /** Commands without an answer of which nobody knows. */
  unsureCommands: number;
}

/** Commands without an answer that failed. */
export interface Failed {
  op: string;
  /** To whom; empty where it had no address. */
  to: string;
  code: string;
  message: string;
  /** How many, since the last one told. */
  count: number;
}

/** What the client itself tells, and what it tells of that. */
export interface ClientEvents {
  /** The node is about to leave. Who listens decides what happens; else the client drains by itself. */
  draining: [];
  /** The client has finished and said goodbye; it looks for a node that is not leaving. */
  drained: [];
  /** A command without an answer failed. */
  failed: [failed: Failed];
  /** The connection was lost and is back. */
  report: [report: Report];
}
