import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:net";
import os, { tmpdir } from "node:os";
import { join } from "node:path";
import { mock, test } from "node:test";
import { connect } from "pillion";
import { find, place } from "../src/find";

test("the socket is the one that is named, else the only one that answers, never an operators' one", async () => {
  const directory = mkdtempSync(join(tmpdir(), "pillion-ts-find-"));
  const servers: Server[] = [];
  const listen = async (path: string) => {
    mkdirSync(join(directory, "mesh"), { recursive: true });
    const server = createServer((socket) => socket.resume());
    servers.push(server);
    await new Promise<void>((resolve) => server.listen(join(directory, "mesh", path), resolve));
  };
  const env = { PILLION_DIR: directory };
  try {
    assert.equal(place("/named", { PILLION_SOCKET: "/other" }).named, "/named");
    assert.equal(await find(place(undefined, { PILLION_SOCKET: "/other", PILLION_DIR: directory })), "/other");
    await assert.rejects(find(place(undefined, env)), { code: "unreachable", message: /no node answers below .*pillion up/ });
    await listen("a.operator.sock");
    await assert.rejects(find(place(undefined, env)), { code: "unreachable" });
    await listen("a.sock");
    assert.equal(await find(place(undefined, env)), join(directory, "mesh/a.sock"));
    await listen("b.sock");
    await assert.rejects(find(place(undefined, env)), { name: "UnreachableError", message: /a\.sock, .*b\.sock.*PILLION_SOCKET/ });
  } finally {
    for (const server of servers) server.close();
    rmSync(directory, { recursive: true, force: true });
  }
});

test("a user without a name has nodes too, as in many containers", () => {
  const nameless = mock.method(os, "userInfo", () => {
    throw new Error("no such user");
  });
  try {
    assert.equal(place(undefined, {}).directory, `/tmp/pillion-${process.geteuid!()}`);
  } finally {
    nameless.mock.restore();
  }
});

test("connecting can be given up, also while a node does not answer", async () => {
  const silent = join(tmpdir(), `pillion-ts-silent-${process.pid}.sock`);
  const accepted = new AbortController();
  const server = createServer((socket) => {
    socket.resume();
    socket.once("data", () => accepted.abort(new Error("no answer")));
  });
  await new Promise<void>((resolve) => server.listen(silent, resolve));
  await assert.rejects(connect({ socket: silent, timeout: 60_000, signal: accepted.signal }), { message: "no answer" });
  server.close();
  const controller = new AbortController();
  const connecting = connect({ socket: join(tmpdir(), "pillion-ts-nobody.sock"), timeout: 60_000, signal: controller.signal });
  controller.abort(new Error("enough"));
  await assert.rejects(connecting, { message: "enough" });
});
