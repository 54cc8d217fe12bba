//! Where lines come from: a person at a terminal, or a script on standard input.
//!
//! Both block, so each has a thread of its own, which reads a line only when asked for one: between lines the terminal
//! is as it was, ctrl-c included.
//!
//! ```text
//! next() ──ask──> thread: readline ──line──> next()
//! say() ──────────> thread: prints above the prompt
//! ```

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{ColorMode, CompletionType, Config, Editor, ExternalPrinter};
use tokio::sync::mpsc;

use super::complete::{Assistant, Directory};
use super::history;
use crate::cli::output::note;

/// Longest line of a script: a body and a little more.
const LINE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Notices that wait to be printed; beyond them they are lost, and the prompt lives.
const NOTICES_MAX: usize = 256;

/// What came when a line was asked for.
#[derive(Debug)]
pub(super) enum Typed {
    /// A line.
    Line(String),
    /// Ctrl-c: the line is not meant.
    Cleared,
    /// Ctrl-d, or the end of the script.
    End,
    /// Nothing can be read any more.
    Broken(String),
}

/// The lines, one when asked for one.
#[derive(Debug)]
pub(super) struct Lines {
    ask: SyncSender<()>,
    typed: mpsc::Receiver<Typed>,
    /// The thread is reading.
    asked: bool,
    notices: Notices,
    /// The terminal as it was before.
    terminal: Option<Termios>,
}

/// The way to a person's eyes while a line is being typed. In a script there are none.
#[derive(Clone, Debug, Default)]
pub(super) struct Notices(Option<SyncSender<String>>);

impl Notices {
    /// Prints a line at once, above the one that is being typed.
    pub(super) fn say(&self, line: &str) {
        if let Some(notices) = &self.0 {
            let _ = notices.try_send(format!("{}\n", line.trim_end()));
        }
    }
}

/// Whether a person is there: both to type and to read.
pub(super) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

impl Lines {
    /// Lines of a script.
    pub(super) fn script() -> Self {
        Self::start(None, Notices::default(), |asked, typed| {
            let mut stdin = io::stdin().lock();
            while asked.recv().is_ok() {
                let mut line = Vec::new();
                let line = match (&mut stdin).take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                    Ok(0) => Typed::End,
                    Ok(_) => match String::from_utf8(line) {
                        Ok(line) => Typed::Line(line),
                        Err(_) => Typed::Broken("a line is not UTF-8".to_owned()),
                    },
                    Err(error) => Typed::Broken(error.to_string()),
                };
                if typed.blocking_send(line).is_err() {
                    return;
                }
            }
        })
    }

    /// Lines that a person types.
    ///
    /// # Errors
    /// When the terminal cannot be set up.
    pub(super) fn terminal(prompt: String, directory: Directory) -> rustyline::Result<Self> {
        let terminal = tcgetattr(io::stdin()).ok();
        let colors = match std::env::var_os("NO_COLOR").filter(|value| !value.is_empty()) {
            Some(_) => ColorMode::Disabled,
            None => ColorMode::Enabled,
        };
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .color_mode(colors)
            .max_history_size(history::LINES_MAX)?
            .history_ignore_space(true)
            .auto_add_history(true)
            .build();
        let mut editor: Editor<Assistant, FileHistory> = Editor::with_config(config)?;
        editor.set_helper(Some(Assistant::new(directory)));
        // Not there on a terminal that cannot be edited on; then notices are lines like any others.
        let printer = editor.create_external_printer().ok();
        let kept = history::path(|name| std::env::var_os(name));
        let kept = kept.filter(|path| match history::prepare(path) {
            Ok(()) => editor.load_history(path).is_ok(),
            Err(error) => {
                note(&format!("what you type is not kept: {}: {error}", path.display()));
                false
            }
        });
        let lines = Self::start(terminal, Notices(Some(notices(printer))), move |asked, typed| {
            while asked.recv().is_ok() {
                let line = match editor.readline(prompt.as_str()) {
                    Ok(line) => Typed::Line(line),
                    Err(ReadlineError::Interrupted) => Typed::Cleared,
                    Err(ReadlineError::Eof) => Typed::End,
                    Err(error) => Typed::Broken(error.to_string()),
                };
                if let Some(path) = &kept {
                    // Nothing depends on it, and the next line tries again.
                    let _ = editor.append_history(path);
                }
                if typed.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Ok(lines)
    }

    fn start(
        terminal: Option<Termios>,
        notices: Notices,
        read: impl FnOnce(Receiver<()>, mpsc::Sender<Typed>) + Send + 'static,
    ) -> Self {
        let (ask, asked) = sync_channel(1);
        let (sender, typed) = mpsc::channel(1);
        // Nobody waits for it: a read that blocks ends with the process.
        std::thread::spawn(move || read(asked, sender));
        Self { ask, typed, asked: false, notices, terminal }
    }

    /// The next line. Cancel safe: a line that is being typed is there for the next call.
    pub(super) async fn next(&mut self) -> Typed {
        let broken = || Typed::Broken("the thread that reads them is gone".to_owned());
        if !self.asked {
            if self.ask.try_send(()).is_err() {
                return broken();
            }
            self.asked = true;
        }
        let typed = self.typed.recv().await;
        self.asked = false;
        typed.unwrap_or_else(broken)
    }

    /// What prints above the line that is being typed.
    pub(super) fn notices(&self) -> Notices {
        self.notices.clone()
    }
}

/// A line may be half typed when the shell ends: the terminal is put back, since the thread never will.
impl Drop for Lines {
    fn drop(&mut self) {
        if let Some(terminal) = self.terminal.as_ref().filter(|_| self.asked) {
            let _ = tcsetattr(io::stdin(), OptionalActions::Drain, terminal);
            // Bracketed paste off, as the editor had switched it on.
            print!("\x1b[?2004l\r\n");
            let _ = io::Write::flush(&mut io::stdout());
        }
    }
}

/// A thread that prints: the printer may wait for the editor, and the runtime may not.
fn notices(printer: Option<impl ExternalPrinter + Send + 'static>) -> SyncSender<String> {
    let (sender, lines) = sync_channel::<String>(NOTICES_MAX);
    std::thread::spawn(move || {
        let mut printer = printer;
        while let Ok(line) = lines.recv() {
            let shown = printer.as_mut().is_some_and(|printer| printer.print(line.clone()).is_ok());
            if !shown {
                print!("{line}");
            }
        }
    });
    sender
}
