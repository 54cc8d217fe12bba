/** Which socket is the node's. */
import * as fs from "node:fs/promises";
import * as net from "node:net";
import * as os from "node:os";
import * as path from "node:path";
import { UnreachableError } from "./errors";

/** Where to look. */
export interface Place {
  /** The socket that was named, by the app or by `PILLION_SOCKET`. */
  named: string | undefined;
  /** Else below this directory. */
  directory: string;
}

/** Where the node of this app is to be looked for: `socket`, `PILLION_SOCKET`, `PILLION_DIR`, `/tmp/pillion-<uid>`. */
export function place(socket: string | undefined, env: NodeJS.ProcessEnv = process.env): Place {
  return {
    named: socket || env["PILLION_SOCKET"] || undefined,
    directory: env["PILLION_DIR"] || `/tmp/pillion-${uid()}`,
  };
}

/** This user's number. `os.userInfo` fails for one that has no name, as many containers give. */
function uid(): number {
  return process.geteuid?.() ?? os.userInfo().uid;
}

/** The socket to connect to. `none` is an error that may pass: the node may be starting. */
export async function find(where: Place): Promise<string> {
  if (where.named !== undefined) return where.named;
  const sockets = await answering(where);
  if (sockets.length === 1) return sockets[0]!;
  if (sockets.length === 0) {
    throw new UnreachableError(
      "unreachable",
      `no node answers below ${where.directory}; start one with \`pillion up\`, or name its socket by PILLION_SOCKET`,
    );
  }
  throw new SeveralNodes(
    "unreachable",
    `several nodes answer: ${sockets.join(", ")}; name one of these sockets by PILLION_SOCKET`,
  );
}

/** Several nodes answer: waiting does not help. */
export class SeveralNodes extends UnreachableError {
  override readonly name = "UnreachableError";
}

/** The sockets of nodes that answer, by name. */
export async function answering(where: Place): Promise<string[]> {
  if (where.named !== undefined) return [where.named];
  const directory = where.directory;
  let owner: number;
  try {
    owner = (await fs.lstat(directory)).uid;
  } catch {
    return [];
  }
  if (owner !== uid() && owner !== 0) {
    throw new SeveralNodes(
      "unreachable",
      `${directory} belongs to another user; name a node's socket by PILLION_SOCKET, or its directory by PILLION_DIR`,
    );
  }
  const sockets: string[] = [];
  for (const mesh of await entries(directory)) {
    for (const name of await entries(path.join(directory, mesh))) {
      if (!name.endsWith(".sock") || name.endsWith(".operator.sock")) continue;
      const socket = path.join(directory, mesh, name);
      if (await answers(socket)) sockets.push(socket);
    }
  }
  return sockets.sort();
}

async function entries(directory: string): Promise<string[]> {
  try {
    return await fs.readdir(directory);
  } catch {
    return [];
  }
}

function answers(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = net.connect(socket);
    probe.once("connect", () => {
      probe.destroy();
      resolve(true);
    });
    probe.once("error", () => resolve(false));
  });
}
