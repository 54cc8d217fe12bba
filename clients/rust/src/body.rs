//! Bodies: whatever serde can write, or bytes with their type.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde::de::value::BytesDeserializer;

use crate::error::{Error, Result};

/// What can be sent: everything that is [`Serialize`], and a [`Blob`].
///
/// Small vectors of bytes are lists of numbers for serde; a [`Blob`] or `serde_bytes` sends them as bytes.
pub trait Body: sealed::Sealed {
    #[doc(hidden)]
    fn put(&self, out: &mut Vec<u8>) -> Result<Option<&str>>;
}

mod sealed {
    pub trait Sealed {}
    impl<T: serde::Serialize + ?Sized> Sealed for T {}
    impl Sealed for super::Blob {}
    impl Sealed for &super::Blob {}
}

impl<T: Serialize + ?Sized> Body for T {
    fn put(&self, out: &mut Vec<u8>) -> Result<Option<&str>> {
        ciborium::into_writer(self, out).map_err(Error::bad_body)?;
        Ok(None)
    }
}

/// Bytes as they are, with their type beside them: a picture, a text, JSON that nobody is to take apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    content_type: Option<Box<str>>,
    bytes: Bytes,
}

impl Blob {
    /// Bytes of this content type, which has at most 255 bytes.
    pub fn new(content_type: &str, bytes: impl Into<Bytes>) -> Self {
        Self { content_type: Some(content_type.into()), bytes: bytes.into() }
    }

    /// One item that is CBOR already, such as [`Event::bytes`](crate::Event::bytes) of another message. It is not looked at.
    pub fn cbor(bytes: impl Into<Bytes>) -> Self {
        Self { content_type: None, bytes: bytes.into() }
    }

    /// The content type; none where the bytes are CBOR.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl Body for Blob {
    fn put(&self, out: &mut Vec<u8>) -> Result<Option<&str>> {
        out.extend_from_slice(&self.bytes);
        Ok(self.content_type())
    }
}

impl Body for &Blob {
    fn put(&self, out: &mut Vec<u8>) -> Result<Option<&str>> {
        (**self).put(out)
    }
}

/// Reads a body: none is null, one with a content type is bytes.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8], content_type: Option<&str>) -> Result<T> {
    if content_type.is_some() {
        let bytes = BytesDeserializer::<serde::de::value::Error>::new(body);
        return T::deserialize(bytes).map_err(Error::bad_body);
    }
    let body = if body.is_empty() { &[0xf6] } else { body };
    ciborium::from_reader(body).map_err(|error| {
        let words = match error {
            ciborium::de::Error::Semantic(_, words) => words,
            other => other.to_string(),
        };
        Error::bad_body(format!("the body is not what was asked for: {words}"))
    })
}
