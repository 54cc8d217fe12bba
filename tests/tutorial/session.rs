//! A page that is carried out: what it says to type is typed, and what is printed is held to what it says.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::alike::Alike;
use crate::page::{self, Block, Page, Step, Wrong};
use crate::terminal::{Shown, Terminal};

/// Nothing that works takes this long, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it must be quiet until what a program has printed is written into the page.
const QUIET: Duration = Duration::from_secs(3);

/// Where a page is carried out.
pub(crate) struct Place {
    /// Files that the page says to save are saved here; the terminals begin here.
    pub(crate) directory: PathBuf,
    /// The files of which the page shows pieces.
    pub(crate) sources: PathBuf,
    pub(crate) variables: Vec<(String, String)>,
    /// Languages that are not here: blocks that need them are left out.
    pub(crate) lacking: Vec<String>,
    pub(crate) alike: Alike,
}

/// What stands in the page for the lines `first..end`.
type Change = (usize, usize, Vec<String>);

struct Session<'a> {
    place: &'a mut Place,
    terminals: BTreeMap<u32, Open>,
}

struct Open {
    terminal: Terminal,
    /// Lines may come that the page does not show.
    skipping: bool,
    /// The line of the page that was reached.
    at: usize,
    /// Lines that came before a notice that was waited for.
    ahead: VecDeque<String>,
    /// Notices that were not asked for yet.
    notices: Vec<String>,
}

/// Carries out the page. The first line that is not as it says is an error.
pub(crate) fn check(page: &Page, place: &mut Place) -> Result<(), Wrong> {
    let mut session = Session { place, terminals: BTreeMap::new() };
    for block in &page.blocks {
        session.block(block, |session, terminal, steps| {
            steps.iter().try_for_each(|step| session.step(terminal, step))?;
            // What prints nothing has been done once there is a prompt again.
            match steps.last() {
                Some(Step::Typed { .. }) => session.settled(terminal),
                _ => Ok(()),
            }
        })?;
    }
    session.nothing_more()
}

/// Carries out the page and gives it with what was really printed; when that ends early, as far as it went.
pub(crate) fn bless(page: &Page, place: &mut Place) -> (String, Result<(), Wrong>) {
    let mut session = Session { place, terminals: BTreeMap::new() };
    let mut changes: Vec<Change> = Vec::new();
    let blessed = page.blocks.iter().try_for_each(|block| {
        session.block(block, |session, terminal, steps| {
            let Block::Session { end, .. } = block else { return Ok(()) };
            let belongs =
                |_: &Step, next: &Step| matches!(next, Step::Printed { .. } | Step::Skipped);
            // An empty block is a group as well: it waits for what is to stand there.
            let groups =
                if steps.is_empty() { vec![steps] } else { steps.chunk_by(belongs).collect() };
            groups.iter().try_for_each(|group| session.group(terminal, group, *end, &mut changes))
        })
    });
    let mut lines = page.lines.clone();
    for (first, end, written) in changes.into_iter().rev() {
        lines.splice(first..end, written);
    }
    (lines.join("\n") + "\n", blessed)
}

impl Session<'_> {
    fn block(
        &mut self,
        block: &Block,
        with: impl FnOnce(&mut Self, u32, &[Step]) -> Result<(), Wrong>,
    ) -> Result<(), Wrong> {
        match block {
            Block::File { name, text } => {
                fs::write(self.place.directory.join(name), text).expect("a file is saved");
                Ok(())
            }
            Block::Piece { name, text, first } => is_piece(&self.place.sources, name, text, *first),
            Block::Session { needs: Some(needs), first, .. }
                if self.place.lacking.contains(needs) =>
            {
                eprintln!("SKIPPED: the block at line {}, because there is no {needs}", first + 1);
                Ok(())
            }
            Block::Session { terminal, steps, first, .. } => {
                let place = &self.place;
                let open = self.terminals.entry(*terminal).or_insert_with(|| Open {
                    terminal: Terminal::open(&place.directory, &place.variables),
                    skipping: false,
                    at: *first,
                    ahead: VecDeque::new(),
                    notices: Vec::new(),
                });
                open.at = *first;
                with(self, *terminal, steps)?;
                // What a key has ended has ended before anything else happens.
                let open = self.terminals.get_mut(terminal).expect("it was opened");
                match steps.iter().rev().find(|step| **step != Step::Skipped) {
                    Some(Step::Key { at, .. }) => open.prompted("$ ", *at, &mut self.place.alike),
                    _ => Ok(()),
                }
            }
        }
    }

    fn step(&mut self, terminal: u32, step: &Step) -> Result<(), Wrong> {
        let open = self.terminals.get_mut(&terminal).expect("it was opened");
        match step {
            Step::Typed { prompt, text, at } => {
                open.prompted(prompt, *at, &mut self.place.alike)?;
                open.terminal.line(&self.place.alike.typed(text));
                open.skipping = false;
                open.at = *at;
            }
            Step::Key { key, at } => {
                open.at = *at;
                open.terminal.key(*key);
                open.skipping = true;
            }
            Step::Skipped => open.skipping = true,
            Step::Printed { text, at } => {
                open.at = *at;
                open.printed(text, &mut self.place.alike)?;
            }
        }
        Ok(())
    }

    /// Waits until what was typed has ended.
    fn settled(&mut self, terminal: u32) -> Result<(), Wrong> {
        let open = self.terminals.get_mut(&terminal).expect("it was opened");
        while open.terminal.prompt().is_none() {
            match open.next(PATIENCE) {
                Shown::Line(line) => open.unsaid(&line)?,
                Shown::Prompt(_) => {}
                Shown::Nothing => return Err(Wrong::new(open.at, "this does not end")),
            }
        }
        Ok(())
    }

    /// What was typed and what followed it: kept where it is so, else written as it was.
    fn group(
        &mut self,
        terminal: u32,
        group: &[Step],
        end: usize,
        changes: &mut Vec<Change>,
    ) -> Result<(), Wrong> {
        let (typed, said) = match group.split_first() {
            Some((step @ (Step::Typed { .. } | Step::Key { .. }), rest)) => {
                self.step(terminal, step)?;
                (Some(step), rest)
            }
            _ => (None, group),
        };
        let is_notice =
            |step: &Step| matches!(step, Step::Printed { text, .. } if page::is_notice(text));
        let is_kept = said.contains(&Step::Skipped) || said.iter().any(is_notice);
        if is_kept || matches!(typed, Some(Step::Key { .. })) {
            return said.iter().try_for_each(|step| self.step(terminal, step));
        }
        let open = self.terminals.get_mut(&terminal).expect("it was opened");
        let mut lines = Vec::new();
        if typed.is_some() || open.terminal.prompt().is_none() {
            while let Shown::Line(line) = open.next(QUIET) {
                lines.push(line);
            }
        }
        let mut alike = self.place.alike.clone();
        let same = said.len() == lines.len()
            && said.iter().zip(&lines).all(
                |(step, line)| matches!(step, Step::Printed { text, .. } if alike.same(text, line)),
            );
        if same {
            self.place.alike = alike;
            return Ok(());
        }
        let first = match (typed, said.first()) {
            (Some(Step::Typed { at, .. }), _) => at + 1,
            (_, Some(Step::Printed { at, .. })) => *at,
            _ => end,
        };
        let written: Vec<String> =
            lines.iter().map(|line| self.place.alike.written(line)).collect();
        for (said, line) in written.iter().zip(&lines) {
            self.place.alike.same(said, line);
        }
        changes.push((first, first + said.len(), written));
        Ok(())
    }

    /// In every terminal the shell prompts again, and nothing has appeared that the page does not show.
    fn nothing_more(&mut self) -> Result<(), Wrong> {
        for open in self.terminals.values_mut() {
            open.prompted("$ ", open.at, &mut self.place.alike)?;
        }
        Ok(())
    }
}

impl Open {
    /// Waits for the prompt.
    fn prompted(&mut self, said: &str, at: usize, alike: &mut Alike) -> Result<(), Wrong> {
        loop {
            if let Some(prompt) = self.terminal.prompt() {
                if alike.same(said, prompt) {
                    return Ok(());
                }
                let what = format!("typed behind the prompt `{said}`, but it is `{prompt}`");
                return Err(Wrong::new(at, what));
            }
            match self.next(PATIENCE) {
                Shown::Line(line) => self.unsaid(&line)?,
                Shown::Prompt(_) => {}
                Shown::Nothing => {
                    let begun = self.terminal.begun();
                    let what =
                        format!("something still runs there when this is over (last: {begun:?})");
                    return Err(Wrong::new(at, what));
                }
            }
        }
    }

    /// What appears next, notices apart.
    fn next(&mut self, patience: Duration) -> Shown {
        if let Some(line) = self.ahead.pop_front() {
            return Shown::Line(line);
        }
        loop {
            match self.terminal.next(patience) {
                Shown::Line(line) if page::is_notice(&line) => self.notices.push(line),
                other => return other,
            }
        }
    }

    /// Waits for a notice, which may have come before.
    fn noticed(&mut self, said: &str, alike: &mut Alike) -> Result<(), Wrong> {
        loop {
            if let Some(at) = self.notices.iter().position(|line| alike.same(said, line)) {
                self.notices.remove(at);
                return Ok(());
            }
            match self.terminal.next(PATIENCE) {
                Shown::Line(line) if page::is_notice(&line) => self.notices.push(line),
                Shown::Line(line) => self.ahead.push_back(line),
                Shown::Prompt(_) => {}
                Shown::Nothing => {
                    return Err(Wrong::new(self.at, format!("not printed: `{said}`")));
                }
            }
        }
    }

    /// Waits for a line, which must be this one.
    fn printed(&mut self, said: &str, alike: &mut Alike) -> Result<(), Wrong> {
        if page::is_notice(said) {
            return self.noticed(said, alike);
        }
        loop {
            let line = match self.next(PATIENCE) {
                Shown::Line(line) => line,
                other => {
                    let what = format!(
                        "not printed: `{said}`; instead: {other:?} {:?}",
                        self.terminal.begun()
                    );
                    return Err(Wrong::new(self.at, what));
                }
            };
            if alike.same(said, &line) {
                self.skipping = false;
                return Ok(());
            }
            if !self.skipping {
                let what = format!(
                    "the page says\n  {said}\nbut what was printed is\n  {}",
                    alike.written(&line)
                );
                return Err(Wrong::new(self.at, what));
            }
        }
    }

    fn unsaid(&self, line: &str) -> Result<(), Wrong> {
        if self.skipping {
            return Ok(());
        }
        Err(Wrong::new(self.at, format!("behind this, and not on the page, was printed\n  {line}")))
    }
}

/// Whether a text stands in a file, line by line.
fn is_piece(sources: &Path, name: &str, text: &str, at: usize) -> Result<(), Wrong> {
    let file = fs::read_to_string(sources.join(name))
        .map_err(|error| Wrong::new(at, format!("{name}: {error}")))?;
    if format!("\n{file}").contains(&format!("\n{text}")) {
        return Ok(());
    }
    let astray = text.lines().find(|line| !file.lines().any(|there| there == *line));
    Err(Wrong::new(at, format!("this is no piece of {name}; look at {astray:?}")))
}
