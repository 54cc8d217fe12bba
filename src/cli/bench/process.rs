//! The processes that a benchmark starts, what they cost, and the directory that they live in.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;

/// Why a measurement has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum Trouble {
    /// The system refused something; the measurement is over.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The refusal.
        source: io::Error,
    },
    /// Something did not happen within its bound.
    #[error("{0} did not come within {1:?}")]
    Late(&'static str, Duration),
    /// A process of the benchmark ended or said something else than it should.
    #[error("{0}")]
    Unexpected(String),
    /// Messages were lost or came in another order: no figure is worth anything then.
    #[error(
        "{published} were published, {delivered} delivered ({gaps} gaps, {misplaced} out of order{told})"
    )]
    Lost {
        /// What was sent.
        published: u64,
        /// What came.
        delivered: u64,
        /// Losses that the daemon told of.
        gaps: u64,
        /// Messages whose number was not the next one.
        misplaced: u64,
        /// What the daemon told the publisher.
        told: String,
    },
}

impl Trouble {
    /// Says what was tried when the system refused it.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Io { what: what.into(), source }
    }
}

/// A private directory that goes when this does.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes it, with a short path: a Unix socket's name has a bound of about a hundred bytes.
    ///
    /// # Errors
    /// When the directory for temporary files does not let us.
    pub(super) fn new() -> Result<Self, Trouble> {
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|e| Trouble::Unexpected(e.to_string()))?;
        let name = format!("pillion-bench-{:08x}", u32::from_ne_bytes(random));
        let path = std::env::temp_dir().join(name);
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path).map_err(Trouble::io(format!("making {}", path.display())))?;
        Ok(Self(path))
    }

    /// Makes a private directory in it, as a home of its own for one measurement.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn sub(&self, name: &str) -> Result<PathBuf, Trouble> {
        let path = self.0.join(name);
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path).map_err(Trouble::io(format!("making {}", path.display())))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A child process that is killed when this is dropped.
#[derive(Debug)]
#[must_use = "dropping it kills the process"]
pub(super) struct Process {
    child: Child,
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(command: &mut Command) -> Result<Self, Trouble> {
        let what = format!("starting {}", command.get_program().display());
        command.spawn().map(|child| Self { child }).map_err(Trouble::io(what))
    }

    /// Its number.
    #[must_use]
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When that does not come in time.
    pub(super) fn ended(&mut self, within: Duration) -> Result<ExitStatus, Trouble> {
        let deadline = Instant::now() + within;
        loop {
            match self.child.try_wait().map_err(Trouble::io("waiting for a process"))? {
                Some(status) => return Ok(status),
                None if Instant::now() > deadline => {
                    return Err(Trouble::Late("the end of a process", within));
                }
                None => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Sends it a signal; it may have gone already.
    pub(super) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A child of ours that talks in lines: told what to do on its standard input, it answers on its standard output.
#[derive(Debug)]
pub(super) struct Worker {
    // Dropped before the process, which ends its work by itself when its input ends.
    stdin: ChildStdin,
    lines: Receiver<String>,
    /// The process.
    pub process: Process,
}

impl Worker {
    /// Starts this very program as one of the benchmark's roles.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(role: &str) -> Result<Self, Trouble> {
        let program = std::env::current_exe().map_err(Trouble::io("finding this program"))?;
        let mut command = Command::new(program);
        command.args(["bench", "--role", role]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(&mut command)?;
        let (Some(stdin), Some(stdout)) = (process.child.stdin.take(), process.child.stdout.take())
        else {
            return Err(Trouble::Unexpected("a child without pipes".to_owned()));
        };
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { stdin, lines, process })
    }

    /// Tells it something.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn tell(&mut self, line: &str) -> Result<(), Trouble> {
        writeln!(self.stdin, "{line}").map_err(Trouble::io("telling a child"))
    }

    /// Waits for its next line and reads it as JSON.
    ///
    /// # Errors
    /// When none comes in time, the child ended, or the line is something else.
    pub(super) fn hear<T: DeserializeOwned>(
        &self,
        what: &'static str,
        within: Duration,
    ) -> Result<T, Trouble> {
        let line = self.lines.recv_timeout(within).map_err(|e| match e {
            mpsc::RecvTimeoutError::Timeout => Trouble::Late(what, within),
            mpsc::RecvTimeoutError::Disconnected => {
                Trouble::Unexpected(format!("a child ended before its {what}"))
            }
        })?;
        serde_json::from_str(&line)
            .map_err(|_| Trouble::Unexpected(format!("instead of {what} came `{line}`")))
    }
}

/// Nanoseconds of processor that all threads of a process have had; `None` where the system does not tell.
#[must_use]
pub(super) fn cpu_ns(id: u32) -> Option<u64> {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).ok()?;
    let mut sum = 0;
    for task in tasks.flatten() {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        sum += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(sum)
}

/// The sum of [`cpu_ns`] of several processes.
#[must_use]
pub(super) fn cpu_ns_of(ids: &[u32]) -> Option<u64> {
    ids.iter().map(|id| cpu_ns(*id)).sum()
}

/// Resident bytes of a process: now, or at most so far.
#[must_use]
pub(super) fn resident_bytes(id: u32, peak: bool) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let key = if peak { "VmHWM:" } else { "VmRSS:" };
    let line = text.lines().find(|line| line.starts_with(key))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
