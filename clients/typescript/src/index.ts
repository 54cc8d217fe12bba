/** Nodes, processes and messages by a Pillion sidecar. `connect()` is where to begin. */
export { connect, Client, type ConnectOptions } from "./client";
export { run, type RunOptions } from "./program";
export { addressOf, Process } from "./process";
export type {
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
export { GenServer, From, NO_REPLY } from "./gen_server";
export { Invocation, Service, type Functions } from "./serve";
export { Task, type TaskOptions, type Work } from "./task";
export { Feed, Subscription, type FeedOptions, type GroupFeed, type NodeFeed, type PresenceFeed, type SubscribeOptions } from "./feed";
export { CallStream } from "./stream";
export { type Match } from "./mailbox";
export { typed, Typed } from "./commands";
export { decode, encode, Malformed, Tag } from "./cbor";
export {
  BadArgError,
  BadOpError,
  CallingSelfError,
  CancelledError,
  CannotStartError,
  ClosedError,
  DeniedError,
  DrainingError,
  ExceptionError,
  ExitError,
  LostError,
  NoConnectionError,
  NoProcError,
  NotFoundError,
  OverloadedError,
  PillionError,
  TakenError,
  TimeoutError,
  TooLargeError,
  UndefError,
  UnreachableError,
  UnsupportedError,
  type ErrorDetails,
} from "./errors";
export type {
  CallEvent,
  CastEvent,
  ClientEvents,
  DownEvent,
  Event,
  ExitEvent,
  Failed,
  GapEvent,
  GroupEvent,
  MessageEvent,
  NameConflictEvent,
  NodeEvent,
  Presence,
  PresenceEvent,
  Report,
  RpcEvent,
} from "./events";
