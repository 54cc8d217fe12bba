//! What can be typed: every command with its arguments and what it does. `help`, hints and completion read it here.

use std::fmt::Write as _;

/// The keys of `info`; as first word they mean the shell's own process.
pub(super) const INFO_KEYS: [&str; 19] = [
    "client",
    "delivery",
    "dropped",
    "label",
    "links",
    "mailbox",
    "memory",
    "message_queue_len",
    "messages",
    "monitored_by",
    "monitors",
    "os_pid",
    "parent",
    "pid",
    "registered_name",
    "sensitive",
    "session",
    "status",
    "trap_exit",
];

/// The states that `nodes` can be asked for.
const STATES: &str = "self connected visible hidden known";

/// One command of the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// What is typed.
    pub(super) word: &'static str,
    /// What follows it.
    pub(super) arguments: &'static str,
    /// What it does, in one line.
    pub(super) about: &'static str,
    /// What else there is to know.
    pub(super) more: &'static str,
}

/// What an argument is, as far as completion knows how to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A process: a name, a name elsewhere, a pid.
    To,
    /// A node's name.
    Node,
    /// A node's name, or any.
    Callee,
    /// A registered name.
    Name,
    /// A group's name.
    Group,
    /// A function that is served.
    Function,
    /// A key of `info`.
    Key,
    /// A command of the shell.
    Command,
    /// One of these words.
    Words(&'static str),
    /// Anything.
    Free,
}

const fn entry(
    word: &'static str,
    arguments: &'static str,
    about: &'static str,
    more: &'static str,
) -> Entry {
    Entry { word, arguments, about, more }
}

/// Every command, in the order of `help`.
pub(super) const MANUAL: [Entry; 56] = [
    entry("self", "", "the pid of this shell's process", ""),
    entry(
        "nodes",
        "[STATE]",
        "the nodes, and why one is not connected",
        "STATE is self, connected, visible, hidden or known.",
    ),
    entry(
        "ping",
        "NODE",
        "pong when the node answers, else pang",
        "Connects to it first if need be.",
    ),
    entry(
        "connect",
        "TO",
        "connects to a node",
        "TO is a node's name or host:port. Answers true or false.",
    ),
    entry("disconnect", "NODE", "disconnects from a node, and stays away from it", ""),
    entry(
        "send",
        "TO BODY",
        "sends a message",
        "TO is a name (stock), a name on another node (stock@b@hal), a name of the whole mesh (global:stock), all members\n\
         of a group (group:tills) or a pid (<...>).\n\
         BODY is JSON; what is not JSON is sent as a text: `send stock hello there` is `send stock \"hello there\"`.\n\
         What begins with {, [ or \" is meant as JSON and refused when it is not.",
    ),
    entry(
        "send_after",
        "MS TO BODY",
        "sends a message later",
        "MS is in milliseconds, or with a unit: 5s. Answers a timer; it ends with this shell.",
    ),
    entry(
        "cancel_timer",
        "TIMER",
        "takes a send_after back",
        "Answers the milliseconds that were left, or none when it is too late.",
    ),
    entry("read_timer", "TIMER", "the milliseconds that a send_after has still to go, or none", ""),
    entry(
        "call",
        "TO BODY",
        "sends a request and waits for its reply",
        "TO and BODY are as those of send; of a group one member answers. Waits 5 s; each part of an answer in parts is\n\
         printed as it comes and starts them anew. An error says whether the call may have been carried out.",
    ),
    entry(
        "cast",
        "TO BODY",
        "sends a request that wants no answer",
        "TO and BODY are as those of send.",
    ),
    entry(
        "rpc",
        "NODE MODULE.FUNCTION [BODY]",
        "calls a function",
        "NODE is a node or any: the nearest that has the function. BODY is as that of send, null when left out.",
    ),
    entry(
        "serve",
        "MODULE [FUNCTION...]",
        "lets others call functions of this shell",
        "All of them when none is named. What is asked comes as an event rpc with a ref: `receive` it, then `reply` or\n\
         `raise`. `pillion serve` answers each by a command instead.",
    ),
    entry("unserve", "MODULE", "serves it no more", ""),
    entry("reply", "REF BODY", "answers a call or an rpc", "BODY is as that of send."),
    entry("raise", "REF [REASON]", "lets a call or an rpc fail", ""),
    entry("modules", "", "the modules, and which nodes serve them", ""),
    entry(
        "register",
        "NAME",
        "gives this shell's process a name",
        "`register global:stock` takes a name of the whole mesh; a process may have several of them.",
    ),
    entry(
        "unregister",
        "NAME",
        "frees a name",
        "A name of the whole mesh is written global:stock.",
    ),
    entry(
        "whereis",
        "NAME [NODE]",
        "the pid behind a name, or none",
        "`whereis stock b@hal` may be written as `whereis stock@b@hal`. A name of the whole mesh is written\n\
         global:stock, and is on no NODE.",
    ),
    entry("names", "[local|global]", "the registered names of this node, or of the whole mesh", ""),
    entry(
        "join",
        "GROUP",
        "makes this shell's process a member of a group",
        "It may join several times and is a member as often. A group is written without `group:` here.",
    ),
    entry("leave", "GROUP", "takes one join back", ""),
    entry("members", "GROUP", "the members of a group, on all nodes", ""),
    entry(
        "groups",
        "[PREFIX]",
        "the groups that have members, or those that begin with PREFIX",
        "",
    ),
    entry(
        "subscribe",
        "TOPIC [QUEUE]",
        "hears what is published to a topic, from now on",
        "`*` stands for one segment, a last `>` for one or more: shop.*, shop.>. Of all members of QUEUE, in the whole mesh,\n\
         one gets each message. What comes is in this shell's mailbox: `flush` or `receive`.",
    ),
    entry("unsubscribe", "TOPIC", "ends all subscriptions to a topic or pattern", ""),
    entry(
        "publish",
        "TOPIC BODY",
        "sends a message to whoever has subscribed, on all nodes",
        "BODY is JSON, or a text as it is.",
    ),
    entry("subscribers", "TOPIC", "how many subscriptions a message to a topic reaches", ""),
    entry("topics", "", "what somebody has subscribed to", ""),
    entry(
        "track",
        "TOPIC KEY [METADATA]",
        "is present under a topic and a key, on all nodes",
        "METADATA is what everybody sees of it, as the BODY of send. It ends with this shell's process, or by `untrack`.\n\
         Answers a reference: the version of what is seen.",
    ),
    entry(
        "update_presence",
        "TOPIC KEY [METADATA]",
        "changes what is seen of a presence of this shell",
        "",
    ),
    entry("untrack", "TOPIC [KEY]", "is present no more; under no key when KEY is left out", ""),
    entry("presence", "TOPIC [KEY]", "who is present, on all nodes", ""),
    entry(
        "flush",
        "",
        "prints what is in this shell's mailbox, and empties it",
        "To look without taking: `info messages`.",
    ),
    entry(
        "receive",
        "[N] [TIMEOUT]",
        "takes up to N messages, waiting for the first",
        "N is 1 when left out. TIMEOUT is in milliseconds, or with a unit: 5s; 0 does not wait; without it, ctrl-c ends\n\
         the wait. What comes after that stays for the next one.",
    ),
    entry(
        "info",
        "[TO] [KEY...]",
        "what is known of a process; of this shell's when TO is left out",
        "KEY is client, delivery, dropped, label, links, mailbox, memory, message_queue_len, messages, monitored_by,\n\
         monitors, os_pid, parent, pid, registered_name, sensitive, session, status or trap_exit. A first word that is a key\n\
         is one; a process of such a name is found by its pid.",
    ),
    entry("alive", "TO", "whether a process lives, here or on another node", ""),
    entry(
        "monitor",
        "TO",
        "asks for a down event when the process dies",
        "Answers a reference, for demonitor.",
    ),
    entry("demonitor", "REF", "takes a monitor back", ""),
    entry(
        "link",
        "TO",
        "binds two lives together",
        "When TO dies, so does this shell's process, and the shell goes on with a new one: see trap_exit.",
    ),
    entry("unlink", "TO", "takes a link back", ""),
    entry("trap_exit", "on|off", "turns exits of linked processes into messages", ""),
    entry(
        "exit",
        "REASON",
        "ends this shell's process; the shell goes on with a new one",
        "Without a REASON it is `quit`, as in other shells.",
    ),
    entry(
        "kill",
        "TO [REASON]",
        "sends an exit signal",
        "REASON is kill when left out, which cannot be trapped.",
    ),
    entry(
        "kv",
        "ACTION STORE [KEY] [VALUE]",
        "asks or changes a key-value process",
        "ACTION is get, set, delete, keys, watch, start or stop. STORE is the store's name, its name on another node (store@b@hal) or its pid. VALUE is as the BODY of send;\n\
         `kv set store greeting --ttl 1h hello` is gone after an hour. For keys and watch, KEY is how they begin. What\n\
         is watched comes as messages. start gives this node a store that stays; stop ends one.",
    ),
    entry("ps", "[NODE]", "the processes of a node; of this one when NODE is left out", ""),
    entry(
        "host",
        "NAME PROGRAM [ARG...]",
        "runs a program as a process of this node, and keeps it up",
        "It is started again whenever it ends. `pillion host` has more to say.",
    ),
    entry("terminate_child", "NAME", "ends what this node hosts, and keeps it ended", ""),
    entry("restart_child", "NAME", "starts what was terminated", ""),
    entry("delete_child", "NAME", "forgets what was terminated", ""),
    entry(
        "spawn",
        "NODE FACTORY [ARG...]",
        "starts a program that a node offers",
        "NODE is a node or any: here if there is room, else where there are fewest. Answers its pid.",
    ),
    entry("tree", "", "what this node hosts, and who keeps it up", ""),
    entry(
        "monitor_nodes",
        "on|off",
        "puts nodeup and nodedown into this shell's mailbox",
        "At a terminal they are printed in any case.",
    ),
    entry("help", "[COMMAND]", "this list, or more about one command", ""),
    entry("quit", "", "leaves; so does ctrl-d", ""),
];

/// The command of this name.
pub(super) fn find(word: &str) -> Option<&'static Entry> {
    MANUAL.iter().find(|entry| entry.word == word)
}

/// The command that may have been meant.
pub(super) fn nearest(word: &str) -> Option<&'static str> {
    pillion_strategies::nearest(word, MANUAL.iter().map(|entry| entry.word))
}

impl Entry {
    /// `send TO BODY`
    pub(super) fn usage(&self) -> String {
        [self.word, self.arguments].join(" ").trim_end().to_owned()
    }

    /// What follows this many arguments, `None` when nothing does.
    pub(super) fn rest(&self, arguments: usize) -> Option<&'static str> {
        let mut rest = self.arguments;
        for _ in 0..arguments {
            let (first, others) = rest.split_once(' ').unwrap_or((rest, ""));
            if others.is_empty() && first.ends_with("...]") {
                break;
            }
            rest = others;
        }
        (!rest.is_empty()).then_some(rest)
    }

    /// What the argument at this place is.
    pub(super) fn kind(&self, place: usize) -> Kind {
        let argument = self.rest(place).unwrap_or_default().split(' ').next().unwrap_or_default();
        match argument.trim_matches(['[', ']', '.']) {
            // A node may be reached by its name, a process never.
            "STORE" => Kind::To,
            "ACTION" => Kind::Words("get set delete keys watch start stop"),
            "KEY" if self.word != "info" => Kind::Free,
            "TO" if self.word == "connect" => Kind::Node,
            "TO" => Kind::To,
            "NODE" if matches!(self.word, "rpc" | "spawn") => Kind::Callee,
            "NODE" => Kind::Node,
            "GROUP" => Kind::Group,
            "MODULE.FUNCTION" => Kind::Function,
            "NAME" => Kind::Name,
            "KEY" => Kind::Key,
            "COMMAND" => Kind::Command,
            "STATE" => Kind::Words(STATES),
            "on|off" => Kind::Words("on off"),
            "local|global" => Kind::Words("local global"),
            _ => Kind::Free,
        }
    }
}

/// What `help` prints.
pub(super) fn list() -> String {
    let width = MANUAL.iter().map(|entry| entry.usage().len()).max().unwrap_or(0);
    let mut text = String::new();
    for entry in &MANUAL {
        let _ = writeln!(text, "{:width$}  {}", entry.usage(), entry.about);
    }
    text
}

/// What `help COMMAND` prints.
pub(super) fn page(entry: &Entry) -> String {
    let mut text = format!("{}\n  {}\n", entry.usage(), entry.about);
    for line in entry.more.lines() {
        let _ = writeln!(text, "  {line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_told_one_by_one() {
        let send = find("send").expect("a command");
        assert_eq!(send.rest(0), Some("TO BODY"));
        assert_eq!(send.rest(1), Some("BODY"));
        assert_eq!(send.rest(2), None);
        assert_eq!((send.kind(0), send.kind(1)), (Kind::To, Kind::Free));
    }

    #[test]
    fn what_may_be_repeated_is_asked_for_again_and_again() {
        let info = find("info").expect("a command");
        assert_eq!(info.rest(1), Some("[KEY...]"));
        assert_eq!(info.rest(7), Some("[KEY...]"));
        assert_eq!(info.kind(7), Kind::Key);
    }

    #[test]
    fn a_mistyped_command_finds_the_one_that_was_meant() {
        assert_eq!(nearest("whreis"), Some("whereis"));
        assert_eq!(nearest("frobnicate"), None);
    }
}
