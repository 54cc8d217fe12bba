//! One line of a program: everybody that it sees now.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value};

use crate::Sighting;
use crate::options::hex_u64;

/// The mesh port where none is written.
const PORT: u16 = 4470;
/// Most nodes taken from one line.
pub(super) const NODES_MAX: usize = 4096;
/// Most addresses taken of one node.
const ADDRESSES_MAX: usize = 16;
/// Most labels taken of one node.
const LABELS_MAX: usize = 64;
/// Longest text that is taken: a node's name, a label.
const TEXT_BYTES_MAX: usize = 512;
/// Most of a text that is shown to people.
const SHOWN_CHARS_MAX: usize = 60;

/// What a line said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) nodes: Vec<Sighting>,
    /// What of it could not be taken, in a sentence.
    pub(super) trouble: Option<String>,
}

/// Reads a line: `[{"address": "10.0.0.7:4470"}, ...]`, or the same array as the member `nodes` of an object.
///
/// # Errors
/// A sentence on why the line says nothing; the last set stays then.
pub(super) fn read(line: &[u8], source: &str) -> Result<Snapshot, String> {
    let value: Value = serde_json::from_slice(line)
        .map_err(|error| format!("it is no JSON ({error}): `{}`", shown(line)))?;
    let nodes = match value {
        Value::Array(nodes) => nodes,
        Value::Object(mut object) => match object.remove("nodes") {
            Some(Value::Array(nodes)) => nodes,
            _ => return Err(format!("its object has no array `nodes`: `{}`", shown(line))),
        },
        _ => return Err(format!("it is neither an array nor an object: `{}`", shown(line))),
    };
    let given = nodes.len();
    let mut snapshot = Snapshot::default();
    let (mut bad, mut first_bad) = (0, None);
    for (at, node) in nodes.into_iter().take(NODES_MAX).enumerate() {
        match sighting(&node, source) {
            Ok(sighting) => snapshot.nodes.push(sighting),
            Err(why) => {
                bad += 1;
                first_bad.get_or_insert_with(|| format!("node {} of it {why}", at + 1));
            }
        }
    }
    if let Some(first) = first_bad {
        if snapshot.nodes.is_empty() {
            return Err(first);
        }
        let rest = if bad > 1 { format!(" (and {} more)", bad - 1) } else { String::new() };
        snapshot.trouble = Some(format!("{first}{rest}; the others count"));
    } else if given > NODES_MAX {
        snapshot.trouble =
            Some(format!("it names {given} nodes: the first {NODES_MAX} count, the rest do not"));
    }
    Ok(snapshot)
}

fn sighting(node: &Value, source: &str) -> Result<Sighting, String> {
    let addresses = |texts: &[&Value], port| {
        let mut all = Vec::new();
        for text in texts.iter().take(ADDRESSES_MAX) {
            let text = text.as_str().ok_or("has an address that is no text")?;
            all.push(address(text, port).ok_or_else(|| {
                format!("has no address that can be dialled: `{}`; write an IP, `10.0.0.7:4470` or `[fd00::7]:4470`", shown(text.as_bytes()))
            })?);
        }
        all.sort_unstable();
        all.dedup();
        Ok::<_, String>(all)
    };
    let object = match node {
        Value::String(_) => {
            let addresses = addresses(&[node], PORT)?;
            return Ok(Sighting { addresses, source: source.to_owned(), ..Sighting::default() });
        }
        Value::Object(object) => object,
        _ => return Err("is neither an object nor an address".to_owned()),
    };
    let port = match object.get("port") {
        None | Some(Value::Null) => PORT,
        Some(port) => whole_port(port).ok_or_else(|| {
            format!("has a port that is none: `{}`", shown(port.to_string().as_bytes()))
        })?,
    };
    let mut texts: Vec<&Value> = Vec::new();
    for key in ["address", "addresses"] {
        match object.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::Array(several)) => texts.extend(several.iter().filter(|v| !v.is_null())),
            Some(one) => texts.push(one),
        }
    }
    texts.retain(|text| text.as_str() != Some(""));
    if texts.is_empty() {
        return Err("has no `address`".to_owned());
    }
    Ok(Sighting {
        node: text(object, "node").filter(|node| node.contains('@')),
        incarnation: text(object, "incarnation").as_deref().and_then(hex_u64),
        mesh: text(object, "mesh"),
        addresses: addresses(&texts, port)?,
        labels: labels(object.get("labels")),
        source: source.to_owned(),
        ..Sighting::default()
    })
}

fn text(object: &Map<String, Value>, key: &str) -> Option<String> {
    let text = object.get(key)?.as_str()?;
    let good = (1..=TEXT_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    good.then(|| text.to_owned())
}

fn labels(labels: Option<&Value>) -> BTreeMap<String, String> {
    let Some(Value::Object(labels)) = labels else { return BTreeMap::new() };
    let plain = |text: &str| text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control);
    let read = labels.iter().filter_map(|(key, value)| {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(yes) => yes.to_string(),
            _ => return None,
        };
        (!key.is_empty() && plain(key) && plain(&value)).then(|| (key.clone(), value))
    });
    read.take(LABELS_MAX).collect()
}

/// A port, also as text: many a source has it so.
fn whole_port(value: &Value) -> Option<u16> {
    let port = match value {
        Value::String(text) => text.parse().ok(),
        number => number.as_u64().and_then(|number| u16::try_from(number).ok()),
    };
    port.filter(|port| *port != 0)
}

fn address(text: &str, port: u16) -> Option<SocketAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = match bare.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port),
        Err(_) => text.parse().ok()?,
    };
    let ip = address.ip();
    (address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast()).then_some(address)
}

/// As much of a text as people need, without what would steer their terminal.
pub(super) fn shown(text: &[u8]) -> String {
    let start = &text[..text.len().min(4 * SHOWN_CHARS_MAX)];
    let text_start = String::from_utf8_lossy(start);
    let mut chars = text_start.chars();
    let steers = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    let mut shown: String = chars.by_ref().take(SHOWN_CHARS_MAX).map(steers).collect();
    if chars.next().is_some() || start.len() < text.len() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(line: &str) -> Vec<String> {
        let snapshot = read(line.as_bytes(), "exec x").expect(line);
        assert_eq!(snapshot.trouble, None, "{line}");
        snapshot.nodes.iter().flat_map(|n| &n.addresses).map(ToString::to_string).collect()
    }

    #[test]
    fn every_form_of_a_snapshot_is_understood() {
        assert_eq!(addresses("[]"), Vec::<String>::new());
        assert_eq!(addresses(r#"{"nodes": [], "more": 1}"#), Vec::<String>::new());
        assert_eq!(addresses(r#"["10.0.0.1", "[fd00::1]:5"]"#), ["10.0.0.1:4470", "[fd00::1]:5"]);
        assert_eq!(addresses(r#"[{"address": "10.0.0.1", "port": 7}]"#), ["10.0.0.1:7"]);
        assert_eq!(addresses(r#"[{"address": "10.0.0.1:8", "port": "7"}]"#), ["10.0.0.1:8"]);
        assert_eq!(
            addresses(r#"{"nodes": [{"addresses": ["fd00::7", "10.0.0.1"], "address": null}]}"#),
            ["10.0.0.1:4470", "[fd00::7]:4470"]
        );
    }

    #[test]
    fn what_a_source_knows_of_a_node_is_taken_and_the_rest_is_ignored() {
        let line = r#"[{"address": "10.0.0.1", "node": "a@hal", "mesh": "m", "incarnation": "00000000000000ff",
            "labels": {"zone": "b", "rack": 7, "spot": true, "list": [], "bad": "\u0007"}, "cost": {"a": 1}}]"#;
        let snapshot = read(line.as_bytes(), "exec x").expect("good");
        let node = &snapshot.nodes[0];
        assert_eq!(node.node.as_deref(), Some("a@hal"));
        assert_eq!((node.mesh.as_deref(), node.incarnation), (Some("m"), Some(255)));
        let labels: Vec<(&str, &str)> = node.labels.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(labels, [("rack", "7"), ("spot", "true"), ("zone", "b")]);
        assert_eq!(node.source, "exec x");
    }

    #[test]
    fn a_node_without_an_address_is_named_and_the_others_count() {
        let line = br#"[{"address": null}, {"address": "10.0.0.1"}, {"address": "hal"}, 7]"#;
        let snapshot = read(line, "x").expect("good");
        assert_eq!(snapshot.nodes.len(), 1);
        let trouble = snapshot.trouble.expect("told");
        assert!(trouble.contains("node 1 of it has no `address` (and 2 more)"), "{trouble}");
        assert!(
            read(br#"[{"address": "0.0.0.0"}]"#, "x").is_err_and(|why| why.contains("0.0.0.0"))
        );
    }

    #[test]
    fn a_line_that_says_nothing_is_refused_in_words_and_nothing_panics() {
        for line in ["", "hello", "7", "null", "{}", r#"{"nodes": 1}"#, "[[]]", "\u{1b}[2J", "[{}]"]
        {
            let why = read(line.as_bytes(), "x").expect_err(line);
            assert!(!why.contains('\u{1b}'), "{why}");
        }
        assert!(read(&[0xff; 4000], "x").is_err_and(|why| why.len() < 600));
        assert!(read("[".repeat(100_000).as_bytes(), "x").is_err());
        let port = br#"[{"address": "10.0.0.1", "port": 99999}]"#;
        assert!(read(port, "x").is_err_and(|why| why.contains("99999")));
    }

    #[test]
    fn more_nodes_than_a_line_may_have_are_told() {
        let line = format!("[{}]", vec![r#""10.0.0.1""#; NODES_MAX + 5].join(","));
        let snapshot = read(line.as_bytes(), "x").expect("good");
        assert_eq!(snapshot.nodes.len(), NODES_MAX);
        assert!(snapshot.trouble.is_some_and(|trouble| trouble.contains("4101")));
    }
}
