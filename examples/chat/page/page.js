/** The page: shows what the server's events tell. Whatever anybody wrote becomes text, never markup. */

const $ = (id) => document.getElementById(id);

/** Entries that are shown; the oldest go. */
const LOG_MAX = 200;
/** Messages of one process within this time stand under one name, in ms. */
const TOGETHER_MS = 3 * 60_000;

let stream;
/** What lets this page speak, once it has joined. */
let secret;
let last;
const links = {
  up: (node) => `Connected to ${node}`,
  down: (node) => `${node} does not answer. Trying again …`,
  leaving: (node) => `${node} is about to leave`,
  left: (node) => `${node} has left. Waiting for a node …`,
};

// ===== building =====

/** An element with a class and children. A text is a text. */
function make(tag, name, ...children) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Something that somebody wrote: its direction is its own. */
function theirs(name, text) {
  return make("bdi", name, text);
}

/** The same colour for the same nickname, everywhere. */
function hued(element, nick) {
  let hash = 2166136261;
  for (const character of nick) hash = Math.imul(hash ^ character.codePointAt(0), 16777619);
  hash = Math.imul(hash ^ (hash >>> 15), 2246822519) >>> 8;
  element.style.setProperty("--hue", String((hash % 24) * 15));
  return element;
}

function clock(at) {
  const date = new Date(at);
  const time = make("time", "", date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  time.dateTime = date.toISOString();
  return time;
}

// ===== what was said =====

function entryOf(entry) {
  if (entry.kind) return make("li", `happened ${entry.kind}`, clock(entry.at), theirs("", entry.text));
  const same = last && !last.kind && last.pid === entry.pid && last.nick === entry.nick && entry.at - last.at < TOGETHER_MS;
  const nick = entry.nick ?? "somebody";
  const where = make("span", "where", entry.node);
  where.title = entry.pid;
  const pin = make("button", "", "Pin");
  pin.type = "button";
  pin.setAttribute("aria-label", `Pin what ${nick} said`);
  pin.addEventListener("click", () => post("/pin", { id: entry.id }));
  const head = make("div", "head", hued(theirs("nick", nick), nick), where, clock(entry.at));
  return make("li", `said${same ? " same" : ""}`, head, make("div", "text", entry.text), pin);
}

/** Whether the log shows its end, and stays there. */
let atEnd = true;

function toEnd() {
  $("log").scrollTop = $("log").scrollHeight;
}

function showLog(entries, isAll) {
  const log = $("log");
  if (isAll) {
    atEnd = true;
    log.replaceChildren();
    last = undefined;
  }
  for (const entry of entries) {
    if (last && entry.id <= last.id) continue;
    const element = entryOf(entry);
    if (!isAll) element.classList.add("new");
    log.append(element);
    last = entry;
  }
  while (log.childElementCount > LOG_MAX) log.firstElementChild.remove();
  if (atEnd) toEnd();
  else if (entries.length > 0) $("below").hidden = false;
}

$("log").addEventListener("scroll", () => {
  const log = $("log");
  atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  if (atEnd) $("below").hidden = true;
});
// What is above and below it comes and goes.
new ResizeObserver(() => atEnd && toEnd()).observe($("log"));
$("below").addEventListener("click", toEnd);

function showPinned(pinned) {
  $("pinned").hidden = pinned === null;
  $("pinned").querySelector("bdi").textContent = pinned === null ? "" : `${pinned.nick ?? "somebody"}: ${pinned.text}`;
}
$("pinned").querySelector("button").addEventListener("click", () => post("/pin", { id: null }));

// ===== who and where =====

/** One row for each nickname, whatever the number of its tabs: below it where they are. */
function showPeople({ count, list }) {
  const people = new Map();
  for (const each of list) people.set(each.nick, [...(people.get(each.nick) ?? []), each]);
  const rows = [...people].sort(([a], [b]) => (a < b ? -1 : 1)).map(([nick, all]) => {
    const vias = [...new Set(all.map(({ via }) => via).filter((via) => via && via !== "browser"))];
    const many = all.length > 1 ? `${all.length} tabs` : vias.join(", ");
    const places = all.map(({ pid, node }) => {
      // The pid, but for which start of the node it is of.
      const where = make("span", "where", `<${node}…${/\.(\d+)>$/.exec(pid)?.[1] ?? ""}>`);
      where.title = pid;
      return where;
    });
    const row = make("div", "row", make("span", "dot"), theirs("name", nick), make("span", "aside", many));
    return hued(make("li", "person", row, ...places), nick);
  });
  if (rows.length === 0) rows.push(make("li", "none", "Nobody yet. Join!"));
  else if (count > rows.length) rows.push(make("li", "none", `and ${count - rows.length} more`));
  $("people").replaceChildren(...rows);
  $("people-count").textContent = String(count);
}

function showNodes(nodes) {
  const rows = nodes.map(({ node, here, leaving }) => {
    const what = [here && "this page", leaving && "about to leave"].filter(Boolean).join(", ");
    return make("li", leaving ? "node leaving" : "node", make("div", "row", make("span", "dot"), make("span", "name", node), make("span", "aside", what)));
  });
  $("nodes").replaceChildren(...rows);
  $("nodes-count").textContent = String(nodes.length);
}

function showLink(is, text) {
  $("link").dataset.is = is;
  $("link").firstElementChild.textContent = text;
  document.body.classList.toggle("away", is !== "up" && is !== "leaving");
}

// ===== joining and saying =====

function showError(text) {
  $("error").hidden = !text;
  $("error").textContent = text ?? "";
}

/** Whether this page has joined. While its connection comes back it stays a member, and waits to speak. */
function showJoined(nick) {
  $("join").hidden = nick !== null;
  $("say").hidden = nick === null;
  $("you").textContent = nick ?? "";
  document.body.classList.toggle("joined-not", nick === null);
}

/** Asks for something. Gives whether it was done. */
async function post(path, what) {
  showError();
  try {
    const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ ...what, secret }) });
    if (answer.ok) return true;
    const { error } = await answer.json();
    showError(`${error[0].toUpperCase()}${error.slice(1)}.`);
  } catch {
    showError("The chat program does not answer.");
  }
  return false;
}

$("join").addEventListener("submit", (event) => {
  event.preventDefault();
  const nick = $("nick").value.trim();
  if (nick !== "") listen(nick);
});

$("say").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("text").value;
  const button = $("say").querySelector("button");
  button.disabled = true;
  // What could not be sent stays where it is.
  if (await post("/say", { text })) $("text").value = "";
  button.disabled = false;
  $("text").focus();
});

$("leave").addEventListener("click", () => {
  listen(null);
  $("nick").focus();
});

// ===== the stream =====

/** Watches the room; with a nickname as one who is in it. */
function listen(nick) {
  stream?.close();
  secret = undefined;
  showError();
  showJoined(nick);
  if (nick === null) sessionStorage.removeItem("nick");
  stream = new EventSource(nick === null ? "/events" : `/events?nick=${encodeURIComponent(nick)}`);
  const on = (name, take) => stream.addEventListener(name, (event) => take(JSON.parse(event.data)));
  on("all", (all) => {
    document.title = $("topic").textContent = all.topic;
    showLog(all.log, true);
    for (const each of ["people", "nodes", "pinned", "link"]) show[each](all[each]);
  });
  for (const [name, take] of Object.entries(show)) on(name, take);
  on("joined", (joined) => {
    secret = joined.secret;
    sessionStorage.setItem("nick", joined.nick);
    $("text").focus();
  });
  on("refused", (text) => {
    listen(null);
    showError(text);
  });
  const current = stream;
  stream.onerror = () => {
    secret = undefined;
    if (current.readyState === EventSource.CLOSED && current === stream) {
      // Refused for good: a nickname that cannot be, or too many pages.
      if (nick !== null) listen(null);
      showError(nick === null ? "This page cannot be opened once more: too many are." : `${nick} cannot join: that nickname is refused.`);
    } else {
      showLink("unserved", "The chat program does not answer. Trying again …");
    }
  };
}

const show = {
  log: (entries) => showLog(entries, false),
  people: showPeople,
  nodes: showNodes,
  pinned: showPinned,
  link: ({ is, node }) => {
    showLink(is, links[is](node));
    // What could not be sent can be sent now.
    if (is === "up") showError();
  },
};

const before = sessionStorage.getItem("nick");
if (before !== null) $("nick").value = before;
listen(before);
