/** Commands whose answer somebody waits for, and commands that wait for a connection. */
import type { Frame } from "./frame";

/** What an answer becomes. */
export type Take = (frame: Frame) => unknown;

/** A command on its way. */
export interface Pending {
  resolve(value: unknown): void;
  reject(error: Error): void;
  take: Take;
  op: string;
  /** Which command of the session it was. */
  seq: number;
  /** How many commands without an answer were written before it. */
  plain: number;
  /** When its time is over, by {@link now}; infinite where it has none. */
  deadline: number;
  timer: NodeJS.Timeout | undefined;
  /** What hears the parts of an answer. */
  onPart: ((frame: Frame) => void) | undefined;
}

/** A command that is written once there is a connection. */
export interface Waiting {
  run(): void;
  reject(error: Error): void;
  timer: NodeJS.Timeout | undefined;
}

/** Milliseconds, of a clock that only goes on. */
export function now(): number {
  return performance.now();
}

/** The answer's body. */
export const takeBody: Take = (frame) => frame.body();
/** Nothing. */
export const takeNothing: Take = () => undefined;
/** All its members. */
export const takeMembers: Take = (frame) => frame.members();
/** One of its members. */
export function takeMember(key: string): Take {
  return (frame) => frame.members()[key];
}
