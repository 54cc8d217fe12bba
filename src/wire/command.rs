//! What an app says to its sidecar: one [`Command`] per frame.
//!
//! A frame is `u32 length of the rest, u16 header length, header, body`, big endian. The header is a CBOR map
//! with text keys; `op` names the command, `id` asks for an answer. The body is opaque: nothing here looks into
//! it. Keys that a command does not know are ignored; a key twice, or a value of the wrong kind, is `badarg`.
//!
//! Reading a command allocates nothing: it borrows from the read buffer.

use super::host::ProcessSpec;
use fields::{Fields, name_of_answer};

mod fields;
mod parts;

pub use parts::{
    Delivery, Exclude, Keys, MailboxOptions, Metadata, Mode, NodeType, OnConflict, Overflow, Reach,
    Resume, Tracked,
};

/// Longest reason of an exit, in bytes.
pub const REASON_BYTES_MAX: usize = 1024;
/// Longest `label` or `client`, in bytes.
pub const LABEL_BYTES_MAX: usize = 255;
/// Longest `reason` and `stack` of an exception, in bytes.
pub const WORDS_BYTES_MAX: usize = 16 * 1024;
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

/// One command of the app protocol.
#[derive(Clone, Debug, PartialEq)]
pub enum Command<'a> {
    /// `hello {version, client, delivery?, grace_ms?, resume? | process?}`
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
        /// `PILLION_PROCESS` of the hosted program that the connection is.
        process: Option<&'a str>,
    },
    /// `self`
    SelfPid,
    /// `bye`
    Bye,
    /// `nodes {state?}`
    Nodes {
        /// `self`, `connected`, `known`, `hidden`, `visible`, or several of them; all when there is none.
        states: Vec<&'a str>,
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
    /// `peers`: everybody known, wanted and connected, and who says so
    Peers,
    /// `explain {node}`: why a node is connected or not
    Explain {
        /// Its name or an address.
        node: &'a str,
    },
    /// `doctor`: what only the node knows of how it is doing
    Doctor,
    /// `ready {wait_ms?}`: whether the node is ready for work
    Ready {
        /// How long to wait until it is, milliseconds; 0 when left out.
        wait_ms: Option<u64>,
    },
    /// `drain {wait_ms?}`: the node is about to leave
    Drain {
        /// How long to wait until no app and no call is left, milliseconds; 0 when left out.
        wait_ms: Option<u64>,
    },
    /// `monitor_nodes {on, node_type?, pid?}`
    MonitorNodes {
        /// Acting process.
        pid: Option<&'a str>,
        /// Start or stop.
        on: bool,
        /// Of which nodes.
        node_type: NodeType,
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
    /// `wait_for {nodes?, role?, count?, timeout_ms?}`
    WaitFor {
        /// These are to be up.
        nodes: Option<Keys<'a>>,
        /// Those that are counted have this role.
        role: Option<&'a str>,
        /// So many others are to be up.
        count: Option<u64>,
        /// How long to wait.
        timeout_ms: Option<u64>,
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
    /// `spawn {kind: "kv", name?, label?, link?, monitor?, detached?, mailbox?, body?}`
    SpawnKv {
        /// The process it is linked to or monitored by.
        pid: Option<&'a str>,
        /// Registered at once.
        name: Option<&'a str>,
        /// For people.
        label: Option<&'a str>,
        /// Linked to the acting process.
        link: bool,
        /// Monitored by the acting process.
        monitor: bool,
        /// Stays when the session ends.
        detached: bool,
        /// Most bytes of what it stores.
        bytes: Option<u64>,
    },
    /// `spawn {factory, node?, args?, name?, link?, monitor?, timeout_ms?, pid?}`
    SpawnFactory {
        /// The process it is linked to or monitored by.
        pid: Option<&'a str>,
        /// Which factory.
        factory: &'a str,
        /// Where; `any` is here if there is room, else where there are fewest; here when left out.
        node: Option<&'a str>,
        /// Put behind the arguments of the template.
        args: Option<Keys<'a>>,
        /// Registered there.
        name: Option<&'a str>,
        /// Linked to the acting process.
        link: bool,
        /// Monitored by the acting process.
        monitor: bool,
        /// Milliseconds until it ends as `timeout`, on another node.
        timeout_ms: Option<u64>,
    },
    /// `host {name, command, args?, env?, cwd?, restart?, shutdown?, supervisor?, significant?, register?}`
    Host {
        /// All of it.
        spec: Box<ProcessSpec>,
    },
    /// `terminate_child {name}`
    TerminateChild {
        /// A hosted process, or a supervisor.
        name: &'a str,
    },
    /// `restart_child {name}`
    RestartChild {
        /// A hosted process, or a supervisor.
        name: &'a str,
    },
    /// `delete_child {name}`
    DeleteChild {
        /// A hosted process, or a supervisor.
        name: &'a str,
    },
    /// `tree`: what is hosted here
    Tree,
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
    /// `alive {to}`
    Alive {
        /// Whom.
        to: &'a str,
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
    /// `register {name, pid?, scope?, on_conflict?, replace?}`
    Register {
        /// Which of the session's processes.
        pid: Option<&'a str>,
        /// The name.
        name: &'a str,
        /// In the whole mesh, and what a conflict means; on this node when left out.
        global: Option<OnConflict>,
        /// Taken from whoever has it.
        replace: bool,
    },
    /// `unregister {name, scope?}`
    Unregister {
        /// The name.
        name: &'a str,
        /// In the whole mesh.
        global: bool,
    },
    /// `whereis {name, node?, scope?}`
    Whereis {
        /// The name.
        name: &'a str,
        /// In the whole mesh.
        global: bool,
        /// Where; here when left out.
        node: Option<&'a str>,
    },
    /// `registered {scope?, prefix?}`
    Registered {
        /// Those of the whole mesh.
        global: bool,
        /// How they begin.
        prefix: &'a str,
    },
    /// `send {to, body, mode?, checked?, pid?}`
    Send {
        /// Who sends.
        pid: Option<&'a str>,
        /// To whom.
        to: &'a str,
        /// What when a queue is full.
        mode: Mode,
        /// An error where this node knows that it leads nowhere.
        checked: bool,
    },
    /// `cast {to, body, mode?, checked?, pid?}`
    Cast {
        /// Who asks.
        pid: Option<&'a str>,
        /// Whom.
        to: &'a str,
        /// What when a queue is full.
        mode: Mode,
        /// An error where this node knows that it leads nowhere.
        checked: bool,
    },
    /// `abcast {nodes?, name, body, pid?}`
    Abcast {
        /// Who asks.
        pid: Option<&'a str>,
        /// Where; this node and every connected one when left out.
        nodes: Option<Keys<'a>>,
        /// Whom: a local name there.
        name: &'a str,
    },
    /// `sbcast {nodes?, name, timeout_ms?, body, pid?}`
    Sbcast {
        /// Who asks.
        pid: Option<&'a str>,
        /// Where; this node and every connected one when left out.
        nodes: Option<Keys<'a>>,
        /// Whom: a local name there.
        name: &'a str,
        /// Milliseconds until a node that has not answered counts as `timeout`.
        timeout_ms: Option<u64>,
    },
    /// `call {to, timeout_ms?, body, pid?}`
    Call {
        /// Who asks.
        pid: Option<&'a str>,
        /// Whom.
        to: &'a str,
        /// Milliseconds until it ends as `timeout`.
        timeout_ms: Option<u64>,
    },
    /// `multi_call {nodes?, name, timeout_ms?, body, pid?}`
    MultiCall {
        /// Who asks.
        pid: Option<&'a str>,
        /// Where; this node and every connected one when left out.
        nodes: Option<Keys<'a>>,
        /// Whom: a local name there.
        name: &'a str,
        /// Milliseconds until what has not answered ends as `timeout`.
        timeout_ms: Option<u64>,
    },
    /// `reply {ref, body, more?}`
    Reply {
        /// As `call` or `rpc` gave it.
        reference: u64,
        /// A part of the answer; others follow.
        more: bool,
    },
    /// `raise {ref, class, reason, stack?}`
    Raise {
        /// As `call` or `rpc` gave it.
        reference: u64,
        /// What kind of exception.
        class: &'a str,
        /// In words.
        reason: &'a str,
        /// Where it was thrown.
        stack: Option<&'a str>,
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
    /// `read_timer {timer}`
    ReadTimer {
        /// As `send_after` answered.
        timer: u64,
    },
    /// `join {group, pid?}`
    Join {
        /// Which of the session's processes.
        pid: Option<&'a str>,
        /// The group.
        group: &'a str,
    },
    /// `leave {group, pid?}`
    Leave {
        /// Which of the session's processes.
        pid: Option<&'a str>,
        /// The group.
        group: &'a str,
    },
    /// `members {group, local?}`
    Members {
        /// The group.
        group: &'a str,
        /// Those of this node only.
        local: bool,
    },
    /// `groups {prefix?}`
    Groups {
        /// How they begin.
        prefix: &'a str,
    },
    /// `monitor_group {group, pid?}`
    MonitorGroup {
        /// Who hears of it.
        pid: Option<&'a str>,
        /// The group.
        group: &'a str,
    },
    /// `monitor_group {prefix, pid?}`: every group whose name begins like that
    MonitorGroups {
        /// Who hears of it.
        pid: Option<&'a str>,
        /// How their names begin.
        prefix: &'a str,
    },
    /// `serve {module, functions?, pid?}`
    Serve {
        /// Which of the session's processes.
        pid: Option<&'a str>,
        /// The module.
        module: &'a str,
        /// Its functions; all there may be when left out.
        functions: Option<Keys<'a>>,
    },
    /// `unserve {module, pid?}`
    Unserve {
        /// Which of the session's processes.
        pid: Option<&'a str>,
        /// The module.
        module: &'a str,
    },
    /// `modules`: what is served where
    Modules,
    /// `rpc {node | nodes, module, function, timeout_ms?, body, pid?}`
    Rpc {
        /// Who asks.
        pid: Option<&'a str>,
        /// Which node; `any` is the nearest that serves it.
        node: Option<&'a str>,
        /// Which nodes: one result for each.
        nodes: Option<Keys<'a>>,
        /// The module.
        module: &'a str,
        /// The function.
        function: &'a str,
        /// Milliseconds until it ends as `timeout`.
        timeout_ms: Option<u64>,
        /// Nobody waits for what it gives.
        cast: bool,
    },
    /// `subscribe {topic, group?, metadata?, sync?, dedupe?, pid?}`
    Subscribe {
        /// Which of the session's processes.
        pid: Option<&'a str>,
        /// The topic or pattern.
        topic: &'a str,
        /// The queue group.
        group: Option<&'a str>,
        /// What `subscribers` shows of it.
        metadata: Option<Metadata<'a>>,
        /// Answered once every connected node knows of it.
        sync: bool,
        /// Nothing happens if the process has subscribed in the same way already.
        dedupe: bool,
    },
    /// `unsubscribe {topic, pid?}`
    Unsubscribe {
        /// Which of the session's processes.
        pid: Option<&'a str>,
        /// The topic or pattern.
        topic: &'a str,
    },
    /// `publish {topic, body, scope?, node?, exclude?, mode?, report?, retain?, pid?}`
    Publish {
        /// Who publishes.
        pid: Option<&'a str>,
        /// The topic.
        topic: &'a str,
        /// Which nodes hear it.
        reach: Reach<'a>,
        /// Who does not.
        exclude: Exclude<'a>,
        /// What when a queue is full.
        mode: Mode,
        /// The answer says whom it has reached.
        report: bool,
        /// It is kept for those who subscribe later.
        retain: bool,
    },
    /// `subscribers {topic, list?}`
    Subscribers {
        /// The topic.
        topic: &'a str,
        /// Who they are, too.
        list: bool,
    },
    /// `topics`
    Topics,
    /// `track {topic, key, metadata?, pid?}`
    Track(Tracked<'a>),
    /// `update_presence {topic, key, metadata?, pid?}`
    UpdatePresence(Tracked<'a>),
    /// `untrack {topic?, key?, pid?}`
    Untrack {
        /// Which of the session's processes.
        pid: Option<&'a str>,
        /// The topic; all of them when left out.
        topic: Option<&'a str>,
        /// The key; all of them when left out.
        key: Option<&'a str>,
    },
    /// `presence {topic, key? | prefix?}`
    Presence {
        /// The topic.
        topic: &'a str,
        /// One key only.
        key: Option<&'a str>,
        /// How the keys begin.
        prefix: &'a str,
    },
    /// `monitor_presence {topic, pid?}`
    MonitorPresence {
        /// Who hears of it.
        pid: Option<&'a str>,
        /// The topic.
        topic: &'a str,
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

/// Every `op`, for the nearest one when a word is not known.
pub const OPS: [&str; 71] = [
    "hello",
    "self",
    "bye",
    "nodes",
    "ping",
    "connect",
    "disconnect",
    "peers",
    "explain",
    "doctor",
    "ready",
    "drain",
    "monitor_nodes",
    "monitor_node",
    "monitor_deaths",
    "wait_for",
    "spawn",
    "host",
    "terminate_child",
    "restart_child",
    "delete_child",
    "tree",
    "exit",
    "kill",
    "info",
    "alive",
    "processes",
    "flag",
    "register",
    "unregister",
    "whereis",
    "registered",
    "send",
    "cast",
    "abcast",
    "sbcast",
    "call",
    "multi_call",
    "reply",
    "raise",
    "join",
    "leave",
    "members",
    "groups",
    "monitor_group",
    "serve",
    "unserve",
    "modules",
    "rpc",
    "rpc_cast",
    "subscribe",
    "unsubscribe",
    "publish",
    "subscribers",
    "topics",
    "track",
    "update_presence",
    "untrack",
    "presence",
    "monitor_presence",
    "send_after",
    "cancel_timer",
    "read_timer",
    "receive",
    "cancel",
    "flush",
    "more",
    "link",
    "unlink",
    "monitor",
    "demonitor",
];
