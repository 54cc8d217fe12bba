//! Strategies as tables of a file: `[[strategy]]` with `kind`, `place` and the options as keys.
//!
//! ```toml
//! [[strategy]]
//! kind = "list"
//! place = ["hal", "ida:5000"]
//! interval = "30s"
//! ```
//!
//! A table becomes the URL that says the same, `list://hal,ida:5000?interval=30s`, so that both are checked by the same
//! code and refused in the same words. `pillion config print` prints the URL.

use std::fmt::Write as _;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Origin, Problem};
use super::typed::article;
use crate::config::key::Key;

/// The URL that a table stands for.
pub(super) fn url(
    table: &DeTable<'_>,
    at: &Origin,
    origin: &dyn Fn(usize) -> Origin,
) -> Result<String, Problem> {
    let (mut kind, mut place, mut options) = (None, String::new(), String::new());
    for (key, value) in table {
        let word: &str = key.get_ref();
        let text = text(word, value, origin)?;
        let wrong =
            |words: &str| Problem::new(&origin(value.span().start), Key::Strategy, &text, words);
        match word {
            "kind" => kind = Some(text),
            "place" => {
                if text.contains(['?', ' ', '\t', '\n']) {
                    return Err(wrong(
                        "`place` has no spaces and no `?`: options are keys of the table",
                    ));
                }
                place = text;
            }
            option => {
                let join = if options.is_empty() { '?' } else { '&' };
                let _ = write!(options, "{join}{option}={}", encoded(&text));
            }
        }
    }
    let Some(kind) = kind else {
        let all = pillion_strategies::NAMES.join(", ");
        let words = format!("needs `kind`, which strategy it is; there are: {all}");
        return Err(Problem::of_word(at.clone(), Key::Strategy.word(), words));
    };
    if kind.contains("://") {
        let words = "`kind` is the name alone, as in kind = \"list\"; what follows :// is `place`";
        return Err(Problem::new(at, Key::Strategy, &kind, words));
    }
    Ok(format!("{kind}://{place}{options}"))
}

/// A value as an option of a URL has it: several are separated by commas.
fn text(
    key: &str,
    value: &Spanned<DeValue<'_>>,
    origin: &dyn Fn(usize) -> Origin,
) -> Result<String, Problem> {
    let wrong = |value: &Spanned<DeValue<'_>>, but: &str| {
        let words = format!(
            "`{key}` is a text, a whole number, true or false, or a list of these{but}, not {}",
            article(value.get_ref())
        );
        Problem::of_word(origin(value.span().start), Key::Strategy.word(), words)
    };
    let one = |value: &Spanned<DeValue<'_>>| match value.get_ref() {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        DeValue::Boolean(on) => Ok(on.to_string()),
        _ => Err(wrong(value, "")),
    };
    match value.get_ref() {
        DeValue::Array(values) => {
            let texts: Vec<String> = values.iter().map(one).collect::<Result<_, _>>()?;
            if let Some(text) = texts.iter().find(|text| text.contains(',')) {
                let words = format!("`{key}` has a comma in {text:?}: write its parts one by one");
                let at = origin(value.span().start);
                return Err(Problem::of_word(at, Key::Strategy.word(), words));
            }
            Ok(texts.join(","))
        }
        _ => one(value),
    }
}

/// What an option's value may not hold as it is.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'%' | b'&') {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02x}");
        }
    }
    encoded
}
