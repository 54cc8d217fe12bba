/** What the kit can tell the driver to do. */
import {
  connect,
  typed,
  type CallEvent,
  type Client,
  type Event,
  type Feed,
  type Monitor,
  type Process,
  type RpcEvent,
  type Service,
  type Subscription,
} from "pillion";
import { Boom, Store } from "./store";

/** A line of the kit. */
export interface Action {
  do: string;
  as: string;
  [member: string]: any;
}

/** Prints a line under the label of the action. */
export type Say = (told: Record<string, unknown>) => void;

let client: Client;
const processes = new Map<string, Process>();
const monitors = new Map<string, Monitor>();
const calls = new Map<string, CallEvent | RpcEvent>();
const services = new Map<string, Service>();
const subscriptions = new Map<string, Subscription>();
const held = new Map<string, (value: unknown) => void>();

const emit = (label: string, told: Record<string, unknown>) => process.stdout.write(`${JSON.stringify({ saw: label, ...told })}\n`);

function actor(action: Action): Process {
  if (action.process === undefined) return client;
  const process = processes.get(action.process);
  if (process === undefined) throw new Error(`no process ${action.process}`);
  return process;
}

function body(action: Action): unknown {
  return action.ct === undefined ? action.body : typed(action.ct, action.body as Uint8Array);
}

function timeout(action: Action): { timeout?: number } {
  return action.timeout_ms === undefined ? {} : { timeout: action.timeout_ms };
}

function matches(want: Record<string, unknown>): (event: Event) => boolean {
  return (event) => Object.entries(want).every(([key, value]) => JSON.stringify((event as unknown as Record<string, unknown>)[key]) === JSON.stringify(value));
}

async function each<E extends Event>(feed: Feed<E>, print: (event: E) => void): Promise<void> {
  for await (const event of feed) print(event);
}

/** The actions, by name. */
export const actions: Record<string, (action: Action, say: Say) => unknown> = {
  async connect(action) {
    client = await connect({
      name: action.name,
      grace: action.grace_ms,
      timeout: action.connect_timeout_ms,
      on: {
        drained: () => emit("drained", {}),
        failed: ({ op, to, code, count }) => emit("failed", { op, to, code, count }),
        report: (report) =>
          emit("report", {
            resumed: report.resumed,
            lost_events: report.lostEvents,
            lost_commands: report.lostCommands,
            unsure_commands: report.unsureCommands,
          }),
        ...(action.draining === "callback" ? { draining: () => emit("draining", {}) } : {}),
      },
    });
    return { node: client.node, pid: client.pid };
  },
  close: () => client.close(),
  request: (action) => client.request(action.op, action.fields ?? {}, action.body),
  self: (action) => actor(action).pid,
  async spawn(action) {
    const { name, label, link, monitor } = action;
    const process = await actor(action).spawn({ name, label, link, monitor, trapExit: action.trap_exit });
    processes.set(action.as, process);
    return process.pid;
  },
  exit: (action) => actor(action).exit(action.reason),
  register: (action) => actor(action).register(action.name, { scope: action.scope }),
  unregister: (action) => actor(action).unregister(action.name, { scope: action.scope }),
  whereis: (action) => client.whereis(action.name, { scope: action.scope }),
  send: (action) => actor(action).send(action.to, body(action), { confirm: action.confirm }),
  cast: (action) => actor(action).cast(action.to, body(action), { confirm: action.confirm }),
  call: (action) => actor(action).call(action.to, body(action), timeout(action)),
  async stream(action, say) {
    const stream = actor(action).stream(action.to, body(action), timeout(action));
    for await (const part of stream) say({ part });
    return stream.value;
  },
  rpc: (action) => actor(action).rpc(action.node, action.module, action.function, action.args, timeout(action)),
  async receive(action) {
    const options = action.match === undefined ? {} : { match: matches(action.match) };
    const event = await actor(action).receive({ ...options, ...timeout(action) });
    if (event !== null && (event.ev === "call" || event.ev === "rpc")) calls.set(action.as, event);
    return event;
  },
  reply: (action) => client.reply(calls.get(action.call)!, action.body, { more: action.more }),
  raise: (action) => client.raise(calls.get(action.call)!, { class: action.class, reason: action.reason }),
  link: (action) => actor(action).link(action.to),
  unlink: (action) => actor(action).unlink(action.to),
  async monitor(action) {
    monitors.set(action.as, await actor(action).monitor(action.to));
    return true;
  },
  demonitor: (action) => actor(action).demonitor(monitors.get(action.ref)!),
  async gen_server(action, say) {
    const store = await client.start(new Store(say), { name: action.name });
    return store.pid;
  },
  async serve(action, say) {
    const functions = {
      add: (a: number, b: number) => a + b,
      fail() {
        throw new Boom("it broke");
      },
      wait(this: { signal: AbortSignal }) {
        return new Promise((_resolve, reject) => {
          this.signal.addEventListener("abort", () => {
            say({ cancelled: true });
            reject(this.signal.reason);
          });
        });
      },
      hold: (key: string) => new Promise((resolve) => held.set(key, resolve)),
    };
    services.set(action.module, await client.serve(action.module, functions));
  },
  release(action) {
    held.get(action.key)?.(action.value);
    held.delete(action.key);
  },
  unserve: (action) => services.get(action.module)!.stop(),
  async subscribe(action, say) {
    const { group, metadata, sync } = action;
    const onGap = (gap: { lost: number; reason: string }) => say({ gap: gap.lost, reason: gap.reason });
    const subscription = await client.subscribe(action.topic, { group, metadata, sync, onGap });
    subscriptions.set(action.as, subscription);
    say({ ready: true });
    await each(subscription, ({ ev, ...message }) => say({ message }));
  },
  unsubscribe: (action) => subscriptions.get(action.subscription)!.unsubscribe(),
  publish: (action) =>
    client.publish(action.topic, action.body, { confirm: action.confirm, retain: action.retain, report: action.report }),
  track: (action) => actor(action).track(action.topic, action.key, action.metadata),
  update_presence: (action) => actor(action).updatePresence(action.topic, action.key, action.metadata),
  untrack: (action) => actor(action).untrack(action.topic, action.key),
  async watch_presence(action, say) {
    const keys = (rows: { key: string }[] | undefined) => (rows ?? []).map((row) => row.key);
    await each(await client.watchPresence(action.topic), (event) => say({ joins: keys(event.joins), leaves: keys(event.leaves) }));
  },
  join: (action) => actor(action).join(action.group),
  leave: (action) => actor(action).leave(action.group),
  members: (action) => client.members(action.group),
  async monitor_nodes(_action, say) {
    await each(await client.monitorNodes(), (event) => say({ ev: event.ev, node: event.node }));
  },
};
