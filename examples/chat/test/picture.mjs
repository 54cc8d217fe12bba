/** Takes the picture of the docs: two people on two nodes, one who likes it light and one who likes it dark. `picture.mjs FILE [narrow]` */
import { writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { browse, Lab, skip, Visitor } from "./lab.mjs";

const SAY = fileURLToPath(new URL("../say.py", import.meta.url));
const [file, narrow] = process.argv.slice(2);
if (skip) {
  console.error(skip);
  process.exit(69);
}
const SIZE = narrow ? { width: 390, height: 740 } : { width: 760, height: 560 };
const lab = new Lab();
const browser = await browse();
try {
  for (const base of ["left@lab", "right@lab"]) lab.node(base);
  const [left, right] = [await lab.chat("left"), await lab.chat("right")];
  const ann = await Visitor.open(browser, left.url, { viewport: SIZE, colorScheme: "light" });
  const bo = await Visitor.open(browser, right.url, { viewport: SIZE, colorScheme: "dark" });
  await bo.node("left@lab").waitFor();
  await ann.join("ann");
  await bo.join("bo");
  const again = await Visitor.open(browser, right.url, {});
  await again.join("bo");
  await ann.say("Lunch at noon, in the garden?");
  await bo.said("Lunch at noon, in the garden?").waitFor();
  await bo.say("Yes!");
  await bo.say("I am in two tabs, and still one person.");
  await ann.said("I am in two tabs, and still one person.").waitFor();
  await ann.page.getByRole("button", { name: "Pin what ann said" }).first().click();
  await lab.run("python3", [SAY, "py"], "left", "Python is here, too.\n");
  const third = lab.node("third@lab");
  await bo.node("third@lab").waitFor();
  await third.end("SIGKILL");
  await ann.happened("third@lab is gone").waitFor();
  await ann.say("One node less. Nobody waits for it.");
  await bo.said("One node less. Nobody waits for it.").waitFor();
  await Promise.all([ann, bo].map(({ page }) => page.mouse.move(0, 0)));
  const [light, dark] = await Promise.all([ann, bo].map(({ page }) => page.screenshot({ animations: "disabled" })));
  // Both beside each other, in one picture.
  const page = await browser.newPage({ viewport: { width: 2 * SIZE.width, height: SIZE.height } });
  const images = [light, dark].map((png) => `<img src="data:image/png;base64,${png.toString("base64")}">`);
  await page.setContent(`<body style="margin:0;display:flex">${images.join("")}</body>`);
  await writeFile(file, await page.screenshot());
} finally {
  await browser.close();
  await lab.close();
}
