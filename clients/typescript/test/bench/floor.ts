/** A CBOR library and a Unix socket alone: the least that a message could cost. */
import { rmSync } from "node:fs";
import { createRequire } from "node:module";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Way } from "./main";

interface Cbor {
  encode(value: unknown): Buffer;
  decode(bytes: Buffer): unknown;
}

function library(): Cbor {
  // cbor-x without its records, which only it reads.
  const { Encoder } = createRequire(join(process.env["PILLION_BENCH_OTHERS"]!, "package.json"))("cbor-x");
  return new Encoder({ useRecords: false, mapsAsObjects: true, variableMapSize: true, tagUint8Array: false }) as Cbor;
}

function write(socket: Socket, cbor: Cbor, header: unknown, body: unknown): boolean {
  const head = cbor.encode(header);
  const item = cbor.encode(body);
  const all = Buffer.allocUnsafe(6 + head.length + item.length);
  all.writeUInt32BE(2 + head.length + item.length, 0);
  all.writeUInt16BE(head.length, 4);
  all.set(head, 6);
  all.set(item, 6 + head.length);
  return socket.write(all);
}

function read(socket: Socket, cbor: Cbor, onMessage: (header: any, body: unknown) => void): void {
  let rest: Buffer = Buffer.alloc(0);
  socket.on("data", (chunk: Buffer) => {
    const bytes = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    let at = 0;
    while (at + 4 <= bytes.length) {
      const end = at + 4 + bytes.readUInt32BE(at);
      if (end > bytes.length) break;
      const body = at + 6 + bytes.readUInt16BE(at + 4);
      onMessage(cbor.decode(bytes.subarray(at + 6, body)), cbor.decode(bytes.subarray(body, end)));
      at = end;
    }
    rest = bytes.subarray(at);
  });
}

let servers = 0;

async function listen(onSocket: (socket: Socket) => void): Promise<string> {
  const path = join(tmpdir(), `pillion-floor-${process.pid}-${servers++}.sock`);
  // One that was killed has left its file behind, and may have had the same pid.
  rmSync(path, { force: true });
  const server = createServer(onSocket);
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return path;
}

const PID = "<bench@b.019b3f0c2a4e5f3c.100>";

export const floor: Way = {
  respond() {
    const cbor = library();
    return listen((socket) => read(socket, cbor, ({ id }, body) => write(socket, cbor, { ev: "ok", id }, body)));
  },
  async caller(to, size) {
    const cbor = library();
    const socket = connect(to);
    let done: (body: unknown) => void = () => {};
    read(socket, cbor, (_header, body) => done(body));
    const body = Buffer.alloc(size, 1);
    let id = 0;
    return () => {
      write(socket, cbor, { op: "call", to: PID, id: ++id }, body);
      return new Promise((resolve) => (done = resolve));
    };
  },
  receive(_size, _topic, came) {
    const cbor = library();
    let n = 0;
    return listen((socket) =>
      read(socket, cbor, () => {
        if ((++n & 63) === 0) came(64);
      }),
    );
  },
  async send(to, size, topic, over) {
    const cbor = library();
    const socket = connect(to);
    const body = Buffer.alloc(size, 1);
    const header = topic ? { op: "publish", topic: "bench.topic" } : { op: "send", to: PID };
    while (!over()) {
      for (let i = 0; i < 64; i++) {
        if (!write(socket, cbor, header, body)) await new Promise((resolve) => socket.once("drain", resolve));
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
    await new Promise<void>((resolve) => socket.end(resolve));
  },
};
