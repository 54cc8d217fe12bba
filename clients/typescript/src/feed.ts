/** Events that come until one stops: subscriptions, and who watches nodes, presence and groups. Each has a process of its own. */
import type { Event, GapEvent, GroupEvent, MessageEvent, NodeEvent, PresenceEvent } from "./events";
import type { SpawnOptions } from "./options";
import { type Process, resultOf } from "./process";
import { warn } from "./session";

/** For feeds. */
export interface FeedOptions {
  /** Hears, at its place among the events, that some are missing. Without it that is a warning of the program. */
  onGap?: ((gap: GapEvent) => void) | undefined;
  /** Ends the feed. */
  signal?: AbortSignal | undefined;
}

/** Events as they come. Iterate once; leaving the loop ends it. */
export class Feed<E extends Event> implements AsyncIterable<E> {
  private missing = 0;
  private warned = false;
  private warner: NodeJS.Timeout | undefined;

  /** @internal */
  constructor(
    /** @internal */
    readonly process: Process,
    private readonly names: readonly string[],
    private readonly options: FeedOptions,
    private readonly what: string,
  ) {
    process.feeds = true;
    const { signal } = options;
    if (signal !== undefined) {
      const stop = () => void this.close().catch(() => {});
      if (signal.aborted) stop();
      else signal.addEventListener("abort", stop, { once: true });
    }
  }

  /** The pid that the events are for. */
  get pid(): string {
    return this.process.pid;
  }

  /** Ends it: the loop ends once what has come was taken. */
  close(): Promise<void> {
    return this.process.exit();
  }

  /** The next event; `null` at the end, or when `timeout`, in ms, is over. */
  async next(options: { timeout?: number; signal?: AbortSignal } = {}): Promise<E | null> {
    const { mailbox } = this.process;
    for (;;) {
      const event = mailbox.take() ?? (await mailbox.receive(undefined, options.timeout, options.signal, true));
      if (event === null) return null;
      if (this.names.includes(event.ev)) return event as E;
      if (event.ev === "gap") this.gap(event);
    }
  }

  private gap(gap: GapEvent): void {
    if (this.options.onGap !== undefined) {
      this.options.onGap(gap);
      return;
    }
    // Who reads too slowly for long is told once a second, of all of them.
    this.missing += gap.lost;
    const text = () => `${this.what}: ${this.missing || "an unknown number of"} messages are missing (${gap.reason})`;
    this.warner ??= setTimeout(() => {
      this.warner = undefined;
      if (this.missing > 0) warn(text());
      this.missing = 0;
    }, 1000).unref();
    if (this.warned) return;
    this.warned = true;
    warn(text());
    this.missing = 0;
  }

  [Symbol.asyncIterator](): AsyncIterator<E, undefined, undefined> {
    const { mailbox } = this.process;
    const next = (): Promise<IteratorResult<E, undefined>> => {
      const event = mailbox.take();
      if (event !== null && event.ev === this.names[0]) return Promise.resolve({ value: event as E, done: false });
      return this.later(event).then(resultOf);
    };
    const end = async (): Promise<IteratorResult<E, undefined>> => {
      await this.close().catch(() => {});
      return { value: undefined, done: true };
    };
    return { next, return: end };
  }

  /** The next one that is wanted, from this one on. */
  private async later(event: Event | null): Promise<E | null> {
    if (event !== null && this.names.includes(event.ev)) return event as E;
    if (event?.ev === "gap") this.gap(event);
    return this.next();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close().catch(() => {});
  }
}

/** How one subscribes. */
export interface SubscribeOptions extends FeedOptions {
  /** Be a member of this queue group: each message goes to one of its members. */
  group?: string;
  /** Anything of at most 1024 bytes, shown to who lists subscribers. */
  metadata?: unknown;
  /** Wait until every connected node knows of it. */
  sync?: boolean;
  /** Bounds of its mailbox in the node, and what happens when it is full: `{policy: "wait"}` holds who publishes. */
  mailbox?: SpawnOptions["mailbox"];
}

/** A subscription to a topic or pattern: an iterator over its messages. */
export class Subscription extends Feed<MessageEvent> {
  /** @internal */
  constructor(
    process: Process,
    /** The topic or pattern. */
    readonly topic: string,
    options: SubscribeOptions,
  ) {
    super(process, ["message"], options, `subscription to ${topic}`);
  }

  /** Ends it, as {@link close} does. */
  unsubscribe(): Promise<void> {
    return this.close();
  }
}

/** Nodes that come and go. */
export type NodeFeed = Feed<NodeEvent>;
/** Who is present under a topic. */
export type PresenceFeed = Feed<PresenceEvent>;
/** Who is in a group. */
export type GroupFeed = Feed<GroupEvent>;
