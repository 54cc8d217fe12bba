/**
 * The stock of several shops, in one process that everybody can reach.
 *
 *     ./run serve [NAME]
 *     ./run add ADDRESS PRODUCT QTY
 *     ./run status ADDRESS
 *
 * Messages are `["add", from, {name, qty}]` and `["status", from]`; the answer is a message: the whole stock, newest first. The same
 * asked as calls, without `from`, is replied.
 */
import { connect, type Client } from "pillion";

interface Product {
  name: string;
  qty: number;
}

async function handleStock(app: Client): Promise<void> {
  let stock: Product[] = [];
  for await (const event of app) {
    if (event.ev === "message" && Array.isArray(event.body)) {
      const [what, from, product] = event.body as [string, string, Product];
      if (typeof from !== "string") continue;
      if (what === "add") stock = [product, ...stock];
      else if (what !== "status") continue;
      await app.send(from, stock);
      log(from, what);
    } else if (event.ev === "call" && Array.isArray(event.body)) {
      const [what, product] = event.body as [string, Product];
      if (what === "add") stock = [product, ...stock];
      else if (what !== "status") {
        await app.raise(event, { class: "undef" });
        continue;
      }
      await app.reply(event, stock);
      log(event.from, what);
    }
  }
}

function log(pid: string, what: string): void {
  console.log(`${pid} ${what === "add" ? "added a new item on stock" : "checked the stock"}`);
}

async function serve(name = "product_stock"): Promise<void> {
  const app = await connect({ name: "product_stock" });
  await app.register(name);
  console.log(`registered as ${name}`);
  await handleStock(app);
}

/** Sends a request with the own pid, and prints what comes back. */
async function ask(address: string, what: string, product?: Product): Promise<void> {
  const app = await connect({ name: "shop" });
  try {
    await app.send(address, product === undefined ? [what, app.pid] : [what, app.pid, product], { confirm: true });
    const answer = await app.receive({ match: "message", timeout: 5000 });
    if (answer?.ev !== "message") throw new Error(`${address} does not answer`);
    console.log(JSON.stringify(answer.body));
  } finally {
    await app.close();
  }
}

async function main([command, ...args]: string[]): Promise<void> {
  if (command === "serve" && args.length <= 1) return serve(args[0]);
  if (command === "add" && args.length === 3) return ask(args[0]!, "add", { name: args[1]!, qty: Number(args[2]) });
  if (command === "status" && args.length === 1) return ask(args[0]!, "status");
  throw new Error("usage: product_stock serve [NAME] | add ADDRESS PRODUCT QTY | status ADDRESS");
}

main(process.argv.slice(2)).catch((error: Error) => {
  console.error(error.message);
  process.exitCode = 1;
});
