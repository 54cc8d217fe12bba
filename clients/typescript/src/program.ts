/** A program that is one GenServer, as a supervisor wants it: its end is the program's, and the status says how it was. */
import { connect, type Client, type ConnectOptions } from "./client";
import { exitReason } from "./errors";
import { type GenServer, Runner } from "./gen_server";

/** How a program runs. */
export interface RunOptions extends Omit<ConnectOptions, "name" | "on" | "signal"> {
  /** What the server is registered as. */
  name?: string | undefined;
}

/** What is still open when the server has ended may take so long to end by itself, in ms. */
const LINGER_MS = 1000;

/**
 * Is the whole program of one GenServer: connects, starts it, and ends when it ends.
 *
 * The server is the client's own process, registered as `name`; of a program that a node hosts it is the hosted process, which has its
 * name already. The exit code, which this sets and gives, is 0 when it ended with `normal`, `shutdown` or `shutdown: ...`, else 1, and a
 * line on standard error says why. At SIGTERM and SIGINT, and when the node is about to leave, it answers what it was given, runs
 * `terminate("shutdown")` and ends with 0. A hosted program whose node is gone ends with `noconnection`.
 *
 * Never fails. Whatever keeps the program alive a second later is ended with it.
 */
export async function run(server: GenServer, options: RunOptions = {}): Promise<number> {
  const title = options.name ?? (process.env["PILLION_NAME"] || server.constructor.name);
  const ended = await serve(server, options);
  const { failure, reason = "" } = ended;
  let status = 1;
  if (failure !== undefined) say(`${title} cannot start: ${failure}`);
  else if (reason === "normal" || reason === "shutdown" || reason.startsWith("shutdown:")) status = 0;
  else say(`${title} has ended: ${reason}`);
  process.exitCode = status;
  setTimeout(() => process.exit(), LINGER_MS).unref();
  return status;
}

interface Ended {
  /** Why it could not start. */
  failure?: string;
  reason?: string;
}

async function serve(server: GenServer, options: RunOptions): Promise<Ended> {
  const { name, ...connecting } = options;
  const hosted = Boolean(process.env["PILLION_PROCESS"]);
  const asked = new AbortController();
  const stop = () => asked.abort();
  const stopped = new Promise<void>((resolve) => asked.signal.addEventListener("abort", () => resolve(), { once: true }));
  process.on("SIGTERM", stop);
  process.on("SIGINT", stop);
  let client: Client;
  try {
    client = await connect({ ...connecting, ...(name === undefined ? {} : { name }), signal: asked.signal, on: { draining: stop } });
  } catch (error) {
    return asked.signal.aborted ? { reason: "shutdown" } : { failure: (error as Error).message };
  }
  const { session } = client;
  try {
    const named = name === undefined || (hosted && process.env["PILLION_NAME"] === name);
    if (!named) await client.register(name, { signal: asked.signal });
  } catch (error) {
    await client.close();
    return asked.signal.aborted ? { reason: "shutdown" } : { failure: (error as Error).message };
  }
  const runner = new Runner(server, client);
  client.serves = true;
  session.keeper.program = {
    hosted,
    over: (reason) => {
      runner.died(reason);
      session.end();
      session.keeper.stop();
    },
  };
  try {
    await runner.begin();
  } catch (error) {
    return { reason: exitReason(error) };
  }
  await Promise.race([runner.ended, stopped]);
  if (asked.signal.aborted && session.phase === "open") await client.drain().catch(() => {});
  // Where there was no connection to leave.
  await client.close();
  return { reason: await runner.ended };
}

function say(line: string): void {
  process.stderr.write(`${line.split(/\s+/).join(" ").trim()}\n`);
}
