//! JSON of the kit's lines, and the CBOR of bodies: bytes are `{"$bytes": "<base64>"}`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pillion_client::{Blob, Event, Value};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

/// Anything.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(transparent)]
pub(crate) struct Any(pub(crate) Value);

impl Any {
    pub(crate) fn of(json: &Json) -> Self {
        Self(cbor(json))
    }
}

fn cbor(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(yes) => Value::Bool(*yes),
        Json::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number.into(),
            (_, Some(number)) => number.into(),
            _ => number.as_f64().unwrap_or(f64::NAN).into(),
        },
        Json::String(text) => Value::Text(text.clone()),
        Json::Array(items) => Value::Array(items.iter().map(cbor).collect()),
        Json::Object(members) => match bytes(members) {
            Some(bytes) => Value::Bytes(bytes),
            None => {
                let pairs = members.iter().map(|(key, value)| (key.as_str().into(), cbor(value)));
                Value::Map(pairs.collect())
            }
        },
    }
}

fn bytes(members: &Map<String, Json>) -> Option<Vec<u8>> {
    let text = members.get("$bytes").filter(|_| members.len() == 1)?;
    STANDARD.decode(text.as_str()?).ok()
}

pub(crate) fn shown(any: &Any) -> Json {
    show(&any.0)
}

fn show(value: &Value) -> Json {
    match value {
        Value::Bool(yes) => (*yes).into(),
        Value::Integer(number) => match u64::try_from(*number) {
            Ok(number) => number.into(),
            Err(_) => i64::try_from(*number).map_or(Json::Null, Json::from),
        },
        Value::Float(number) => (*number).into(),
        Value::Text(text) => text.as_str().into(),
        Value::Bytes(bytes) => serde_json::json!({"$bytes": STANDARD.encode(bytes)}),
        Value::Array(items) => items.iter().map(show).collect::<Vec<_>>().into(),
        Value::Map(pairs) => {
            let pairs = pairs.iter().map(|(key, value)| {
                let key = key.as_text().map_or_else(|| show(key).to_string(), str::to_owned);
                (key, show(value))
            });
            Json::Object(pairs.collect())
        }
        _ => Json::Null,
    }
}

/// A body of this content type, or CBOR.
pub(crate) fn to_body(json: &Json, content_type: Option<&str>) -> Blob {
    let value = cbor(json);
    match (content_type, &value) {
        (Some(content_type), Value::Bytes(bytes)) => Blob::new(content_type, bytes.clone()),
        (Some(content_type), Value::Text(text)) => Blob::new(content_type, text.clone()),
        _ => {
            let mut bytes = Vec::new();
            ciborium::into_writer(&value, &mut bytes).expect("a vector takes everything");
            Blob::cbor(bytes)
        }
    }
}

/// An event as the kit's lines have it.
pub(crate) fn event(event: &Event) -> Json {
    let mut seen = show(&event.header());
    if let Some(members) = seen.as_object_mut() {
        members.remove("pid");
        let body = event.body::<Any>().map_or(Json::Null, |body| shown(&body));
        if !event.bytes().is_empty() {
            let name = members.remove("as").and_then(|name| name.as_str().map(str::to_owned));
            members.insert(name.unwrap_or_else(|| "body".to_owned()), body);
        }
    }
    seen
}
