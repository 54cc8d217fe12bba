/** The chat as people see it: real nodes, real chats, a real browser. */
import assert from "node:assert/strict";
import { request } from "node:http";
import { fileURLToPath } from "node:url";
import { after, before, describe, test } from "node:test";
import { browse, Lab, PATIENCE_MS, PILLION, skip, Visitor } from "./lab.mjs";

const SAY = fileURLToPath(new URL("../say.py", import.meta.url));
const options = { skip, timeout: 4 * PATIENCE_MS };

/** Two people on two nodes. What the test's body has started is ended. */
async function two(browser, body) {
  const lab = new Lab();
  try {
    const [left, right] = [lab.node("left"), lab.node("right")];
    const [leftChat, rightChat] = await Promise.all([lab.chat("left"), lab.chat("right")]);
    const [ann, bo] = await Promise.all([Visitor.open(browser, leftChat.url), Visitor.open(browser, rightChat.url)]);
    // Until the nodes have met, nobody hears the other.
    await Promise.all([ann.node(lab.name("right")).waitFor(), bo.node(lab.name("left")).waitFor()]);
    await body({ lab, left, right, leftChat, rightChat, ann, bo });
    assert.deepEqual([...ann.errors, ...bo.errors], [], "errors of the pages");
  } finally {
    await Promise.all(browser.contexts().map((context) => context.close()));
    await lab.close();
  }
}

describe("the chat", options, () => {
  let browser;
  before(async () => {
    browser = await browse();
  });
  after(() => browser?.close());

  test("two people on two nodes see each other and what each says", options, () =>
    two(browser, async ({ lab, ann, bo }) => {
      await ann.join("ann");
      await bo.person("ann").waitFor();
      await bo.join("bo");
      await ann.person("bo").getByText(lab.name("right")).waitFor();
      await ann.say("hello bo");
      await bo.said("hello bo").getByText("ann", { exact: true }).waitFor();
      await bo.say("hello ann");
      await ann.said("hello ann").getByText(lab.name("right")).waitFor();
    }));

  test("several tabs of one nickname are one person, who is gone with the last of them", options, () =>
    two(browser, async ({ ann, bo, leftChat }) => {
      await ann.join("ann");
      const again = new Visitor(await ann.page.context().newPage());
      await again.page.goto(leftChat.url);
      await again.join("ann");
      await bo.person("ann").getByText("2 tabs").waitFor();
      assert.equal(await bo.person("ann").count(), 1);
      await again.page.close();
      await bo.gone(bo.person("ann").getByText("2 tabs"));
      assert.equal(await bo.person("ann").count(), 1);
      await ann.page.close();
      await bo.gone(bo.person("ann"));
    }));

  test("a node that is killed is gone, and its people with it; once it is back, its page goes on", options, () =>
    two(browser, async ({ lab, right, ann, bo }) => {
      await ann.join("ann");
      await bo.join("bo");
      await ann.person("bo").waitFor();
      await right.end("SIGKILL");
      await ann.gone(ann.node(lab.name("right")));
      await ann.gone(ann.person("bo"));
      await ann.happened(`${lab.name("right")} is gone`).waitFor();
      await bo.link(`${lab.name("right")} does not answer`);
      await bo.page.getByPlaceholder("Say something").fill("is anybody there?");
      await bo.page.keyboard.press("Enter");
      await bo.page.getByRole("alert").getByText("The node does not answer; try again").waitFor();
      lab.node("right");
      await bo.link(`Connected to ${lab.name("right")}`);
      await bo.happened("was restarted").waitFor();
      await ann.happened(`${lab.name("right")} has come`).waitFor();
      await ann.person("bo").waitFor();
      await bo.person("ann").waitFor();
      // What could not be sent is still there to be sent.
      await bo.page.getByRole("button", { name: "Send" }).click();
      await ann.said("is anybody there?").waitFor();
      await ann.say("welcome back");
      await bo.said("welcome back").waitFor();
    }));

  test("a node that leaves says so first, and its page waits for a node", options, () =>
    two(browser, async ({ lab, right, ann, bo }) => {
      await bo.join("bo");
      await ann.person("bo").waitFor();
      await right.end("SIGTERM");
      await bo.happened("is about to leave").waitFor();
      await ann.gone(ann.person("bo"));
      await ann.happened(`${lab.name("right")} is gone`).waitFor();
      await bo.link("has left");
      lab.node("right");
      await bo.link("Connected");
      await ann.person("bo").waitFor();
      await bo.node(lab.name("left")).waitFor();
      await bo.say("I am back");
      await ann.said("I am back").waitFor();
      await ann.join("ann");
      await ann.say("so am I");
      await bo.said("so am I").waitFor();
    }));

  test("markup in messages and nicknames is text", options, () =>
    two(browser, async ({ ann, bo }) => {
      const markup = "<img src=x onerror=document.title='owned'><b>bold</b>";
      await ann.join("<i>ann</i>");
      await bo.person("<i>ann</i>").waitFor();
      await bo.join("bo");
      await ann.person("bo").waitFor();
      await ann.say(markup);
      await bo.said(markup).waitFor();
      assert.equal(await bo.page.locator("#log b, #log i, #log img, #people i").count(), 0);
      assert.equal(await bo.page.title(), "chat.lobby");
    }));

  test("programs in other languages are in the room too", options, () =>
    two(browser, async ({ lab, ann, bo }) => {
      await ann.join("ann");
      // Now that node knows who listens at the other.
      await bo.person("ann").waitFor();
      await lab.run("python3", [SAY, "py"], "right", "hello from Python\n");
      await ann.said("hello from Python").getByText("py", { exact: true }).waitFor();
      await lab.run(PILLION, ["pub", "chat.lobby", '{"nick":"sh","text":"hello from a shell"}'], "left");
      await ann.said("hello from a shell").waitFor();
      await lab.run(PILLION, ["pub", "chat.lobby", "[1,2]"], "left");
      await ann.said("[1,2]").getByText("somebody").waitFor();
    }));

  test("what is pinned is seen by who comes later, on every node", options, () =>
    two(browser, async ({ lab, ann, bo }) => {
      await ann.join("ann");
      await bo.join("bo");
      await ann.person("bo").waitFor();
      await ann.say("lunch at noon");
      await ann.page.getByRole("button", { name: "Pin what ann said" }).click();
      await bo.page.locator("#pinned").getByText("ann: lunch at noon").waitFor();
      const third = await lab.chat("right");
      const cid = await Visitor.open(browser, third.url);
      await cid.page.locator("#pinned").getByText("ann: lunch at noon").waitFor();
      await cid.join("cid");
      await cid.page.getByRole("button", { name: "Unpin" }).click();
      await ann.page.locator("#pinned").waitFor({ state: "hidden" });
    }));

  test("messages that were lost are told where they would have been", options, async () => {
    const lab = new Lab();
    try {
      lab.node("small", "--mailbox-entries", "300");
      const chat = await lab.chat("small");
      const ann = await Visitor.open(browser, chat.url);
      await ann.join("ann");
      // The chat reads no more: its window and its mailbox fill up.
      chat.child.kill("SIGSTOP");
      const lines = Array.from({ length: 2000 }, (_, i) => `"${i}"\n`).join("");
      await lab.run(PILLION, ["pub", "chat.lobby", "--mode", "lossy"], "small", lines);
      chat.child.kill("SIGCONT");
      await ann.happened(/^.*\d+ messages were lost here: they came faster than they were read\.$/).waitFor();
      await ann.say("and on it goes");
    } finally {
      await lab.close();
    }
  });

  test("whoever asks from another site, or by another name, is refused", options, () =>
    two(browser, async ({ leftChat, ann }) => {
      await ann.join("ann");
      const { host, port } = new URL(leftChat.url);
      const status = (path, headers, method = "GET") =>
        new Promise((resolve, reject) => {
          const asked = request({ host: "127.0.0.1", port, path, method, headers: { host, ...headers } }, (answer) => {
            answer.destroy();
            resolve(answer.statusCode);
          });
          asked.on("error", reject).end(method === "POST" ? "{}" : undefined);
        });
      const type = { "content-type": "application/json" };
      assert.equal(await status("/", {}), 200);
      assert.equal(await status("/events", {}), 200);
      assert.equal(await status("/", { host: `evil.example:${port}` }), 421);
      assert.equal(await status("/events", { host: `evil.example:${port}` }), 421);
      assert.equal(await status("/events", { origin: "http://evil.example" }), 403);
      assert.equal(await status("/events", { "sec-fetch-site": "cross-site" }), 403);
      assert.equal(await status("/say", { ...type, origin: "null" }, "POST"), 403);
      assert.equal(await status("/say", type, "POST"), 409);
      assert.equal(await status("/say", {}, "POST"), 415);
      assert.equal(await status(`/events?nick=${"x".repeat(33)}`, {}), 400);
      assert.equal(await status("/chat.mjs", {}), 404);
    }));
});
