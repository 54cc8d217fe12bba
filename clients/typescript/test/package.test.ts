import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

const root = join(__dirname, "../..");
const quiet = { cwd: root, encoding: "utf8" as const };

test("what is published is the client and nothing else, and installs without a script or another package", () => {
  const [packed] = JSON.parse(execFileSync("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], quiet)) as [
    { files: { path: string }[]; unpackedSize: number; bundled: string[] },
  ];
  const files = packed.files.map(({ path }) => path);
  const others = files.filter((path) => !/^dist\/src\/\w+\.(js|mjs|d\.ts|d\.mts)$/.test(path) && !/^dist\/src\/cborg\/[\w/-]+\.js$/.test(path));
  assert.deepEqual(others.sort(), ["LICENSE", "README.md", "dist/src/cborg/LICENSE", "package.json"]);
  for (const needed of ["index.js", "index.mjs", "index.d.ts", "index.d.mts"]) assert.ok(files.includes(`dist/src/${needed}`), needed);
  assert.ok(packed.unpackedSize < 400_000, `${packed.unpackedSize} bytes`);
  const described = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as Record<string, Record<string, string>>;
  assert.equal(described["dependencies"], undefined);
  assert.equal(described["optionalDependencies"], undefined);
  for (const script of ["install", "preinstall", "postinstall"]) assert.equal(described["scripts"]![script], undefined);
});

test("the package works by itself, imported and required, with nothing beside it", () => {
  const directory = mkdtempSync(join(tmpdir(), "pillion-ts-pack-"));
  try {
    const [packed] = JSON.parse(execFileSync("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", directory], quiet)) as [{ filename: string }];
    mkdirSync(join(directory, "node_modules/pillion"), { recursive: true });
    execFileSync("tar", ["-xzf", join(directory, packed.filename), "-C", join(directory, "node_modules/pillion"), "--strip-components=1"]);
    const use = "console.log(JSON.stringify(decode(encode({ a: [1.5, { b: null }], of: 'it' }))));";
    writeFileSync(join(directory, "a.mjs"), `import { decode, encode } from "pillion";\n${use}`);
    writeFileSync(join(directory, "b.cjs"), `const { decode, encode } = require("pillion");\n${use}`);
    for (const file of ["a.mjs", "b.cjs"]) {
      const printed = execFileSync(process.execPath, [file], { cwd: directory, encoding: "utf8" });
      assert.equal(printed, '{"a":[1.5,{"b":null}],"of":"it"}\n', file);
    }
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});

test("no lockfile names a registry's host", () => {
  for (const path of ["package-lock.json", "test/bench/others/package-lock.json"]) {
    assert.doesNotMatch(readFileSync(join(root, path), "utf8"), /https?:\/\/[^"]*(registry|npm\.)/, path);
  }
});

test("import and require give the same, with types for both under node16 resolution", async () => {
  const required = require("pillion") as Record<string, unknown>;
  const imported = (await import("pillion")) as Record<string, unknown>;
  const names = (module: Record<string, unknown>) => Object.keys(module).filter((name) => !["default", "module.exports", "__esModule"].includes(name)).sort();
  assert.deepEqual(names(imported), names(required));
  for (const name of names(required)) assert.equal(imported[name], required[name], name);

  const directory = mkdtempSync(join(tmpdir(), "pillion-ts-types-"));
  try {
    mkdirSync(join(directory, "node_modules"));
    symlinkSync(root, join(directory, "node_modules/pillion"));
    symlinkSync(join(root, "node_modules/@types"), join(directory, "node_modules/@types"));
    const use = `
      const app: Client = await connect({ name: "shop", on: { report: ({ resumed }) => void (resumed satisfies boolean) } });
      const sum: number = await app.rpc<number>("any", "stock", "add", [1, 2]);
      for await (const { topic, body } of await app.subscribe("shop.*")) console.log(topic, body, sum);
      const event: Event = await app.receive({ match: "down" });
      if (event.ev === "down") event.reason satisfies string;
      // @ts-expect-error: with a timeout there may be none
      const never: Event = await app.receive({ timeout: 5 });
      await app.serve("stock", { add(a: number, b: number) { return this.signal.aborted ? 0 : a + b; } });
      const error = new TimeoutError("timeout", "late");
      error.maybeApplied satisfies boolean;
      console.log(never);
    `;
    writeFileSync(join(directory, "a.mts"), `import { connect, TimeoutError, type Client, type Event } from "pillion";\n${use}`);
    writeFileSync(join(directory, "b.cts"), `import { connect, TimeoutError, type Client, type Event } from "pillion";\nasync function main() {${use}}\nvoid main();`);
    for (const resolution of ["node16", "nodenext"]) {
      const config = {
        compilerOptions: { module: resolution, target: "es2022", lib: ["es2022"], strict: true, noEmit: true, types: ["node"], skipLibCheck: false },
        files: ["a.mts", "b.cts"],
      };
      writeFileSync(join(directory, "tsconfig.json"), JSON.stringify(config));
      execFileSync(join(root, "node_modules/.bin/tsc"), ["-p", directory], quiet);
    }
  } catch (error) {
    assert.fail((error as { stdout?: string }).stdout || String(error));
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});
