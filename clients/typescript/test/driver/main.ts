/** The driver of the conformance kit: does with the client what standard input says, and prints what its app sees. */
import { createInterface } from "node:readline";
import { actions, type Action } from "./actions";
import { errorJson, fromJson, toJson } from "./values";

/** Prints one line. */
export function saw(label: string, told: Record<string, unknown>): void {
  process.stdout.write(`${JSON.stringify({ saw: label, ...(toJson(told) as object) })}\n`);
}

/** What is told before there is a client waits for it, as in a program. */
let connecting: Promise<unknown> | undefined;

async function act(action: Action): Promise<void> {
  if (connecting !== undefined) await connecting;
  try {
    const run = actions[action.do];
    if (run === undefined) throw new Error(`no such action: ${action.do}`);
    const running = Promise.resolve(run(action, (told) => saw(action.as, told)));
    if (action.do === "connect") {
      const over = () => (connecting = undefined);
      connecting = running.then(over, over);
    }
    const value = await running;
    saw(action.as, { value: value ?? null });
  } catch (error) {
    saw(action.as, { error: errorJson(error) });
  }
}

process.on("unhandledRejection", (error) => console.error("unhandled:", error));
const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => {
  if (line.trim() !== "") void act(fromJson(JSON.parse(line)) as Action);
});
lines.on("close", () => process.exit(0));
