//! Standard output: lines and tables, quiet when the reader has gone.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

use super::exit::Failure;
use crate::client::Event;

/// Where answers go.
#[derive(Debug)]
pub struct Output {
    /// JSON instead of words.
    pub json: bool,
}

impl Output {
    /// Writes whole lines at once.
    ///
    /// # Errors
    /// A [`Failure`] without words when nobody reads any more.
    pub fn say(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        if !text.ends_with('\n') {
            out.write_all(b"\n")?;
        }
        Ok(out.flush()?)
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// As [`Output::say`].
    pub fn put(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        Ok(out.flush()?)
    }

    /// Writes an answer or an event: as JSON when asked for it, else in these words.
    ///
    /// # Errors
    /// As [`Output::say`].
    pub fn tell(&self, event: &Event, words: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json { self.say(&event.to_json()) } else { self.say(&words()) }
    }

    /// Whether a person looks at it.
    #[must_use]
    pub fn is_terminal() -> bool {
        io::stdout().is_terminal()
    }
}

/// Says something beside the answer, on standard error.
pub(super) fn note(text: &str) {
    // Nobody may be there to read it.
    let _ = writeln!(io::stderr(), "pillion: {text}");
}

/// Rows under headings, each column as wide as its widest cell. Columns in which nobody has a value are left out.
#[must_use]
pub fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> =
        rows.iter().map(|row| std::array::from_fn(|column| clean(&row[column]))).collect();
    let wide = |text: &str| text.chars().count();
    let columns: Vec<(usize, usize)> = (0..N)
        .filter(|&column| rows.is_empty() || rows.iter().any(|row| !row[column].is_empty()))
        .map(|column| {
            let cells = rows.iter().map(|row| wide(&row[column]));
            (column, cells.max().unwrap_or(0).max(wide(headings[column])))
        })
        .collect();
    let mut text = String::new();
    let mut line = |cells: &dyn Fn(usize) -> String| {
        let start = text.len();
        for &(column, width) in &columns {
            let _ = write!(text, "{:width$}  ", cells(column));
        }
        text.truncate(start + text[start..].trim_end().len());
        text.push('\n');
    };
    line(&|column| headings[column].to_owned());
    for row in &rows {
        line(&|column| row[column].clone());
    }
    text
}

/// Keeps what others wrote from steering the terminal.
#[must_use]
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_empty_ones_left_out() {
        let row = |a: &str, b: &str, c: &str| [a.to_owned(), b.to_owned(), c.to_owned()];
        let rows = [row("stock@hal", "", "self"), row("b@hal", "", "connected")];
        assert_eq!(
            table(["NODE", "LABELS", "STATE"], &rows),
            "NODE       STATE\nstock@hal  self\nb@hal      connected\n"
        );
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\nc"), "a\u{fffd}[2Jb\u{fffd}c");
    }
}
