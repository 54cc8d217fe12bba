//! A page of documentation as what can be done: what is typed in which terminal, what is printed, which files there are.
//!
//! A block that is carried out has a line directly above it that says what it is, and that a reader sees as well:
//!
//! - `**Terminal 2**` (more words may follow): a `console` block is typed there; `**Terminal 2**, with Go` only where there is Go;
//! - ``**Save as `price.py`**``: the block is the file;
//! - ``**From `examples/price.py`**`` (the name may be a link): the block is a piece of that file, word for word.
//!
//! Instead of the first, `<!-- terminal 2 -->` says it to the test alone. In a `console` block a line that begins with a
//! prompt is typed, `^C` and `^D` are keys, `...` alone stands for any lines, and all else is printed. Nodes that come and go are
//! told of by `pillion shell` at any time: those that the page shows must come, in whatever place.

use std::fmt;

/// A page, line by line, and its blocks in their order.
pub(crate) struct Page {
    pub(crate) lines: Vec<String>,
    pub(crate) blocks: Vec<Block>,
}

/// A block that is carried out.
#[derive(Debug)]
pub(crate) enum Block {
    /// What happens in a terminal; `first` is the index of its first line, `end` that of its closing fence. It `needs` a language
    /// that not everybody has.
    Session { terminal: u32, needs: Option<String>, first: usize, end: usize, steps: Vec<Step> },
    /// A file that the reader saves.
    File { name: String, text: String },
    /// A piece of a file that is there.
    Piece { name: String, text: String, first: usize },
}

/// One line of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Typed behind a prompt.
    Typed { prompt: String, text: String, at: usize },
    /// A key of control.
    Key { key: char, at: usize },
    /// Printed.
    Printed { text: String, at: usize },
    /// Any lines, up to the next that is printed here.
    Skipped,
}

/// What is wrong with the page, and in which line of it.
#[derive(Debug)]
pub(crate) struct Wrong {
    at: usize,
    what: String,
}

impl Wrong {
    pub(crate) fn new(at: usize, what: impl Into<String>) -> Self {
        Self { at, what: what.into() }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.at + 1, self.what)
    }
}

impl Page {
    pub(crate) fn read(text: &str) -> Result<Self, Wrong> {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let mut blocks = Vec::new();
        let mut at = 0;
        while at < lines.len() {
            let Some(language) = lines[at].strip_prefix("```") else {
                at += 1;
                continue;
            };
            let fence = at;
            let first = at + 1;
            let rest = lines[first..].iter().position(|line| line == "```");
            let end = first + rest.ok_or_else(|| Wrong::new(fence, "a block that does not end"))?;
            let text = || lines[first..end].join("\n") + "\n";
            match heading(&lines[..fence]) {
                Some(Heading::Terminal(terminal, needs)) => {
                    let steps = steps(&lines[first..end], first);
                    blocks.push(Block::Session { terminal, needs, first, end, steps });
                }
                Some(Heading::File(name)) => blocks.push(Block::File { name, text: text() }),
                Some(Heading::Piece(name)) => {
                    blocks.push(Block::Piece { name, text: text(), first });
                }
                None if language == "console" => {
                    return Err(Wrong::new(fence, "nobody says in which terminal this is typed"));
                }
                None => {}
            }
            at = end + 1;
        }
        Ok(Self { lines, blocks })
    }
}

enum Heading {
    Terminal(u32, Option<String>),
    File(String),
    Piece(String),
}

/// What the last line above a block says of it.
fn heading(above: &[String]) -> Option<Heading> {
    let line = above.iter().rev().find(|line| !line.is_empty())?;
    let named = |rest: &str| rest.split('`').nth(1).map(str::to_owned);
    for mark in ["**Terminal ", "<!-- terminal "] {
        if let Some(rest) = line.strip_prefix(mark) {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            let needs =
                rest.split_once(", with ").and_then(|(_, rest)| rest.split([' ', ':', ',']).next());
            return Some(Heading::Terminal(digits.parse().ok()?, needs.map(str::to_owned)));
        }
    }
    if let Some(rest) = line.strip_prefix("**Save as ") {
        return Some(Heading::File(named(rest)?));
    }
    Some(Heading::Piece(named(line.strip_prefix("**From ")?)?))
}

fn steps(lines: &[String], first: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    for (at, line) in (first..).zip(lines) {
        steps.push(match line.as_str() {
            "^C" => Step::Key { key: '\x03', at },
            "^D" => Step::Key { key: '\x04', at },
            "..." => Step::Skipped,
            line => match prompt(line) {
                Some(length) => {
                    let (prompt, text) = (line[..length].to_owned(), line[length..].to_owned());
                    Step::Typed { prompt, text, at }
                }
                None => Step::Printed { text: line.to_owned(), at },
            },
        });
    }
    steps
}

/// How long the prompt is with which a line begins, if with one: that of the shell, of Python, of `pillion shell`.
pub(crate) fn prompt(line: &str) -> Option<usize> {
    for prompt in ["$ ", ">>> "] {
        if line.starts_with(prompt) {
            return Some(prompt.len());
        }
    }
    let (node, _) = line.split_once("> ")?;
    let (base, host) = node.split_once('@')?;
    let name = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    (name(base) && name(host)).then(|| node.len() + 2)
}

/// Whether it is one of the lines that `pillion shell` prints whenever it happens, between all others.
pub(crate) fn is_notice(line: &str) -> bool {
    ["nodeup node=", "nodedown node="].iter().any(|word| line.starts_with(word))
}
