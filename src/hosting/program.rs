//! One program: started, watched, ended, with all that it has started in its process group.

use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::process::{ChildStderr, ChildStdout};
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::watch;
use tokio::time::Instant;

use super::lines;
use crate::hub::{Exit, Hub, Start};
use crate::wire::host;
use crate::wire::id::NodeName;

/// How long what a program has printed may take to be read once it has ended.
const LAST_LINES: Duration = Duration::from_millis(500);

/// A program that runs. Dropping it kills its process group.
#[derive(Debug)]
pub(super) struct Program {
    run: u64,
    label: String,
    group: Group,
    child: Child,
    ends: unix::Signal,
}

/// The process group of a program, from its start until the program is waited for: so long its number is nobody else's.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // It may have ended just now.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

impl Program {
    /// Starts it.
    pub(super) fn start(
        start: &Start,
        socket: &Path,
        node: &NodeName,
        token: &str,
    ) -> Result<Self, String> {
        let program = &start.program;
        let failed = |why: &dyn std::fmt::Display| {
            format!("cannot start {}: `{}`: {why}", start.label, program.command)
        };
        // Before it is started: its end is not to be missed.
        let ends = unix::signal(SignalKind::child()).map_err(|error| failed(&error))?;
        let mut command = Command::new(&program.command);
        command
            .args(&program.args)
            .envs(&program.env)
            .env("PILLION_SOCKET", socket)
            .env("PILLION_NODE", node.as_str())
            .env("PILLION_PID", &start.pid)
            .env("PILLION_PROCESS", token)
            .env_remove("PILLION_NAME")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(name) = &start.name {
            command.env("PILLION_NAME", name);
        }
        if let Some(cwd) = &program.cwd {
            if !Path::new(cwd).is_dir() {
                return Err(failed(&format_args!("there is no directory {cwd} to run it in")));
            }
            command.current_dir(cwd);
        }
        let child = command.spawn().map_err(|error| failed(&why_not(&error, program)))?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let label = if start.many {
            format!("{}[{}]", start.label, child.id())
        } else {
            start.label.clone()
        };
        Ok(Self { run: start.run, label, group: Group(group), child, ends })
    }

    /// What it is called in the log.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// Its number in the system.
    pub(super) fn os_pid(&self) -> u32 {
        self.child.id()
    }

    /// Watches it to its end, and ends it when that is asked for.
    pub(super) async fn live(
        mut self,
        hub: &Hub,
        mut stop: watch::Receiver<Option<host::Shutdown>>,
    ) {
        let out = self.child.stdout.take().and_then(|out| ChildStdout::from_std(out).ok());
        let err = self.child.stderr.take().and_then(|err| ChildStderr::from_std(err).ok());
        let lines = lines::copy(&self.label, out, err);
        tokio::pin!(lines);
        let (mut copied, mut asked, mut forced) = (false, false, false);
        let mut deadline: Option<Instant> = None;
        while !has_ended(self.group.0) {
            let late = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = self.ends.recv() => {}
                Ok(()) = stop.changed() => {
                    let how = *stop.borrow_and_update();
                    if how == Some(host::Shutdown::BrutalKill) {
                        tracing::info!("{} is killed", self.label);
                        forced = true;
                        self.group.signal(Signal::KILL);
                    } else if let Some(how) = how.filter(|_| !asked) {
                        asked = true;
                        self.group.signal(Signal::TERM);
                        if let host::Shutdown::Within(time) = how {
                            tracing::info!("{} is asked to end within {time:?}", self.label);
                            deadline = Some(Instant::now() + time);
                        } else {
                            tracing::info!("{} is asked to end and waited for", self.label);
                        }
                    }
                }
                () = late => {
                    tracing::warn!("{} did not end in its time after SIGTERM; it is killed", self.label);
                    forced = true;
                    deadline = None;
                    self.group.signal(Signal::KILL);
                }
                () = &mut lines, if !copied => copied = true,
            }
        }
        // What it has left behind in its group would be in the way of its next run. The program itself is still to be
        // waited for, so that the number of the group is nobody else's.
        self.group.signal(Signal::KILL);
        self.group.0 = None;
        let exit = match self.child.wait() {
            Ok(status) if status.success() || asked || forced => {
                tracing::info!("{} ended, {status}", self.label);
                Exit { code: status.code(), signal: status.signal(), forced }
            }
            Ok(status) => {
                tracing::warn!("{} ended, {status}", self.label);
                Exit { code: status.code(), signal: status.signal(), forced }
            }
            Err(error) => {
                tracing::warn!("{} ended, nobody knows how: {error}", self.label);
                Exit { forced, ..Exit::default() }
            }
        };
        hub.host_exited(self.run, exit);
        if !copied {
            let _ = tokio::time::timeout(LAST_LINES, lines).await;
        }
    }
}

/// What people can do about a program that cannot be started.
fn why_not(error: &io::Error, program: &host::Program) -> String {
    let path = Path::new(program.cwd.as_deref().unwrap_or(".")).join(&program.command);
    let is_path = program.command.contains('/');
    match error.kind() {
        io::ErrorKind::NotFound if is_path && path.exists() => {
            "what its first line (#!) names to run it is missing".to_owned()
        }
        io::ErrorKind::NotFound if is_path => "there is no such command".to_owned(),
        io::ErrorKind::NotFound => "there is no such command in the PATH of the node".to_owned(),
        io::ErrorKind::PermissionDenied if is_path && path.is_dir() => {
            "it is a directory".to_owned()
        }
        io::ErrorKind::PermissionDenied if is_path && path.is_file() => {
            "it may not be executed; chmod +x makes it so".to_owned()
        }
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            "it is no program, and has no first line (#!) that names what runs it".to_owned()
        }
        _ => error.to_string(),
    }
}

/// Whether a program has ended; it stays to be waited for.
fn has_ended(pid: Option<Pid>) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match pid.map(|pid| waitid(WaitId::Pid(pid), options)) {
        Some(Ok(status)) => status.is_some(),
        Some(Err(rustix::io::Errno::INTR)) => false,
        // It is no child of ours any more.
        Some(Err(_)) | None => true,
    }
}
