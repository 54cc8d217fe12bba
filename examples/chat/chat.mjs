#!/usr/bin/env node
/**
 * A chat in the browser, beside a Pillion node: who is there, on which node, and what is said, live.
 *
 * Each browser tab is a process of the mesh with a pid. It is present under the room's topic with its nickname as the key, and
 * what it says is published to that topic. Whatever else publishes there, in any language, is in the room too.
 */
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { randomBytes } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { parseArgs } from "node:util";
import { connect } from "pillion";

const USAGE = `A chat in the browser, beside a Pillion node.

Usage: node chat.mjs [--socket PATH] [--topic TOPIC] [--port PORT]

  --socket PATH  the node's socket [default: PILLION_SOCKET, else the only one that answers]
  --topic TOPIC  the room: its topic, without wildcards [default: chat.lobby]
  --port PORT    the port of loopback for the page [default: one that is free]`;

/** Entries of the log that are kept for pages that are opened later, and that a page shows. */
const LOG_MAX = 200;
/** People that are told to a page. */
const PEOPLE_MAX = 500;
/** Tabs that are open at a time. */
const TABS_MAX = 200;
/** Characters of a nickname, of what is said, and bytes of a request. */
const NICK_MAX = 32;
const TEXT_MAX = 2000;
const REQUEST_MAX = 16 * 1024;
/** Bytes that a page has not read yet; beyond them its stream is closed. It connects again and is told what there is. */
const UNREAD_MAX = 1024 * 1024;
/** How often the node is asked for its nodes while a page is open, and how long its answer is waited for, in ms. */
const LOOK_MS = 1000;
const ANSWER_MS = 2000;

// ===== the room =====

/** The node's name in a pid: `<name@host.incarnation.serial>`. */
function nodeOf(pid) {
  return /^<(.+)\.[0-9a-f]+\.[0-9]+>$/.exec(pid)?.[1] ?? "?";
}

/** What a message says, whoever wrote it: `{nick, text}`, a text alone, or anything. */
function saidIn(event) {
  const { body, ct } = event;
  const isMap = typeof body === "object" && body !== null && ct === undefined;
  const nick = isMap && typeof body.nick === "string" && body.nick !== "" ? body.nick : null;
  let text = isMap && typeof body.text === "string" ? body.text : body;
  if (text instanceof Uint8Array) text = `${text.length} bytes${ct ? ` of ${ct}` : ""}`;
  if (typeof text !== "string") text = JSON.stringify(text, (_, value) => (typeof value === "bigint" ? String(value) : value)) ?? "";
  return { nick: nick && cut(nick, NICK_MAX), text: cut(text, TEXT_MAX), node: nodeOf(event.from), pid: event.from };
}

/** The beginning of a text, in whole characters. */
function cut(text, most) {
  if (text.length <= most) return text;
  const characters = [...text.slice(0, most * 2)];
  return characters.length <= most ? characters.join("") : `${characters.slice(0, most - 1).join("")}…`;
}

/** What is known of a room, kept up to date, and told to whoever watches. */
class Room {
  /** What was said and what happened, the last of it. */
  log = [];
  /** Who is present: one for each process and key. */
  people = new Map();
  /** The names of the nodes that are connected, this one first. */
  nodes = [];
  /** What was pinned: the retained value of `TOPIC.pinned`. */
  pinned = null;
  /** Whether the node is there: `up`, `down`, `leaving` (about to), `left`. */
  link = "up";
  watchers = new Set();
  #fresh = [];
  #due = new Set();
  #entries = 0;
  #looking;
  #telling;
  #watch;

  constructor(topic) {
    this.topic = topic;
  }

  /** Connects to the node, and begins to listen. */
  async open(socket) {
    const on = {
      report: (report) => this.#onReport(report),
      failed: (failed) => console.error(`${failed.op} failed: ${failed.message}`),
      draining: () => {
        this.#become("leaving");
        this.note(`${this.client.node} is about to leave.`);
        void this.client.drain();
      },
      drained: () => this.#become("left"),
    };
    this.client = await connect({ socket, name: "chat", on });
    void this.#keep((onGap) => this.client.subscribe(this.topic, { onGap }), (event) => this.#say(saidIn(event)), (gap) => {
      if (gap.lost > 0) this.note(`${count(gap.lost, "message was", "messages were")} lost here: ${why(gap)}.`, "warning");
    });
    void this.#keep((onGap) => this.client.subscribe(`${this.topic}.pinned`, { onGap }), (event) => {
      this.pinned = event.body === null || event.body === undefined ? null : saidIn(event);
      this.#tell("pinned");
    });
    void this.#keep((onGap) => this.client.monitorNodes({ onGap }), (event) => {
      if (event.hidden) return;
      this.note(event.ev === "nodeup" ? `${event.node} has come.` : `${event.node} is gone: ${event.reason}.`);
      void this.#look();
    });
    void this.#keepPeople();
    await this.#look();
  }

  /** Says goodbye. */
  async close() {
    this.closed = true;
    clearTimeout(this.#looking);
    await this.client.close();
  }

  /** A feed, and a new one when it has ended: after the client was drained. */
  async #keep(open, take, onGap = () => {}, begin = () => {}) {
    while (!this.closed) {
      try {
        const feed = await open((gap) => onGap(gap, feed));
        begin(feed);
        for await (const event of feed) take(event);
      } catch (error) {
        // While there is no node that is `lost`, or `closed`; the page says so by what `look` finds.
        if (error.code !== "lost" && error.code !== "closed") console.error(error.message);
      }
      await delay(100);
    }
  }

  #keepPeople() {
    const clear = () => {
      this.people.clear();
      this.#tell("people");
    };
    const take = (event) => {
      for (const { pid, key } of event.leaves ?? []) this.people.delete(`${pid} ${key}`);
      for (const { pid, key, metadata } of event.joins ?? []) {
        const via = typeof metadata?.via === "string" ? cut(metadata.via, NICK_MAX) : undefined;
        this.people.set(`${pid} ${key}`, { nick: cut(key, NICK_MAX), pid, node: nodeOf(pid), via });
      }
      this.#tell("people");
    };
    const onGap = (gap, feed) => {
      // After a restart the watch is declared again, and tells all who are there. Else that is asked for anew.
      clear();
      if (gap.reason !== "restarted") void feed.close().catch(() => {});
    };
    return this.#keep((gap) => this.client.watchPresence(this.topic, { onGap: gap }), take, onGap, (feed) => {
      this.#watch = feed;
      clear();
    });
  }

  /** The connection was lost and is back. */
  #onReport({ resumed, lostEvents, lostCommands, unsureCommands }) {
    const { node } = this.client;
    const lost = lostEvents + lostCommands;
    if (!resumed) {
      const unsure = unsureCommands > 0 ? ` Of ${count(unsureCommands, "message", "messages")} from here nobody knows whether they went out.` : "";
      this.note(`${node} was restarted, and this page is connected again. What was said meanwhile is not shown.${unsure}`, "warning");
    } else if (lost > 0) {
      this.note(`The connection to ${node} was lost and is back: ${count(lost, "message was", "messages were")} lost.`, "warning");
    } else {
      this.note(`The connection to ${node} was lost and is back. Nothing is missing.`);
    }
    // Who came or went may be among what was lost: ask anew.
    if (resumed && lostEvents > 0) void this.#watch?.close().catch(() => {});
    void this.#look();
  }

  /** Asks the node for its nodes: of one that is about to leave there is no event. That it does not answer is news, too. */
  async #look() {
    clearTimeout(this.#looking);
    try {
      const signal = AbortSignal.timeout(ANSWER_MS);
      const nodes = await this.client.request("nodes", { state: ["self", "visible"] }, undefined, { signal });
      const told = nodes.map(({ node, state, draining }) => ({ node, here: state === "self", leaving: draining === true }));
      told.sort((a, b) => b.here - a.here || (a.node < b.node ? -1 : 1));
      if (JSON.stringify(told) !== JSON.stringify(this.nodes)) {
        this.nodes = told;
        this.#tell("nodes");
      }
      if (this.link === "left") this.note(`This page is connected to ${this.client.node} again. What was said meanwhile is not shown.`, "warning");
      if (this.link !== "leaving") this.#become("up");
    } catch {
      if (this.link === "up") this.#become("down");
    }
    clearTimeout(this.#looking);
    if (this.watchers.size > 0 && !this.closed) this.#looking = setTimeout(() => void this.#look(), LOOK_MS);
  }

  #become(link) {
    if (this.link === link) return;
    this.link = link;
    this.#tell("link");
  }

  // ===== what is told =====

  /** Something that happened, in plain words. */
  note(text, kind = "note") {
    this.#say({ kind, text });
  }

  #say(entry) {
    const whole = { id: ++this.#entries, at: Date.now(), ...entry };
    for (const list of [this.log, this.#fresh]) {
      list.push(whole);
      if (list.length > LOG_MAX) list.shift();
    }
    this.#tell("log");
  }

  /** Tells watchers soon: what changes often is told once, and of a flood the end. */
  #tell(what) {
    this.#due.add(what);
    this.#telling ??= setTimeout(() => {
      const due = [...this.#due];
      this.#due.clear();
      this.#telling = undefined;
      const told = this.#all();
      told.log = this.#fresh;
      this.#fresh = [];
      for (const each of due) for (const watcher of this.watchers) watcher(each, told[each]);
    }, 20);
  }

  /** All that a page shows. */
  #all() {
    const people = [...this.people.values()];
    return {
      topic: this.topic,
      log: this.log,
      people: { count: new Set(people.map(({ nick }) => nick)).size, list: people.slice(0, PEOPLE_MAX) },
      nodes: this.nodes,
      pinned: this.pinned,
      link: { is: this.link, node: this.client.node },
    };
  }

  /** Tells all there is, and what happens from now on. Gives what ends it. */
  watch(watcher) {
    watcher("all", this.#all());
    this.watchers.add(watcher);
    void this.#look();
    return () => this.watchers.delete(watcher);
  }
}

function count(number, one, many) {
  return `${number} ${number === 1 ? one : many}`;
}

function why({ reason }) {
  return reason === "overflow" ? "they came faster than they were read" : reason;
}

// ===== tabs =====

/** One open page. With a nickname it is a process of the mesh, present in the room. */
class Tab {
  /** Who knows it speaks as this tab. */
  secret = randomBytes(16).toString("hex");

  constructor(room, response, nick) {
    Object.assign(this, { room, response, nick });
    response.writeHead(200, { ...HEADERS, "Content-Type": "text/event-stream" });
    this.unwatch = room.watch((event, data) => this.tell(event, data));
    response.on("close", () => this.close());
  }

  tell(event, data) {
    if (this.response.writableLength > UNREAD_MAX) this.response.destroy();
    else this.response.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
  }

  /** Becomes present. While there is no node it waits for one. */
  async join() {
    const { client, topic } = this.room;
    while (!this.closed) {
      try {
        this.process ??= await client.spawn({ label: `chat tab of ${this.nick}` });
        await this.process.track(topic, this.nick, { via: "browser" });
        break;
      } catch (error) {
        if (error.code === "lost") continue;
        this.tell("refused", `${this.nick} cannot join: ${error.message}`);
        return;
      }
    }
    // The page may be gone by now.
    if (this.closed) this.process?.exit().catch(() => {});
    else this.tell("joined", { nick: this.nick, secret: this.secret });
  }

  close() {
    this.closed = true;
    this.unwatch();
    this.process?.exit().catch(() => {});
  }
}

// ===== the page =====

const FILES = {
  "/": ["index.html", "text/html; charset=utf-8"],
  "/page.css": ["page.css", "text/css; charset=utf-8"],
  "/page.js": ["page.js", "text/javascript; charset=utf-8"],
  "/icon.svg": ["icon.svg", "image/svg+xml"],
};

/** Nothing runs or is loaded but what is served here, and nobody frames it. */
const HEADERS = {
  "Content-Security-Policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Cache-Control": "no-store",
};

/** What is wrong with a request, with its HTTP status. */
class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Serves the page on loopback. Gives its port. */
async function serve(room, port) {
  const tabs = new Map();
  const server = createServer({ requestTimeout: 10_000 }, (request, response) => {
    answer(room, tabs, request, response).catch((error) => {
      const status = error instanceof Refused ? error.status : 503;
      if (response.headersSent) response.destroy();
      else response.writeHead(status, { ...HEADERS, "Content-Type": "application/json" }).end(JSON.stringify({ error: error.message }));
    });
  });
  await new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", resolve);
  });
  const close = () => {
    for (const { response } of tabs.values()) response.end();
    server.close();
  };
  return { port: server.address().port, close };
}

async function answer(room, tabs, request, response) {
  const { method, headers } = request;
  const { port } = request.socket.address();
  // A name that somebody makes point here is not ours.
  if (headers.host !== `127.0.0.1:${port}` && headers.host !== `localhost:${port}`) throw new Refused(421, "this host is not served here");
  const { pathname, searchParams } = new URL(request.url, `http://${headers.host}`);
  if (method === "GET" && Object.hasOwn(FILES, pathname)) {
    const [name, type] = FILES[pathname];
    const file = await readFile(new URL(`page/${name}`, import.meta.url));
    response.writeHead(200, { ...HEADERS, "Content-Type": type }).end(file);
    return;
  }
  // Another site's page may make the browser ask; then the browser says so.
  const site = headers["sec-fetch-site"];
  const isForeign = (headers.origin !== undefined && headers.origin !== `http://${headers.host}`) || (site !== undefined && site !== "same-origin");
  if (isForeign) throw new Refused(403, "asked by another site");
  if (method === "GET" && pathname === "/events") return events(room, tabs, searchParams.get("nick"), response);
  if (method === "POST" && (pathname === "/say" || pathname === "/pin")) {
    const asked = await json(request);
    const tab = tabs.get(asked.secret);
    if (tab?.process === undefined) throw new Refused(409, "join first");
    await (pathname === "/say" ? say(room, tab, asked) : pin(room, tab, asked));
    response.writeHead(204, HEADERS).end();
    return;
  }
  throw new Refused(404, "there is no such page");
}

function events(room, tabs, given, response) {
  const nick = given?.trim().normalize();
  if (nick !== undefined && (nick === "" || [...nick].length > NICK_MAX || /[\p{Cc}\p{Cs}\p{Cn}\p{Co}]/u.test(nick))) {
    throw new Refused(400, `a nickname has 1 to ${NICK_MAX} characters`);
  }
  if (tabs.size >= TABS_MAX) throw new Refused(503, `${TABS_MAX} pages are open already`);
  const tab = new Tab(room, response, nick);
  tabs.set(tab.secret, tab);
  response.on("close", () => tabs.delete(tab.secret));
  if (nick !== undefined) void tab.join();
}

/** The body of a request: an object in JSON. */
async function json(request) {
  if (request.headers["content-type"] !== "application/json") throw new Refused(415, "the body must be JSON");
  const parts = [];
  let length = 0;
  for await (const part of request) {
    length += part.length;
    if (length > REQUEST_MAX) throw new Refused(413, "that is too long");
    parts.push(part);
  }
  try {
    return Object(JSON.parse(Buffer.concat(parts).toString()));
  } catch {
    throw new Refused(400, "the body is not JSON");
  }
}

async function say(room, tab, { text }) {
  if (typeof text !== "string" || text.trim() === "") throw new Refused(400, "say something");
  if ([...text].length > TEXT_MAX) throw new Refused(400, `at most ${TEXT_MAX} characters`);
  await publish(tab, room.topic, { nick: tab.nick, text }, false);
}

/** Pins what was said, or nothing. The node keeps it as the last value of its topic: who comes later sees it, too. */
async function pin(room, tab, { id }) {
  const said = room.log.find((entry) => entry.id === id && entry.kind === undefined);
  if (id !== null && said === undefined) throw new Refused(404, "that was said too long ago");
  await publish(tab, `${room.topic}.pinned`, said && { nick: said.nick, text: said.text }, true);
}

async function publish(tab, topic, body, retain) {
  try {
    await tab.process.publish(topic, body, { confirm: true, retain, signal: AbortSignal.timeout(2 * ANSWER_MS) });
  } catch (error) {
    // The time was over: what was still waiting for the connection then is given up, what was written before is not.
    if (error.name === "TimeoutError" && tab.room.link === "down") throw new Refused(503, "the node does not answer; try again");
    if (error.maybeApplied || error.name === "TimeoutError") throw new Refused(503, `it may or may not have gone out: ${error.message}`);
    throw new Refused(503, `it was not sent: ${error.message}`);
  }
}

// ===== the program =====

const { values } = parseArgs({
  options: {
    socket: { type: "string" },
    topic: { type: "string", default: "chat.lobby" },
    port: { type: "string", default: "0" },
    help: { type: "boolean", short: "h" },
  },
});
if (values.help) {
  console.log(USAGE);
  process.exit(0);
}
try {
  const room = new Room(values.topic);
  await room.open(values.socket);
  const page = await serve(room, Number(values.port));
  console.log(`${values.topic} at ${room.client.node}: open http://127.0.0.1:${page.port}/`);
  const stop = async () => {
    page.close();
    await room.close();
    process.exit(0);
  };
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, stop);
} catch (error) {
  console.error(`chat: ${error.message}`);
  process.exit(1);
}
