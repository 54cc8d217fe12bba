//! Many problems as one sentence, and what others say of theirs.

use std::error::Error;

use crate::{Reporter, Sighting};

/// Most problems told in one sentence of health.
const PROBLEMS_TOLD_MAX: usize = 3;

/// Reports what is visible, and what is wrong with the source, if anything is.
pub(crate) fn report(reporter: &Reporter, sightings: Vec<Sighting>, mut problems: Vec<String>) {
    problems.dedup();
    let more = problems.len().saturating_sub(PROBLEMS_TOLD_MAX);
    problems.truncate(PROBLEMS_TOLD_MAX);
    match (problems.is_empty(), more) {
        (true, _) => reporter.visible(sightings),
        (false, 0) => reporter.visible_but(sightings, problems.join("; ")),
        (false, _) => {
            reporter.visible_but(sightings, format!("{}; and {more} more", problems.join("; ")));
        }
    }
}

/// What becomes of what was found before, for the end of a sentence.
pub(crate) fn kept(addresses: usize) -> String {
    match addresses {
        0 => String::new(),
        1 => "; its last address stays".to_owned(),
        n => format!("; its last {n} addresses stay"),
    }
}

/// An error with its causes, each said once.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !said.contains(&more) {
            said = format!("{said}: {more}");
        }
        cause = error.source();
    }
    said
}

/// Text of somebody else's in one line, of which so many characters are told.
#[must_use]
pub fn line(text: &str, most: usize) -> String {
    let mut line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(most).collect();
    if text.chars().nth(most).is_some() {
        line.push_str("...");
    }
    line
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("no answer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn an_error_is_told_with_its_causes_in_one_line_of_bounded_length() {
        assert_eq!(chain(&Outer(io::Error::other("refused"))), "no answer: refused");
        assert_eq!(chain(&Outer(io::Error::other("no answer"))), "no answer", "once is enough");
        assert_eq!(line("a\nb\u{1b}[0m", 80), "a b [0m");
        assert_eq!((line("über", 4), line("übers", 4)), ("über".to_owned(), "über...".to_owned()));
    }
}
