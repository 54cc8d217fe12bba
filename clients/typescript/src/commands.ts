/** Commands as frames, appended to what is to be written. */
import { Output } from "./cbor";
import { BadArgError, TooLargeError } from "./errors";
import { FRAME_BYTES_MAX } from "./frame";

/** A body that is no CBOR: bytes, and what they are. */
export class Typed {
  constructor(
    /** The content type, at most 255 bytes. */
    readonly ct: string,
    readonly bytes: Uint8Array,
  ) {}
}

/** A body of another content type than CBOR, to be sent, published or replied. */
export function typed(ct: string, bytes: Uint8Array | string): Typed {
  return new Typed(ct, typeof bytes === "string" ? Buffer.from(bytes) : bytes);
}

/** A body that is written as CBOR already. */
export class Encoded {
  constructor(readonly bytes: Uint8Array) {}
}

/** Members of a command beside `op`, `id` and `pid`; those that are `undefined` are left out. */
export type Fields = Record<string, unknown>;

const PREFIXES_MAX = 1024;
const prefixes = new Map<string, Map<string, Buffer>>();

/** `"op": op, "to": to` as bytes: what most commands to one address begin with. */
function prefix(op: string, key: string, to: string): Buffer {
  let those = prefixes.get(op);
  if (those === undefined) prefixes.set(op, (those = new Map<string, Buffer>()));
  let bytes = those.get(to);
  if (bytes === undefined) {
    const out = new Output(256);
    out.text("op");
    out.text(op);
    out.text(key);
    out.text(to);
    bytes = Buffer.from(out.buffer.subarray(0, out.at));
    if (to.length > 512) return bytes;
    if (those.size >= PREFIXES_MAX) those.clear();
    those.set(to, bytes);
  }
  return bytes;
}

const ID = Buffer.from("\x62id", "latin1");
const PID = Buffer.from("\x63pid", "latin1");

/**
 * Appends a command. `key` and `to` are the member that comes behind `op`, where there is one; `pid` is left out for the session's
 * own process. Throws {@link BadArgError} and {@link TooLargeError}, and nothing was appended then.
 */
export function putCommand(
  out: Output,
  op: string,
  id: number | undefined,
  key: string | undefined,
  to: string,
  fields: Fields | undefined,
  pid: string | undefined,
  body: unknown,
): void {
  const start = out.at;
  try {
    out.room(7);
    out.at += 7;
    let pairs = 1;
    if (key !== undefined) {
      out.bytes(prefix(op, key, to));
      pairs = 2;
    } else {
      out.text("op");
      out.text(op);
    }
    if (fields !== undefined) {
      for (const name in fields) {
        const value = fields[name];
        if (value === undefined) continue;
        out.text(name);
        out.item(value);
        pairs++;
      }
    }
    if (id !== undefined) {
      out.bytes(ID);
      out.head(0, id);
      pairs++;
    }
    if (pid !== undefined) {
      out.bytes(PID);
      out.text(pid);
      pairs++;
    }
    if (body instanceof Typed) {
      out.text("ct");
      out.text(body.ct);
      pairs++;
    }
    const head = out.at - start - 6;
    if (head > 0xffff || pairs > 23) {
      throw new TooLargeError("too_large", "the fields of a command take at most 64 KiB; what is long belongs into the body");
    }
    out.buffer[start + 6] = 0xa0 | pairs;
    if (body instanceof Typed || body instanceof Encoded) out.bytes(body.bytes);
    else if (body !== undefined) out.item(body);
    const length = out.at - start - 4;
    if (length > FRAME_BYTES_MAX) throw new TooLargeError("too_large", "a body has at most 64 MiB");
    out.buffer.writeUInt32BE(length, start);
    out.buffer.writeUInt16BE(head, start + 4);
  } catch (error) {
    out.at = start;
    if (error instanceof TypeError || error instanceof RangeError) throw new BadArgError("badarg", error.message);
    throw error;
  }
}
