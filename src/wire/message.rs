//! What two sidecars say to each other.
//!
//! ```text
//! dialler                         accepter
//!   | hello ------------------------> |
//!   | <------------------------ hello |
//!   |      the senior one of the two: |
//!   | <----------------------- accept |   or refuse {code, message}, or duplicate
//!   | ready --------------------- ><- |   both: "you have heard all I had to announce"
//!   | send, exit, down, beat ... <--> |
//! ```
//!
//! Every frame is `u32 length of the rest, u8 kind, u8 flags, u64 serial of the sending process`, then what its
//! kind says; big endian. A length counts kind, flags and serial too, so it is never below [`HEAD_BYTES`].
//! Serial 0 is the node itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cbor::{self, Malformed, Reader};

/// The oldest protocol that this build speaks.
pub const PROTOCOL_MIN: u16 = 1;
/// The newest protocol that this build speaks.
pub const PROTOCOL_MAX: u16 = 1;
/// kind, flags and serial.
pub const HEAD_BYTES: usize = 10;
/// Largest frame before `accept`: what a stranger can make us allocate.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;
/// Frames longer than this travel in fragments of this size, so that others pass.
pub const FRAGMENT_BYTES: usize = 64 * 1024;
/// Most messages that one peer may have half delivered.
pub const PARTIALS_MAX: usize = 8;

/// Deepest nesting of what is read as a whole.
const CBOR_DEPTH_MAX: usize = 16;

/// The kind of a frame between sidecars.
///
/// Kinds from 0x80 that are not known are skipped; unknown ones below close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// CBOR [`Hello`].
    Hello = 0x01,
    /// The senior's choice of this connection; empty. The head's serial numbers the senior's accepts: of two that
    /// reach a junior for one senior, the higher counts.
    Accept = 0x02,
    /// CBOR [`Refusal`]; the sender closes.
    Refuse = 0x03,
    /// All that the sender announces of itself has been said; `nodeup` follows. Empty.
    Ready = 0x04,
    /// Sign of life; empty, never answered.
    Beat = 0x05,
    /// The sender leaves for good; CBOR [`Goodbye`].
    Goodbye = 0x06,
    /// Whom the sender is connected to now; CBOR [`Peers`].
    Peers = 0x07,
    /// Is this (older) connection alive? Answered by `Beat`, at once. Used when a second node shows up
    /// with the name of the first. Empty.
    Probe = 0x08,
    /// A message: target, then a finished CBOR event frame.
    Send = 0x10,
    /// The sending process died or used `exit` on a link: target serial, CBOR text reason.
    Exit = 0x11,
    /// `kill {to, reason}`: target, CBOR text reason.
    Kill = 0x12,
    /// Target serial.
    Link = 0x13,
    /// Target serial, u64 unlink id.
    Unlink = 0x14,
    /// Target serial, u64 unlink id.
    UnlinkAck = 0x15,
    /// u64 ref, target.
    Monitor = 0x16,
    /// u64 ref.
    Demonitor = 0x17,
    /// u64 ref, CBOR text reason. Serial is that of the process that died, 0 for a name without one.
    Down = 0x18,
    /// A piece of a longer frame of the sending process: flags [`FRAGMENT_FIRST`], [`FRAGMENT_LAST`];
    /// the first starts with u32 length of the whole.
    Fragment = 0x19,
    /// A `wait` mailbox is full of what this process (target serial) of yours sent: stop reading its session.
    Hold = 0x1a,
    /// It is half empty again.
    Go = 0x1b,
    /// A question to the node: u64 id, CBOR [`Ask`].
    Ask = 0x1c,
    /// Its answer: u64 id, CBOR as [`Told`] reads it.
    Tell = 0x1d,
    /// A call: u64 ref of the caller's node, target, then a finished CBOR event frame without its `ref`.
    Call = 0x20,
    /// The answer to a call, or with [`REPLY_MORE`] a part of it: u64 ref, u8 length of the content type, content
    /// type, body.
    Reply = 0x21,
    /// A call ends otherwise: u64 ref, CBOR [`Raised`].
    Raise = 0x22,
    /// The caller waits no longer: u64 ref.
    Cancel = 0x23,
    /// The caller's app took so much of an answer in parts: u64 ref, u64 bytes.
    Took = 0x24,
    /// A call of a function: u64 ref of the caller's node, u16 length and module, u16 length and function, then a
    /// finished CBOR event frame without its `ref`.
    Rpc = 0x25,
    /// Something that the sender announces of itself: u8 class, u16 length and key, value; with [`STATE_GONE`] it is
    /// taken back.
    State = 0x26,
    /// All that the sender has to announce has been said; `nodeup` follows. Empty.
    Announced = 0x27,
    /// A process has published something: with [`PUBLISH_EXCLUDE`] the u64 serial of one that does not hear it, with
    /// [`PUBLISH_QUEUES`] u8 count and for each u16 length and queue group, then a finished CBOR event frame whose
    /// second member is `topic`.
    Publish = 0x28,
}

impl Kind {
    /// The kind with this number.
    #[must_use]
    pub const fn from_u8(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::Hello,
            0x02 => Self::Accept,
            0x03 => Self::Refuse,
            0x04 => Self::Ready,
            0x05 => Self::Beat,
            0x06 => Self::Goodbye,
            0x07 => Self::Peers,
            0x08 => Self::Probe,
            0x10 => Self::Send,
            0x11 => Self::Exit,
            0x12 => Self::Kill,
            0x13 => Self::Link,
            0x14 => Self::Unlink,
            0x15 => Self::UnlinkAck,
            0x16 => Self::Monitor,
            0x17 => Self::Demonitor,
            0x18 => Self::Down,
            0x19 => Self::Fragment,
            0x1a => Self::Hold,
            0x1b => Self::Go,
            0x1c => Self::Ask,
            0x1d => Self::Tell,
            0x20 => Self::Call,
            0x21 => Self::Reply,
            0x22 => Self::Raise,
            0x23 => Self::Cancel,
            0x24 => Self::Took,
            0x25 => Self::Rpc,
            0x26 => Self::State,
            0x27 => Self::Announced,
            0x28 => Self::Publish,
            _ => return None,
        })
    }
}

impl Kind {
    /// Whether a frame of a kind that this build does not know is skipped, and not the end of its connection. Whoever
    /// adds a kind decides by its number what older builds do with it.
    #[must_use]
    pub const fn is_skipped(byte: u8) -> bool {
        byte >= 0x80 && Self::from_u8(byte).is_none()
    }
}

/// Flag of `Accept`: the senior holds another connection of the pair. The junior takes this one if it does not hold
/// that one any more, else refuses this one as a duplicate.
pub const ACCEPT_HOLDS: u8 = 0x01;
/// Flag of frames with a target: the target is u16 length and text, not a u64 serial.
pub const TARGET_NAME: u8 = 0x01;
/// Flag of `Send`: the sender would rather lose it than wait.
pub const SEND_LOSSY: u8 = 0x02;
/// Flag of `Publish`: a process of the receiver hears nothing of it.
pub const PUBLISH_EXCLUDE: u8 = 0x04;
/// Flag of `Publish`: the receiver picks a member of each of these queue groups.
pub const PUBLISH_QUEUES: u8 = 0x08;
/// Flag of `Publish`: nobody else there hears it.
pub const PUBLISH_QUEUES_ONLY: u8 = 0x10;
/// Flag of `Reply`: more of the answer follows.
pub const REPLY_MORE: u8 = 0x01;
/// Flag of `State`: the entry is no more.
pub const STATE_GONE: u8 = 0x01;
/// Flag of the first fragment.
pub const FRAGMENT_FIRST: u8 = 0x01;
/// Flag of the last fragment.
pub const FRAGMENT_LAST: u8 = 0x02;

/// Starts a frame: length (patched by [`finish`]), kind, flags and serial. Returns where it starts.
pub fn start(out: &mut Vec<u8>, kind: Kind, flags: u8, serial: u64) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, kind as u8, flags]);
    out.extend_from_slice(&serial.to_be_bytes());
    at
}

/// Ends the frame that [`start`] began at `at`.
pub fn finish(out: &mut [u8], at: usize) {
    let length = u32::try_from(out.len() - at - 4).expect("frames are bounded far below 4 GiB");
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// A whole frame whose payload is `body` as CBOR.
pub fn cbor_frame<T: Serialize>(kind: Kind, serial: u64, body: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    let at = start(&mut out, kind, 0, serial);
    ciborium::into_writer(body, &mut out).expect("plain data becomes CBOR in memory");
    finish(&mut out, at);
    out
}

/// A whole frame without payload.
#[must_use]
pub fn bare_frame(kind: Kind) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + HEAD_BYTES);
    let at = start(&mut out, kind, 0, 0);
    finish(&mut out, at);
    out
}

/// One frame, borrowed from a read buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Kind byte, perhaps unknown.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// The sending process, 0 for the node.
    pub serial: u64,
    /// What follows the head.
    pub payload: &'a [u8],
}

/// A frame cannot be one; the connection that carried it must be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Longer than the limit; nothing was allocated for it.
    #[error("a frame of {length} bytes is over the limit of {limit}")]
    TooLarge {
        /// What it announced.
        length: usize,
        /// What is allowed here.
        limit: usize,
    },
    /// Shorter than a frame's head.
    #[error("a frame of {0} bytes is shorter than its own head")]
    TooShort(usize),
    /// Not what its kind says it is.
    #[error("a malformed {0} frame")]
    Malformed(&'static str),
    /// It asks for more than it reads.
    #[error("{0} bytes wait for this node and it does not read them")]
    Unread(usize),
    /// A kind below 0x80 that this build does not know.
    #[error("a frame of unknown kind 0x{0:02x}")]
    UnknownKind(u8),
}

impl<'a> Frame<'a> {
    /// Cuts the first frame off `buffer`: `Ok(None)` when it is not all there yet, else the frame and how many
    /// bytes it took.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`] before anything is allocated, [`FrameError::TooShort`].
    pub fn cut(buffer: &'a [u8], limit: usize) -> Result<Option<(Self, usize)>, FrameError> {
        let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*head) as usize;
        if length > limit {
            return Err(FrameError::TooLarge { length, limit });
        }
        if length < HEAD_BYTES {
            return Err(FrameError::TooShort(length));
        }
        let Some(rest) = buffer.get(4..4 + length) else { return Ok(None) };
        Ok(Some((Self::read(rest)?, 4 + length)))
    }

    /// Reads a frame whose length has been taken off already.
    ///
    /// # Errors
    /// [`FrameError::TooShort`].
    pub fn read(rest: &'a [u8]) -> Result<Self, FrameError> {
        let Some((head, payload)) = rest.split_first_chunk::<HEAD_BYTES>() else {
            return Err(FrameError::TooShort(rest.len()));
        };
        let [kind, flags, serial @ ..] = *head;
        Ok(Self { kind, flags, serial: u64::from_be_bytes(serial), payload })
    }

    /// The payload as CBOR, refusing trailing bytes and deep nesting.
    ///
    /// # Errors
    /// [`FrameError::Malformed`].
    pub fn cbor<T: for<'de> Deserialize<'de>>(&self, what: &'static str) -> Result<T, FrameError> {
        let mut rest = self.payload;
        let value = ciborium::de::from_reader_with_recursion_limit(&mut rest, CBOR_DEPTH_MAX)
            .map_err(|_| FrameError::Malformed(what))?;
        if rest.is_empty() { Ok(value) } else { Err(FrameError::Malformed(what)) }
    }
}

/// The first thing both sides say. Fields that a side does not know are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest protocol spoken.
    pub protocol_min: u16,
    /// Newest protocol spoken.
    pub protocol_max: u16,
    /// What else it can do.
    #[serde(default)]
    pub features: Vec<String>,
    /// The mesh it belongs to.
    pub mesh: String,
    /// `base@host`.
    pub node: String,
    /// Its run.
    pub incarnation: u64,
    /// Where it listens, in the scope in which the listener of this hello can use it.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// role, zone and whatever `--label` says.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Stays out of what peers tell each other.
    #[serde(default)]
    pub hidden: bool,
    /// The sender has a connection to the name of the receiver already: its incarnation.
    #[serde(default)]
    pub known: Option<u64>,
    /// The sender's clock as it says this, milliseconds since 1970: for people who look for a clock that is wrong.
    #[serde(default)]
    pub clock_ms: Option<u64>,
}

/// Why a connection was not wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// `duplicate`, `self`, `mesh`, `protocol`, `name_taken`, `certificate`, `leaving`, `parted`, `malformed`.
    pub code: String,
    /// For people.
    pub message: String,
}

/// The sender leaves for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goodbye {
    /// `shutdown`, `disconnect`, `name_taken`, `protocol`.
    pub reason: String,
    /// For people.
    #[serde(default)]
    pub message: String,
}

/// Whom the sender is connected to now: how many, and where that may be news everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peers {
    /// Each once, whole each time; without it what was said before still holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<PeerEntry>>,
    /// How many the sender counts: itself and whom it is connected to, without hidden ones and those about to leave.
    #[serde(default)]
    pub count: u32,
    /// A sum that stands for which ones they are: docs/protocol.md.
    #[serde(default)]
    pub sum: u64,
}

/// One peer of a peer: hearsay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerEntry {
    /// `base@host`.
    pub node: String,
    /// Its run.
    pub incarnation: u64,
    /// Where it listens, in a scope that the listener can use.
    pub addresses: Vec<String>,
}

/// A question to another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ask {
    /// Are you there?
    Ping,
    /// Which pid has this name?
    Whereis {
        /// A local name there.
        name: String,
    },
    /// Which processes are there?
    Processes,
    /// `info` of one of its processes.
    Info {
        /// Its serial, when asked by pid.
        serial: Option<u64>,
        /// Its name, when asked by name.
        name: Option<String>,
        /// Which keys; empty for the usual ones.
        keys: Vec<String>,
    },
    /// How many of its processes have subscribed to what matches a topic: `[count, [each, ...]]`.
    Subscribers {
        /// The topic.
        topic: String,
        /// Who they are, too.
        list: bool,
    },
    /// Start a child of one of its factories.
    Spawn {
        /// Which.
        factory: String,
        /// Put behind the arguments of the template.
        args: Vec<String>,
        /// Registered there.
        name: Option<String>,
        /// The serial of the process that spawns.
        from: u64,
        /// The two are linked.
        link: bool,
        /// The reference of its monitor.
        monitor: Option<u64>,
    },
}

/// How a call ended without a reply. Fields that a side does not know are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raised {
    /// A code of the app protocol.
    pub code: String,
    /// For people.
    pub message: String,
    /// Whether the callee may have been handed the call.
    pub maybe_applied: bool,
    /// What kind of exception.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The exception's own words, or the reason with which the callee died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where it was thrown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
}

impl Ask {
    /// Reads the payload of an `Ask` behind its number. `None` is a question of a later version: it is answered
    /// `unsupported`, so that versions can be mixed.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] when it is not one item of CBOR.
    pub fn read(payload: &[u8]) -> Result<Option<Self>, FrameError> {
        if !cbor::is_one_item(payload) {
            return Err(FrameError::Malformed("ask"));
        }
        Ok(ciborium::de::from_reader_with_recursion_limit(payload, CBOR_DEPTH_MAX).ok())
    }
}

/// The answer: one CBOR item as apps read it, or an error. `{"ok": item}` or `{"error": [code, message]}`. What a later
/// version adds is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told<'a> {
    /// What was asked for.
    Ok(&'a [u8]),
    /// A code of the app protocol and a sentence.
    Error {
        /// The code.
        code: &'a str,
        /// The sentence.
        message: &'a str,
    },
}

impl<'a> Told<'a> {
    /// Reads the payload of a `Tell` behind its number.
    ///
    /// # Errors
    /// [`FrameError::Malformed`].
    pub fn read(payload: &'a [u8]) -> Result<Self, FrameError> {
        Self::parse(payload).map_err(|Malformed| FrameError::Malformed("tell"))
    }

    fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        let mut told = None;
        for _ in 0..reader.map()? {
            match reader.text()? {
                "ok" => {
                    let item = reader.rest();
                    reader.skip()?;
                    told = Some(Self::Ok(&item[..item.len() - reader.rest().len()]));
                }
                "error" => {
                    let more = reader.items()?.checked_sub(2).ok_or(Malformed)?;
                    told = Some(Self::Error { code: reader.text()?, message: reader.text()? });
                    for _ in 0..more {
                        reader.skip()?;
                    }
                }
                _ => reader.skip()?,
            }
        }
        told.filter(|_| reader.rest().is_empty()).ok_or(Malformed)
    }
}
