/** The app's connection to its node, kept up. */
import { basename } from "node:path";
import { bye, drain } from "./drain";
import type { ClientEvents, GroupEvent, NodeEvent, PresenceEvent, Presence } from "./events";
import { Feed, type FeedOptions, type GroupFeed, type NodeFeed, type PresenceFeed, type SubscribeOptions, Subscription } from "./feed";
import { place } from "./find";
import { type GenServer, Runner } from "./gen_server";
import { ORDER } from "./declared";
import type { SpawnOptions, Waits } from "./options";
import { Process } from "./process";
import { takeMember } from "./pending";
import { type Functions, Service } from "./serve";
import { type Emitter, Session } from "./session";
import { Task, type TaskOptions, type Work } from "./task";

/** How a client connects. */
export interface ConnectOptions extends Waits {
  /** The node's socket. Else `PILLION_SOCKET`, else the only one that answers below `PILLION_DIR` or `/tmp/pillion-<uid>`. */
  socket?: string | undefined;
  /** What people see the app as: the program's name unless told otherwise. */
  name?: string | undefined;
  /** How long the node keeps the session after the connection broke, in ms: not at all unless told otherwise. Others hear of an app that was killed only then. */
  grace?: number | undefined;
  /** How long a node is waited for, in ms: 10 000 unless told otherwise. */
  timeout?: number | undefined;
  /** Exit signals to the client's own process become `exit` events. */
  trapExit?: boolean | undefined;
  /** Listeners from the beginning: see {@link ClientEvents}. */
  on?: { [E in keyof ClientEvents]?: (...told: ClientEvents[E]) => void } | undefined;
}

/**
 * Connects to the node of this app. While nobody listens at the socket it tries again silently, for `timeout` ms.
 *
 * Fails as `unreachable` when no node answers, several do, or as the node says.
 */
export async function connect(options: ConnectOptions = {}): Promise<Client> {
  const client = new Client(options);
  try {
    await client.begin(options);
  } catch (error) {
    client.session.end();
    throw error;
  }
  return client;
}

type Listeners = { [E in keyof ClientEvents]: Set<(...told: ClientEvents[E]) => void> };

/**
 * The app's connection to its node. When it breaks, it is made again, silently, for as long as the app lives; what was lost is told by
 * the event `report`. The client is a {@link Process} itself: the app's own.
 */
export class Client extends Process {
  private readonly listeners: Listeners = { draining: new Set(), drained: new Set(), failed: new Set(), report: new Set() };
  private draining: Promise<void> | undefined;

  /** @internal */
  constructor(options: ConnectOptions) {
    const emitter: Emitter = {
      has: (event) => this.listeners[event].size > 0,
      emit: (event, ...told) => this.emit(event, ...told),
    };
    const keep = {
      place: place(options.socket),
      client: options.name ?? basename(process.argv[1] ?? "node"),
      graceMs: options.grace ?? 0,
      connectMs: options.timeout ?? 10_000,
      process: process.env["PILLION_PROCESS"] || undefined,
    };
    super((own) => {
      const session = new Session(keep, emitter);
      session.own = own;
      return session;
    });
    for (const [event, listener] of Object.entries(options.on ?? {})) {
      if (listener !== undefined) this.on(event as keyof ClientEvents, listener as () => void);
    }
    this.session.onDraining = () => this.onDraining();
  }

  /** @internal */
  async begin(options: ConnectOptions): Promise<void> {
    await this.session.keeper.connect(options.signal);
    if (options.trapExit) await this.flag({ trapExit: true });
  }

  /** The name of the node. */
  get node(): string {
    return this.session.keeper.node;
  }

  // ===== what the client tells =====

  /** Listens. Gives what ends it. */
  on<E extends keyof ClientEvents>(event: E, listener: (...told: ClientEvents[E]) => void): () => void {
    this.listeners[event].add(listener);
    return () => this.off(event, listener);
  }

  /** Listens no more. */
  off<E extends keyof ClientEvents>(event: E, listener: (...told: ClientEvents[E]) => void): void {
    this.listeners[event].delete(listener);
  }

  private emit<E extends keyof ClientEvents>(event: E, ...told: ClientEvents[E]): void {
    for (const listener of [...this.listeners[event]]) {
      // A listener's error is the program's, and not the connection's.
      queueMicrotask(() => listener(...told));
    }
  }

  // ===== draining and closing =====

  private onDraining(): void {
    if (this.listeners.draining.size > 0) this.emit("draining");
    else setImmediate(() => void this.drain().catch(() => {}));
  }

  /**
   * Finishes: what GenServers and modules were given is answered, iterators end, and when nothing is under way any more the client says
   * goodbye. Then it looks for a node that is not leaving and declares all of it again. It does so by itself when the node is about to
   * leave and nobody listens to `draining`.
   */
  drain(): Promise<void> {
    this.draining ??= drain(this.session).then(
      () => {
        this.draining = undefined;
        if (this.session.keeper.drained) this.emit("drained");
      },
      (error: unknown) => {
        this.draining = undefined;
        throw error;
      },
    );
    return this.draining;
  }

  /** Done when the client is drained the next time, or is now. */
  drained(): Promise<void> {
    if (this.session.keeper.drained) return Promise.resolve();
    return new Promise((resolve) => {
      const off = this.on("drained", () => {
        off();
        resolve();
      });
    });
  }

  /** Says goodbye, waits until all that was written before was carried out, and closes. Never fails; whoever waits gets `closed`. */
  async close(): Promise<void> {
    const { session } = this;
    if (session.phase === "closed") return;
    const runners = [...session.processes].map((process) => process.resident).filter((each) => each instanceof Runner);
    await Promise.all(runners.map((runner) => runner.close("shutdown")));
    await bye(session);
    session.end();
    session.keeper.stop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Ends the session with a reason, and closes the client. */
  override async exit(reason?: string): Promise<void> {
    const done = super.exit(reason).catch(() => {});
    await done;
    this.session.end();
    this.session.keeper.stop();
  }

  // ===== what has a process of its own =====

  /** Starts a GenServer: spawns its process and runs its `init`. */
  async start<S extends GenServer>(server: S, options: SpawnOptions = {}): Promise<S> {
    const process = await this.spawn({ label: server.constructor.name, ...options });
    process.serves = true;
    await new Runner(server, process).begin();
    return server;
  }

  /** Runs a function in a process of its own. */
  async task<T>(work: Work<T>, options: TaskOptions = {}): Promise<Task<T>> {
    const process = await this.spawn(Task.optionsOf(options));
    return new Task<T>(process, work);
  }

  /** Serves functions: other apps call them by `rpc`. Their `this` is the {@link Invocation}. */
  async serve(module: string, functions: Functions): Promise<Service> {
    const process = await this.spawn({ label: `serve ${module}` });
    process.serves = true;
    const service = new Service(module, functions, process);
    try {
      await service.begin();
    } catch (error) {
      service.stop().catch(() => {});
      throw error;
    }
    return service;
  }

  /** Subscribes to a topic or pattern. Iterate over what it gives. */
  async subscribe(topic: string, options: SubscribeOptions = {}): Promise<Subscription> {
    const { group, metadata, sync } = options;
    const process = await this.feed("subscribe", ORDER.subscription, { topic, group, metadata, sync }, options);
    return new Subscription(process, topic, options);
  }

  /** Watches nodes that come and go. */
  async monitorNodes(options: FeedOptions = {}): Promise<NodeFeed> {
    const process = await this.feed("monitor_nodes", ORDER.nodes, {}, options);
    return new Feed<NodeEvent>(process, ["nodeup", "nodedown"], options, "nodes");
  }

  /** Watches who is present under a topic: first all who are there. */
  async watchPresence(topic: string, options: FeedOptions = {}): Promise<PresenceFeed> {
    const process = await this.feed("monitor_presence", ORDER.watch, { topic }, options);
    return new Feed<PresenceEvent>(process, ["presence"], options, `presence of ${topic}`);
  }

  /** Watches who is in a group: first all who are. */
  async watchGroup(group: string, options: FeedOptions = {}): Promise<GroupFeed> {
    const process = await this.feed("monitor_group", ORDER.groups, { group }, options);
    return new Feed<GroupEvent>(process, ["group"], options, `group ${group}`);
  }

  private async feed(op: string, order: number, fields: Record<string, unknown>, options: SubscribeOptions): Promise<Process> {
    const { signal, mailbox } = options;
    const process = await this.spawn(mailbox === undefined ? { signal } : { signal, mailbox });
    try {
      await process.request(op, fields, undefined, { signal: options.signal });
    } catch (error) {
      process.exit().catch(() => {});
      throw error;
    }
    // With `sync` again all that is declared behind it would wait.
    process.declareAs("feed", order, op, { ...fields, sync: undefined });
    return process;
  }

  // ===== questions =====

  /** Who has a name: a pid, or `null`. */
  whereis(name: string, options: { node?: string; scope?: "local" | "global" } = {}): Promise<string | null> {
    return this.ask("whereis", { name, ...options }, "pid", null);
  }

  /** The members of a group, as often as each has joined. */
  members(group: string, options: { local?: boolean } = {}): Promise<string[]> {
    return this.ask("members", { group, ...options }, "members", []);
  }

  /** Who is present under a topic, of `key` only, or of keys that begin with `prefix`. */
  presence(topic: string, options: { key?: string; prefix?: string } = {}): Promise<Presence[]> {
    return this.ask("presence", { topic, ...options }, "presence", []);
  }

  /** The nodes: this one, those connected, those known. */
  nodes(state?: string): Promise<Record<string, unknown>[]> {
    return this.ask("nodes", { state }, "nodes", []);
  }

  /** What is known of a process: of the own one when nobody is named. */
  info(to?: string, keys?: string[]): Promise<Record<string, unknown>> {
    return this.ask("info", { to, keys }, "info", {});
  }

  /** Whether an address leads to a living process. */
  isAlive(to: string): Promise<boolean> {
    return this.ask("alive", { to }, "result", false);
  }

  /** Waits until nodes are connected; fails as `timeout` with the `nodes` that are missing. */
  waitFor(what: { nodes?: string[]; role?: string; count?: number; timeout?: number }, options: Waits = {}): Promise<string[]> {
    const { timeout, ...fields } = what;
    return this.session.request(this, "wait_for", { fields: { ...fields, timeout_ms: timeout }, take: takeMember("nodes"), signal: options.signal });
  }

  private async ask<T>(op: string, fields: Record<string, unknown>, member: string, none: T): Promise<T> {
    return (await this.session.request<T | undefined>(this, op, { fields, take: takeMember(member) })) ?? none;
  }
}
