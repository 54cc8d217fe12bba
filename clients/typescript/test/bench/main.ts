/** Rows of measurements, one line of JSON each: see "Measuring" in `clients/README.md`. It starts itself for the other end. */
import { fork, type ChildProcess } from "node:child_process";
import { floor } from "./floor";
import { nats } from "./nats";
import { ours } from "./ours";
import { raw } from "./raw";

/** How something is measured: one end each, in a process of its own. */
export interface Way {
  /** Answers calls at B until the process ends; gives where. */
  respond(size: number): Promise<string>;
  /** A function that makes one call. */
  caller(to: string, size: number): Promise<() => Promise<unknown>>;
  /** Tells how many have come, from time to time; gives where. `topic`: what is published. */
  receive(size: number, topic: boolean, came: (n: number) => void): Promise<string>;
  /** Sends until `over`. */
  send(to: string, size: number, topic: boolean, over: () => boolean): Promise<void>;
}

const ways: Record<string, Way> = { pillion: ours, raw, floor, nats };
const SECONDS = Number(process.env["BENCH_SECONDS"] ?? 1);
const SIZES = [64, 1024];

/** Counts what comes: the rate is that of all but the first tenth of the time, to the last that came. */
class Count {
  private n = 0;
  private began = 0;
  private from: { n: number; at: number } | undefined;
  private last = 0;

  readonly came = (n: number): void => {
    const now = performance.now();
    this.n += n;
    this.last = now;
    if (this.began === 0) this.began = now;
    else if (this.from === undefined && now - this.began >= SECONDS * 100) this.from = { n: this.n, at: now };
  };

  /** Once nothing has come for a while. */
  async rate(): Promise<number | null> {
    while (performance.now() - this.last < 200) await new Promise((resolve) => setTimeout(resolve, 50));
    if (this.from === undefined || this.last === this.from.at) return null;
    return Math.round(((this.n - this.from.n) / (this.last - this.from.at)) * 1000);
  }
}

interface Job {
  role: "respond" | "receive" | "send";
  way: string;
  size: number;
  topic: boolean;
  to?: string;
}

async function send(way: Way, to: string, size: number, topic: boolean): Promise<void> {
  const end = performance.now() + SECONDS * 1100;
  await way.send(to, size, topic, () => performance.now() > end);
}

async function child(job: Job): Promise<void> {
  const way = ways[job.way]!;
  const count = new Count();
  if (job.role === "respond") process.send!(await way.respond(job.size));
  else if (job.role === "receive") {
    process.send!(await way.receive(job.size, job.topic, count.came));
    process.on("message", () => void count.rate().then((rate) => process.send!({ rate })));
  } else {
    await send(way, job.to!, job.size, job.topic);
    process.send!("sent");
  }
}

/** Starts the other end, and gives what it says first. */
async function other(job: Job): Promise<{ said: string; end: ChildProcess }> {
  const end = fork(__filename, [JSON.stringify(job)], { stdio: ["ignore", "inherit", "inherit", "ipc"] });
  return { said: (await said(end)) as string, end };
}

function said(end: ChildProcess): Promise<unknown> {
  return new Promise((resolve, reject) => {
    end.once("message", resolve);
    end.once("exit", (code) => reject(new Error(`the other end exited with ${code}`)));
  });
}

function row(what: string, size: number, against: string, numbers: { p50?: number; p99?: number; rate: number | null }): void {
  const tenth = (us: number | undefined) => (us === undefined ? null : Math.round(us * 10) / 10);
  const { p50, p99, rate } = numbers;
  console.log(JSON.stringify({ client: "typescript", what, size, against, p50_us: tenth(p50), p99_us: tenth(p99), per_s: rate }));
}

async function call(against: string, size: number): Promise<void> {
  const { said: to, end } = await other({ role: "respond", way: against, size, topic: false });
  const one = await ways[against]!.caller(to, size);
  const times: number[] = [];
  const begin = performance.now();
  const from = begin + SECONDS * 100;
  let at = begin;
  while (at < begin + SECONDS * 1100) {
    await one();
    const now = performance.now();
    if (at >= from) times.push((now - at) * 1000);
    at = now;
  }
  end.kill();
  const total = times.reduce((sum, time) => sum + time, 0);
  times.sort((a, b) => a - b);
  const part = (of: number) => times[Math.floor(times.length * of)];
  row("call", size, against, { p50: part(0.5)!, p99: part(0.99)!, rate: Math.round((times.length / total) * 1e6) });
}

/** What is sent here is counted at the other end. */
async function out(what: string, against: string, size: number, receiver: string, topic: boolean): Promise<void> {
  const { said: to, end } = await other({ role: "receive", way: receiver, size, topic });
  await send(ways[against]!, to, size, topic);
  end.send("over");
  const { rate } = (await said(end)) as { rate: number | null };
  end.kill();
  row(what, size, against, { rate });
}

/** What the other end sends is counted here. */
async function into(against: string, size: number, sender: string): Promise<void> {
  const count = new Count();
  const to = await ways[against]!.receive(size, false, count.came);
  const { end } = await other({ role: "send", way: sender, size, topic: false, to });
  const rate = await count.rate();
  end.kill();
  row("receive", size, against, { rate });
}

async function main(): Promise<void> {
  if (process.argv[2]?.startsWith("{")) return child(JSON.parse(process.argv[2]) as Job);
  const against = ["pillion", "raw", "floor", "nats"].filter((each) => {
    const reason = each === "nats" && !process.env["NATS_A"] ? "there is no NATS_A" : undefined;
    if (reason !== undefined) console.error(`${each} is left out: ${reason}`);
    return reason === undefined;
  });
  const only = process.argv.slice(2);
  for (const size of SIZES) {
    for (const each of against) {
      const wants = (what: string) => only.length === 0 || only.includes(what);
      // With the raw protocol at the end that is not measured.
      const far = each === "pillion" ? "raw" : each;
      if (wants("call")) await call(each, size);
      if (wants("send")) await out("send", each, size, far, false);
      if (wants("receive")) await into(each, size, far);
      if (wants("publish")) await out("publish", each, size, each, true);
    }
  }
  process.exit(0);
}

main().catch((error: unknown) => {
  console.error(error);
  process.exit(1);
});
