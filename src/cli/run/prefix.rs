//! Two programs, one terminal: whose line is it?
//!
//! The node's lines go to standard error behind `pillion | `. The app's are its own, untouched, unless they are to have
//! its name before them. A line is written whole, so that two never mix.

use std::cell::Cell;
use std::io::{self, IsTerminal as _, Write};

use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::process::{ChildStderr, ChildStdout};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogFormat, LogLevel};

/// A longer line is printed as several.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// Starts logging for this process, each line behind `pillion | `. Lines of JSON stay JSON: they are for collectors,
/// and tell themselves apart.
pub(super) fn start_logging(level: LogLevel, format: LogFormat) {
    if format == LogFormat::Json {
        return crate::logging::start(level, format);
    }
    let colors = io::stderr().is_terminal();
    let prefix = if colors { "\x1b[2mpillion |\x1b[0m " } else { "pillion | " };
    // Only the first call does something.
    let _ = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from_level(level.into()))
        .with_writer(Prefixed { prefix })
        .with_ansi(colors)
        .with_target(false)
        .try_init();
}

/// Standard error with a prefix before each line.
#[derive(Clone, Copy, Debug)]
struct Prefixed {
    prefix: &'static str,
}

impl MakeWriter<'_> for Prefixed {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

/// The subscriber writes whole events.
impl Write for Prefixed {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(&prefixed(self.prefix, event))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn prefixed(prefix: &str, text: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(text.len() + prefix.len());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        lines.extend_from_slice(prefix.as_bytes());
        lines.extend_from_slice(line);
    }
    lines
}

/// Copies what the app prints, its name before each line, until it has closed both. What is not piped is not copied.
/// `copied` counts the lines.
pub(super) async fn copy(
    name: &str,
    out: Option<ChildStdout>,
    err: Option<ChildStderr>,
    copied: &Cell<u64>,
) {
    let prefix = format!("{name} | ");
    let out = async {
        if let Some(out) = out {
            lines(&prefix, out, tokio::io::stdout(), copied).await;
        }
    };
    let err = async {
        if let Some(err) = err {
            lines(&prefix, err, tokio::io::stderr(), copied).await;
        }
    };
    tokio::join!(out, err);
}

/// When nobody reads any more, the app finds its pipe closed, as it would without us.
async fn lines(
    prefix: &str,
    from: impl AsyncRead + Unpin,
    mut to: impl tokio::io::AsyncWrite + Unpin,
    copied: &Cell<u64>,
) {
    let mut from = BufReader::new(from);
    loop {
        let mut line = Vec::new();
        match (&mut from).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        let line = prefixed(prefix, &line);
        if to.write_all(&line).await.is_err() || to.flush().await.is_err() {
            return;
        }
        copied.set(copied.get() + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_line_gets_the_name_also_the_last_without_an_end() {
        let (mut to, copied) = (Vec::new(), Cell::new(0));
        lines("app | ", &b"one\n\ntwo"[..], &mut to, &copied).await;
        assert_eq!(copied.get(), 3);
        assert_eq!(String::from_utf8_lossy(&to), "app | one\napp | \napp | two\n");
    }
}
