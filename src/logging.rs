//! Where log lines go: standard error, as text for people or as JSON for collectors.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::prelude::*;

use crate::config::{LogFormat, LogLevel};

/// Who says a second time, and at each try, what is said here once: that a watch of the API server is refused or ends.
const REPEATS: &str = "kube_";

/// Starts logging for this process. Only the first call does something.
pub fn start(level: LogLevel, format: LogFormat) {
    let ansi = std::io::stderr().is_terminal();
    // A second node of the same process logs where the first does.
    let _ = tracing::subscriber::set_global_default(lines(level, format, ansi, std::io::stderr));
}

fn lines<W>(
    level: LogLevel,
    format: LogFormat,
    ansi: bool,
    writer: W,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let level = LevelFilter::from_level(level.into());
    let repeats = level >= LevelFilter::DEBUG;
    let said =
        filter_fn(move |about: &Metadata<'_>| repeats || !about.target().starts_with(REPEATS));
    let lines = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(writer)
        .with_ansi(ansi)
        .with_target(false);
    match format {
        LogFormat::Text => Box::new(lines.finish().with(said)),
        LogFormat::Json => Box::new(lines.json().finish().with(said)),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_library_says_at_each_try_is_left_out_unless_details_are_asked_for() {
        for (level, wanted) in [(LogLevel::Info, "ours"), (LogLevel::Debug, "theirs ours")] {
            for format in [LogFormat::Text, LogFormat::Json] {
                let written = Written::default();
                let to = written.clone();
                let lines = lines(level, format, false, move || to.clone());
                tracing::subscriber::with_default(lines, || {
                    tracing::warn!(target: "kube_runtime::watcher", "theirs");
                    tracing::warn!("ours");
                });
                let text = String::from_utf8(written.0.lock().expect("no panic").clone());
                let text = text.expect("a text");
                assert_eq!(text.lines().count(), wanted.split(' ').count(), "{text}");
                for word in wanted.split(' ') {
                    assert!(text.contains(word), "{text}");
                }
            }
        }
    }
}
