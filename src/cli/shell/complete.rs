//! What the tab key offers, and the usage that is shown dimly behind what was typed.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use rustyline::completion::{Completer, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

use super::manual::{self, INFO_KEYS, Kind, MANUAL};

/// Who there is, as the node last said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// Names of nodes.
    pub(super) nodes: Vec<String>,
    /// Registered names of this node.
    pub(super) names: Vec<String>,
    /// Names of the whole mesh.
    pub(super) globals: Vec<String>,
    /// Groups that have members.
    pub(super) groups: Vec<String>,
    /// Functions that are served, with their modules.
    pub(super) functions: Vec<String>,
}

/// The handle by which the session that watches tells the thread that edits.
#[derive(Clone, Debug, Default)]
pub(super) struct Directory(Arc<Mutex<Known>>);

impl Directory {
    /// Replaces what is known.
    pub(super) fn set(&self, known: Known) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }

    fn known(&self) -> Known {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the line editor asks.
#[derive(Debug, Default)]
pub(super) struct Assistant {
    directory: Directory,
}

impl Assistant {
    /// An assistant that knows what `directory` knows.
    pub(super) fn new(directory: Directory) -> Self {
        Self { directory }
    }
}

/// The words before the cursor, and the one under it with its start.
fn split(before: &str) -> (Vec<&str>, usize, &str) {
    let start = before
        .rfind(char::is_whitespace)
        .map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
    (before[..start].split_whitespace().collect(), start, &before[start..])
}

/// Everything that may stand under the cursor, by its beginning.
fn candidates(known: &Known, words: &[&str], word: &str) -> Vec<String> {
    let all: Vec<String> = match words.split_first() {
        None => MANUAL.iter().map(|entry| entry.word.to_owned()).collect(),
        Some((command, arguments)) => {
            let Some(entry) = manual::find(command) else { return Vec::new() };
            match entry.kind(arguments.len()) {
                Kind::To => addresses(known, word),
                Kind::Node => known.nodes.clone(),
                Kind::Callee => [&["any".to_owned()], &known.nodes[..]].concat(),
                Kind::Name => names(known),
                Kind::Group => known.groups.clone(),
                Kind::Function => known.functions.clone(),
                Kind::Key => INFO_KEYS.iter().map(|&key| key.to_owned()).collect(),
                Kind::Command => MANUAL.iter().map(|entry| entry.word.to_owned()).collect(),
                Kind::Words(words) => words.split(' ').map(str::to_owned).collect(),
                Kind::Free => Vec::new(),
            }
        }
    };
    all.into_iter().filter(|candidate| candidate.starts_with(word)).collect()
}

/// Names of this node and, with their prefix, those of the whole mesh.
fn names(known: &Known) -> Vec<String> {
    let globals = known.globals.iter().map(|name| format!("global:{name}"));
    known.names.iter().cloned().chain(globals).collect()
}

/// Names and groups; behind an `@`, the nodes on which the name may be.
fn addresses(known: &Known, word: &str) -> Vec<String> {
    match word.split_once('@') {
        Some((name, _)) => known.nodes.iter().map(|node| format!("{name}@{node}")).collect(),
        None => {
            let groups = known.groups.iter().map(|group| format!("group:{group}"));
            names(known).into_iter().chain(groups).collect()
        }
    }
}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (words, start, word) = split(&line[..pos]);
        let mut found = candidates(&self.directory.known(), &words, word);
        found.sort();
        // What is whole is followed by a space, so that the next word can be typed at once.
        let pair = |text: String| Pair { replacement: format!("{text} "), display: text };
        Ok((start, found.into_iter().map(pair).collect()))
    }
}

impl Hinter for Assistant {
    type Hint = Usage;

    fn hint(&self, line: &str, pos: usize, _: &Context<'_>) -> Option<Usage> {
        (pos == line.len()).then(|| hint(line)).flatten().map(Usage)
    }
}

/// What is still to be typed, once the command is.
fn hint(line: &str) -> Option<String> {
    let (words, _, word) = split(line);
    match words.split_first() {
        None => manual::find(word)?.rest(0).map(|rest| format!(" {rest}")),
        Some((command, arguments)) if word.is_empty() => {
            manual::find(command)?.rest(arguments.len()).map(str::to_owned)
        }
        Some((command, arguments)) => {
            let rest = manual::find(command)?.rest(arguments.len() + 1)?;
            Some(format!(" {rest}"))
        }
    }
}

/// A hint that is read and never taken over: `TO` is not an address.
#[derive(Debug)]
pub(super) struct Usage(String);

impl rustyline::hint::Hint for Usage {
    fn display(&self) -> &str {
        &self.0
    }

    fn completion(&self) -> Option<&str> {
        None
    }
}

impl Highlighter for Assistant {
    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(format!("\x1b[2m{hint}\x1b[0m"))
    }
}

impl Validator for Assistant {}

impl Helper for Assistant {}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(line: &str) -> Vec<String> {
        let known = Known {
            nodes: vec!["stock@hal".into(), "shop@hal".into()],
            names: vec!["stock".into(), "orders".into()],
            globals: vec!["till".into()],
            groups: vec!["tills".into()],
            functions: vec!["shelf.count".into(), "shelf.take".into()],
        };
        let (words, _, word) = split(line);
        candidates(&known, &words, word)
    }

    #[test]
    fn the_first_word_is_a_command() {
        assert_eq!(complete("mon"), ["monitor", "monitor_nodes"]);
        assert_eq!(complete("").len(), MANUAL.len());
    }

    #[test]
    fn names_are_offered_where_a_process_is_meant_and_nodes_where_a_node_is() {
        assert_eq!(complete("send st"), ["stock"]);
        assert_eq!(complete("send_after 100 or"), ["orders"]);
        assert_eq!(complete("ping st"), ["stock@hal"]);
        assert_eq!(complete("connect sh"), ["shop@hal"]);
        assert_eq!(complete("whereis stock "), ["stock@hal", "shop@hal"]);
        assert_eq!(complete("whereis orders s"), ["stock@hal", "shop@hal"]);
    }

    #[test]
    fn behind_an_at_sign_a_name_goes_on_with_a_node() {
        assert_eq!(complete("send cart@sh"), ["cart@shop@hal"]);
    }

    #[test]
    fn names_of_the_mesh_groups_and_functions_are_offered_where_they_can_be_meant() {
        assert_eq!(complete("call g"), ["global:till", "group:tills"]);
        assert_eq!(complete("whereis g"), ["global:till"]);
        assert_eq!(complete("members "), ["tills"]);
        assert_eq!(complete("rpc "), ["any", "stock@hal", "shop@hal"]);
        assert_eq!(complete("rpc any shelf.t"), ["shelf.take"]);
        assert_eq!(complete("names g"), ["global"]);
    }

    #[test]
    fn a_body_is_left_alone() {
        assert_eq!(complete("send stock st"), [""; 0]);
        assert_eq!(complete("frobnicate st"), [""; 0]);
    }

    #[test]
    fn keys_switches_and_pages_of_help_are_offered() {
        assert_eq!(complete("info stock mess"), ["message_queue_len", "messages"]);
        assert_eq!(complete("trap_exit o"), ["on", "off"]);
        assert_eq!(complete("help fl"), ["flush"]);
        assert_eq!(complete("nodes c"), ["connected"]);
    }

    #[test]
    fn the_hint_says_what_is_still_to_come() {
        assert_eq!(hint("send").as_deref(), Some(" TO BODY"));
        assert_eq!(hint("send ").as_deref(), Some("TO BODY"));
        assert_eq!(hint("send stock").as_deref(), Some(" BODY"));
        assert_eq!(hint("send stock "), Some("BODY".to_owned()));
        assert_eq!(hint("send stock hello"), None);
        assert_eq!(hint("self"), None);
        assert_eq!(hint("frob"), None);
    }
}
