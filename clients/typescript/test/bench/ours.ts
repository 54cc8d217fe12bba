/** The client as an app uses it. */
import { connect } from "pillion";
import type { Way } from "./main";

const here = () => connect({ socket: process.env["PILLION_A"], name: "bench" });
const there = () => connect({ socket: process.env["PILLION_B"], name: "bench" });

export const ours: Way = {
  async respond() {
    const client = await there();
    void (async () => {
      for await (const event of client) if (event.ev === "call") void client.reply(event, event.body);
    })();
    return client.pid;
  },
  async caller(to, size) {
    const client = await here();
    const body = Buffer.alloc(size, 1);
    return () => client.call(to, body);
  },
  async receive(_size, topic, came) {
    const client = await there();
    const events = topic ? await client.subscribe("bench.topic", { sync: true, mailbox: { policy: "wait" } }) : client;
    if (!topic) await client.flag({ mailbox: { policy: "wait" } });
    void (async () => {
      let n = 0;
      for await (const event of events) if (event.ev === "message" && (++n & 63) === 0) came(64);
    })();
    return topic ? "bench.topic" : client.pid;
  },
  async send(to, size, topic, over) {
    const client = await here();
    const body = Buffer.alloc(size, 1);
    while (!over()) {
      if (topic) for (let i = 0; i < 64; i++) await client.publish(to, body);
      else for (let i = 0; i < 64; i++) await client.send(to, body);
    }
    await client.request("self");
    await client.close();
  },
};
