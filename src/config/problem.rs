//! What is wrong with a configuration, where it was written, and what would be right.

use std::fmt;
use std::path::PathBuf;

use crate::config::key::Key;

/// Where a value was written. Ordered: what compares greater wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nowhere; the text says why the default is what it is here, or is empty.
    Default(String),
    /// A line of the configuration file.
    File {
        /// The file, as it was given.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A flag of the command line.
    Flag(String),
}

impl Origin {
    /// Flags over environment over file over defaults; two of one kind rank alike.
    #[must_use]
    pub const fn rank(&self) -> u8 {
        match self {
            Self::Default(_) => 0,
            Self::File { .. } => 1,
            Self::Variable(_) => 2,
            Self::Flag(_) => 3,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default(why) if why.is_empty() => f.write_str("default"),
            Self::Default(why) => write!(f, "default: {why}"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written.
    pub origin: Origin,
    /// Which key it is about, as it was written.
    pub key: String,
    /// What was written, where that helps.
    pub value: Option<String>,
    /// What is wrong with it and what would be right, in words.
    pub words: String,
}

impl Problem {
    /// Longest part of a wrong value that is repeated to its author.
    const SHOWN_CHARS_MAX: usize = 120;

    pub(crate) fn new(origin: &Origin, key: Key, value: &str, words: impl Into<String>) -> Self {
        let value = if key == Key::Strategy {
            // A URL may have a password in it.
            pillion_strategies::redacted(value)
        } else {
            value.to_owned()
        };
        Self {
            origin: origin.clone(),
            key: key.word().to_owned(),
            value: Some(value.chars().take(Self::SHOWN_CHARS_MAX).collect()),
            words: words.into(),
        }
    }

    pub(crate) fn of_word(origin: Origin, word: &str, words: impl Into<String>) -> Self {
        Self { origin, key: word.to_owned(), value: None, words: words.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.origin)?;
        // A flag or a variable says its key already.
        let said = matches!(self.origin, Origin::Flag(_) | Origin::Variable(_));
        if !said && !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        if let Some(value) = &self.value {
            write!(f, " = {value:?}")?;
        }
        write!(f, ": {}", self.words)
    }
}

/// Everything that is wrong, at once. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
