//! A command, as it is written into a frame.

use serde::Serialize;

use crate::body::Body;
use crate::cbor;
use crate::error::{Code, Error, Result};

/// Nothing longer is a frame of this protocol.
pub(crate) const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024 + 128 * 1024;
/// What the acting pid, the id and the map's head may take of a header.
const RESERVED: usize = 512;

/// A command of the protocol, for those that have no method of their own: see [`Process::request`](crate::Process::request).
///
/// ```
/// use pillion_client::Op;
///
/// let wait = Op::new("wait_for").text("role", "worker").uint("count", 2);
/// ```
#[derive(Clone, Debug)]
#[must_use = "a command does nothing until it is sent"]
pub struct Op {
    fields: Vec<u8>,
    pairs: usize,
    body: Vec<u8>,
    failed: Option<Error>,
}

impl Op {
    /// A command of this name.
    pub fn new(op: &str) -> Self {
        let fields = Vec::with_capacity(64);
        Self { fields, pairs: 0, body: Vec::new(), failed: None }.text("op", op)
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &str {
        let mut reader = cbor::Reader::new(&self.fields);
        reader.text().and_then(|_| reader.text()).unwrap_or_default()
    }

    fn key(&mut self, key: &str) -> &mut Vec<u8> {
        self.pairs += 1;
        cbor::put_text(&mut self.fields, key);
        &mut self.fields
    }

    /// Adds a text.
    pub fn text(mut self, key: &str, text: &str) -> Self {
        cbor::put_text(self.key(key), text);
        self
    }

    /// Adds a text where there is one.
    pub fn maybe_text(self, key: &str, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.text(key, text),
            None => self,
        }
    }

    /// Adds a whole number.
    pub fn uint(mut self, key: &str, number: u64) -> Self {
        cbor::put_uint(self.key(key), number);
        self
    }

    /// Adds true or false.
    pub fn bool(mut self, key: &str, yes: bool) -> Self {
        cbor::put_bool(self.key(key), yes);
        self
    }

    /// Adds `true` where it is.
    pub(crate) fn flag(self, key: &str, yes: bool) -> Self {
        if yes { self.bool(key, true) } else { self }
    }

    /// Adds anything that serde can write. If it cannot, sending the command fails.
    pub fn field(mut self, key: &str, value: &(impl Serialize + ?Sized)) -> Self {
        if let Err(error) = ciborium::into_writer(value, self.key(key)) {
            self.failed = Some(Error::bad_body(error));
        }
        self
    }

    /// Sets the body. If it cannot be written, sending the command fails.
    pub fn body(mut self, body: &(impl Body + ?Sized)) -> Self {
        self.body.clear();
        match body.put(&mut self.body) {
            Ok(None) => self,
            Ok(Some(content_type)) => self.text("ct", content_type),
            Err(error) => {
                self.failed = Some(error);
                self
            }
        }
    }

    /// Whether it can be written.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.fields.len() + RESERVED > usize::from(u16::MAX) {
            let words =
                "the fields of a command take at most 64 KiB; what is long belongs into the body";
            return Err(Error::new(Code::TooLarge, false, words));
        }
        if self.fields.len() + self.body.len() + RESERVED > FRAME_BYTES_MAX {
            return Err(Error::new(Code::TooLarge, false, "a body has at most 63 MiB"));
        }
        Ok(())
    }

    /// Appends the frame. It was checked before; the pid is one that the node gave, so it is short.
    pub(crate) fn append(&self, out: &mut Vec<u8>, pid: Option<&str>, id: Option<u64>) {
        let start = out.len();
        out.extend_from_slice(&[0; 6]);
        let pairs = self.pairs + usize::from(pid.is_some()) + usize::from(id.is_some());
        cbor::put_map(out, pairs);
        out.extend_from_slice(&self.fields);
        if let Some(pid) = pid {
            cbor::put_text(out, "pid");
            cbor::put_text(out, pid);
        }
        if let Some(id) = id {
            cbor::put_text(out, "id");
            cbor::put_uint(out, id);
        }
        let head = u16::try_from(out.len() - start - 6).unwrap_or(u16::MAX);
        out.extend_from_slice(&self.body);
        let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        out[start + 4..start + 6].copy_from_slice(&head.to_be_bytes());
    }
}
