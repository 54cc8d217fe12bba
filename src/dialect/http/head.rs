//! The head of a request: what it asks for, and how its body is told from what follows.

use super::Refusal;

/// Longest head of a request, in bytes.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most header fields of a request.
const FIELDS_MAX: usize = 64;
/// Longest `User-Agent` that is kept, in bytes.
const AGENT_BYTES_MAX: usize = 255;

/// How long the body of a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many bytes.
    Known(u64),
    /// It comes in chunks.
    Chunked,
}

/// What a request says before its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// `GET`, `POST` and so on.
    pub method: String,
    /// The path, as it was written.
    pub path: String,
    /// What follows the `?`, as it was written.
    pub query: String,
    /// HTTP/1.1, not 1.0.
    pub is_new: bool,
    /// The connection is for further requests.
    pub keep_alive: bool,
    /// The body is written when it was asked for.
    pub waits: bool,
    /// The body's length.
    pub length: Length,
    /// What the body is.
    pub content_type: Option<String>,
    /// The answer may be CBOR.
    pub takes_cbor: bool,
    /// The program that asks.
    pub agent: Option<String>,
}

/// Reads the head at the front of `bytes`, and how long it is. `None` when it is not whole yet.
///
/// # Errors
/// [`Refusal`]: nobody can tell where the next request begins, so the connection is to be closed.
pub fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_BYTES_MAX => length,
        Ok(httparse::Status::Partial) if bytes.len() <= HEAD_BYTES_MAX => return Ok(None),
        Ok(_) => return Err(too_long(bytes)),
        Err(httparse::Error::TooManyHeaders) => {
            let text = format!("a request has at most {FIELDS_MAX} header fields");
            return Err(Refusal::new(431, "too_large", text));
        }
        Err(httparse::Error::Version) => {
            let text = "this socket speaks HTTP/1.1 and HTTP/1.0; with curl that is --http1.1";
            return Err(Refusal::new(505, "unsupported", text));
        }
        Err(error) => {
            let text = format!(
                "this is no HTTP request ({error}); like `GET /v1/nodes HTTP/1.1` it should begin, and `Host: x` and an empty line should follow"
            );
            return Err(Refusal::badarg(text));
        }
    };
    let target = request.path.unwrap_or_default();
    let (path, query) = split_target(target)?;
    let is_new = request.version == Some(1);
    let mut head = Head {
        method: request.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        is_new,
        keep_alive: is_new,
        waits: false,
        length: Length::Known(0),
        content_type: None,
        takes_cbor: false,
        agent: None,
    };
    head.read_fields(request.headers)?;
    Ok(Some((head, length)))
}

fn too_long(bytes: &[u8]) -> Refusal {
    let first = bytes.iter().take(HEAD_BYTES_MAX).any(|byte| *byte == b'\n');
    let (status, what) = if first { (431, "the head of a request") } else { (414, "a path") };
    let text = format!(
        "{what} has at most {HEAD_BYTES_MAX} bytes, parameters included; what is long belongs into the body"
    );
    Refusal::new(status, "too_large", text)
}

/// The path and the query of a request's target.
fn split_target(target: &str) -> Result<(&str, &str), Refusal> {
    // As a proxy has it: `http://anything/v1/nodes`.
    let origin = target.strip_prefix("http://").map_or(target, |rest| {
        let path = rest.find(['/', '?']).unwrap_or(rest.len());
        if rest[path..].starts_with('/') { &rest[path..] } else { "/" }
    });
    if !origin.starts_with('/') && origin != "*" {
        return Err(Refusal::badarg("a path begins with `/`, like /v1/nodes"));
    }
    Ok(origin.split_once('?').unwrap_or((origin, "")))
}

impl Head {
    fn read_fields(&mut self, fields: &[httparse::Header<'_>]) -> Result<(), Refusal> {
        let (mut length, mut chunked, mut hosts, mut kinds) = (None, false, 0, 0);
        let mut closes = false;
        for field in fields {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            let value = field.value.trim_ascii();
            if is("content-length") {
                let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
                let number = std::str::from_utf8(value).ok().filter(|_| digits);
                let number = number.and_then(|text| text.parse::<u64>().ok()).ok_or_else(|| {
                    Refusal::badarg("`Content-Length` is a number of bytes, in digits")
                })?;
                if length.is_some_and(|other| other != number) {
                    return Err(Refusal::badarg("two different `Content-Length`"));
                }
                length = Some(number);
            } else if is("transfer-encoding") {
                if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    let text = "of all `Transfer-Encoding` only `chunked` is known here";
                    return Err(Refusal::new(501, "unsupported", text));
                }
                chunked = true;
            } else if is("content-encoding") {
                if !value.eq_ignore_ascii_case(b"identity") {
                    let text = "a body is taken as it is; send it without `Content-Encoding`";
                    return Err(Refusal::new(415, "unsupported", text));
                }
            } else if is("expect") {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    let text = "of all `Expect` only `100-continue` is known here";
                    return Err(Refusal::new(417, "unsupported", text));
                }
                self.waits = self.is_new;
            } else if is("connection") {
                for word in words(value) {
                    if word.eq_ignore_ascii_case(b"close") {
                        closes = true;
                    } else if word.eq_ignore_ascii_case(b"keep-alive") && !self.is_new {
                        self.keep_alive = true;
                    }
                }
            } else if is("host") {
                hosts += 1;
            } else if is("content-type") {
                kinds += 1;
                let text = std::str::from_utf8(value).ok().filter(|_| kinds == 1);
                let text = text.ok_or_else(|| {
                    Refusal::badarg("a body has one `Content-Type`, which is UTF-8")
                })?;
                self.content_type = Some(text.to_owned()).filter(|text| !text.is_empty());
            } else if is("accept") {
                self.takes_cbor |= words(value).any(|word| {
                    let kind = word.split(|byte| *byte == b';').next().unwrap_or_default();
                    kind.trim_ascii().eq_ignore_ascii_case(b"application/cbor")
                });
            } else if is("user-agent") {
                let text = String::from_utf8_lossy(value);
                let mut cut = text.len().min(AGENT_BYTES_MAX);
                while !text.is_char_boundary(cut) {
                    cut -= 1;
                }
                self.agent = Some(text[..cut].to_owned());
            }
        }
        // Whatever else they say: who wants to close can close.
        self.keep_alive &= !closes;
        if self.is_new && hosts != 1 {
            let text = "a request of HTTP/1.1 has one `Host`; here it may be anything";
            return Err(Refusal::badarg(text));
        }
        self.length = match (length, chunked) {
            (Some(_), true) => {
                return Err(Refusal::badarg(
                    "a body has either a `Content-Length` or comes `chunked`, not both",
                ));
            }
            (None, true) if !self.is_new => {
                return Err(Refusal::badarg("HTTP/1.0 has no chunks; send a `Content-Length`"));
            }
            (None, true) => Length::Chunked,
            (length, false) => Length::Known(length.unwrap_or(0)),
        };
        Ok(())
    }
}

/// The members of a list between commas.
fn words(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}
