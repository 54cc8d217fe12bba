/** Frames by hand, with commands that are encoded once: what the node costs without the client. */
import { connect, type Socket } from "node:net";
import { encode } from "pillion";
import type { Way } from "./main";

/** A frame: its header as a map, its body as bytes of CBOR. */
function frame(header: Record<string, unknown>, body: Uint8Array = Buffer.alloc(0)): Buffer {
  const head = encode(header);
  const all = Buffer.alloc(6 + head.length + body.length);
  all.writeUInt32BE(2 + head.length + body.length, 0);
  all.writeUInt16BE(head.length, 4);
  all.set(head, 6);
  all.set(body, 6 + head.length);
  return all;
}

/** Cuts what comes into frames: where one begins behind its length, and where it ends. */
function cut(socket: Socket, onFrame: (bytes: Buffer, at: number, end: number) => void, onChunk = () => {}): void {
  let rest: Buffer = Buffer.alloc(0);
  socket.on("data", (chunk: Buffer) => {
    const bytes = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    let at = 0;
    while (at + 4 <= bytes.length) {
      const end = at + 4 + bytes.readUInt32BE(at);
      if (end > bytes.length) break;
      onFrame(bytes, at + 4, end);
      at = end;
    }
    rest = bytes.subarray(at);
    onChunk();
  });
}

/** Connects and says hello; gives the pid. */
async function session(path: string | undefined): Promise<{ socket: Socket; pid: string }> {
  const socket = connect(path!);
  socket.write(frame({ op: "hello", version: 1, client: "raw", delivery: "push" }));
  const welcome = await new Promise<Buffer>((resolve) => socket.once("data", resolve));
  const pid = /<[^>]*>/.exec(welcome.toString("latin1"))![0];
  return { socket, pid };
}

/** Waits for the answer to a command. */
function ask(socket: Socket, header: Record<string, unknown>): Promise<Buffer> {
  socket.write(frame({ ...header, id: 1 }));
  return new Promise((resolve) => socket.once("data", resolve));
}

const MESSAGE = Buffer.from("\x62ev\x67message", "latin1");
const CALL = Buffer.from("\x62ev\x64call", "latin1");

/** Writes the same frame many times, as fast as it is taken. */
export async function pour(socket: Socket, one: Buffer, over: () => boolean): Promise<void> {
  const many = Buffer.concat(Array.from({ length: Math.max(1, Math.floor(65536 / one.length)) }, () => one));
  while (!over()) {
    if (!socket.write(many)) await new Promise((resolve) => socket.once("drain", resolve));
    else await new Promise((resolve) => setImmediate(resolve));
  }
}

export const raw: Way = {
  async respond() {
    const { socket, pid } = await session(process.env["PILLION_B"]);
    const op = Buffer.concat([Buffer.from([0xa2]), Buffer.from("\x62op\x65reply", "latin1")]);
    cut(socket, (bytes, at, end) => {
      const head = at + 2;
      if (bytes.compare(CALL, 0, CALL.length, head + 1, head + 1 + CALL.length) !== 0) return;
      // `ref` is the last member of the header of a call to the own process.
      const body = head + bytes.readUInt16BE(at);
      const ref = bytes.subarray(bytes.indexOf("\x63ref", head, "latin1"), body);
      const reply = Buffer.allocUnsafe(6 + op.length + ref.length + end - body);
      reply.writeUInt32BE(reply.length - 4, 0);
      reply.writeUInt16BE(op.length + ref.length, 4);
      op.copy(reply, 6);
      ref.copy(reply, 6 + op.length);
      bytes.copy(reply, 6 + op.length + ref.length, body, end);
      socket.write(reply);
    });
    return pid;
  },
  async caller(to, size) {
    const { socket } = await session(process.env["PILLION_A"]);
    const one = frame({ op: "call", id: 1, to }, encode(Buffer.alloc(size, 1)));
    let done: () => void = () => {};
    cut(socket, () => done());
    return () => {
      socket.write(one);
      return new Promise<void>((resolve) => (done = resolve));
    };
  },
  async receive(_size, topic, came) {
    const { socket, pid } = await session(process.env["PILLION_B"]);
    await ask(socket, { op: "flag", mailbox: { policy: "wait" } });
    if (topic) await ask(socket, { op: "subscribe", topic: "bench.topic", sync: true });
    let n = 0;
    const onFrame = (bytes: Buffer, at: number) => {
      if (bytes.compare(MESSAGE, 0, MESSAGE.length, at + 3, at + 3 + MESSAGE.length) === 0) n++;
    };
    const onChunk = () => {
      if (n > 0) came(n);
      n = 0;
    };
    cut(socket, onFrame, onChunk);
    return topic ? "bench.topic" : pid;
  },
  async send(to, size, topic, over) {
    const { socket } = await session(process.env["PILLION_A"]);
    const body = encode(Buffer.alloc(size, 1));
    await pour(socket, topic ? frame({ op: "publish", topic: to }, body) : frame({ op: "send", to }, body), over);
    await ask(socket, { op: "self" });
  },
};
