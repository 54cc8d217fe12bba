/** Real nodes, chats beside them, and a browser. Ends only what it has started. */
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { accessSync, constants, mkdtempSync, rmSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const HERE = dirname(fileURLToPath(import.meta.url));
/** How long anything is waited for, in ms: much, for machines that are busy. */
export const PATIENCE_MS = 60_000;

function isProgram(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** The daemon: `PILLION_BIN`, else the one that was built up the tree, else the one on the `PATH`. */
export const PILLION = process.env.PILLION_BIN ?? [...above(HERE), ...(process.env.PATH ?? "").split(delimiter)].map((at) => join(at, "pillion")).find(isProgram);
/** The browser. */
export const CHROMIUM = [process.env.CHROMIUM ?? "/usr/bin/chromium"].find(isProgram);

function above(path) {
  return dirname(path) === path ? [] : [join(path, "target/debug"), ...above(dirname(path))];
}

/** For `test(..., { skip })`: what is missing. */
export const skip =
  (PILLION === undefined && "no daemon: set PILLION_BIN, or build it with cargo") || (CHROMIUM === undefined && "no browser: install chromium, or set CHROMIUM") || false;

/** A fresh browser without a window, that speaks to nobody by itself. */
export function browse() {
  const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
  return chromium.launch({ executablePath: CHROMIUM, headless: true, chromiumSandbox: false, args });
}

/** A program of the lab. */
class Program {
  constructor(child) {
    this.child = child;
    this.ended = new Promise((resolve) => child.once("close", resolve));
    child.once("error", () => {});
  }

  /** Ends it, and waits for its end. */
  async end(signal = "SIGTERM") {
    if (this.child.exitCode === null && this.child.signalCode === null) this.child.kill(signal);
    await this.ended;
  }
}

/** Nodes of one mesh that is nobody else's, and chats beside them. */
export class Lab {
  directory = mkdtempSync(join(tmpdir(), "pillion-chat-"));
  mesh = `chat${randomBytes(6).toString("hex")}`;
  programs = [];

  #start(command, args, stdio = ["ignore", "pipe", "inherit"]) {
    const env = { PATH: process.env.PATH, HOME: this.directory, PILLION_DIR: this.directory };
    const program = new Program(spawn(command, args, { env, stdio }));
    this.programs.push(program);
    return program;
  }

  socket(base) {
    return join(this.directory, this.mesh, `${base}.sock`);
  }

  /** The full name of a node of this machine. */
  name(base) {
    return base.includes("@") ? base : `${base}@${hostname().split(".")[0].toLowerCase()}`;
  }

  /** Starts a node. Others of the lab find it. */
  node(base, ...options) {
    const where = ["--mesh", this.mesh, "--listen", "127.0.0.1:0", "--strategy", "local", "--log-level", "error"];
    return this.#start(PILLION, ["up", "--name", base, ...where, ...options]);
  }

  /** Starts a chat beside a node. Gives it with the `url` of its page, once it is served. */
  async chat(base) {
    const chat = this.#start(process.execPath, [join(HERE, "../chat.mjs"), "--socket", this.socket(base)]);
    for await (const line of createInterface(chat.child.stdout)) {
      chat.url = /http:\S+/.exec(line)?.[0];
      if (chat.url !== undefined) return chat;
    }
    throw new Error("the chat has ended");
  }

  /** Runs a command of `pillion`, with `input` if there is some. Done once it has ended well. */
  async run(command, args, base, input = "") {
    const env = { ...process.env, PILLION_SOCKET: this.socket(base) };
    const child = spawn(command, args, { env, stdio: ["pipe", "ignore", "inherit"] });
    child.stdin.on("error", () => {});
    child.stdin.end(input);
    const status = await new Promise((resolve, reject) => child.once("close", resolve).once("error", reject));
    if (status !== 0) throw new Error(`${command} ${args.join(" ")} has ended with ${status}`);
  }

  /** Ends all that runs. */
  async close() {
    await Promise.all(this.programs.map((program) => program.end("SIGKILL")));
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** What a person does with a page, and looks for on it. */
export class Visitor {
  /** A new window on this page: `person`s of different windows share nothing. */
  static async open(browser, url, options = {}) {
    const context = await browser.newContext(options);
    context.setDefaultTimeout(PATIENCE_MS);
    const visitor = new Visitor(await context.newPage());
    await visitor.page.goto(url);
    return visitor;
  }

  constructor(page) {
    this.page = page;
    this.errors = [];
    page.on("pageerror", (error) => this.errors.push(error.message));
  }

  async join(nick) {
    await this.page.getByLabel("Your nickname").fill(nick);
    await this.page.getByRole("button", { name: "Join" }).click();
    await this.person(nick).waitFor();
  }

  async say(text) {
    await this.page.getByPlaceholder("Say something").fill(text);
    await this.page.keyboard.press("Enter");
    await this.said(text).first().waitFor();
  }

  /** Messages of exactly this text. */
  said(text) {
    return this.page.locator("#log .said").filter({ has: this.page.getByText(text, { exact: true }) });
  }

  /** What happened, with these words in it. */
  happened(words) {
    return this.page.locator("#log .happened", { hasText: words }).first();
  }

  person(nick) {
    return this.page.locator("#people .person").filter({ has: this.page.getByText(nick, { exact: true }) });
  }

  node(name) {
    return this.page.locator("#nodes .node").filter({ has: this.page.getByText(name, { exact: true }) });
  }

  /** Done once it is not there any more. */
  gone(locator) {
    return locator.waitFor({ state: "detached" });
  }

  /** Done once the page says this of its connection. */
  link(words) {
    return this.page.locator("#link", { hasText: words }).waitFor();
  }
}
