//! Requests as commands: one frame each, as a CBOR app writes it.

use super::Refusal;
use super::routes::{Found, Gives, Kind};
use crate::dialect::json;
use crate::wire::cbor;
use crate::wire::command::{CT_BYTES_MAX, Id, NUMBER_MAX};
use crate::wire::event::{self, Head};

/// Longest header of a command, in bytes: a query is shorter, and JSON in it does not become three times as long.
const HEADER_BYTES_MAX: usize = 60_000;

/// Longest commands of a stream together, in bytes: each topic is one, with all the other parameters in it.
const COMMANDS_BYTES_MAX: usize = 1024 * 1024;

/// What the parameters of a stream say of its process, not of what it hears.
const OF_PROCESS: [&str; 4] = ["name", "entries", "bytes", "policy"];

/// What the body of a request is, by its content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// JSON, which becomes CBOR.
    Json,
    /// CBOR, which stays as it is.
    Cbor,
    /// Something else, which stays as it is and says what it is.
    Other(&'a str),
}

impl<'a> Content<'a> {
    /// The meaning of a `Content-Type`. What has none is JSON, and so is what curl and wget say when they are told nothing.
    #[must_use]
    pub fn of(content_type: Option<&'a str>) -> Self {
        let Some(text) = content_type else { return Self::Json };
        let kind = text.split(';').next().unwrap_or_default().trim_ascii();
        let is = |name: &str| kind.eq_ignore_ascii_case(name);
        if is("application/json") || is("application/x-www-form-urlencoded") {
            Self::Json
        } else if is("application/cbor") {
            Self::Cbor
        } else {
            Self::Other(text)
        }
    }

    /// How long it may be as it is written, where a body of so many bytes is allowed.
    #[must_use]
    pub fn bytes_max(self, body_bytes_max: usize) -> usize {
        // Escapes and base64 make it longer than the body that it is.
        if self == Self::Json { 2 * body_bytes_max } else { body_bytes_max }
    }
}

/// What is answered to a body that is too long.
#[must_use]
pub fn too_large(limit: usize) -> Refusal {
    let text =
        format!("a body of more than {limit} bytes: the limit is `body-max`; send it in pieces");
    Refusal::new(413, "too_large", text)
}

/// The first command of a connection: who the app is. Its own process keeps what comes until somebody asks for it.
#[must_use]
pub fn hello(agent: Option<&str>) -> Vec<u8> {
    let head = Head::nothing().text("op", "hello").uint("version", 1).text("delivery", "pull");
    let head = match agent {
        Some(agent) => head.text("client", agent),
        None => head,
    };
    framed(&head, &[])
}

/// Asks that what comes is delivered at once from now on.
#[must_use]
pub fn push() -> Vec<u8> {
    framed(&Head::nothing().text("op", "flag").text("delivery", "push"), &[])
}

/// The command of a request, which is answered under this number.
///
/// # Errors
/// [`Refusal`], when what was written cannot be meant.
pub fn command(
    found: &Found,
    content: Content<'_>,
    body: &[u8],
    id: u64,
) -> Result<Vec<u8>, Refusal> {
    let mut head = Head::nothing().text("op", found.route.op).answers(Id::Number(id));
    let of_kv = found.param("to").filter(|_| found.route.path.starts_with("/v1/kv/"));
    if let Some(to) = of_kv {
        head = head.text("to", to);
        if let Some(text) = found.param("timeout_ms") {
            head = head.uint("timeout_ms", number("timeout_ms", text)?);
        }
        return Ok(framed(&head, &kv_body(found, content, body)?));
    }
    for param in found.route.params {
        head = member(head, found, param.name, param.kind)?;
    }
    if body.is_empty() {
        return whole(&head, &[]);
    }
    if !found.route.has_body {
        let text = format!("{} {} takes no body", found.route.method, found.route.path);
        return Err(Refusal::badarg(text));
    }
    match content {
        Content::Json => whole(&head, &from_json(body)?),
        Content::Cbor => whole(&head, body),
        Content::Other(ct) if ct.len() <= CT_BYTES_MAX => whole(&head.text("ct", ct), body),
        Content::Other(_) => {
            Err(Refusal::badarg(format!("`Content-Type` has at most {CT_BYTES_MAX} bytes")))
        }
    }
}

/// The commands before a stream of events, which are answered under the numbers from `id` on.
///
/// # Errors
/// [`Refusal`], when what was written cannot be meant.
pub fn commands_before(found: &Found, mut id: u64) -> Result<Vec<Vec<u8>>, Refusal> {
    debug_assert_eq!(found.route.gives, Gives::Events);
    let (mut frames, mut bytes) = (Vec::new(), 0);
    let mut begin = |op: &str| {
        id += 1;
        Head::nothing().text("op", op).answers(Id::Number(id - 1))
    };
    let mut mailbox = Head::nothing();
    for name in ["entries", "bytes"] {
        mailbox = member(mailbox, found, name, Kind::Number)?;
    }
    mailbox = member(mailbox, found, "policy", Kind::Text)?;
    frames.push(whole(&begin("flag").raw("mailbox", mailbox.bytes()), &[])?);
    if found.param("name").is_some() {
        frames.push(whole(&member(begin("register"), found, "name", Kind::Text)?, &[])?);
    }
    // One for each topic; without any the command itself says what it needs.
    let several = found.route.params.iter().find(|param| param.kind == Kind::Texts);
    let topics = several.map_or(0, |param| found.params(param.name).count());
    for at in 0..topics.max(1) {
        let mut head = begin(found.route.op);
        for param in found.route.params {
            if param.kind == Kind::Texts {
                if let Some(topic) = found.params(param.name).nth(at) {
                    head = head.text(param.name, topic);
                }
            } else if !OF_PROCESS.contains(&param.name) {
                head = member(head, found, param.name, param.kind)?;
            }
        }
        let frame = whole(&head, &[])?;
        bytes += frame.len();
        if bytes > COMMANDS_BYTES_MAX {
            let text = "the parameters are too long together: each topic is a command with all the others in it; ask for fewer topics, or with less `metadata`, and for the rest on another connection";
            return Err(Refusal::new(414, "too_large", text));
        }
        frames.push(frame);
    }
    frames.push(whole(&begin("self"), &[])?);
    Ok(frames)
}

fn member(head: Head, found: &Found, name: &str, kind: Kind) -> Result<Head, Refusal> {
    let Some(text) = found.param(name) else { return Ok(head) };
    Ok(match kind {
        Kind::Text => head.text(name, text),
        Kind::Number => head.uint(name, number(name, text)?),
        Kind::Flag => head.bool(name, flag(name, text)?),
        Kind::Texts => {
            let mut list = Vec::new();
            cbor::put_array(&mut list, found.params(name).count());
            found.params(name).for_each(|text| cbor::put_text(&mut list, text));
            head.raw(name, &list)
        }
        Kind::Json => {
            let item = json::json_to_cbor(text.as_bytes());
            let item = item.map_err(|error| Refusal::badarg(format!("`{name}`: {error}")))?;
            head.raw(name, &item)
        }
    })
}

fn number(name: &str, text: &str) -> Result<u64, Refusal> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| digits && *number <= NUMBER_MAX);
    number.ok_or_else(|| Refusal::badarg(format!("`{name}` is a whole number from 0 to 2^53")))
}

fn flag(name: &str, text: &str) -> Result<bool, Refusal> {
    match text {
        "" | "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Refusal::badarg(format!("`{name}` is true or false"))),
    }
}

fn from_json(text: &[u8]) -> Result<Vec<u8>, Refusal> {
    json::json_to_cbor(text).map_err(|error| {
        let text = format!(
            "the body: {error}; what is no JSON is sent with its own `Content-Type`, like text/plain"
        );
        Refusal::badarg(text)
    })
}

/// What a key-value process is asked.
fn kv_body(found: &Found, content: Content<'_>, body: &[u8]) -> Result<Vec<u8>, Refusal> {
    let route = found.route;
    let mut said = Vec::new();
    let (word, operand) = match (route.method, found.param("key")) {
        ("PUT", Some(key)) => ("set", Some(key)),
        ("DELETE", Some(key)) => ("delete", Some(key)),
        (_, Some(key)) => ("get", Some(key)),
        (_, None) => ("keys", found.param("prefix")),
    };
    let ttl = found.param("ttl_ms").map(|text| number("ttl_ms", text)).transpose()?;
    let items = 1 + usize::from(operand.is_some());
    let of_set = if route.has_body { 1 + usize::from(ttl.is_some()) } else { 0 };
    cbor::put_array(&mut said, items + of_set);
    cbor::put_text(&mut said, word);
    if let Some(operand) = operand {
        cbor::put_text(&mut said, operand);
    }
    match (route.has_body, body.is_empty(), content) {
        (false, true, _) => {}
        (false, false, _) => {
            let text = format!("{} {} takes no body", route.method, route.path);
            return Err(Refusal::badarg(text));
        }
        (true, true, _) => return Err(Refusal::badarg("the body is the value; there is none")),
        (true, false, Content::Json) => said.extend_from_slice(&from_json(body)?),
        (true, false, Content::Cbor) if cbor::is_one_item(body) => said.extend_from_slice(body),
        (true, false, Content::Cbor) => {
            return Err(Refusal::badarg("the body is not one well-formed CBOR item"));
        }
        (true, false, Content::Other(_)) => cbor::put_bytes(&mut said, body),
    }
    if let Some(ttl) = ttl {
        cbor::put_uint(&mut said, ttl);
    }
    Ok(said)
}

fn whole(head: &Head, body: &[u8]) -> Result<Vec<u8>, Refusal> {
    if head.bytes().len() > HEADER_BYTES_MAX {
        return Err(Refusal::new(414, "too_large", "the parameters are too long together"));
    }
    Ok(framed(head, body))
}

fn framed(head: &Head, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(6 + head.bytes().len() + body.len());
    event::put_frame(&mut frame, head.bytes(), body);
    frame
}
