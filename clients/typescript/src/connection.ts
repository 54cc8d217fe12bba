/**
 * One connection to a node: bytes out of one buffer in as few writes as can be, and frames in. It knows no session and is never
 * opened again; {@link Session} makes the next one.
 */
import * as net from "node:net";
import { Output } from "./cbor";
import { Frames, type Frame } from "./frame";

/** More than this unwritten makes who sends wait, in bytes. */
export const UNWRITTEN_MAX = 1024 * 1024;
/** What is written without waiting for the end of the turn, in bytes. */
const WRITE_BYTES = 64 * 1024;
/** Read buffer, in bytes. */
const READ_BYTES = 256 * 1024;

/** What a connection tells. */
export interface Listener {
  /** A frame; it is overwritten afterwards. */
  onFrame(frame: Frame): void;
  /** Before what was appended is written, once in a turn: the last moment to append. */
  onFlush(): void;
  /** The connection is over: the last that is heard of it. */
  onBroken(why: Error): void;
}

/** A connection to the socket of a node. */
export class Connection {
  /** What is appended here and announced by {@link written} is written. */
  readonly out = new Output(128 * 1024);
  private scheduled = false;
  private broken = false;
  /** Much was written in this turn. */
  private spent = false;
  private turn: Promise<void> | undefined;
  private waiting: (() => void)[] = [];
  private roomy: Promise<void> | undefined;
  private spare: Buffer | undefined;

  private constructor(
    private readonly socket: net.Socket,
    private readonly listener: Listener,
  ) {}

  /** Connects. Fails as the system says. */
  static open(path: string, listener: Listener): Promise<Connection> {
    return new Promise((resolve, reject) => {
      let connection: Connection | undefined;
      const frames = new Frames((frame) => {
        if (connection !== undefined && !connection.broken) listener.onFrame(frame);
      });
      const socket = net.connect({
        path,
        onread: {
          buffer: Buffer.allocUnsafeSlow(READ_BYTES),
          callback: (length, buffer) => {
            try {
              frames.push(buffer as Buffer, length);
            } catch (error) {
              connection?.break(error as Error);
              return false;
            }
            return true;
          },
        },
      });
      socket.once("error", reject);
      socket.once("connect", () => {
        socket.off("error", reject);
        connection = new Connection(socket, listener);
        socket.on("error", (error) => connection?.break(error));
        socket.on("close", () => connection?.break(new Error("the node closed the connection")));
        socket.on("end", () => connection?.break(new Error("the node closed the connection")));
        socket.on("drain", () => connection?.makeRoom());
        resolve(connection);
      });
    });
  }

  /** Something was appended to {@link out}; it is written at the end of the turn at the latest. */
  written(): void {
    if (this.out.at >= WRITE_BYTES) {
      this.flush();
      this.spent = true;
    } else if (!this.scheduled) this.schedule();
  }

  /** Asks for {@link Listener.onFlush} and a write at the end of the turn. */
  schedule(): void {
    if (this.scheduled) return;
    this.scheduled = true;
    process.nextTick(() => {
      this.scheduled = false;
      if (this.broken) return;
      this.listener.onFlush();
      this.flush();
    });
  }

  /** Writes what was appended. */
  flush(): void {
    const out = this.out;
    if (out.at === 0 || this.broken) return;
    const chunk = out.buffer.subarray(0, out.at);
    out.at = 0;
    const buffer = out.buffer;
    this.socket.write(chunk);
    if (this.socket.writableLength === 0) {
      // What one long message took is not kept.
      if (buffer.length > UNWRITTEN_MAX) out.buffer = Buffer.allocUnsafeSlow(128 * 1024);
      return;
    }
    // The system has not taken all of it: the buffer is the socket's until it has.
    out.buffer = this.spare ?? Buffer.allocUnsafeSlow(128 * 1024);
    this.spare = undefined;
    if (buffer.length === 128 * 1024) {
      this.socket.write(EMPTY, () => {
        this.spare ??= buffer;
      });
    }
  }

  /** Bytes that were appended and that the system has not taken. */
  get unwritten(): number {
    return this.out.at + this.socket.writableLength;
  }

  /**
   * Done at once, or when there is room again; also when the connection is over. Who sends in a loop waits for the next turn now and
   * then: else nothing would be read, nor anything else done, while the system takes all that is written.
   */
  room(): Promise<void> {
    if (this.spent && !this.broken) {
      this.turn ??= new Promise<void>((resolve) => {
        setImmediate(() => {
          this.spent = false;
          this.turn = undefined;
          resolve(this.room());
        });
      });
      return this.turn;
    }
    if (this.out.at + this.socket.writableLength <= UNWRITTEN_MAX || this.broken) return DONE;
    this.flush();
    this.roomy ??= new Promise((resolve) => this.waiting.push(resolve));
    return this.roomy;
  }

  private makeRoom(): void {
    const waiting = this.waiting;
    this.waiting = [];
    this.roomy = undefined;
    for (const resolve of waiting) resolve();
  }

  /** Ends it, and tells so. */
  break(why: Error): void {
    if (this.broken) return;
    this.close();
    this.listener.onBroken(why);
  }

  /** Ends it without a word. What was appended before is lost unless it was flushed. */
  close(): void {
    this.broken = true;
    this.socket.destroy();
    this.makeRoom();
  }

  /** Whether the program lives on because of this connection. */
  ref(yes: boolean): void {
    if (yes) this.socket.ref();
    else this.socket.unref();
  }
}

const EMPTY = Buffer.alloc(0);
/** A promise that is done: of what need not wait. */
export const DONE: Promise<void> = Promise.resolve();
