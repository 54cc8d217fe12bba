/**
 * A shop: customers ask it for a product, and it asks the stock.
 *
 *     ./run serve [SERVER_ADDRESS]
 *     ./run ask POS_ADDRESS PRODUCT
 *
 * A message `["ask", from, product_name]` is answered by `["print", product]` or `["print", "There is no Product X"]`. Customers are
 * served side by side: each waits for a call of its own, so that no answer is taken for another's.
 */
import { connect, PillionError, type Client } from "pillion";

interface Product {
  name: string;
  qty: number;
}

async function find(app: Client, server: string, name: string): Promise<Product | string> {
  try {
    const stock = await app.call<Product[]>(server, ["status"]);
    return stock.find((product) => product.name === name) ?? `There is no Product ${name}`;
  } catch (error) {
    if (!(error instanceof PillionError)) throw error;
    return `The stock does not answer: ${error.code}`;
  }
}

async function serve(server = "server@server"): Promise<void> {
  const app = await connect({ name: "pos" });
  await app.register("pos");
  console.log("registered as pos");
  for await (const event of app) {
    if (event.ev !== "message" || !Array.isArray(event.body)) continue;
    const [what, from, product] = event.body as [string, string, string];
    if (what !== "ask" || typeof from !== "string") continue;
    console.log(`${from} wants to know if get a product`);
    // Not awaited: the next customer need not wait for this one.
    find(app, server, product)
      .then((found) => app.send(from, ["print", found]))
      .catch((error: Error) => console.error(error.message));
  }
}

async function ask(pos: string, product: string): Promise<void> {
  const app = await connect({ name: "customer" });
  try {
    await app.send(pos, ["ask", app.pid, product], { confirm: true });
    const answer = await app.receive({ match: "message", timeout: 10_000 });
    if (answer?.ev !== "message") throw new Error(`${pos} does not answer`);
    const [, found] = answer.body as [string, Product | string];
    console.log(typeof found === "string" ? found : JSON.stringify(found));
  } finally {
    await app.close();
  }
}

async function main([command, ...args]: string[]): Promise<void> {
  if (command === "serve" && args.length <= 1) return serve(args[0]);
  if (command === "ask" && args.length === 2) return ask(args[0]!, args[1]!);
  throw new Error("usage: pos serve [SERVER_ADDRESS] | ask POS_ADDRESS PRODUCT");
}

main(process.argv.slice(2)).catch((error: Error) => {
  console.error(error.message);
  process.exitCode = 1;
});
