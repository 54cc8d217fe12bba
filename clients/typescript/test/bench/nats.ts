/** NATS' official client. */
import { createRequire } from "node:module";
import { join } from "node:path";
import type { Way } from "./main";

// It is installed in a place of its own, so its types are not here.
async function session(url: string | undefined): Promise<any> {
  const { connect } = createRequire(join(process.env["PILLION_BENCH_OTHERS"]!, "package.json"))("@nats-io/transport-node");
  return connect({ servers: url });
}

/** Subscriptions cross to the other server in a moment of their own. */
const settle = () => new Promise((resolve) => setTimeout(resolve, 300));

export const nats: Way = {
  async respond() {
    const nc = await session(process.env["NATS_B"]);
    nc.subscribe("bench.call", { callback: (_error: unknown, message: any) => message.respond(message.data) });
    await nc.flush();
    await settle();
    return "bench.call";
  },
  async caller(to, size) {
    const nc = await session(process.env["NATS_A"]);
    const body = Buffer.alloc(size, 1);
    return () => nc.request(to, body, { timeout: 5000 });
  },
  async receive(_size, _topic, came) {
    const nc = await session(process.env["NATS_B"]);
    const subject = `bench.${process.pid}.${performance.now().toFixed(0)}`;
    const subscription = nc.subscribe(subject);
    void (async () => {
      let n = 0;
      for await (const message of subscription) {
        void message;
        if ((++n & 63) === 0) came(64);
      }
    })();
    await nc.flush();
    await settle();
    return subject;
  },
  async send(to, size, _topic, over) {
    const nc = await session(process.env["NATS_A"]);
    const body = Buffer.alloc(size, 1);
    while (!over()) {
      // It has no back-pressure but this: what is published is behind the server's word.
      for (let i = 0; i < 512; i++) nc.publish(to, body);
      await nc.flush();
    }
    await nc.close();
  },
};
