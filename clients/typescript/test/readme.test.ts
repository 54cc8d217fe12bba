import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { skip, within } from "./node";

const root = join(__dirname, "../..");

test("the program of the README prints what the README says, wherever the package is installed", { skip }, () =>
  within(async (mesh) => {
    const readme = readFileSync(join(root, "README.md"), "utf8");
    const program = /```js\n([^]*?)```/.exec(readme)![1]!;
    const output = /```text\n([^]*?)```/.exec(readme)![1]!;
    mkdirSync(join(mesh.directory, "node_modules"));
    symlinkSync(root, join(mesh.directory, "node_modules/pillion"));
    writeFileSync(join(mesh.directory, "shop.mjs"), program);
    await mesh.node("shop");
    // Found by itself: the only node below the directory.
    const env = { PATH: process.env["PATH"], PILLION_DIR: mesh.directory };
    const { stdout, stderr } = await promisify(execFile)(process.execPath, ["shop.mjs"], { cwd: mesh.directory, env });
    assert.equal(stdout, output);
    assert.equal(stderr, "");
  }),
);
