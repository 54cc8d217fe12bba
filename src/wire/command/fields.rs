//! The fields of a header, and the command that they make.

use super::{
    CT_BYTES_MAX, Command, Delivery, Exclude, ID_BYTES_MAX, Id, Keys, LABEL_BYTES_MAX,
    MailboxOptions, Metadata, Mode, NUMBER_MAX, NodeType, OPS, OnConflict, Overflow,
    REASON_BYTES_MAX, Reach, Refused, Resume, Tracked, WORDS_BYTES_MAX,
};
use std::time::Duration;

use crate::wire::cbor::{Reader, Value};
use crate::wire::host::{ProcessSpec, Program, Restart, SHUTDOWN_MAX, Shutdown};

/// There are not more different ones.
const STATES_MAX: usize = 16;

/// Every field that a header may have, as it stands there.
#[derive(Default)]
pub(super) struct Fields<'a> {
    pub(super) op: Option<&'a str>,
    pub(super) id: Option<Value<'a>>,
    of: Option<Value<'a>>,
    pub(super) ct: Option<&'a str>,
    pid: Option<&'a str>,
    to: Option<&'a str>,
    name: Option<&'a str>,
    node: Option<&'a str>,
    reason: Option<&'a str>,
    label: Option<&'a str>,
    client: Option<&'a str>,
    state: Option<Value<'a>>,
    node_type: Option<&'a str>,
    checked: Option<bool>,
    replace: Option<bool>,
    mode: Option<&'a str>,
    scope: Option<&'a str>,
    delivery: Option<Value<'a>>,
    mailbox: Option<Value<'a>>,
    resume: Option<Value<'a>>,
    keys: Option<Value<'a>>,
    nodes: Option<Value<'a>>,
    class: Option<&'a str>,
    stack: Option<&'a str>,
    more: Option<bool>,
    kind: Option<&'a str>,
    detached: Option<bool>,
    group: Option<&'a str>,
    prefix: Option<&'a str>,
    module: Option<&'a str>,
    function: Option<&'a str>,
    functions: Option<Value<'a>>,
    local: Option<bool>,
    on_conflict: Option<&'a str>,
    version: Option<u64>,
    grace_ms: Option<u64>,
    timeout_ms: Option<u64>,
    wait_ms: Option<u64>,
    after_ms: Option<u64>,
    timer: Option<u64>,
    reference: Option<u64>,
    max: Option<u64>,
    n: Option<u64>,
    on: Option<bool>,
    flush: Option<bool>,
    link: Option<bool>,
    monitor: Option<bool>,
    trap_exit: Option<bool>,
    sensitive: Option<bool>,
    topic: Option<&'a str>,
    key: Option<&'a str>,
    metadata: Option<Value<'a>>,
    exclude: Option<Value<'a>>,
    sync: Option<bool>,
    dedupe: Option<bool>,
    report: Option<bool>,
    retain: Option<bool>,
    list: Option<bool>,
    role: Option<&'a str>,
    count: Option<u64>,
    process: Option<&'a str>,
    factory: Option<&'a str>,
    command: Option<&'a str>,
    args: Option<Value<'a>>,
    env: Option<Value<'a>>,
    cwd: Option<&'a str>,
    restart: Option<&'a str>,
    shutdown: Option<Value<'a>>,
    supervisor: Option<&'a str>,
    significant: Option<bool>,
    register: Option<bool>,
}

fn once<T>(slot: &mut Option<T>, key: &str, value: T) -> Result<(), Refused> {
    if slot.replace(value).is_some() {
        return Err(Refused::badarg(format!("`{key}` is there twice")));
    }
    Ok(())
}

fn text<'a>(key: &str, value: Value<'a>) -> Result<&'a str, Refused> {
    match value {
        Value::Text(text) => Ok(text),
        _ => Err(Refused::badarg(format!("`{key}` is a text"))),
    }
}

fn number(key: &str, value: Value<'_>) -> Result<u64, Refused> {
    match value {
        Value::Uint(number) if number <= NUMBER_MAX => Ok(number),
        _ => Err(Refused::badarg(format!("`{key}` is a whole number from 0 to 2^53"))),
    }
}

/// It goes into the header of an event, which has to stay within its 65 535 bytes.
fn content_type(text: &str) -> Result<&str, Refused> {
    if text.len() <= CT_BYTES_MAX {
        Ok(text)
    } else {
        Err(Refused::badarg(format!("`ct` has at most {CT_BYTES_MAX} bytes")))
    }
}

/// What an answer is called.
pub(super) fn name_of_answer<'a>(key: &str, value: Value<'a>) -> Result<Id<'a>, Refused> {
    match value {
        Value::Uint(number) if number <= NUMBER_MAX => Ok(Id::Number(number)),
        Value::Text(text) if text.len() <= ID_BYTES_MAX => Ok(Id::Text(text)),
        _ => Err(Refused::badarg(format!(
            "`{key}` is a number from 0 to 2^53 or a text of at most 64 bytes"
        ))),
    }
}

fn boolean(key: &str, value: Value<'_>) -> Result<bool, Refused> {
    match value {
        Value::Bool(yes) => Ok(yes),
        _ => Err(Refused::badarg(format!("`{key}` is true or false"))),
    }
}

impl<'a> Fields<'a> {
    /// Everything that can be read, and the first thing that is wrong: `op` and `id` are wanted even then.
    pub(super) fn read(header: &'a [u8]) -> (Self, Option<Refused>) {
        let mut fields = Self::default();
        let mut problem = None;
        let mut reader = Reader::new(header);
        let malformed = || {
            Refused::badarg("the header of a frame is one CBOR map with text keys, at most 64 deep")
        };
        let Ok(pairs) = reader.map() else { return (fields, Some(malformed())) };
        for _ in 0..pairs {
            let pair = reader.text().and_then(|key| reader.value().map(|value| (key, value)));
            let Ok((key, value)) = pair else { return (fields, Some(malformed())) };
            if let Err(refused) = fields.put(key, value) {
                problem.get_or_insert(refused);
            }
        }
        if !reader.rest().is_empty() {
            problem.get_or_insert_with(malformed);
        }
        (fields, problem)
    }

    fn put(&mut self, key: &'a str, value: Value<'a>) -> Result<(), Refused> {
        if value == Value::Null {
            // null is as good as left out, in every field.
            return Ok(());
        }
        match key {
            "op" => once(&mut self.op, key, text(key, value)?),
            "to" => once(&mut self.to, key, text(key, value)?),
            "id" => once(&mut self.id, key, value),
            "of" => once(&mut self.of, key, value),
            "ct" => once(&mut self.ct, key, content_type(text(key, value)?)?),
            "pid" => once(&mut self.pid, key, text(key, value)?),
            "name" => once(&mut self.name, key, text(key, value)?),
            "node" => once(&mut self.node, key, text(key, value)?),
            "reason" => once(&mut self.reason, key, text(key, value)?),
            "label" => once(&mut self.label, key, text(key, value)?),
            "client" => once(&mut self.client, key, text(key, value)?),
            "state" => once(&mut self.state, key, value),
            "node_type" => once(&mut self.node_type, key, text(key, value)?),
            "checked" => once(&mut self.checked, key, boolean(key, value)?),
            "replace" => once(&mut self.replace, key, boolean(key, value)?),
            "mode" => once(&mut self.mode, key, text(key, value)?),
            "scope" => once(&mut self.scope, key, text(key, value)?),
            "delivery" => once(&mut self.delivery, key, value),
            "mailbox" => once(&mut self.mailbox, key, value),
            "resume" => once(&mut self.resume, key, value),
            "keys" => once(&mut self.keys, key, value),
            "nodes" => once(&mut self.nodes, key, value),
            "class" => once(&mut self.class, key, text(key, value)?),
            "stack" => once(&mut self.stack, key, text(key, value)?),
            "prefix" => once(&mut self.prefix, key, text(key, value)?),
            "group" => once(&mut self.group, key, text(key, value)?),
            "module" => once(&mut self.module, key, text(key, value)?),
            "function" => once(&mut self.function, key, text(key, value)?),
            "functions" => once(&mut self.functions, key, value),
            "local" => once(&mut self.local, key, boolean(key, value)?),
            "on_conflict" => once(&mut self.on_conflict, key, text(key, value)?),
            "kind" => once(&mut self.kind, key, text(key, value)?),
            "detached" => once(&mut self.detached, key, boolean(key, value)?),
            "more" => once(&mut self.more, key, boolean(key, value)?),
            "version" => once(&mut self.version, key, number(key, value)?),
            "grace_ms" => once(&mut self.grace_ms, key, number(key, value)?),
            "timeout_ms" => once(&mut self.timeout_ms, key, number(key, value)?),
            "wait_ms" => once(&mut self.wait_ms, key, number(key, value)?),
            "after_ms" => once(&mut self.after_ms, key, number(key, value)?),
            "timer" => once(&mut self.timer, key, number(key, value)?),
            "ref" => once(&mut self.reference, key, number(key, value)?),
            "max" => once(&mut self.max, key, number(key, value)?),
            "n" => once(&mut self.n, key, number(key, value)?),
            "on" => once(&mut self.on, key, boolean(key, value)?),
            "flush" => once(&mut self.flush, key, boolean(key, value)?),
            "link" => once(&mut self.link, key, boolean(key, value)?),
            "monitor" => once(&mut self.monitor, key, boolean(key, value)?),
            "trap_exit" => once(&mut self.trap_exit, key, boolean(key, value)?),
            "sensitive" => once(&mut self.sensitive, key, boolean(key, value)?),
            "topic" => once(&mut self.topic, key, text(key, value)?),
            "key" => once(&mut self.key, key, text(key, value)?),
            "metadata" => once(&mut self.metadata, key, value),
            "exclude" => once(&mut self.exclude, key, value),
            "sync" => once(&mut self.sync, key, boolean(key, value)?),
            "dedupe" => once(&mut self.dedupe, key, boolean(key, value)?),
            "report" => once(&mut self.report, key, boolean(key, value)?),
            "retain" => once(&mut self.retain, key, boolean(key, value)?),
            "list" => once(&mut self.list, key, boolean(key, value)?),
            "role" => once(&mut self.role, key, text(key, value)?),
            "count" => once(&mut self.count, key, number(key, value)?),
            "process" => once(&mut self.process, key, text(key, value)?),
            "factory" => once(&mut self.factory, key, text(key, value)?),
            "command" => once(&mut self.command, key, text(key, value)?),
            "args" => once(&mut self.args, key, value),
            "env" => once(&mut self.env, key, value),
            "cwd" => once(&mut self.cwd, key, text(key, value)?),
            "restart" => once(&mut self.restart, key, text(key, value)?),
            "shutdown" => once(&mut self.shutdown, key, value),
            "supervisor" => once(&mut self.supervisor, key, text(key, value)?),
            "significant" => once(&mut self.significant, key, boolean(key, value)?),
            "register" => once(&mut self.register, key, boolean(key, value)?),
            _ => Ok(()),
        }
    }

    /// The command, if that is one.
    pub(super) fn command(self) -> Result<Command<'a>, Refused> {
        let op = self.op.ok_or_else(|| {
            Refused::badarg("a command needs `op`, for example {\"op\": \"self\", \"id\": 1}")
        })?;
        Ok(match op {
            "send" => {
                let (mode, checked) = (self.mode()?, self.checked.unwrap_or(false));
                Command::Send { pid: self.pid, to: need(op, "to", self.to)?, mode, checked }
            }
            "hello" => Command::Hello {
                version: self.version.unwrap_or(1),
                client: self.client.map(|text| short("client", text)).transpose()?,
                delivery: self.delivery.map(delivery).transpose()?,
                grace_ms: self.grace_ms,
                resume: self.resume.map(resume).transpose()?,
                process: self.process,
            },
            "self" => Command::SelfPid,
            "bye" => Command::Bye,
            "nodes" => Command::Nodes { states: self.states()? },
            "ping" => {
                Command::Ping { node: need(op, "node", self.node)?, timeout_ms: self.timeout_ms }
            }
            "connect" => Command::Connect { to: need(op, "to", self.to)? },
            "disconnect" => Command::Disconnect { node: need(op, "node", self.node)? },
            "peers" => Command::Peers,
            "explain" => Command::Explain { node: need(op, "node", self.node)? },
            "doctor" => Command::Doctor,
            "ready" => Command::Ready { wait_ms: self.wait_ms },
            "drain" => Command::Drain { wait_ms: self.wait_ms },
            "monitor_nodes" => Command::MonitorNodes {
                pid: self.pid,
                on: self.on.unwrap_or(true),
                node_type: self.node_type()?,
            },
            "monitor_node" => Command::MonitorNode {
                pid: self.pid,
                node: need(op, "node", self.node)?,
                on: self.on.unwrap_or(true),
            },
            "wait_for" => Command::WaitFor {
                nodes: self.nodes()?,
                role: self.role.map(|role| short("role", role)).transpose()?,
                count: self.count,
                timeout_ms: self.timeout_ms,
            },
            "monitor_deaths" => Command::MonitorDeaths { on: self.on.unwrap_or(true) },
            "spawn" if self.kind == Some("kv") => Command::SpawnKv {
                pid: self.pid,
                name: self.name,
                label: self.label.map(|text| short("label", text)).transpose()?,
                link: self.link.unwrap_or(false),
                monitor: self.monitor.unwrap_or(false),
                detached: self.detached.unwrap_or(false),
                bytes: self.mailbox.map(mailbox).transpose()?.unwrap_or_default().bytes,
            },
            "spawn" if self.factory.is_some() && self.kind.is_none() => Command::SpawnFactory {
                pid: self.pid,
                factory: need(op, "factory", self.factory)?,
                node: self.node,
                args: self.args.map(|value| Keys::read("args", value)).transpose()?,
                name: self.name,
                link: self.link.unwrap_or(false),
                monitor: self.monitor.unwrap_or(false),
                timeout_ms: self.timeout_ms,
            },
            "host" => Command::Host { spec: Box::new(self.process_spec(op)?) },
            "terminate_child" => Command::TerminateChild { name: need(op, "name", self.name)? },
            "restart_child" => Command::RestartChild { name: need(op, "name", self.name)? },
            "delete_child" => Command::DeleteChild { name: need(op, "name", self.name)? },
            "tree" => Command::Tree,
            "spawn" if self.kind.is_some() || self.detached == Some(true) => {
                return Err(Refused::badarg(
                    "`kind` of `spawn` is kv, or left out; `detached` is for that kind",
                ));
            }
            "spawn" => Command::Spawn {
                pid: self.pid,
                name: self.name,
                label: self.label.map(|text| short("label", text)).transpose()?,
                link: self.link.unwrap_or(false),
                monitor: self.monitor.unwrap_or(false),
                trap_exit: self.trap_exit.unwrap_or(false),
                delivery: self.delivery.map(delivery).transpose()?,
                mailbox: self.mailbox.map(mailbox).transpose()?.unwrap_or_default(),
            },
            "exit" => Command::Exit { pid: self.pid, reason: self.reason()?.unwrap_or("normal") },
            "kill" => Command::Kill {
                pid: self.pid,
                to: need(op, "to", self.to)?,
                reason: self.reason()?.unwrap_or("kill"),
            },
            "info" => Command::Info {
                to: self.to,
                keys: self.keys.map(|value| Keys::read("keys", value)).transpose()?,
            },
            "alive" => Command::Alive { to: need(op, "to", self.to)? },
            "processes" => Command::Processes { node: self.node },
            "flag" => Command::Flag {
                pid: self.pid,
                trap_exit: self.trap_exit,
                sensitive: self.sensitive,
                label: self.label.map(|text| short("label", text)).transpose()?,
                delivery: self.delivery.map(delivery).transpose()?,
                mailbox: self.mailbox.map(mailbox).transpose()?.unwrap_or_default(),
            },
            "register" => {
                let (name, global) = self.scoped(op)?;
                let on_conflict = self.on_conflict()?;
                if !global && self.on_conflict.is_some() {
                    return Err(Refused::badarg("`on_conflict` is for the scope global"));
                }
                let replace = self.replace.unwrap_or(false);
                if !global && replace {
                    return Err(Refused::badarg("`replace` is for the scope global"));
                }
                let global = global.then_some(on_conflict);
                Command::Register { pid: self.pid, name, global, replace }
            }
            "unregister" => {
                let (name, global) = self.scoped(op)?;
                Command::Unregister { name, global }
            }
            "whereis" => {
                let (name, global) = self.scoped(op)?;
                if global && self.node.is_some() {
                    return Err(Refused::badarg("a global name is on no `node`; leave it out"));
                }
                Command::Whereis { name, global, node: self.node }
            }
            "join" => Command::Join { pid: self.pid, group: need(op, "group", self.group)? },
            "leave" => Command::Leave { pid: self.pid, group: need(op, "group", self.group)? },
            "members" => Command::Members {
                group: need(op, "group", self.group)?,
                local: self.local.unwrap_or(false),
            },
            "groups" => Command::Groups { prefix: self.prefix.unwrap_or("") },
            "monitor_group" if self.group.is_none() && self.prefix.is_some() => {
                Command::MonitorGroups { pid: self.pid, prefix: self.prefix.unwrap_or("") }
            }
            "monitor_group" => {
                Command::MonitorGroup { pid: self.pid, group: need(op, "group", self.group)? }
            }
            "serve" => Command::Serve {
                pid: self.pid,
                module: need(op, "module", self.module)?,
                functions: self.functions.map(|v| Keys::read("functions", v)).transpose()?,
            },
            "unserve" => {
                Command::Unserve { pid: self.pid, module: need(op, "module", self.module)? }
            }
            "modules" => Command::Modules,
            "rpc" | "rpc_cast" => {
                let nodes = self.nodes()?;
                if nodes.is_some() == self.node.is_some() {
                    return Err(Refused::badarg(format!(
                        "`{op}` needs either `node` (a name or any) or `nodes`"
                    )));
                }
                Command::Rpc {
                    pid: self.pid,
                    node: self.node,
                    nodes,
                    module: need(op, "module", self.module)?,
                    function: need(op, "function", self.function)?,
                    timeout_ms: self.timeout_ms,
                    cast: op == "rpc_cast",
                }
            }
            "publish" => Command::Publish {
                pid: self.pid,
                topic: need(op, "topic", self.topic)?,
                reach: self.reach()?,
                exclude: match self.exclude {
                    None | Some(Value::Bool(false)) => Exclude::Nobody,
                    Some(Value::Bool(true)) => Exclude::Publisher,
                    Some(Value::Text(pid)) => Exclude::Pid(pid),
                    Some(_) => {
                        return Err(Refused::badarg("`exclude` is true, false or a pid"));
                    }
                },
                mode: self.mode()?,
                report: self.report.unwrap_or(false),
                retain: self.retain.unwrap_or(false),
            },
            "subscribe" => Command::Subscribe {
                pid: self.pid,
                topic: need(op, "topic", self.topic)?,
                group: self.group,
                metadata: self.metadata.map(Metadata),
                sync: self.sync.unwrap_or(false),
                dedupe: self.dedupe.unwrap_or(false),
            },
            "unsubscribe" => {
                Command::Unsubscribe { pid: self.pid, topic: need(op, "topic", self.topic)? }
            }
            "subscribers" => Command::Subscribers {
                topic: need(op, "topic", self.topic)?,
                list: self.list.unwrap_or(false),
            },
            "topics" => Command::Topics,
            "track" => Command::Track(self.tracked(op)?),
            "update_presence" => Command::UpdatePresence(self.tracked(op)?),
            "untrack" if self.key.is_some() && self.topic.is_none() => {
                return Err(Refused::badarg("`untrack` of a `key` needs its `topic`"));
            }
            "untrack" => Command::Untrack { pid: self.pid, topic: self.topic, key: self.key },
            "presence" if self.key.is_some() && self.prefix.is_some() => {
                return Err(Refused::badarg(
                    "`presence` is about one `key` or those of a `prefix`",
                ));
            }
            "presence" => Command::Presence {
                topic: need(op, "topic", self.topic)?,
                key: self.key,
                prefix: self.prefix.unwrap_or(""),
            },
            "monitor_presence" => {
                Command::MonitorPresence { pid: self.pid, topic: need(op, "topic", self.topic)? }
            }
            "registered" => {
                Command::Registered { global: self.is_global()?, prefix: self.prefix.unwrap_or("") }
            }
            "cast" => {
                let (mode, checked) = (self.mode()?, self.checked.unwrap_or(false));
                Command::Cast { pid: self.pid, to: need(op, "to", self.to)?, mode, checked }
            }
            "abcast" => Command::Abcast {
                pid: self.pid,
                nodes: self.nodes()?,
                name: need(op, "name", self.name)?,
            },
            "sbcast" => Command::Sbcast {
                pid: self.pid,
                nodes: self.nodes()?,
                name: need(op, "name", self.name)?,
                timeout_ms: self.timeout_ms,
            },
            "call" => Command::Call {
                pid: self.pid,
                to: need(op, "to", self.to)?,
                timeout_ms: self.timeout_ms,
            },
            "multi_call" => Command::MultiCall {
                pid: self.pid,
                nodes: self.nodes()?,
                name: need(op, "name", self.name)?,
                timeout_ms: self.timeout_ms,
            },
            "reply" => Command::Reply {
                reference: need(op, "ref", self.reference)?,
                more: self.more.unwrap_or(false),
            },
            "raise" => Command::Raise {
                reference: need(op, "ref", self.reference)?,
                class: short("class", self.class.unwrap_or("error"))?,
                reason: words("reason", self.reason.unwrap_or(""))?,
                stack: self.stack.map(|text| words("stack", text)).transpose()?,
            },
            "send_after" => Command::SendAfter {
                pid: self.pid,
                to: need(op, "to", self.to)?,
                after_ms: need(op, "after_ms", self.after_ms)?,
            },
            "cancel_timer" => Command::CancelTimer { timer: need(op, "timer", self.timer)? },
            "read_timer" => Command::ReadTimer { timer: need(op, "timer", self.timer)? },
            "receive" => Command::Receive {
                pid: self.pid,
                max: self.max.unwrap_or(1),
                timeout_ms: self.timeout_ms,
            },
            "cancel" => Command::Cancel {
                pid: self.pid,
                of: name_of_answer("of", need(op, "of", self.of)?)?,
            },
            "flush" => Command::Flush { pid: self.pid },
            "more" => Command::More { pid: self.pid, n: need(op, "n", self.n)? },
            "link" => Command::Link { pid: self.pid, to: need(op, "to", self.to)? },
            "unlink" => Command::Unlink { pid: self.pid, to: need(op, "to", self.to)? },
            "monitor" => Command::Monitor { pid: self.pid, to: need(op, "to", self.to)? },
            "demonitor" => Command::Demonitor {
                reference: need(op, "ref", self.reference)?,
                flush: self.flush.unwrap_or(false),
            },
            _ => return Err(unknown(op)),
        })
    }

    /// What is to be hosted.
    fn process_spec(&self, op: &str) -> Result<ProcessSpec, Refused> {
        let args = self.args.map(|value| Keys::read("args", value)).transpose()?;
        let mut program = Program {
            command: need(op, "command", self.command)?.to_owned(),
            args: args.iter().flat_map(Keys::iter).map(str::to_owned).collect(),
            cwd: self.cwd.map(str::to_owned),
            ..Program::default()
        };
        if let Some(env) = self.env {
            pairs("env", env, |key, value| {
                program.env.insert(key.to_owned(), text(key, value)?.to_owned());
                Ok(())
            })?;
        }
        program.check().map_err(Refused::badarg)?;
        Ok(ProcessSpec {
            name: need(op, "name", self.name)?.to_owned(),
            program,
            restart: match self.restart {
                None => Restart::default(),
                Some(word) => Restart::of_word(word).ok_or_else(|| {
                    let words = Restart::WORDS.join(", ");
                    Refused::badarg(format!("`restart` is one of {words}"))
                })?,
            },
            shutdown: self.shutdown.map(shutdown).transpose()?.unwrap_or_default(),
            supervisor: self.supervisor.unwrap_or_default().to_owned(),
            significant: self.significant.unwrap_or(false),
            register: self.register.unwrap_or(true),
        })
    }

    fn reason(&self) -> Result<Option<&'a str>, Refused> {
        match self.reason {
            Some(reason) if reason.is_empty() || reason.len() > REASON_BYTES_MAX => {
                Err(Refused::badarg("`reason` is a text of 1 to 1024 bytes"))
            }
            reason => Ok(reason),
        }
    }

    fn nodes(&self) -> Result<Option<Keys<'a>>, Refused> {
        self.nodes.map(|value| Keys::read("nodes", value)).transpose()
    }

    fn states(&self) -> Result<Vec<&'a str>, Refused> {
        match self.state {
            None => Ok(Vec::new()),
            Some(Value::Text(state)) => Ok(vec![state]),
            Some(value) => Ok(Keys::read("state", value)?.iter().take(STATES_MAX).collect()),
        }
    }

    fn node_type(&self) -> Result<NodeType, Refused> {
        match self.node_type {
            None | Some("all") => Ok(NodeType::All),
            Some("visible") => Ok(NodeType::Visible),
            Some("hidden") => Ok(NodeType::Hidden),
            Some(_) => Err(Refused::badarg("`node_type` is visible, hidden or all")),
        }
    }

    fn mode(&self) -> Result<Mode, Refused> {
        match self.mode {
            None | Some("wait") => Ok(Mode::Wait),
            Some("try") => Ok(Mode::Try),
            Some("lossy") => Ok(Mode::Lossy),
            Some(_) => Err(Refused::badarg("`mode` is wait, try or lossy")),
        }
    }

    fn reach(&self) -> Result<Reach<'a>, Refused> {
        match (self.scope, self.node) {
            (None | Some("all"), None) => Ok(Reach::All),
            (Some("local"), None) => Ok(Reach::Local),
            (None | Some("node"), Some(node)) => Ok(Reach::Node(node)),
            (Some("node"), None) => {
                Err(Refused::badarg("the `scope` node needs `node`: which one"))
            }
            (Some("all" | "local"), Some(_)) => {
                Err(Refused::badarg("`node` names one node; leave `scope` out"))
            }
            (Some(_), _) => Err(Refused::badarg("`scope` of `publish` is all, local or node")),
        }
    }

    fn tracked(&self, op: &str) -> Result<Tracked<'a>, Refused> {
        Ok(Tracked {
            pid: self.pid,
            topic: need(op, "topic", self.topic)?,
            key: need(op, "key", self.key)?,
            metadata: self.metadata.map(Metadata),
        })
    }

    /// The name, and whether it is one of the whole mesh.
    fn scoped(&self, op: &str) -> Result<(&'a str, bool), Refused> {
        let name = need(op, "name", self.name)?;
        Ok((name, self.is_global()?))
    }

    fn is_global(&self) -> Result<bool, Refused> {
        match self.scope {
            None | Some("local") => Ok(false),
            Some("global") => Ok(true),
            Some(_) => Err(Refused::badarg("`scope` is local or global")),
        }
    }

    fn on_conflict(&self) -> Result<OnConflict, Refused> {
        match self.on_conflict {
            None | Some("keep_oldest") => Ok(OnConflict::KeepOldest),
            Some("keep_newest") => Ok(OnConflict::KeepNewest),
            Some("notify") => Ok(OnConflict::Notify),
            Some("kill_loser") => Ok(OnConflict::KillLoser),
            Some(_) => Err(Refused::badarg(
                "`on_conflict` is keep_oldest, keep_newest, notify or kill_loser",
            )),
        }
    }
}

fn unknown(op: &str) -> Refused {
    let shown: String = op.chars().take(40).collect();
    let message = match pillion_strategies::nearest(&shown, OPS) {
        Some(known) => format!("`{shown}` is not a command; did you mean `{known}`?"),
        None => format!("`{shown}` is not a command of this version of the protocol"),
    };
    Refused { code: "badop", message }
}

fn need<T>(op: &str, key: &str, value: Option<T>) -> Result<T, Refused> {
    value.ok_or_else(|| Refused::badarg(format!("`{op}` needs `{key}`")))
}

fn short<'a>(key: &str, text: &'a str) -> Result<&'a str, Refused> {
    if text.len() <= LABEL_BYTES_MAX {
        Ok(text)
    } else {
        Err(Refused::badarg(format!("`{key}` has at most {LABEL_BYTES_MAX} bytes")))
    }
}

/// What an exception says: it goes into the header of an answer, so that two of them and the rest fit in there.
fn words<'a>(key: &str, text: &'a str) -> Result<&'a str, Refused> {
    if text.len() <= WORDS_BYTES_MAX {
        Ok(text)
    } else {
        Err(Refused::badarg(format!(
            "`{key}` of an exception has at most {WORDS_BYTES_MAX} bytes; cut it short"
        )))
    }
}

fn pairs<'a>(
    key: &str,
    value: Value<'a>,
    mut each: impl FnMut(&'a str, Value<'a>) -> Result<(), Refused>,
) -> Result<(), Refused> {
    let wrong = || Refused::badarg(format!("`{key}` is an object"));
    let Value::Raw(raw) = value else { return Err(wrong()) };
    let mut reader = Reader::new(raw);
    let pairs = reader.map().map_err(|_| wrong())?;
    for _ in 0..pairs {
        let key = reader.text().map_err(|_| wrong())?;
        let value = reader.value().map_err(|_| wrong())?;
        if value != Value::Null {
            each(key, value)?;
        }
    }
    Ok(())
}

fn delivery(value: Value<'_>) -> Result<Delivery, Refused> {
    let wrong = || Refused::badarg("`delivery` is \"push\", \"pull\" or {\"window\": 1 to 65536}");
    match value {
        Value::Text("push") => Ok(Delivery::Push),
        Value::Text("pull") => Ok(Delivery::Pull),
        Value::Raw(_) => {
            let mut window = None;
            pairs("delivery", value, |key, value| {
                if key == "window" {
                    window = Some(number(key, value)?);
                }
                Ok(())
            })?;
            match window.map(u32::try_from) {
                Some(Ok(n @ 1..=65_536)) => Ok(Delivery::Window(n)),
                _ => Err(wrong()),
            }
        }
        _ => Err(wrong()),
    }
}

fn mailbox(value: Value<'_>) -> Result<MailboxOptions, Refused> {
    let mut options = MailboxOptions::default();
    pairs("mailbox", value, |key, value| {
        match key {
            "entries" => options.entries = Some(number(key, value)?),
            "bytes" => options.bytes = Some(number(key, value)?),
            "policy" => {
                options.policy = Some(match value {
                    Value::Text("drop_newest") => Overflow::DropNewest,
                    Value::Text("drop_oldest") => Overflow::DropOldest,
                    Value::Text("exit") => Overflow::Exit,
                    Value::Text("wait") => Overflow::Wait,
                    _ => {
                        return Err(Refused::badarg(
                            "`policy` of a mailbox is drop_newest, drop_oldest, exit or wait",
                        ));
                    }
                });
            }
            _ => {}
        }
        Ok(())
    })?;
    if options.entries == Some(0) || options.bytes == Some(0) {
        return Err(Refused::badarg("`entries` and `bytes` of a mailbox are at least 1"));
    }
    Ok(options)
}

fn shutdown(value: Value<'_>) -> Result<Shutdown, Refused> {
    match value {
        Value::Text("brutal_kill") => Ok(Shutdown::BrutalKill),
        Value::Text("infinity") => Ok(Shutdown::Infinity),
        Value::Uint(ms) if Duration::from_millis(ms) <= SHUTDOWN_MAX => {
            Ok(Shutdown::Within(Duration::from_millis(ms)))
        }
        _ => Err(Refused::badarg(
            "`shutdown` is \"brutal_kill\", \"infinity\" or a number of milliseconds up to a day",
        )),
    }
}

fn resume(value: Value<'_>) -> Result<Resume<'_>, Refused> {
    let (mut session, mut secret, mut seen) = (None, None, None);
    pairs("resume", value, |key, value| {
        match key {
            "session" => session = Some(number(key, value)?),
            "secret" => secret = Some(text(key, value)?),
            "seen" => seen = Some(number(key, value)?),
            _ => {}
        }
        Ok(())
    })?;
    match (session, secret, seen) {
        (Some(session), Some(secret), Some(seen)) => Ok(Resume { session, secret, seen }),
        _ => Err(Refused::badarg(
            "`resume` needs session and secret as `welcome` gave them, and seen",
        )),
    }
}
