/** Real nodes for tests: each with a mesh, a directory and a home of its own, ended by its pid. */
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { connect, type Client, type ConnectOptions } from "pillion";

/** The daemon: `PILLION_BIN`, else the one that was built up the tree, else the one on the `PATH`. */
export function binary(): string | undefined {
  const named = process.env["PILLION_BIN"];
  if (named) return named;
  for (let at = __dirname; dirname(at) !== at; at = dirname(at)) {
    const built = join(at, "target/debug/pillion");
    if (existsSync(built)) return built;
  }
  for (const directory of (process.env["PATH"] ?? "").split(":")) {
    const found = join(directory, "pillion");
    if (directory !== "" && existsSync(found)) return found;
  }
  return undefined;
}

/** For `test(..., { skip })`: why there are no nodes. */
export const skip = binary() === undefined ? "no daemon: set PILLION_BIN, or build it with cargo" : false;

/** Nodes of one mesh. */
export class Mesh {
  readonly directory = mkdtempSync(join(tmpdir(), "pillion-ts-"));
  readonly name = `ts${randomBytes(6).toString("hex")}`;
  private readonly nodes: Node[] = [];
  private readonly clients: Client[] = [];

  /** Starts a node; with several they find each other. */
  async node(base: string, ...options: string[]): Promise<Node> {
    const node = new Node(this, base, options);
    this.nodes.push(node);
    await node.start();
    return node;
  }

  /** A client of a node, closed at the end. */
  async client(node: Node, options: ConnectOptions = {}): Promise<Client> {
    const client = await connect({ socket: node.socket, name: "test", ...options });
    this.clients.push(client);
    return client;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.clients.map((client) => client.close()));
    await Promise.all(this.nodes.map((node) => node.kill("SIGKILL")));
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** One node. */
export class Node {
  readonly socket: string;
  private child: ChildProcess | undefined;

  constructor(
    private readonly mesh: Mesh,
    readonly base: string,
    private readonly options: string[],
  ) {
    this.socket = join(mesh.directory, mesh.name, `${base}.sock`);
  }

  /** Starts it; done once an app can connect. */
  async start(): Promise<void> {
    const { directory, name } = this.mesh;
    const args = ["up", "--name", this.base, "--mesh", name, "--listen", "127.0.0.1:0", "--log-level", "warn"];
    const strategy = this.options.length > 0 ? this.options : ["--strategy", "none"];
    this.child = spawn(binary()!, [...args, ...strategy], {
      env: { PATH: process.env["PATH"], HOME: directory, PILLION_DIR: directory },
      stdio: ["ignore", "ignore", "inherit"],
    });
    const probe = await connect({ socket: this.socket, name: "probe", timeout: 30_000 });
    await probe.close();
  }

  /** Ends it, and waits for its end. */
  async kill(signal: NodeJS.Signals): Promise<void> {
    const child = this.child;
    this.child = undefined;
    if (child === undefined) return;
    const ended = child.exitCode !== null ? Promise.resolve() : new Promise((resolve) => child.once("exit", resolve));
    child.kill(signal);
    await ended;
  }
}

/** A mesh for the length of a test. */
export async function within<T>(run: (mesh: Mesh) => Promise<T>): Promise<T> {
  const mesh = new Mesh();
  try {
    return await run(mesh);
  } finally {
    await mesh[Symbol.asyncDispose]();
  }
}

/** A promise and what settles it. */
export function promise<T>(): { done: Promise<T>; resolve(value: T): void } {
  let resolve!: (value: T) => void;
  const done = new Promise<T>((r) => (resolve = r));
  return { done, resolve };
}
