import assert from "node:assert/strict";
import { execFile, spawn, type ChildProcess } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { promisify } from "node:util";
import { skip, within, type Node } from "./node";

const built = (name: string) => join(__dirname, `../examples/${name}/typescript/${name}.js`);
const missing = skip || (existsSync(built("pos")) ? false : "the examples are not here: this is not the repository");

/** Runs an example to its end, and gives what it prints. */
async function run(node: Node, name: string, ...args: string[]): Promise<string> {
  const env = { ...process.env, PILLION_SOCKET: node.socket };
  const { stdout } = await promisify(execFile)(process.execPath, [built(name), ...args], { env });
  return stdout.trimEnd();
}

/** A server of an example, and the lines that it prints. */
class Server {
  private readonly child: ChildProcess;
  private readonly lines: AsyncIterator<string>;

  constructor(node: Node, name: string, ...args: string[]) {
    const env = { ...process.env, PILLION_SOCKET: node.socket };
    this.child = spawn(process.execPath, [built(name), "serve", ...args], { env, stdio: ["ignore", "pipe", "inherit"] });
    this.lines = createInterface({ input: this.child.stdout! })[Symbol.asyncIterator]();
  }

  async line(): Promise<string> {
    const { value, done } = (await this.lines.next()) as IteratorResult<string>;
    if (done) throw new Error("it has ended");
    return value as string;
  }

  async end(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const ended = new Promise((resolve) => this.child.once("exit", resolve));
    this.child.kill("SIGKILL");
    await ended;
  }
}

async function serving(server: Server, said: string, body: () => Promise<void>): Promise<void> {
  try {
    assert.equal(await server.line(), said);
    await body();
  } finally {
    await server.end();
  }
}

test("the stock is kept for every shop, newest first, and who asks is logged", { skip: missing }, () =>
  within(async (mesh) => {
    const node = await mesh.node("a");
    const server = new Server(node, "product_stock");
    await serving(server, "registered as product_stock", async () => {
      assert.equal(await run(node, "product_stock", "status", "product_stock"), "[]");
      assert.match(await server.line(), /^<a@.*> checked the stock$/);
      assert.equal(await run(node, "product_stock", "add", "product_stock", "nike", "30"), '[{"name":"nike","qty":30}]');
      assert.match(await server.line(), /^<a@.*> added a new item on stock$/);
      const both = '[{"name":"adidas","qty":35},{"name":"nike","qty":30}]';
      assert.equal(await run(node, "product_stock", "add", "product_stock", "adidas", "35"), both);
      assert.equal(await run(node, "product_stock", "status", "product_stock"), both);
    });
  }),
);

test("a shop answers a hundred customers side by side without mixing them, and survives the death of the stock", { skip: missing }, () =>
  within(async (mesh) => {
    const [a, b] = [await mesh.node("server", "--strategy", "local"), await mesh.node("shop", "--strategy", "local")];
    const client = await mesh.client(b);
    await client.waitFor({ count: 1 });
    const stock = new Server(a, "product_stock", "server");
    await serving(stock, "registered as server", async () => {
      for (let i = 0; i < 50; i++) await client.call("server@server", ["add", { name: `shoe ${i}`, qty: i }]);
      const pos = new Server(b, "pos", "server@server");
      await serving(pos, "registered as pos", async () => {
        const customers = await Promise.all(Array.from({ length: 100 }, () => client.spawn()));
        await Promise.all(customers.map((customer, i) => customer.send("pos", ["ask", customer.pid, `shoe ${i}`])));
        for (const [i, customer] of customers.entries()) {
          const { body } = (await customer.receive({ match: "message" })) as { body: unknown };
          assert.deepEqual(body, ["print", i < 50 ? { name: `shoe ${i}`, qty: i } : `There is no Product shoe ${i}`]);
        }
        assert.equal(await run(b, "pos", "ask", "pos", "shoe 7"), '{"name":"shoe 7","qty":7}');
        assert.equal(await run(b, "pos", "ask", "pos", "boot"), "There is no Product boot");
        await stock.end();
        await a.kill("SIGKILL");
        assert.equal(await run(b, "pos", "ask", "pos", "shoe 7"), "The stock does not answer: noconnection");
      });
    });
  }),
);

test("the bot tells the date, again and again, and says what it does not know", { skip: missing }, () =>
  within(async (mesh) => {
    const node = await mesh.node("a");
    await serving(new Server(node, "bot"), "registered as bot", async () => {
      assert.equal(await run(node, "bot", "help", "bot"), "You can ask me what today's date is by passing date_today");
      const before = new Date().toISOString().slice(0, 10);
      const said = await run(node, "bot", "date", "bot");
      assert.ok([before, new Date().toISOString().slice(0, 10)].includes(said.replace("Today's date is ", "")), said);
      const client = await mesh.client(node);
      await client.send("bot", ["what", client.pid]);
      assert.equal(((await client.receive({ match: "message" })) as { body: unknown }).body, "Unknown message type");
    });
  }),
);

test("the store gives what was set until it is deleted", { skip: missing }, () =>
  within(async (mesh) => {
    const node = await mesh.node("a");
    await serving(new Server(node, "key_value_store"), "registered as primary_store", async () => {
      assert.equal(await run(node, "key_value_store", "get", "primary_store", "foo"), "null");
      await run(node, "key_value_store", "set", "primary_store", "foo", "bar");
      assert.equal(await run(node, "key_value_store", "get", "primary_store", "foo"), "bar");
      await run(node, "key_value_store", "delete", "primary_store", "foo");
      assert.equal(await run(node, "key_value_store", "get", "primary_store", "foo"), "null");
      await assert.rejects(run(node, "key_value_store", "get", "primary_key_value_store", "foo"), /no process here is registered/);
    });
  }),
);
