//! An event or an answer: one frame as it came, its fields looked up in its bytes.

use std::fmt;

use bytes::{Bytes, BytesMut};
use serde::de::DeserializeOwned;

use crate::body;
use crate::cbor::{self, Reader};
use crate::error::Result;
use crate::op::FRAME_BYTES_MAX;
use crate::pid::Pid;

macro_rules! kinds {
    ($($name:ident $text:literal $what:literal,)*) => {
        /// What an event is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Kind {
            $(#[doc = $what] $name,)*
            /// One that this version of the client does not know.
            Unknown,
        }

        impl Kind {
            /// The member `ev`, as the protocol writes it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Unknown => "",
                }
            }

            fn of(text: &str) -> Self {
                match text {
                    $($text => Self::$name,)*
                    _ => Self::Unknown,
                }
            }
        }
    };
}

kinds! {
    Message "message" "A message, or what was published to a topic.",
    Call "call" "Somebody wants an answer.",
    Cast "cast" "A request that wants none.",
    Ok "ok" "The answer to a command that was carried out.",
    Error "error" "The answer to one that was not.",
    Part "part" "A part of an answer.",
    Rpc "rpc" "Somebody calls a function that this process serves.",
    Cancel "cancel" "Nobody waits for this answer any more.",
    Down "down" "A monitored process is gone.",
    Exit "exit" "An exit signal to a process that traps exits.",
    Gap "gap" "Here messages are missing.",
    NodeUp "nodeup" "A node is connected.",
    NodeDown "nodedown" "A node is lost.",
    Group "group" "Who is in a group has changed.",
    Presence "presence" "Who is present under a topic has changed.",
    NameConflict "name_conflict" "Two processes had one global name.",
    Failed "failed" "A command without an id failed.",
    Welcome "welcome" "The answer to hello.",
    Draining "draining" "The node is about to leave.",
    Died "died" "A process of this session ended by a signal.",
}

/// Where a text lies in the header.
type Span = (u16, u16);

/// What lies in a mailbox, or an answer: a frame as it came. Cloning it is cheap.
#[derive(Clone)]
pub struct Event {
    head: Bytes,
    body: Bytes,
    kind: Kind,
    pid: Span,
    from: Span,
    topic: Span,
    content_type: Span,
    pub(crate) id: Option<u64>,
    reference: Option<u64>,
}

/// What the buffer holds next.
pub(crate) enum Next {
    /// More has to be read.
    More,
    /// A frame.
    Frame(Event),
    /// What is no frame of this protocol.
    Bad,
}

/// Takes the next frame out of a buffer.
pub(crate) fn next(buffer: &mut BytesMut) -> Next {
    let Some(length) = buffer.first_chunk::<4>() else { return Next::More };
    let length = u32::from_be_bytes(*length) as usize;
    if !(2..=FRAME_BYTES_MAX).contains(&length) {
        return Next::Bad;
    }
    if buffer.len() < 4 + length {
        buffer.reserve(4 + length - buffer.len());
        return Next::More;
    }
    match Event::read(buffer.split_to(4 + length).freeze()) {
        Some(event) => Next::Frame(event),
        None => Next::Bad,
    }
}

impl Event {
    /// Reads a whole frame, its length included.
    pub(crate) fn read(mut frame: Bytes) -> Option<Self> {
        let head = usize::from(u16::from_be_bytes([*frame.get(4)?, *frame.get(5)?]));
        if frame.len() < 6 + head {
            return None;
        }
        let body = frame.split_off(6 + head);
        let head = frame.split_off(6);
        let none = (0, 0);
        let mut event = Self {
            head: Bytes::new(),
            body,
            kind: Kind::Unknown,
            pid: none,
            from: none,
            topic: none,
            content_type: none,
            id: None,
            reference: None,
        };
        event.look(&head)?;
        event.head = head;
        Some(event)
    }

    fn look(&mut self, head: &[u8]) -> Option<()> {
        let mut reader = Reader::new(head);
        for _ in 0..reader.map()? {
            let key = reader.text()?;
            let target = match key {
                "ev" => {
                    self.kind = Kind::of(reader.text()?);
                    continue;
                }
                "id" => {
                    self.id = reader.uint();
                    if self.id.is_none() {
                        reader.item()?;
                    }
                    continue;
                }
                "ref" => {
                    self.reference = reader.uint();
                    if self.reference.is_none() {
                        reader.item()?;
                    }
                    continue;
                }
                "pid" => &mut self.pid,
                "from" => &mut self.from,
                "topic" => &mut self.topic,
                "ct" => &mut self.content_type,
                _ => {
                    reader.item()?;
                    continue;
                }
            };
            match reader.text() {
                Some(text) => {
                    let length = u16::try_from(text.len()).ok()?;
                    *target = (u16::try_from(reader.at()).ok()? - length, length);
                }
                None => drop(reader.item()?),
            }
        }
        Some(())
    }

    /// An event of the client's own making.
    pub(crate) fn make(kind: Kind, put: impl FnOnce(&mut Fields)) -> Self {
        let mut fields = Fields { bytes: Vec::new(), pairs: 1 };
        cbor::put_text(&mut fields.bytes, "ev");
        cbor::put_text(&mut fields.bytes, kind.as_str());
        put(&mut fields);
        let mut frame = vec![0; 6];
        cbor::put_map(&mut frame, fields.pairs);
        frame.extend_from_slice(&fields.bytes);
        let head = u16::try_from(frame.len() - 6).unwrap_or(0);
        frame[4..6].copy_from_slice(&head.to_be_bytes());
        Self::read(frame.into()).unwrap_or_else(|| Self {
            head: Bytes::new(),
            body: Bytes::new(),
            kind,
            pid: (0, 0),
            from: (0, 0),
            topic: (0, 0),
            content_type: (0, 0),
            id: None,
            reference: None,
        })
    }

    fn span(&self, (start, length): Span) -> Option<&str> {
        if length == 0 {
            return None;
        }
        let (start, length) = (usize::from(start), usize::from(length));
        std::str::from_utf8(self.head.get(start..start + length)?).ok()
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Who sent it, who calls, whose exit signal it is, or who is gone.
    #[must_use]
    pub fn from(&self) -> Option<Pid> {
        self.span(self.from).map(Pid::from)
    }

    /// The same as a text, without a copy.
    #[must_use]
    pub fn from_str(&self) -> Option<&str> {
        self.span(self.from)
    }

    /// The process that it is for; none for the client's own.
    #[must_use]
    pub fn pid(&self) -> Option<&str> {
        self.span(self.pid)
    }

    /// What it was published to.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        self.span(self.topic)
    }

    /// The type of a body that is no CBOR.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.span(self.content_type)
    }

    /// By which a call is answered, and by which a monitor's events are known.
    #[must_use]
    pub fn reference(&self) -> Option<u64> {
        self.reference
    }

    /// Why somebody died or something is missing.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.text("reason")
    }

    /// The body as this type. No body is null; one with a content type is bytes.
    ///
    /// # Errors
    /// [`Code::BadBody`](crate::Code::BadBody) when it is something else. The event stays as it is.
    pub fn body<T: DeserializeOwned>(&self) -> Result<T> {
        body::read(&self.body, self.content_type())
    }

    /// The body as it came: one CBOR item, unless there is a content type; empty when there is none.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.body
    }

    fn find(&self, key: &str) -> Option<Reader<'_>> {
        let mut reader = Reader::new(&self.head);
        for _ in 0..reader.map()? {
            if reader.text()? == key {
                return Some(reader);
            }
            reader.item()?;
        }
        None
    }

    /// A text of the header.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.find(key)?.text()
    }

    /// A whole number of the header.
    #[must_use]
    pub fn uint(&self, key: &str) -> Option<u64> {
        self.find(key)?.uint()
    }

    /// True or false of the header.
    #[must_use]
    pub fn bool(&self, key: &str) -> Option<bool> {
        self.find(key)?.bool()
    }

    /// Any member; none when it is not there or is something else. One list or map of an event may be its body, whose name
    /// the header's `as` says.
    #[must_use]
    pub fn field<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        if self.text("as") == Some(key) {
            return self.body().ok();
        }
        ciborium::from_reader(self.find(key)?.item()?).ok()
    }

    /// The whole header.
    #[must_use]
    pub fn header(&self) -> ciborium::Value {
        ciborium::from_reader(&self.head[..]).unwrap_or(ciborium::Value::Null)
    }

    /// Whether it is one of those that a window counts.
    pub(crate) fn is_counted(&self) -> bool {
        matches!(self.kind, Kind::Message | Kind::Cast | Kind::Call | Kind::Rpc)
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("header", &self.header())
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}

/// The members of an event that is being made.
pub(crate) struct Fields {
    bytes: Vec<u8>,
    pairs: usize,
}

impl Fields {
    pub(crate) fn text(&mut self, key: &str, text: &str) {
        self.pairs += 1;
        cbor::put_text(&mut self.bytes, key);
        cbor::put_text(&mut self.bytes, text);
    }

    pub(crate) fn uint(&mut self, key: &str, n: u64) {
        self.pairs += 1;
        cbor::put_text(&mut self.bytes, key);
        cbor::put_uint(&mut self.bytes, n);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn rows_of_presence_are_read_whatever_is_known_of_them() {
        let rows = |metadata: ciborium::Value| {
            let row = ciborium::value::Value::Map(vec![
                ("key".into(), "ann".into()),
                ("pid".into(), "<a@t.019b3f0c2a4e5f3c.100>".into()),
                ("ref".into(), 2.into()),
                ("metadata".into(), metadata),
            ]);
            let mut out = Vec::new();
            ciborium::into_writer(&vec![row], &mut out).unwrap();
            ciborium::from_reader::<Vec<crate::Presence>, _>(&out[..])
        };
        for metadata in [
            1.into(),
            ciborium::Value::Array(vec![1.into(), "x".into()]),
            ciborium::Value::Map(vec![(1.into(), 2.into())]),
        ] {
            assert_eq!(rows(metadata.clone()).unwrap()[0].metadata, Some(metadata));
        }
    }
}
