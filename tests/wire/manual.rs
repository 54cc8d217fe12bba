//! The manual of the protocol names everything there is, and its examples are those of the golden files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pillion::wire::command::OPS;
use pillion::wire::message::Kind;

use super::golden;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn manual() -> String {
    fs::read_to_string(root().join("docs/protocol.md")).expect("there is a manual")
}

/// The sources in which events and errors are written, tests left out.
fn sources() -> String {
    let mut paths: Vec<PathBuf> =
        ["session.rs", "router.rs", "wire/command.rs", "mesh/requests.rs"]
            .iter()
            .map(|file| root().join("src").join(file))
            .collect();
    let router = fs::read_dir(root().join("src/router")).expect("the router is there");
    paths.extend(router.filter_map(|entry| Some(entry.ok()?.path())));
    for below in ["src/router/topics", "src/router/presence"] {
        let files = fs::read_dir(root().join(below)).expect("it is there");
        paths.extend(files.filter_map(|entry| Some(entry.ok()?.path())));
    }
    paths.sort();
    let texts = paths.iter().filter(|path| path.is_file()).map(|path| {
        let text = fs::read_to_string(path).expect("a source");
        text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
    });
    texts.collect()
}

/// The texts that follow `before` at once, or after `skip` commas.
fn texts_after(source: &str, before: &str, skip: usize) -> BTreeSet<String> {
    let found = source.match_indices(before).filter_map(|(at, _)| {
        let rest = &source[at + before.len()..];
        let argument = rest.splitn(skip + 2, ',').nth(skip)?.trim_start();
        let text = argument.strip_prefix('"')?;
        Some(text.split('"').next()?.to_owned())
    });
    found.filter(|text| text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')).collect()
}

/// Every name of an event.
pub(crate) fn events_in_the_source() -> BTreeSet<String> {
    let mut names = texts_after(&sources(), "Head::event(", 0);
    names.extend(["ok", "error", "message"].map(str::to_owned));
    names
}

/// Every code of an error.
pub(crate) fn codes_in_the_source() -> BTreeSet<String> {
    let sources = sources();
    let mut codes = texts_after(&sources, "Failure::new(", 0);
    codes.extend(texts_after(&sources, "Ending::new(", 0));
    codes.extend(texts_after(&sources, "code: ", 0));
    codes.extend(texts_after(&sources, "Head::error(", 1));
    codes.insert("denied".to_owned());
    codes
}

#[test]
fn every_command_event_and_code_is_in_the_manual() {
    let manual = manual();
    for op in OPS {
        assert!(manual.contains(&format!("### `{op}")), "`{op}` has no heading");
    }
    for event in events_in_the_source() {
        assert!(manual.contains(&format!("### `{event}")), "`{event}` has no heading");
    }
    let codes = codes_in_the_source();
    assert!(codes.len() > 10, "{codes:?}");
    for code in codes {
        assert!(manual.contains(&format!("| `{code}` |")), "the code `{code}` has no line");
    }
    for byte in 0..=u8::MAX {
        if let Some(kind) = Kind::from_u8(byte) {
            assert!(manual.contains(&format!("| 0x{byte:02x} |")), "{kind:?} has no line");
        }
    }
}

#[test]
fn the_examples_of_the_manual_are_those_of_the_golden_files() {
    let mut golden = BTreeSet::new();
    for file in ["commands.txt", "events.txt", "peers.txt"] {
        for record in golden::read(file) {
            for (name, text) in record.lines {
                golden.insert(if name == "json" { text } else { format!("{name} {text}") });
            }
        }
    }
    let mut fenced = false;
    let mut examples = 0;
    for line in manual().lines() {
        // What is typed at a prompt is run by tests of its own.
        if line.starts_with("```") {
            fenced = line == "```text";
        } else if fenced
            && ["{", "header ", "head ", "says ", "frame "]
                .iter()
                .any(|begin| line.starts_with(begin))
        {
            examples += 1;
            assert!(golden.contains(line), "no golden file has: {line}");
        }
    }
    assert!(examples > 100, "only {examples} examples");
}
