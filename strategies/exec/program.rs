//! One run of a program: started in a process group of its own, which does not outlive it or this value.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::process::Stdio;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::AsyncRead;
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind};

/// What a program prints.
pub(super) type Output = Pin<Box<dyn AsyncRead + Send>>;
/// Its end: how it ended, in words, and whether that was well.
pub(super) type Ending = Pin<Box<dyn Future<Output = Ended> + Send>>;

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// With status 0.
    pub(super) well: bool,
    /// As people say it: `exit status: 1`.
    pub(super) how: String,
}

/// A program that runs. Dropping it kills it with all that it has started in its group.
pub(super) struct Program {
    pub(super) stdout: Output,
    pub(super) stderr: Output,
    pub(super) ending: Ending,
}

/// What is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) program: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(&'static str, String)>,
}

/// A process and its group. Its number is nobody else's until the process has been waited for, so it is not before the
/// group has been killed.
struct Process {
    child: Child,
    group: Option<Pid>,
}

impl Process {
    fn kill_group(&self) {
        if let Some(group) = self.group {
            // It may have ended just now.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    /// Whether it has ended; it stays to be waited for.
    fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match self.group.map(|pid| waitid(WaitId::Pid(pid), options)) {
            Some(Ok(status)) => status.is_some(),
            Some(Err(rustix::io::Errno::INTR)) => false,
            // It is no child of ours any more.
            Some(Err(_)) | None => true,
        }
    }

    async fn end(mut self, mut ends: unix::Signal) -> Ended {
        while !self.has_ended() {
            if ends.recv().await.is_none() {
                // The runtime goes; so does this.
                std::future::pending::<()>().await;
            }
        }
        // What it has left behind in its group ends with it.
        self.kill_group();
        self.group = None;
        match self.child.wait().await {
            Ok(status) => Ended { well: status.success(), how: status.to_string() },
            Err(error) => Ended { well: false, how: format!("nobody knows how: {error}") },
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Dropping the child hands it to the runtime, which waits for it.
        self.kill_group();
    }
}

/// Starts a program.
///
/// # Errors
/// A sentence on why it cannot be started and what to do.
pub(super) fn start(order: &Order) -> Result<Program, String> {
    // Before it is started: its end is not to be missed.
    let ends = unix::signal(SignalKind::child()).map_err(|error| error.to_string())?;
    let mut command = Command::new(&order.program);
    command
        .args(&order.args)
        .envs(order.env.iter().map(|(name, value)| (name, value)))
        .process_group(0)
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| why_not(&error, &order.program))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    let process = Process { child, group: pid.and_then(Pid::from_raw) };
    match (stdout, stderr) {
        (Some(stdout), Some(stderr)) => Ok(Program {
            stdout: Box::pin(stdout),
            stderr: Box::pin(stderr),
            ending: Box::pin(process.end(ends)),
        }),
        _ => Err("it has no output to be read".to_owned()),
    }
}

/// What people can do about a program that cannot be started.
fn why_not(error: &io::Error, program: &str) -> String {
    let path = Path::new(program);
    let is_path = program.contains('/');
    match error.kind() {
        io::ErrorKind::NotFound if is_path && path.exists() => {
            "what its first line (#!) names to run it is missing".to_owned()
        }
        io::ErrorKind::NotFound if is_path => "there is no such program".to_owned(),
        io::ErrorKind::NotFound => "there is no such program in the PATH of this node".to_owned(),
        io::ErrorKind::PermissionDenied if path.is_dir() => "it is a directory".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "it may not be executed; chmod +x makes it so".to_owned()
        }
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            "it is no program, and has no first line (#!) that names what runs it".to_owned()
        }
        _ => error.to_string(),
    }
}
