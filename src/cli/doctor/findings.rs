//! What was found, and how it is printed.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use crate::cli::clean;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// As it should be.
    Ok,
    /// It works, or may work, and is worth a look.
    Warning,
    /// It does not work.
    Failed,
}

impl State {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// What was looked at, in a word.
    pub(super) check: String,
    pub(super) state: State,
    /// What was found.
    pub(super) found: String,
    /// What to do; empty where there is nothing.
    pub(super) advice: String,
}

impl Finding {
    pub(super) fn ok(check: impl Into<String>, found: impl Into<String>) -> Self {
        let (check, found) = (check.into(), found.into());
        Self { check, state: State::Ok, found, advice: String::new() }
    }

    pub(super) fn warning(
        check: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { state: State::Warning, advice: advice.into(), ..Self::ok(check, found) }
    }

    pub(super) fn failed(
        check: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { state: State::Failed, advice: advice.into(), ..Self::ok(check, found) }
    }

    pub(super) fn json(&self) -> Json {
        let mut json = json!({
            "check": self.check, "state": self.state.word(), "found": self.found
        });
        if !self.advice.is_empty() {
            json["advice"] = self.advice.clone().into();
        }
        json
    }

    pub(super) fn line(&self) -> String {
        // What others wrote, a strategy's source above all, may have several lines.
        let one_line = |text: &str| clean(&text.replace('\n', " "));
        let mut line =
            format!("{:7}  {:14}  {}\n", self.state.word(), self.check, one_line(&self.found));
        if !self.advice.is_empty() {
            let _ = writeln!(line, "{:25}-> {}", "", one_line(&self.advice));
        }
        line
    }
}
