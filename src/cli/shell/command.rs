//! One line typed into the shell: what is meant by it, and what is asked of the node for it.

use std::time::Duration;

use super::manual::{self, INFO_KEYS};
use crate::cli::calls::function;
use crate::cli::exit::{Exit, Failure};
use crate::cli::messages::duration;
use crate::cli::nodes::milliseconds;
use crate::client::Op;
use crate::dialect::json::json_to_cbor;
use crate::wire::cbor;

/// What was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    SelfPid,
    Nodes { state: Option<String> },
    Ping { node: String },
    Connect { to: String },
    Disconnect { node: String },
    Send { to: String, body: Body },
    SendAfter { after: Duration, to: String, body: Body },
    CancelTimer { timer: u64 },
    ReadTimer { timer: u64 },
    Alive { to: String },
    Register { name: String },
    Unregister { name: String },
    Whereis { name: String, node: Option<String> },
    Call { to: String, body: Body },
    Cast { to: String, body: Body },
    Rpc { node: String, module: String, function: String, body: Option<Body> },
    Modules,
    Names { global: bool },
    Serve { module: String, functions: Vec<String> },
    Unserve { module: String },
    Reply { reference: u64, body: Body },
    Raise { reference: u64, reason: String },
    Join { group: String },
    Leave { group: String },
    Members { group: String },
    Groups { prefix: Option<String> },
    Subscribe { topic: String, group: Option<String> },
    Unsubscribe { topic: String },
    Publish { topic: String, body: Body },
    Subscribers { topic: String },
    Topics,
    Track { op: &'static str, topic: String, key: String, metadata: Option<Body> },
    Untrack { topic: String, key: Option<String> },
    Presence { topic: String, key: Option<String> },
    Flush,
    Receive { max: u64, timeout: Option<Duration> },
    Info { to: Option<String>, keys: Vec<String> },
    Monitor { to: String },
    Demonitor { reference: u64 },
    Link { to: String },
    Unlink { to: String },
    TrapExit { on: bool },
    Exit { reason: String },
    Kill { to: String, reason: Option<String> },
    Kv { what: Kv, store: String, body: Body },
    KvStart { name: String },
    Ps { node: Option<String> },
    Host { name: String, command: String, args: Vec<String> },
    Child { op: &'static str, name: String },
    Spawn { node: String, factory: String, args: Vec<String> },
    Tree,
    MonitorNodes { on: bool },
    Help { word: Option<String> },
    Quit,
}

/// What is asked of a key-value process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kv {
    /// Its answer is a value.
    Get,
    /// Its answer is a list.
    Keys,
    /// Its answer is ok.
    Do,
}

/// A message's body: one CBOR item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Body(Vec<u8>);

impl Body {
    /// JSON if it is, else a text. What begins like JSON and is not was meant to be.
    fn parse(text: &str) -> Result<Self, Failure> {
        match json_to_cbor(text.as_bytes()) {
            Ok(item) => Ok(Self(item)),
            Err(error) if text.starts_with(['{', '[', '"']) => {
                Err(Failure::new(Exit::Data, format!("the body is not JSON: {error}")))
            }
            Err(_) => {
                let mut item = Vec::with_capacity(text.len() + 9);
                cbor::put_text(&mut item, text);
                Ok(Self(item))
            }
        }
    }
}

/// The line, word by word.
struct Words<'a> {
    command: &'a str,
    rest: &'a str,
}

impl<'a> Words<'a> {
    fn maybe(&mut self) -> Option<&'a str> {
        let rest = self.rest.trim_start();
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let (word, rest) = rest.split_at(end);
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }

    fn next(&mut self) -> Result<&'a str, Failure> {
        let word = self.maybe();
        word.ok_or_else(|| self.wrong("something is missing"))
    }

    /// Every word that is left.
    fn all(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.maybe()).map(str::to_owned).collect()
    }

    /// Everything that is left, as it was typed.
    fn tail(&mut self) -> Option<&'a str> {
        let tail = std::mem::take(&mut self.rest).trim();
        (!tail.is_empty()).then_some(tail)
    }

    fn body(&mut self) -> Result<Body, Failure> {
        let text = self.tail().ok_or_else(|| self.wrong("there is no body"))?;
        Body::parse(text)
    }

    fn number(&mut self, what: &str) -> Result<u64, Failure> {
        // References and timers are printed as `ref 3` and `timer 3`, and may be copied whole.
        let mut word = self.next()?;
        if word == what {
            word = self.next()?;
        }
        word.parse().map_err(|_| self.wrong(&format!("`{word}` is not a number")))
    }

    fn duration(&self, word: &str) -> Result<Duration, Failure> {
        match word.parse() {
            Ok(ms) => Ok(Duration::from_millis(ms)),
            Err(_) => duration(word).map_err(|message| self.wrong(&message)),
        }
    }

    fn switch(&mut self) -> Result<bool, Failure> {
        match self.next()? {
            "on" | "true" => Ok(true),
            "off" | "false" => Ok(false),
            word => Err(self.wrong(&format!("`{word}` is neither on nor off"))),
        }
    }

    fn end(&mut self) -> Result<(), Failure> {
        match self.maybe() {
            None => Ok(()),
            Some(word) => Err(self.wrong(&format!("`{word}` is too much"))),
        }
    }

    fn wrong(&self, what: &str) -> Failure {
        let usage = manual::find(self.command).map(manual::Entry::usage).unwrap_or_default();
        Failure::new(Exit::Usage, format!("{what}; it is `{usage}`"))
    }
}

impl Command {
    /// Reads a line; `None` when it is empty or a comment (`# ...`).
    pub(super) fn parse(line: &str) -> Result<Option<Self>, Failure> {
        let mut words = Words { command: "", rest: line };
        let Some(command) = words.maybe() else { return Ok(None) };
        if command.starts_with('#') {
            return Ok(None);
        }
        words.command = command;
        let w = &mut words;
        let owned = str::to_owned;
        let command = match command {
            "self" => Self::SelfPid,
            "nodes" => Self::Nodes { state: w.maybe().map(owned) },
            "ping" => Self::Ping { node: w.next()?.into() },
            "connect" => Self::Connect { to: w.next()?.into() },
            "disconnect" => Self::Disconnect { node: w.next()?.into() },
            "send" => Self::Send { to: w.next()?.into(), body: w.body()? },
            "send_after" => {
                let word = w.next()?;
                Self::SendAfter { after: w.duration(word)?, to: w.next()?.into(), body: w.body()? }
            }
            "cancel_timer" => Self::CancelTimer { timer: w.number("timer")? },
            "read_timer" => Self::ReadTimer { timer: w.number("timer")? },
            "alive" => Self::Alive { to: w.next()?.into() },
            "register" => Self::Register { name: w.next()?.into() },
            "unregister" => Self::Unregister { name: w.next()?.into() },
            "whereis" => whereis(w)?,
            "call" => Self::Call { to: w.next()?.into(), body: w.body()? },
            "cast" => Self::Cast { to: w.next()?.into(), body: w.body()? },
            "rpc" => {
                let node = w.next()?.into();
                let (module, function) = function(w.next()?)?;
                let body = w.tail().map(Body::parse).transpose()?;
                Self::Rpc { node, module: module.into(), function: function.into(), body }
            }
            "modules" => Self::Modules,
            "names" | "registered" => match w.maybe() {
                None | Some("local") => Self::Names { global: false },
                Some("global") => Self::Names { global: true },
                Some(word) => return Err(w.wrong(&format!("`{word}` is neither local nor global"))),
            },
            "serve" => Self::Serve { module: w.next()?.into(), functions: w.all() },
            "unserve" => Self::Unserve { module: w.next()?.into() },
            "reply" => Self::Reply { reference: w.number("ref")?, body: w.body()? },
            "raise" => {
                let reference = w.number("ref")?;
                Self::Raise { reference, reason: w.tail().unwrap_or("error").into() }
            }
            "join" => Self::Join { group: w.next()?.into() },
            "leave" => Self::Leave { group: w.next()?.into() },
            "members" => Self::Members { group: w.next()?.into() },
            "groups" => Self::Groups { prefix: w.maybe().map(owned) },
            "subscribe" => Self::Subscribe { topic: w.next()?.into(), group: w.maybe().map(owned) },
            "unsubscribe" => Self::Unsubscribe { topic: w.next()?.into() },
            "publish" => Self::Publish { topic: w.next()?.into(), body: w.body()? },
            "subscribers" => Self::Subscribers { topic: w.next()?.into() },
            "topics" => Self::Topics,
            "track" => track("track", w)?,
            "update_presence" => track("update_presence", w)?,
            "untrack" => Self::Untrack { topic: w.next()?.into(), key: w.maybe().map(owned) },
            "presence" => Self::Presence { topic: w.next()?.into(), key: w.maybe().map(owned) },
            "flush" => Self::Flush,
            "receive" => receive(w)?,
            "info" => info(w),
            "monitor" => Self::Monitor { to: w.next()?.into() },
            "demonitor" => Self::Demonitor { reference: w.number("ref")? },
            "link" => Self::Link { to: w.next()?.into() },
            "unlink" => Self::Unlink { to: w.next()?.into() },
            "trap_exit" => Self::TrapExit { on: w.switch()? },
            "exit" => w.tail().map_or(Self::Quit, |reason| Self::Exit { reason: reason.into() }),
            "kill" => Self::Kill { to: w.next()?.into(), reason: w.tail().map(owned) },
            "host" => {
                Self::Host { name: w.next()?.into(), command: w.next()?.into(), args: w.all() }
            }
            "terminate_child" => Self::Child { op: "terminate_child", name: w.next()?.into() },
            "restart_child" => Self::Child { op: "restart_child", name: w.next()?.into() },
            "delete_child" => Self::Child { op: "delete_child", name: w.next()?.into() },
            "spawn" => {
                Self::Spawn { node: w.next()?.into(), factory: w.next()?.into(), args: w.all() }
            }
            "tree" => Self::Tree,
            "kv" => kv(w)?,
            "ps" | "processes" => Self::Ps { node: w.maybe().map(owned) },
            "monitor_nodes" => Self::MonitorNodes { on: w.switch()? },
            "help" | "?" => Self::Help { word: w.maybe().map(owned) },
            "quit" | "bye" => Self::Quit,
            unknown => return Err(no_such(unknown)),
        };
        w.end()?;
        Ok(Some(command))
    }

    /// Whether it may have been carried out when it failed.
    pub(super) fn is_call(&self) -> bool {
        matches!(self, Self::Call { .. } | Self::Rpc { .. } | Self::Kv { .. })
    }

    /// What is asked of the node. `None` for what the shell does by itself.
    pub(super) fn op(&self) -> Option<Op> {
        Some(match self {
            Self::SelfPid => Op::new("self"),
            Self::Nodes { state } => Op::new("nodes").maybe_text("state", state.as_deref()),
            Self::Ping { node } => Op::new("ping").text("node", node),
            Self::Connect { to } => Op::new("connect").text("to", to),
            Self::Disconnect { node } => Op::new("disconnect").text("node", node),
            Self::Send { to, body } => Op::new("send").text("to", to).body(&body.0),
            Self::SendAfter { after, to, body } => Op::new("send_after")
                .text("to", to)
                .uint("after_ms", milliseconds(*after))
                .body(&body.0),
            Self::CancelTimer { timer } => Op::new("cancel_timer").uint("timer", *timer),
            Self::ReadTimer { timer } => Op::new("read_timer").uint("timer", *timer),
            Self::Alive { to } => Op::new("alive").text("to", to),
            Self::Register { name } => scoped(Op::new("register"), name),
            Self::Unregister { name } => scoped(Op::new("unregister"), name),
            Self::Whereis { name, node } => {
                scoped(Op::new("whereis"), name).maybe_text("node", node.as_deref())
            }
            Self::Call { to, body } => Op::new("call").text("to", to).body(&body.0),
            Self::Cast { to, body } => Op::new("cast").text("to", to).body(&body.0),
            Self::Rpc { node, module, function, body } => Op::new("rpc")
                .text("node", node)
                .text("module", module)
                .text("function", function)
                .body(body.as_ref().map_or(&[0xf6], |body| &body.0)),
            Self::Modules => Op::new("modules"),
            Self::Names { global } => {
                Op::new("registered").maybe_text("scope", global.then_some("global"))
            }
            Self::Serve { module, functions } => {
                let op = Op::new("serve").text("module", module);
                match functions.as_slice() {
                    [] => op,
                    functions => op.json("functions", &functions.to_vec().into()),
                }
            }
            Self::Unserve { module } => Op::new("unserve").text("module", module),
            Self::Reply { reference, body } => {
                Op::new("reply").uint("ref", *reference).body(&body.0)
            }
            Self::Raise { reference, reason } => {
                Op::new("raise").uint("ref", *reference).text("reason", reason)
            }
            Self::Join { group } => Op::new("join").text("group", group),
            Self::Leave { group } => Op::new("leave").text("group", group),
            Self::Members { group } => Op::new("members").text("group", group),
            Self::Groups { prefix } => Op::new("groups").maybe_text("prefix", prefix.as_deref()),
            Self::Subscribe { topic, group } => Op::new("subscribe")
                .text("topic", topic)
                .bool("sync", true)
                .maybe_text("group", group.as_deref()),
            Self::Unsubscribe { topic } => Op::new("unsubscribe").text("topic", topic),
            Self::Publish { topic, body } => {
                Op::new("publish").text("topic", topic).bool("report", true).body(&body.0)
            }
            Self::Subscribers { topic } => Op::new("subscribers").text("topic", topic),
            Self::Topics => Op::new("topics"),
            Self::Track { op, topic, key, metadata } => {
                let op = Op::new(op).text("topic", topic).text("key", key);
                metadata.as_ref().map_or(op.clone(), |metadata| op.raw("metadata", &metadata.0))
            }
            Self::Untrack { topic, key } => {
                Op::new("untrack").text("topic", topic).maybe_text("key", key.as_deref())
            }
            Self::Presence { topic, key } => {
                Op::new("presence").text("topic", topic).maybe_text("key", key.as_deref())
            }
            Self::Flush => Op::new("flush"),
            Self::Receive { max, timeout } => {
                let timeout = timeout.unwrap_or(FOR_EVER);
                Op::new("receive").uint("max", *max).uint("timeout_ms", milliseconds(timeout))
            }
            Self::Info { to, keys } => {
                let op = Op::new("info").maybe_text("to", to.as_deref());
                if keys.is_empty() { op } else { op.json("keys", &keys.clone().into()) }
            }
            Self::Monitor { to } => Op::new("monitor").text("to", to),
            Self::Demonitor { reference } => Op::new("demonitor").uint("ref", *reference),
            Self::Link { to } => Op::new("link").text("to", to),
            Self::Unlink { to } => Op::new("unlink").text("to", to),
            Self::TrapExit { on } => Op::new("flag").bool("trap_exit", *on),
            Self::Exit { reason } => Op::new("exit").text("reason", reason),
            Self::Kill { to, reason } => {
                Op::new("kill").text("to", to).maybe_text("reason", reason.as_deref())
            }
            Self::Kv { store, body, .. } => Op::new("call").text("to", store).body(&body.0),
            Self::KvStart { name } => {
                Op::new("spawn").text("kind", "kv").text("name", name).bool("detached", true)
            }
            Self::Ps { node } => Op::new("processes").maybe_text("node", node.as_deref()),
            Self::Host { name, command, args } => Op::new("host")
                .text("name", name)
                .text("command", command)
                .json("args", &args.clone().into()),
            Self::Child { op, name } => Op::new(op).text("name", name),
            Self::Spawn { node, factory, args } => Op::new("spawn")
                .text("factory", factory)
                .text("node", node)
                .json("args", &args.clone().into()),
            Self::Tree => Op::new("tree"),
            Self::MonitorNodes { on } => Op::new("monitor_nodes").bool("on", *on),
            Self::Help { .. } | Self::Quit => return None,
        })
    }
}

/// A name of this node, or `global:` and one of the whole mesh, as in addresses.
fn scoped(op: Op, name: &str) -> Op {
    match name.strip_prefix("global:") {
        Some(name) => op.text("name", name).text("scope", "global"),
        None => op.text("name", name),
    }
}

/// How long `receive` waits when nobody says: longer than anybody looks at a shell.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

fn receive(w: &mut Words<'_>) -> Result<Command, Failure> {
    let max = match w.maybe() {
        None => 1,
        Some(word) => word.parse().map_err(|_| w.wrong(&format!("`{word}` is not a number")))?,
    };
    let timeout = w.maybe().map(|word| w.duration(word)).transpose()?;
    Ok(Command::Receive { max, timeout })
}

fn track(op: &'static str, w: &mut Words<'_>) -> Result<Command, Failure> {
    let (topic, key) = (w.next()?.into(), w.next()?.into());
    Ok(Command::Track { op, topic, key, metadata: w.tail().map(Body::parse).transpose()? })
}

/// `pillion kv` in the shell: the same words in the same order.
fn kv(w: &mut Words<'_>) -> Result<Command, Failure> {
    let verb = w.next()?;
    let store = w.next()?.to_owned();
    let mut items: Vec<Vec<u8>> = Vec::new();
    let text = |text: &str| {
        let mut item = Vec::new();
        cbor::put_text(&mut item, text);
        item
    };
    let what = match verb {
        "start" => return Ok(Command::KvStart { name: store }),
        "stop" => return Ok(Command::Kill { to: store, reason: Some("shutdown".to_owned()) }),
        "get" => {
            items.push(text(w.next()?));
            Kv::Get
        }
        "delete" => {
            items.push(text(w.next()?));
            Kv::Do
        }
        "keys" | "watch" => {
            items.push(text(w.maybe().unwrap_or("")));
            if verb == "keys" { Kv::Keys } else { Kv::Do }
        }
        "set" => {
            items.push(text(w.next()?));
            let mut ttl = None;
            if let Some(rest) = w.rest.trim_start().strip_prefix("--ttl ") {
                w.rest = rest;
                let word = w.next()?;
                ttl = Some(milliseconds(w.duration(word)?));
            }
            items.push(w.body()?.0);
            if let Some(ttl) = ttl {
                let mut item = Vec::new();
                cbor::put_uint(&mut item, ttl);
                items.push(item);
            }
            Kv::Do
        }
        _ => return Err(w.wrong(&format!("`{verb}` is nothing that kv does"))),
    };
    let mut body = Vec::new();
    cbor::put_array(&mut body, items.len() + 1);
    cbor::put_text(&mut body, verb);
    body.extend(items.into_iter().flatten());
    Ok(Command::Kv { what, store, body: Body(body) })
}

/// The node as a word of its own, or behind the name, where `send` has it.
fn whereis(w: &mut Words<'_>) -> Result<Command, Failure> {
    let word = w.next()?;
    let (name, node) = match (w.maybe(), word.split_once('@')) {
        (None, Some((name, node))) => (name, Some(node)),
        (node, _) => (word, node),
    };
    Ok(Command::Whereis { name: name.to_owned(), node: node.map(str::to_owned) })
}

fn info(w: &mut Words<'_>) -> Command {
    let (mut to, mut keys) = (None, Vec::new());
    while let Some(word) = w.maybe() {
        if to.is_none() && keys.is_empty() && !INFO_KEYS.contains(&word) {
            to = Some(word.to_owned());
        } else {
            keys.push(word.to_owned());
        }
    }
    Command::Info { to, keys }
}

/// The words for a command that there is not.
pub(super) fn no_such(word: &str) -> Failure {
    let shown: String = word.chars().take(40).collect();
    let hint = match manual::nearest(&shown) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => "`help` lists them".to_owned(),
    };
    Failure::new(Exit::Usage, format!("`{shown}` is not a command; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Command {
        Command::parse(line).expect("a good line").expect("a command")
    }

    fn wrong(line: &str) -> String {
        Command::parse(line).expect_err("a bad line").words
    }

    fn body(line: &str) -> String {
        match parse(line) {
            Command::Send { body, .. } => crate::dialect::json::cbor_to_json(&body.0).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_body_is_json_or_the_words_as_they_were_typed() {
        assert_eq!(body(r#"send stock {"a": [1, 2.5]}"#), r#"{"a":[1,2.5]}"#);
        assert_eq!(body("send stock 12"), "12");
        assert_eq!(body("send stock true"), "true");
        assert_eq!(body("send stock hello  there "), r#""hello  there""#);
        assert_eq!(body(r#"  send  stock  "12""#), r#""12""#);
    }

    #[test]
    fn a_body_that_begins_like_json_and_is_not_is_refused() {
        assert!(wrong(r#"send stock {"a": 1"#).starts_with("the body is not JSON"));
        assert!(wrong("send stock").ends_with("it is `send TO BODY`"));
    }

    #[test]
    fn empty_lines_and_comments_mean_nothing() {
        assert_eq!(Command::parse("   ").unwrap(), None);
        assert_eq!(Command::parse(" # send stock 1").unwrap(), None);
    }

    #[test]
    fn info_tells_keys_from_whom() {
        let info = |to: Option<&str>, keys: &[&str]| Command::Info {
            to: to.map(str::to_owned),
            keys: keys.iter().map(|&key| key.to_owned()).collect(),
        };
        assert_eq!(parse("info"), info(None, &[]));
        assert_eq!(parse("info messages"), info(None, &["messages"]));
        assert_eq!(parse("info stock"), info(Some("stock"), &[]));
        assert_eq!(parse("info stock links pid"), info(Some("stock"), &["links", "pid"]));
    }

    #[test]
    fn a_name_on_another_node_is_asked_for_in_two_words_or_in_one() {
        let whereis = |node: Option<&str>| Command::Whereis {
            name: "stock".into(),
            node: node.map(str::to_owned),
        };
        assert_eq!(parse("whereis stock"), whereis(None));
        assert_eq!(parse("whereis stock b@hal"), whereis(Some("b@hal")));
        assert_eq!(parse("whereis stock@b@hal"), whereis(Some("b@hal")));
    }

    #[test]
    fn waiting_is_told_in_milliseconds_or_with_a_unit() {
        let receive =
            |max, ms: Option<u64>| Command::Receive { max, timeout: ms.map(Duration::from_millis) };
        assert_eq!(parse("receive"), receive(1, None));
        assert_eq!(parse("receive 3"), receive(3, None));
        assert_eq!(parse("receive 3 250"), receive(3, Some(250)));
        assert_eq!(parse("receive 1 2s"), receive(1, Some(2000)));
        assert!(wrong("receive soon").contains("`soon` is not a number"));
    }

    #[test]
    fn a_function_is_what_follows_the_last_dot_and_its_body_may_be_left_out() {
        let rpc = |body: Option<&[u8]>| Command::Rpc {
            node: "any".into(),
            module: "my.stock".into(),
            function: "count".into(),
            body: body.map(|body| Body(body.to_vec())),
        };
        assert_eq!(parse("rpc any my.stock.count"), rpc(None));
        assert_eq!(parse("rpc any my.stock.count 7"), rpc(Some(&[7])));
        assert!(wrong("rpc any count").contains("MODULE.FUNCTION"));
    }

    #[test]
    fn a_store_is_asked_in_the_words_of_the_command_line() {
        let body = |line: &str| match parse(line) {
            Command::Kv { store, body, .. } => {
                assert_eq!(store, "store@b@hal");
                crate::dialect::json::cbor_to_json(&body.0).unwrap()
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(body("kv get store@b@hal pears"), r#"["get","pears"]"#);
        assert_eq!(body("kv set store@b@hal pears [1, 2]"), r#"["set","pears",[1,2]]"#);
        assert_eq!(
            body("kv set store@b@hal k --ttl 2s hi there"),
            r#"["set","k","hi there",2000]"#
        );
        assert_eq!(body("kv delete store@b@hal pears"), r#"["delete","pears"]"#);
        assert_eq!(body("kv keys store@b@hal"), r#"["keys",""]"#);
        assert_eq!(body("kv watch store@b@hal user."), r#"["watch","user."]"#);
        assert_eq!(parse("kv start store"), Command::KvStart { name: "store".into() });
        assert!(wrong("kv eat store").contains("`eat` is nothing that kv does"));
        assert!(wrong("kv get store").contains("something is missing"));
    }

    #[test]
    fn references_may_be_typed_as_they_are_printed() {
        assert_eq!(parse("demonitor 3"), Command::Demonitor { reference: 3 });
        assert_eq!(parse("demonitor ref 3"), Command::Demonitor { reference: 3 });
        assert_eq!(parse("cancel_timer timer 4"), Command::CancelTimer { timer: 4 });
    }

    #[test]
    fn exit_with_a_reason_ends_the_process_and_without_one_the_shell() {
        assert_eq!(parse("exit no stock left"), Command::Exit { reason: "no stock left".into() });
        assert_eq!(parse("exit"), Command::Quit);
        assert_eq!(parse("kill stock"), Command::Kill { to: "stock".into(), reason: None });
    }

    #[test]
    fn what_is_too_much_or_unknown_is_told_with_what_is_right() {
        assert_eq!(wrong("self again"), "`again` is too much; it is `self`");
        assert_eq!(
            wrong("trap_exit maybe"),
            "`maybe` is neither on nor off; it is `trap_exit on|off`"
        );
        assert_eq!(wrong("fulsh"), "`fulsh` is not a command; did you mean `flush`?");
        assert_eq!(wrong("frobnicate"), "`frobnicate` is not a command; `help` lists them");
    }

    #[test]
    fn every_command_of_the_manual_is_understood() {
        for entry in &manual::MANUAL {
            let line = entry
                .usage()
                .replace("ACTION", "get")
                .replace("[KEY] [VALUE]", "KEY")
                .replace("on|off", "on")
                .replace("[local|global]", "global")
                .replace("[BODY]", "1")
                .replace("MS", "1")
                .replace("REF", "1")
                .replace("TIMER", "1")
                .replace("[N]", "1")
                .replace("[QUEUE]", "workers")
                .replace("[METADATA]", "1")
                .replace("[TIMEOUT]", "1");
            assert!(matches!(Command::parse(&line), Ok(Some(_))), "{line}");
        }
    }
}
