/** Frames that are events of a mailbox. */
import type { CallEvent, CastEvent, Event, MessageEvent, RpcEvent } from "./events";
import type { Frame } from "./frame";

/** The event that a frame is; nothing for what this version does not know. */
export function toEvent(frame: Frame): Event | undefined {
  switch (frame.ev) {
    case "message": {
      const event: MessageEvent = { ev: "message", from: frame.from!, body: frame.body() };
      if (frame.ct !== undefined) event.ct = frame.ct;
      if (frame.topic !== undefined) {
        event.topic = frame.topic;
        if (frame.rest["retained"] === true) event.retained = true;
        if (frame.rest["redelivered"] === true) event.redelivered = true;
      }
      return event;
    }
    case "call": {
      const event: CallEvent = { ev: "call", from: frame.from!, ref: frame.ref!, body: frame.body() };
      if (frame.ct !== undefined) event.ct = frame.ct;
      return event;
    }
    case "cast": {
      const event: CastEvent = { ev: "cast", from: frame.from!, body: frame.body() };
      if (frame.ct !== undefined) event.ct = frame.ct;
      return event;
    }
    case "rpc": {
      const { module, function: name } = frame.rest as Record<string, string>;
      const event: RpcEvent = { ev: "rpc", from: frame.from!, module: module!, function: name!, body: frame.body() };
      if (frame.ref !== undefined) event.ref = frame.ref;
      if (frame.ct !== undefined) event.ct = frame.ct;
      return event;
    }
    case "down":
    case "exit":
    case "gap":
    case "nodeup":
    case "nodedown":
    case "group":
    case "presence":
    case "name_conflict": {
      const ev = frame.ev;
      frame.pid = undefined;
      return { ev, ...frame.members() } as Event;
    }
    default:
      return undefined;
  }
}
