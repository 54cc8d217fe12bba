//! Where log lines go: standard error, as text for people or as JSON for collectors.

use std::io::IsTerminal;

use tracing_subscriber::filter::LevelFilter;

use crate::config::{LogFormat, LogLevel};

/// Starts logging for this process. Only the first call does something.
pub fn start(level: LogLevel, format: LogFormat) {
    let level = LevelFilter::from_level(level.into());
    let lines = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // A second node of the same process logs where the first does.
    let _ = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
}
