//! A golden file: records with a title and a few named lines, separated by empty lines.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use pillion::dialect::json::{cbor_to_json, frame_to_line};
use pillion::wire::event::split_frame;

/// One thing that goes over a wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) title: String,
    /// Names of at most six letters, and what they say.
    pub(crate) lines: Vec<(String, String)>,
}

impl Record {
    pub(crate) fn new(title: &str, lines: &[(&str, String)]) -> Self {
        let lines = lines.iter().map(|(name, text)| ((*name).to_owned(), text.clone())).collect();
        Self { title: title.to_owned(), lines }
    }

    /// A frame between an app and its sidecar: the JSON line, the header in diagnostic notation, the CBOR frame.
    pub(crate) fn app(title: &str, frame: &[u8]) -> Self {
        let (head, _) = split_frame(frame).expect("one whole frame");
        let head = cbor_to_json(head).expect("a header is CBOR");
        Self::new(title, &[("json", line(frame)), ("header", head), ("frame", hex(frame))])
    }

    pub(crate) fn get(&self, name: &str) -> &str {
        let line = self.lines.iter().find(|(there, _)| there == name);
        line.map_or_else(|| panic!("`{}` has no line `{name}`", self.title), |(_, text)| text)
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let text = self.get("frame");
        let digit = |byte: u8| char::from(byte).to_digit(16).expect("a hex digit");
        text.as_bytes()
            .chunks(2)
            .map(|pair| u8::try_from(digit(pair[0]) << 4 | digit(pair[1])).expect("a byte"))
            .collect()
    }
}

/// A frame as the line that a JSON app reads, without its end.
pub(crate) fn line(frame: &[u8]) -> String {
    let mut line = Vec::new();
    frame_to_line(frame, &mut line);
    String::from_utf8(line).expect("JSON is UTF-8").trim_end().to_owned()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/wire/golden").join(file)
}

pub(crate) fn read(file: &str) -> Vec<Record> {
    let text = fs::read_to_string(path(file)).unwrap_or_default();
    let records = text.split("\n\n").filter_map(|block| {
        let mut lines = block.lines().filter(|line| !line.starts_with("//"));
        let title = lines.next()?.strip_prefix("# ")?.to_owned();
        let lines = lines
            .filter_map(|line| line.split_once(' '))
            .map(|(name, text)| (name.to_owned(), text.trim_start().to_owned()));
        Some(Record { title, lines: lines.collect() })
    });
    records.collect()
}

/// Compares with the file, or writes it where that was asked for.
pub(crate) fn check(file: &str, about: &str, records: &[Record]) {
    if std::env::var_os("PILLION_BLESS").is_some() {
        let mut text =
            format!("// {about}\n// Written by PILLION_BLESS=1 cargo test --test wire\n");
        for record in records {
            let _ = write!(text, "\n# {}\n", record.title);
            for (name, said) in &record.lines {
                let _ = writeln!(text, "{name:6} {said}");
            }
        }
        fs::write(path(file), text).expect("the golden file can be written");
        return;
    }
    let golden = read(file);
    for (record, golden) in records.iter().zip(&golden) {
        assert_eq!(record, golden, "{file} says otherwise; if it is meant, bless it");
    }
    assert_eq!(records.len(), golden.len(), "{file} has another number of records");
}
