//! A command being written.

use super::{ClientError, FRAME_BYTES_MAX};
use crate::dialect::json::json_to_cbor;
use crate::wire::cbor;
use crate::wire::event;

/// One command: `Op::new("send").text("to", "stock").body(&item)`.
///
/// Fields are what `wire/command.rs` lists for the command. The client adds the `id`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a command does nothing until it is sent"]
pub struct Op {
    fields: Vec<u8>,
    pairs: usize,
    body: Vec<u8>,
}

impl Op {
    /// A command of this name.
    pub fn new(op: &str) -> Self {
        Self { fields: Vec::with_capacity(64), pairs: 0, body: Vec::new() }.text("op", op)
    }

    fn key(mut self, key: &str) -> Self {
        self.pairs += 1;
        cbor::put_text(&mut self.fields, key);
        self
    }

    /// Adds a text.
    pub fn text(self, key: &str, text: &str) -> Self {
        let mut op = self.key(key);
        cbor::put_text(&mut op.fields, text);
        op
    }

    /// Adds a text where there is one.
    pub fn maybe_text(self, key: &str, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.text(key, text),
            None => self,
        }
    }

    /// Adds a whole number.
    pub fn uint(self, key: &str, number: u64) -> Self {
        let mut op = self.key(key);
        cbor::put_uint(&mut op.fields, number);
        op
    }

    /// Adds true or false.
    pub fn bool(self, key: &str, yes: bool) -> Self {
        let mut op = self.key(key);
        cbor::put_bool(&mut op.fields, yes);
        op
    }

    /// Adds an object or a list, such as `delivery`, `mailbox`, `keys`.
    pub fn json(self, key: &str, value: &serde_json::Value) -> Self {
        match json_to_cbor(value.to_string().as_bytes()) {
            Ok(item) => self.raw(key, &item),
            // Only a value nested too deeply: the sidecar says so of a field that is null.
            Err(_) => self.raw(key, &[0xf6]),
        }
    }

    /// Adds one item that is CBOR already.
    pub fn raw(self, key: &str, item: &[u8]) -> Self {
        let mut op = self.key(key);
        op.fields.extend_from_slice(item);
        op
    }

    /// Sets the body: one CBOR item, or anything when `ct` names its content type.
    pub fn body(mut self, item: &[u8]) -> Self {
        item.clone_into(&mut self.body);
        self
    }

    /// Sets the body to a text.
    pub fn text_body(mut self, text: &str) -> Self {
        self.body.clear();
        cbor::put_text(&mut self.body, text);
        self
    }

    /// The whole frame.
    pub(super) fn frame(&self, id: Option<u64>) -> Result<Vec<u8>, ClientError> {
        let mut head = Vec::with_capacity(self.fields.len() + 16);
        cbor::put_map(&mut head, self.pairs + usize::from(id.is_some()));
        head.extend_from_slice(&self.fields);
        if let Some(id) = id {
            cbor::put_text(&mut head, "id");
            cbor::put_uint(&mut head, id);
        }
        if head.len() > usize::from(u16::MAX) {
            return Err(ClientError::TooLarge(
                "the fields of a command take at most 64 KiB; what is long belongs into the body"
                    .to_owned(),
            ));
        }
        if self.body.len() + head.len() + 2 > FRAME_BYTES_MAX {
            return Err(ClientError::TooLarge("a body has at most 64 MiB".to_owned()));
        }
        let mut frame = Vec::new();
        event::put_frame(&mut frame, &head, &self.body);
        Ok(frame)
    }
}
