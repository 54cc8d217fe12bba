/** What goes wrong, as errors: one type for each code of the protocol. */

/** What an error answer says beside its code. */
export interface ErrorDetails {
  /** Whether it may have happened all the same. False where that is left out. */
  maybeApplied?: boolean | undefined;
  /** Of `exit`: why the callee died. Of `exception`: the text of its error. */
  reason?: string | undefined;
  /** Of `exception`: the type of the callee's error. */
  class?: string | undefined;
  /** Of `exception`: the callee's own stack. */
  remoteStack?: string | undefined;
  /** The nodes that it is about, such as those that are missing. */
  nodes?: string[] | undefined;
}

/**
 * Something that was asked for did not come about. `code` is for programs, `message` for people; `maybeApplied` says whether it
 * may have had an effect all the same, so whether it is safe to try again.
 */
export class PillionError extends Error {
  /** The code: one of the protocol's, or `lost`, `closed`, `unreachable`. */
  readonly code: string;
  /** Whether it may have happened all the same. */
  readonly maybeApplied: boolean;
  /** Of `exit`: why the callee died. Of `exception`: the text of its error. */
  declare readonly reason?: string;
  /** Of `exception`: the type of the callee's error. */
  declare readonly class?: string;
  /** Of `exception`: the callee's own stack. */
  declare readonly remoteStack?: string;
  /** The nodes that it is about. */
  declare readonly nodes?: string[];

  constructor(code: string, message: string, details: ErrorDetails = {}) {
    super(message);
    this.name = new.target.name;
    this.code = code;
    this.maybeApplied = details.maybeApplied ?? false;
    if (details.reason !== undefined) this.reason = details.reason;
    if (details.class !== undefined) this.class = details.class;
    if (details.remoteStack !== undefined) this.remoteStack = details.remoteStack;
    if (details.nodes !== undefined) this.nodes = details.nodes;
  }
}

/** The command is not well formed, or cannot be meant (`badarg`). */
export class BadArgError extends PillionError {}
/** The node has no such command (`badop`). */
export class BadOpError extends PillionError {}
/** A process called itself (`calling_self`). */
export class CallingSelfError extends PillionError {}
/** The app took the command back (`cancelled`). */
export class CancelledError extends PillionError {}
/** A program cannot be started (`cannot_start`). */
export class CannotStartError extends PillionError {}
/** Not this app's, or not for it (`denied`). */
export class DeniedError extends PillionError {}
/** The node is about to leave (`draining`). */
export class DrainingError extends PillionError {}
/** The callee raised an error: `class`, `reason` and `remoteStack` say which (`exception`). */
export class ExceptionError extends PillionError {}
/** The process died: `reason` says why (`exit`). */
export class ExitError extends PillionError {}
/** The node is not connected, or was lost meanwhile (`noconnection`). */
export class NoConnectionError extends PillionError {}
/** There is no such process, or nobody has the name (`noproc`). */
export class NoProcError extends PillionError {}
/** There is no such thing (`not_found`). */
export class NotFoundError extends PillionError {}
/** A queue is full (`overloaded`). */
export class OverloadedError extends PillionError {}
/** Somebody has the name (`taken`). */
export class TakenError extends PillionError {}
/** No answer in time (`timeout`). */
export class TimeoutError extends PillionError {}
/** Longer than the node takes (`too_large`). */
export class TooLargeError extends PillionError {}
/** The callee has no such function (`undef`). */
export class UndefError extends PillionError {}
/** This version of the node does not have that (`unsupported`). */
export class UnsupportedError extends PillionError {}
/** The connection to the node broke before the answer came (`lost`). */
export class LostError extends PillionError {}
/** The client was closed (`closed`). */
export class ClosedError extends PillionError {}
/** No node answers at the socket, or which one is meant is not clear (`unreachable`). */
export class UnreachableError extends PillionError {}

type ErrorType = new (code: string, message: string, details?: ErrorDetails) => PillionError;

const TYPES: Record<string, ErrorType> = {
  badarg: BadArgError,
  badop: BadOpError,
  calling_self: CallingSelfError,
  cancelled: CancelledError,
  cannot_start: CannotStartError,
  closed: ClosedError,
  denied: DeniedError,
  draining: DrainingError,
  exception: ExceptionError,
  exit: ExitError,
  lost: LostError,
  noconnection: NoConnectionError,
  noproc: NoProcError,
  not_found: NotFoundError,
  overloaded: OverloadedError,
  taken: TakenError,
  timeout: TimeoutError,
  too_large: TooLargeError,
  undef: UndefError,
  unreachable: UnreachableError,
  unsupported: UnsupportedError,
};

/** The error of this code, of its own type where it has one. */
export function pillionError(code: string, message: string, details?: ErrorDetails): PillionError {
  const type = Object.hasOwn(TYPES, code) ? TYPES[code]! : PillionError;
  return new type(code, message, details);
}

/** The error that an answer's members say. */
export function answerError(members: Record<string, unknown>): PillionError {
  const text = (key: string) => (typeof members[key] === "string" ? (members[key] as string) : undefined);
  const nodes = members["nodes"];
  return pillionError(text("code") ?? "error", text("message") ?? text("code") ?? "the node says that it failed", {
    maybeApplied: members["maybe_applied"] === true,
    reason: text("reason"),
    class: text("class"),
    remoteStack: text("stack"),
    nodes: Array.isArray(nodes) ? nodes.map(String) : undefined,
  });
}

/** Longest stack that is told to a caller, in bytes: its end. */
const STACK_BYTES_MAX = 16 * 1024;

/** What `raise` says of an error of the language. */
export function raised(error: unknown): { class: string; reason: string; stack: string } {
  if (!(error instanceof Error)) return { class: "error", reason: cut(String(error)), stack: "" };
  const name = error.name === "Error" ? error.constructor.name || "Error" : error.name;
  return { class: name.slice(0, 80), reason: cut(error.message), stack: cut(error.stack ?? "") };
}

/** The reason with which a process exits because of an error: `CLASS: TEXT`, at most 1024 bytes. */
export function exitReason(error: unknown): string {
  const { class: name, reason } = raised(error);
  const text = Buffer.from(`${name}: ${reason}`);
  return (text.length > 1024 ? text.subarray(0, 1024).toString().replace(/\ufffd+$/, "") : text.toString()) || "error";
}

function cut(text: string): string {
  const bytes = Buffer.from(text);
  if (bytes.length <= STACK_BYTES_MAX) return text;
  return bytes.subarray(bytes.length - STACK_BYTES_MAX).toString().replace(/^\ufffd+/, "");
}
