/**
 * A bot that can be asked for the date: a linked task that loops.
 *
 *     ./run serve
 *     ./run help ADDRESS
 *     ./run date ADDRESS
 *
 * Messages are `["help", from]` and `["date_today", from]`.
 */
import { connect, type Client, type Process, type Task } from "pillion";

function startLink(app: Client): Promise<Task<void>> {
  return app.task(loop, { name: "bot", label: "bot" });
}

async function loop(self: Process): Promise<void> {
  for await (const event of self) {
    if (event.ev !== "message") continue;
    const [what, caller] = Array.isArray(event.body) ? (event.body as [unknown, unknown]) : [undefined, undefined];
    await self.send(typeof caller === "string" ? caller : event.from, answer(what));
  }
}

function answer(what: unknown): string {
  switch (what) {
    case "help":
      return "You can ask me what today's date is by passing date_today";
    case "date_today":
      return `Today's date is ${new Date().toISOString().slice(0, 10)}`;
    default:
      return "Unknown message type";
  }
}

async function serve(): Promise<void> {
  const app = await connect({ name: "bot" });
  const bot = await startLink(app);
  console.log("registered as bot");
  await bot.result();
}

async function ask(address: string, what: string): Promise<void> {
  const app = await connect({ name: "caller" });
  try {
    await app.send(address, [what, app.pid], { confirm: true });
    const answer = await app.receive({ match: "message", timeout: 5000 });
    if (answer?.ev !== "message") throw new Error(`${address} does not answer`);
    console.log(answer.body);
  } finally {
    await app.close();
  }
}

async function main([command, ...args]: string[]): Promise<void> {
  if (command === "serve" && args.length === 0) return serve();
  if (command === "help" && args.length === 1) return ask(args[0]!, "help");
  if (command === "date" && args.length === 1) return ask(args[0]!, "date_today");
  throw new Error("usage: bot serve | help ADDRESS | date ADDRESS");
}

main(process.argv.slice(2)).catch((error: Error) => {
  console.error(error.message);
  process.exitCode = 1;
});
