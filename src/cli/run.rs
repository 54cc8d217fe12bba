//! `pillion run`: a node and the app beside it, as one command that lives and dies with the app.
//!
//! ```text
//! start the node ──> start the app ──> app ends ──> stop the node ──> the app's exit code
//!                    signals ────────> app
//! ```
//!
//! This is not a supervisor: an app that ends is not started again.

mod prefix;
mod signals;

use std::cell::Cell;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::exit::{Exit, Failure};
use super::output::note;
use super::up::UpArgs;
use crate::node::{self, Running};
use signals::Signals;

/// What a shell answers for a command that is there and cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// What a shell answers for a command that is not there.
const NOT_FOUND: u8 = 127;
/// How long nothing is to be copied any more, once the app has ended and its children hold its output open.
const LAST_WORDS: Duration = Duration::from_millis(500);

const EXAMPLES: &str = "\
The app finds the node by PILLION_SOCKET, and its name in PILLION_NODE. SIGTERM and SIGHUP are passed on to it, SIGINT \
and SIGQUIT too unless the terminal has sent it them already. The exit code is the app's, 128 and the signal when a \
signal has ended it, 127 when there is no such command, 126 when it cannot be executed.

Examples:
  pillion run -- python app.py
  pillion run --name stock --join 10.0.0.5 -- ./stock --verbose
  pillion run --prefix -- npm start";

/// Starts a node and an app beside it; ends with the app.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
#[allow(clippy::doc_markdown)]
pub(super) struct RunArgs {
    #[command(flatten)]
    up: UpArgs,

    /// Puts the command's name before each line that it prints
    #[arg(long)]
    prefix: bool,

    /// The app and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs both, and answers as the app did.
pub(super) fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    let machine = super::cookie::here()?;
    let config = args.up.meant(&machine)?;
    prefix::start_logging(config.log_level, config.log_format);
    let grace = config.grace;
    super::wait(async {
        let mut signals = Signals::new()?;
        let mut node = tokio::select! {
            biased;
            signal = signals.next() => return Ok(ended_by(signal)),
            node = node::start(config, &machine) => node?,
        };
        let code = beside(&mut node, args, grace, &mut signals).await;
        tokio::select! {
            biased;
            _ = signals.next() => tracing::warn!("stopped at once, without a goodbye"),
            () = node.stop() => {}
        }
        code
    })
}

/// The app's whole life.
async fn beside(
    node: &mut Running,
    args: &RunArgs,
    grace: Duration,
    signals: &mut Signals,
) -> Result<ExitCode, Failure> {
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(Failure::new(Exit::Usage, "there is no command"));
    };
    tokio::select! {
        biased;
        signal = signals.next() => return Ok(ended_by(signal)),
        () = node.synced() => {}
    }
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("PILLION_SOCKET", node.socket())
        .env("PILLION_NODE", node.name().as_str());
    if args.prefix {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Ok(not_started(program, &error)),
    };
    let app = App::new(&child);
    let name = Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned();
    let lines = Cell::new(0);
    let copying = prefix::copy(&name, child.stdout.take(), child.stderr.take(), &lines);
    tokio::pin!(copying);
    let mut copied = false;
    let status = loop {
        tokio::select! {
            biased;
            status = child.wait() => break status,
            signal = signals.next() => {
                if !signals::terminal_has_told(signal) {
                    app.signal(signal);
                }
            }
            () = &mut copying, if !copied => copied = true,
            () = node.ended() => {
                note("the node has stopped by a bug of ours; the app is stopped too");
                app.signal(Signal::TERM);
                stop(&mut child, grace).await;
                app.is_gone();
                return Err(Failure::new(Exit::Internal, "the node has stopped"));
            }
        }
    };
    app.is_gone();
    while !copied {
        let before = lines.get();
        let over = tokio::time::timeout(LAST_WORDS, &mut copying).await.is_ok();
        copied = over || lines.get() == before;
    }
    let status = status.map_err(|error| {
        Failure::new(Exit::Internal, format!("cannot wait for {name}: {error}"))
    })?;
    Ok(code(status))
}

/// Waits for a child that was told to end, as long as an app may take, and then ends it.
async fn stop(child: &mut Child, grace: Duration) {
    if tokio::time::timeout(grace, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// The app's process, as long as it is there. Told to end when this process panics.
#[derive(Debug)]
struct App(Arc<AtomicI32>);

impl App {
    fn new(child: &Child) -> Self {
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
        let app = Self(Arc::new(AtomicI32::new(pid)));
        // A hook, because a release aborts where it panics: nothing is dropped then.
        let (hook, orphan) = (std::panic::take_hook(), Self(Arc::clone(&app.0)));
        std::panic::set_hook(Box::new(move |panic| {
            orphan.signal(Signal::TERM);
            hook(panic);
        }));
        app
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.0.load(Ordering::SeqCst)) {
            // It may have ended just now.
            let _ = kill_process(pid, signal);
        }
    }

    /// Its number may be somebody else's from now on.
    fn is_gone(&self) {
        self.0.store(0, Ordering::SeqCst);
    }
}

fn not_started(program: &OsString, error: &io::Error) -> ExitCode {
    let (code, why) = match error.kind() {
        io::ErrorKind::NotFound => (NOT_FOUND, "there is no such command".to_owned()),
        _ => (NOT_EXECUTABLE, format!("cannot be executed: {error}")),
    };
    note(&format!("{}: {why}", program.to_string_lossy()));
    ExitCode::from(code)
}

fn code(status: ExitStatus) -> ExitCode {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => Exit::Internal as i32,
    };
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

fn ended_by(signal: Signal) -> ExitCode {
    code(ExitStatus::from_raw(signal.as_raw()))
}
