/** Finishing, so that nothing is lost, when the node is about to leave. */
import type { Session } from "./session";

/** How long the goodbye is waited for, in ms. */
export const BYE_MS = 2000;

/** See `clients/README.md`, Draining. Done once the client is drained; the session then looks for another node. */
export async function drain(session: Session): Promise<void> {
  const residents = [...session.processes].filter((process) => process.resident?.finish !== undefined && process.serves);
  await Promise.allSettled(residents.map((process) => process.request("flag", { delivery: "pull" })));
  // Behind its answer nothing is given to them any more.
  await Promise.allSettled(residents.map((process) => process.resident!.finish("shutdown")));
  for (const process of [...session.processes]) {
    if (process.feeds) process.ended(null);
    else process.mailbox.endIterators();
  }
  await quiet(session);
  if (session.phase !== "open") return;
  if (session.keeper.program !== undefined) {
    // It is the whole program that goes, and looks for no other node.
    await session.own.exit("shutdown");
    return;
  }
  session.keeper.onDrained();
  await bye(session);
  session.connection?.break(new Error("drained"));
}

/** Done when no command waits for its answer and no call is unanswered, or there is no connection any more. */
function quiet(session: Session): Promise<void> {
  return new Promise((resolve) => {
    const look = () => {
      if (session.phase === "open" && (session.underWay > 0 || session.unanswered.size > 0)) return;
      session.onLess = undefined;
      resolve();
    };
    session.onLess = look;
    look();
  });
}

/** Says goodbye, and waits for the answer for a while. What is asked for meanwhile waits for the next node. */
export async function bye(session: Session): Promise<void> {
  if (session.phase !== "open") return;
  const answer = session.ask(session.own, "bye", { take: () => undefined });
  const connection = session.connection;
  session.phase = "connecting";
  connection?.flush();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise((resolve) => (timer = setTimeout(resolve, BYE_MS)));
  await Promise.race([answer, late]).catch(() => {});
  clearTimeout(timer);
}
