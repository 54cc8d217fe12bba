//! An answer or an event, as it came: fields are looked up in its bytes.

use std::fmt;

use serde_json::Value as Json;

use crate::dialect::json;
use crate::wire::cbor::{Reader, Value};
use crate::wire::event;

/// What an answer is: a frame whose name is `ok`.
pub type Answer = Event;

/// One frame from the sidecar.
#[derive(Clone, PartialEq, Eq)]
pub struct Event(Vec<u8>);

impl Event {
    /// Takes a whole frame, its length included; `None` when it is none.
    #[must_use]
    pub fn read(frame: Vec<u8>) -> Option<Self> {
        let (head, _) = event::split_frame(&frame)?;
        Reader::new(head).map().ok()?;
        Some(Self(frame))
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        event::split_frame(&self.0).unwrap_or_default()
    }

    /// How long the frame is, in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The member `ev`: `ok`, `error`, `message`, `down` ...
    #[must_use]
    pub fn name(&self) -> &str {
        self.text("ev").unwrap_or("")
    }

    /// Whether it is a part of the answer to this command.
    #[must_use]
    pub fn is_part(&self, of: u64) -> bool {
        self.name() == "part" && self.uint("id") == Some(of)
    }

    /// A field of the header; `None` when it is not there or is no good.
    #[must_use]
    pub fn field(&self, key: &str) -> Option<Value<'_>> {
        let mut reader = Reader::new(self.parts().0);
        for _ in 0..reader.map().ok()? {
            let found = reader.text().ok()? == key;
            let value = reader.value().ok()?;
            if found {
                return Some(value);
            }
        }
        None
    }

    /// A text of the header.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.field(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// A whole number of the header.
    #[must_use]
    pub fn uint(&self, key: &str) -> Option<u64> {
        match self.field(key) {
            Some(Value::Uint(number)) => Some(number),
            _ => None,
        }
    }

    /// True or false of the header.
    #[must_use]
    pub fn bool(&self, key: &str) -> Option<bool> {
        match self.field(key) {
            Some(Value::Bool(yes)) => Some(yes),
            _ => None,
        }
    }

    /// The body: one CBOR item, unless the text `ct` says otherwise. Empty when there is none.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.parts().1
    }

    /// The whole frame as one JSON object in one line, as the JSON dialect writes it.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut line = Vec::with_capacity(self.0.len() * 2);
        json::frame_to_line(&self.0, &mut line);
        line.pop();
        String::from_utf8(line).unwrap_or_default()
    }

    /// The same as a value, to look into.
    #[must_use]
    pub fn to_value(&self) -> Json {
        serde_json::from_str(&self.to_json()).unwrap_or(Json::Null)
    }

    /// The body as JSON; `null` when there is none, `{"$bytes": ...}` when it is not CBOR.
    #[must_use]
    pub fn body_json(&self) -> String {
        let body = self.body();
        if body.is_empty() {
            return "null".to_owned();
        }
        let plain = if self.text("ct").is_none() { json::cbor_to_json(body) } else { None };
        plain.unwrap_or_else(|| {
            use base64::Engine as _;
            let text = base64::engine::general_purpose::STANDARD.encode(body);
            format!("{{\"$bytes\":\"{text}\"}}")
        })
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_json())
    }
}
