//! Which signals an app is told of, and which it has heard already.

use std::fs::File;
use std::io;

use rustix::process::{Signal, getpgrp};
use rustix::termios::tcgetpgrp;
use tokio::signal::unix::{self, SignalKind};

use crate::cli::exit::{Exit, Failure};

/// Everything that people and supervisors send to make a program end, or read its configuration again.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
    quit: unix::Signal,
}

impl Signals {
    /// From now on these signals end nothing by themselves.
    pub(super) fn new() -> Result<Self, Failure> {
        let open = || -> io::Result<Self> {
            Ok(Self {
                terminate: unix::signal(SignalKind::terminate())?,
                interrupt: unix::signal(SignalKind::interrupt())?,
                hangup: unix::signal(SignalKind::hangup())?,
                quit: unix::signal(SignalKind::quit())?,
            })
        };
        open().map_err(|error| {
            Failure::new(Exit::Internal, format!("cannot listen for signals: {error}"))
        })
    }

    /// The next one. Cancel safe.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.hangup.recv() => Signal::HUP,
            _ = self.quit.recv() => Signal::QUIT,
        }
    }
}

/// Whether the terminal has sent the app this signal as well: ctrl-c and ctrl-\ go to everybody in the foreground, and
/// the app shares our process group. Passed on, one ctrl-c would be two, and two mean "at once" to many programs.
pub(super) fn terminal_has_told(signal: Signal) -> bool {
    let keys = signal == Signal::INT || signal == Signal::QUIT;
    keys && File::open("/dev/tty")
        .ok()
        .and_then(|terminal| tcgetpgrp(&terminal).ok())
        .is_some_and(|foreground| foreground == getpgrp())
}
