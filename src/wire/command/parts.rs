//! What commands are made of: the choices that an app has in them, and lists and values as it wrote them.

use super::Refused;
use crate::wire::cbor::{Malformed, Reader, Value};

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

/// What happens when two processes are found to have the same global name: the older claim's word counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// The older claim stays.
    #[default]
    KeepOldest,
    /// The newer claim stays.
    KeepNewest,
    /// Neither stays.
    Notify,
    /// The older claim stays, and the other process exits `name_conflict`.
    KillLoser,
}

/// Which nodes are meant, as in Erlang's `net_kernel:monitor_nodes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeType {
    /// All of them.
    #[default]
    All,
    /// Those that are not hidden.
    Visible,
    /// Those that are.
    Hidden,
}

impl NodeType {
    /// Whether a node that is hidden, or is not, is one of them.
    #[must_use]
    pub fn has(self, hidden: bool) -> bool {
        match self {
            Self::All => true,
            Self::Visible => !hidden,
            Self::Hidden => hidden,
        }
    }
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

/// Who is present where, and what is to be known of that.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tracked<'a> {
    /// Which of the session's processes.
    pub pid: Option<&'a str>,
    /// The topic.
    pub topic: &'a str,
    /// Under which key.
    pub key: &'a str,
    /// What everybody sees of it.
    pub metadata: Option<Metadata<'a>>,
}

/// Which nodes hear what is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach<'a> {
    /// This one and every connected one.
    #[default]
    All,
    /// This one only.
    Local,
    /// One only.
    Node(&'a str),
}

/// Who does not hear what is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exclude<'a> {
    /// Everybody hears it.
    #[default]
    Nobody,
    /// The process that publishes.
    Publisher,
    /// This process.
    Pid(&'a str),
}

/// Something that an app wrote and nobody here looks into.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metadata<'a>(pub(super) Value<'a>);

impl Metadata<'_> {
    /// It as one item of CBOR.
    #[must_use]
    pub fn item(&self) -> Vec<u8> {
        let mut item = Vec::new();
        self.0.put(&mut item);
        item
    }
}

/// An array of texts, as the app wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys<'a>(&'a [u8]);

impl<'a> Keys<'a> {
    pub(super) fn read(key: &str, value: Value<'a>) -> Result<Self, Refused> {
        let wrong = || Refused::badarg(format!("`{key}` is a list of texts"));
        let Value::Raw(raw) = value else { return Err(wrong()) };
        let keys = Self(raw);
        let mut reader = Reader::new(raw);
        let good = reader.items().and_then(|n| (0..n).try_for_each(|_| reader.text().map(|_| ())));
        good.map(|()| keys).map_err(|Malformed| wrong())
    }

    /// The texts.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> {
        let mut reader = Reader::new(self.0);
        let items = reader.items().unwrap_or(0);
        (0..items).map_while(move |_| reader.text().ok())
    }
}
