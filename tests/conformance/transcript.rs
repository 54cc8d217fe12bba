//! What happened in a script so far, for whoever reads why it failed.

use std::fmt::Write as _;

use crate::script::{Script, Step};

/// Most lines that are shown before the one that failed.
const SHOWN: usize = 200;
/// Most of what is said of it, in characters.
const FAULT: usize = 4000;

#[derive(Debug, Default)]
pub struct Transcript(Vec<String>);

impl Transcript {
    /// The step that is played now.
    pub fn step(&mut self, number: usize, step: &Step) {
        self.0.push(format!("{number:>4}  {}", step.text));
    }

    /// Something that came meanwhile, expected or not.
    pub fn came(&mut self, text: &str) {
        self.0.push(format!("      <- {}", text.chars().take(600).collect::<String>()));
    }

    /// All of it, and where it went wrong.
    pub fn failure(&self, script: &Script, number: usize, step: &Step, fault: &str) -> String {
        let fault: String = fault.chars().take(FAULT).collect();
        let mut text = format!(
            "{}: {}\nstep {number} failed\nexpected {}\ngot      {fault}\neverything before:\n",
            script.name, script.promise, step.text
        );
        let left_out = self.0.len().saturating_sub(SHOWN);
        if left_out > 0 {
            let _ = writeln!(text, "      ({left_out} lines are left out)");
        }
        for line in &self.0[left_out..] {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}
