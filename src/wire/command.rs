//! What an app says to its sidecar: one [`Command`] per frame.
//!
//! A frame is `u32 length of the rest, u16 header length, header, body`, big endian. The header is a CBOR map
//! with text keys; `op` names the command, `id` asks for an answer. The body is opaque: nothing here looks into
//! it. Keys that a command does not know are ignored; a key twice, or a value of the wrong kind, is `badarg`.
//!
//! Reading a command allocates nothing: it borrows from the read buffer.

use super::cbor::{Malformed, Reader, Value};

/// Longest reason of an exit, in bytes.
pub const REASON_BYTES_MAX: usize = 1024;
/// Longest `label` or `client`, in bytes.
pub const LABEL_BYTES_MAX: usize = 255;
/// Longest `id` given as text, in bytes.
pub const ID_BYTES_MAX: usize = 64;
/// Longest `ct`, in bytes.
pub const CT_BYTES_MAX: usize = 255;
/// Largest number that every JSON reader keeps exactly.
pub const NUMBER_MAX: u64 = 1 << 53;

/// What the app wants its answer to be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Id<'a> {
    /// A number up to 2^53.
    Number(u64),
    /// A text of at most 64 bytes.
    Text(&'a str),
}

/// A command that cannot be carried out as it was written. The session lives on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// `badarg`, `badop` or `unsupported`.
    pub code: &'static str,
    /// What to write instead.
    pub message: String,
}

impl Refused {
    fn badarg(message: impl Into<String>) -> Self {
        Self { code: "badarg", message: message.into() }
    }
}

/// How a process wants its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// As they come.
    Push,
    /// Only when asked by `receive`.
    Pull,
    /// At most this many unconsumed.
    Window(u32),
}

/// What a full mailbox does with the next message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The next one is lost.
    #[default]
    DropNewest,
    /// The oldest one is lost.
    DropOldest,
    /// The process exits with reason `overloaded`.
    Exit,
    /// Its senders wait, up to the send timeout.
    Wait,
}

/// What `mailbox {...}` may set; what is left out stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MailboxOptions {
    /// Most messages.
    pub entries: Option<u64>,
    /// Most bytes of messages.
    pub bytes: Option<u64>,
    /// What happens beyond them.
    pub policy: Option<Overflow>,
}

/// What the sender wants when a queue on the way is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Wait up to the send timeout.
    #[default]
    Wait,
    /// Refuse at once with `overloaded`.
    Try,
    /// Lose it, counted.
    Lossy,
}

/// Which session to take up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume<'a> {
    /// The number that `welcome` gave.
    pub session: u64,
    /// The secret that `welcome` gave.
    pub secret: &'a str,
    /// How many event frames were received.
    pub seen: u64,
}

/// One command of the app protocol.
#[derive(Clone, Debug, PartialEq)]
pub enum Command<'a> {
    /// `hello {version, client, delivery?, grace_ms?, resume?}`
    Hello {
        /// Protocol version, 1.
        version: u64,
        /// What the app calls itself, for people.
        client: Option<&'a str>,
        /// How the session's processes get their events unless they say otherwise.
        delivery: Option<Delivery>,
        /// How long the session survives its connection, milliseconds.
        grace_ms: Option<u64>,
        /// The session to take up again.
        resume: Option<Resume<'a>>,
    },
    /// `self`
    SelfPid,
    /// `bye`
    Bye,
    /// `nodes {state?}`
    Nodes {
        /// `self`, `connected`, `known`, `hidden`, `visible`; all when left out.
        state: Option<&'a str>,
    },
    /// `ping {node, timeout_ms?}`
    Ping {
        /// Which.
        node: &'a str,
        /// Milliseconds until it is a pang.
        timeout_ms: Option<u64>,
    },
    /// `connect {to}`
    Connect {
        /// A node's name or `host:port`.
        to: &'a str,
    },
    /// `disconnect {node}`
    Disconnect {
        /// Which.
        node: &'a str,
    },
    /// `monitor_nodes {on, pid?}`
    MonitorNodes {
        /// Acting process.
        pid: Option<&'a str>,
        /// Start or stop.
        on: bool,
    },
    /// `monitor_node {node, on?, pid?}`
    MonitorNode {
        /// Acting process.
        pid: Option<&'a str>,
        /// Which.
        node: &'a str,
        /// Start (one `nodedown` each) or take one back.
        on: bool,
    },
    /// `monitor_deaths {on}`: `died` events of every process here.
    MonitorDeaths {
        /// Start or stop.
        on: bool,
    },
    /// `spawn {name?, label?, link?, monitor?, delivery?, mailbox?, trap_exit?}`
    Spawn {
        /// The process it is linked to or monitored by; the session's own when left out.
        pid: Option<&'a str>,
        /// Registered at once.
        name: Option<&'a str>,
        /// For people.
        label: Option<&'a str>,
        /// Linked to the acting process.
        link: bool,
        /// Monitored by the acting process.
        monitor: bool,
        /// Traps exits from its first instant.
        trap_exit: bool,
        /// How it gets its events.
        delivery: Option<Delivery>,
        /// Its bounds.
        mailbox: MailboxOptions,
    },
    /// `exit {pid?, reason?}`
    Exit {
        /// Which of the session's processes.
        pid: Option<&'a str>,
        /// `normal` when left out.
        reason: &'a str,
    },
    /// `kill {to, reason?, pid?}`: Erlang's `exit/2`.
    Kill {
        /// Who sends the signal.
        pid: Option<&'a str>,
        /// Whom.
        to: &'a str,
        /// `killed` is what others see of `kill`.
        reason: &'a str,
    },
    /// `info {to?, keys?}`
    Info {
        /// Whom; the session's own process when left out.
        to: Option<&'a str>,
        /// Which keys, an array of texts as CBOR; the usual ones when left out.
        keys: Option<Keys<'a>>,
    },
    /// `processes {node?}`
    Processes {
        /// Where; here when left out.
        node: Option<&'a str>,
    },
    /// `flag {pid?, trap_exit?, sensitive?, label?, delivery?, mailbox?}`
    Flag {
        /// Which of the session's processes.
        pid: Option<&'a str>,
        /// Exit signals become `exit` events.
        trap_exit: Option<bool>,
        /// Nobody else may look into the mailbox.
        sensitive: Option<bool>,
        /// For people.
        label: Option<&'a str>,
        /// How it gets its events.
        delivery: Option<Delivery>,
        /// Its bounds.
        mailbox: MailboxOptions,
    },
    /// `register {name, pid?, scope?}`
    Register {
        /// Which of the session's processes.
        pid: Option<&'a str>,
        /// The name.
        name: &'a str,
    },
    /// `unregister {name}`
    Unregister {
        /// The name.
        name: &'a str,
    },
    /// `whereis {name, node?}`
    Whereis {
        /// The name.
        name: &'a str,
        /// Where; here when left out.
        node: Option<&'a str>,
    },
    /// `registered`
    Registered,
    /// `send {to, body, mode?, pid?}`
    Send {
        /// Who sends.
        pid: Option<&'a str>,
        /// To whom.
        to: &'a str,
        /// What when a queue is full.
        mode: Mode,
    },
    /// `send_after {to, after_ms, body, pid?}`
    SendAfter {
        /// Who sends, and whose death cancels it.
        pid: Option<&'a str>,
        /// To whom.
        to: &'a str,
        /// Milliseconds.
        after_ms: u64,
    },
    /// `cancel_timer {timer}`
    CancelTimer {
        /// As `send_after` answered.
        timer: u64,
    },
    /// `receive {pid?, max?, timeout_ms?}`
    Receive {
        /// Which of the session's processes.
        pid: Option<&'a str>,
        /// At most this many events, 1 when left out.
        max: u64,
        /// How long to wait for the first, milliseconds; 0 when left out.
        timeout_ms: Option<u64>,
    },
    /// `cancel {of, pid?}`
    Cancel {
        /// Whose command it is, of the session's processes.
        pid: Option<&'a str>,
        /// The `id` of a command that has not been answered yet.
        of: Id<'a>,
    },
    /// `flush {pid?}`
    Flush {
        /// Which of the session's processes.
        pid: Option<&'a str>,
    },
    /// `more {pid?, n}`
    More {
        /// Which of the session's processes.
        pid: Option<&'a str>,
        /// How many were consumed.
        n: u64,
    },
    /// `link {to, pid?}`
    Link {
        /// Who.
        pid: Option<&'a str>,
        /// With whom, a pid or a local name.
        to: &'a str,
    },
    /// `unlink {to, pid?}`
    Unlink {
        /// Who.
        pid: Option<&'a str>,
        /// From whom.
        to: &'a str,
    },
    /// `monitor {to, pid?}`
    Monitor {
        /// Who.
        pid: Option<&'a str>,
        /// Whom: a pid, a name, a name on another node.
        to: &'a str,
    },
    /// `demonitor {ref, flush?}`
    Demonitor {
        /// As `monitor` answered.
        reference: u64,
        /// Also take a `down` that is there already.
        flush: bool,
    },
}

/// An array of texts, as the app wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys<'a>(&'a [u8]);

impl<'a> Keys<'a> {
    fn read(raw: &'a [u8]) -> Result<Self, Refused> {
        let keys = Self(raw);
        let mut reader = Reader::new(raw);
        let good = reader.items().and_then(|n| (0..n).try_for_each(|_| reader.text().map(|_| ())));
        good.map(|()| keys).map_err(|Malformed| Refused::badarg("`keys` is a list of texts"))
    }

    /// The texts.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> {
        let mut reader = Reader::new(self.0);
        let items = reader.items().unwrap_or(0);
        (0..items).map_while(move |_| reader.text().ok())
    }
}

/// A frame taken apart: the fields of its header and its body.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// What the answer is to be called; no answer when there is none.
    pub id: Option<Id<'a>>,
    /// The command, or why it is none.
    pub command: Result<Command<'a>, Refused>,
    /// The `op` as written, for `failed` events.
    pub op: &'a str,
    /// Content type of the body; CBOR when there is none.
    pub ct: Option<&'a str>,
    /// The body, opaque.
    pub body: &'a [u8],
}

#[derive(Default)]
struct Fields<'a> {
    op: Option<&'a str>,
    id: Option<Value<'a>>,
    of: Option<Value<'a>>,
    ct: Option<&'a str>,
    pid: Option<&'a str>,
    to: Option<&'a str>,
    name: Option<&'a str>,
    node: Option<&'a str>,
    reason: Option<&'a str>,
    label: Option<&'a str>,
    client: Option<&'a str>,
    state: Option<&'a str>,
    mode: Option<&'a str>,
    scope: Option<&'a str>,
    delivery: Option<Value<'a>>,
    mailbox: Option<Value<'a>>,
    resume: Option<Value<'a>>,
    keys: Option<Value<'a>>,
    version: Option<u64>,
    grace_ms: Option<u64>,
    timeout_ms: Option<u64>,
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
}

impl<'a> Request<'a> {
    /// Takes `u16 header length, header, body` apart: a frame without its first four bytes.
    #[must_use]
    pub fn read(rest: &'a [u8]) -> Self {
        let refused = |message: &str| Self {
            id: None,
            command: Err(Refused::badarg(message)),
            op: "",
            ct: None,
            body: &[],
        };
        let Some((head, rest)) = rest.split_first_chunk::<2>() else {
            return refused("a frame needs u16 header length, header, body");
        };
        let length = u16::from_be_bytes(*head) as usize;
        let Some((header, body)) = rest.split_at_checked(length) else {
            return refused("the header length of the frame is longer than the frame");
        };
        let (fields, problem) = Fields::read(header);
        let op = fields.op.unwrap_or("");
        let mut id = None;
        let mut problem = problem;
        match fields.id.map(|value| name_of_answer("id", value)).transpose() {
            Ok(good) => id = good,
            Err(refused) => problem = Some(refused),
        }
        let ct = fields.ct;
        let command = match problem {
            Some(problem) => Err(problem),
            None => fields.command(),
        };
        Self { id, command, op, ct, body }
    }
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

fn name_of_answer<'a>(key: &str, value: Value<'a>) -> Result<Id<'a>, Refused> {
    match value {
        Value::Uint(number) if number <= NUMBER_MAX => Ok(Id::Number(number)),
        Value::Text(text) if text.len() <= ID_BYTES_MAX => Ok(Id::Text(text)),
        _ => Err(Refused::badarg(format!(
            "`{key}` is a number from 0 to 2^53 or a text of at most 64 bytes"
        ))),
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

fn boolean(key: &str, value: Value<'_>) -> Result<bool, Refused> {
    match value {
        Value::Bool(yes) => Ok(yes),
        _ => Err(Refused::badarg(format!("`{key}` is true or false"))),
    }
}

impl<'a> Fields<'a> {
    /// Everything that can be read, and the first thing that is wrong: `op` and `id` are wanted even then.
    fn read(header: &'a [u8]) -> (Self, Option<Refused>) {
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
            "state" => once(&mut self.state, key, text(key, value)?),
            "mode" => once(&mut self.mode, key, text(key, value)?),
            "scope" => once(&mut self.scope, key, text(key, value)?),
            "delivery" => once(&mut self.delivery, key, value),
            "mailbox" => once(&mut self.mailbox, key, value),
            "resume" => once(&mut self.resume, key, value),
            "keys" => once(&mut self.keys, key, value),
            "version" => once(&mut self.version, key, number(key, value)?),
            "grace_ms" => once(&mut self.grace_ms, key, number(key, value)?),
            "timeout_ms" => once(&mut self.timeout_ms, key, number(key, value)?),
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
            _ => Ok(()),
        }
    }

    fn command(self) -> Result<Command<'a>, Refused> {
        let op = self.op.ok_or_else(|| {
            Refused::badarg("a command needs `op`, for example {\"op\": \"self\", \"id\": 1}")
        })?;
        Ok(match op {
            "send" => {
                let mode = self.mode()?;
                Command::Send { pid: self.pid, to: need(op, "to", self.to)?, mode }
            }
            "hello" => Command::Hello {
                version: self.version.unwrap_or(1),
                client: self.client.map(|text| short("client", text)).transpose()?,
                delivery: self.delivery.map(delivery).transpose()?,
                grace_ms: self.grace_ms,
                resume: self.resume.map(resume).transpose()?,
            },
            "self" => Command::SelfPid,
            "bye" => Command::Bye,
            "nodes" => Command::Nodes { state: self.state },
            "ping" => {
                Command::Ping { node: need(op, "node", self.node)?, timeout_ms: self.timeout_ms }
            }
            "connect" => Command::Connect { to: need(op, "to", self.to)? },
            "disconnect" => Command::Disconnect { node: need(op, "node", self.node)? },
            "monitor_nodes" => Command::MonitorNodes { pid: self.pid, on: self.on.unwrap_or(true) },
            "monitor_node" => Command::MonitorNode {
                pid: self.pid,
                node: need(op, "node", self.node)?,
                on: self.on.unwrap_or(true),
            },
            "monitor_deaths" => Command::MonitorDeaths { on: self.on.unwrap_or(true) },
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
                keys: match self.keys {
                    None => None,
                    Some(Value::Raw(raw)) => Some(Keys::read(raw)?),
                    Some(_) => return Err(Refused::badarg("`keys` is a list of texts")),
                },
            },
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
                self.local_scope(op)?;
                Command::Register { pid: self.pid, name: need(op, "name", self.name)? }
            }
            "unregister" => {
                self.local_scope(op)?;
                Command::Unregister { name: need(op, "name", self.name)? }
            }
            "whereis" => {
                self.local_scope(op)?;
                Command::Whereis { name: need(op, "name", self.name)?, node: self.node }
            }
            "registered" => Command::Registered,
            "send_after" => Command::SendAfter {
                pid: self.pid,
                to: need(op, "to", self.to)?,
                after_ms: need(op, "after_ms", self.after_ms)?,
            },
            "cancel_timer" => Command::CancelTimer { timer: need(op, "timer", self.timer)? },
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

    fn reason(&self) -> Result<Option<&'a str>, Refused> {
        match self.reason {
            Some(reason) if reason.is_empty() || reason.len() > REASON_BYTES_MAX => {
                Err(Refused::badarg("`reason` is a text of 1 to 1024 bytes"))
            }
            reason => Ok(reason),
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

    fn local_scope(&self, op: &str) -> Result<(), Refused> {
        match self.scope {
            None | Some("local") => Ok(()),
            Some("global") => Err(Refused {
                code: "unsupported",
                message: format!(
                    "`{op}` knows the scope local only; global names are not in this version"
                ),
            }),
            Some(_) => Err(Refused::badarg("`scope` is local")),
        }
    }
}

/// Every `op`, for the nearest one when a word is not known.
pub const OPS: [&str; 31] = [
    "hello",
    "self",
    "bye",
    "nodes",
    "ping",
    "connect",
    "disconnect",
    "monitor_nodes",
    "monitor_node",
    "monitor_deaths",
    "spawn",
    "exit",
    "kill",
    "info",
    "processes",
    "flag",
    "register",
    "unregister",
    "whereis",
    "registered",
    "send",
    "send_after",
    "cancel_timer",
    "receive",
    "cancel",
    "flush",
    "more",
    "link",
    "unlink",
    "monitor",
    "demonitor",
];

fn unknown(op: &str) -> Refused {
    let shown: String = op.chars().take(40).collect();
    let nearest = OPS
        .iter()
        .map(|known| (strsim::damerau_levenshtein(known, &shown), known))
        .min()
        .filter(|(distance, _)| *distance <= 3);
    let message = match nearest {
        Some((_, known)) => format!("`{shown}` is not a command; did you mean `{known}`?"),
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
