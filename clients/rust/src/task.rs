//! Tasks: a function that runs in a process of its own, linked with the one that waits for its result.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::caught::caught;
use crate::error::{Code, Error, Failure, Result};
use crate::pid::Pid;
use crate::process::{Process, Spawn};
use crate::state::Role;

/// A function that runs in a process of its own. It goes on when this is dropped.
#[derive(Debug)]
#[must_use = "its result is here, and so is its failure"]
pub struct Task<T> {
    process: Process,
    result: oneshot::Receiver<Result<T, Failure>>,
    handle: AbortHandle,
}

impl<T> Task<T> {
    /// The pid of its process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Waits for the result. When the time is over the function is stopped and its process ended.
    ///
    /// Cancelled, the function goes on and its result is lost.
    ///
    /// # Errors
    /// [`Code::Timeout`]; [`Code::Exception`] when it failed or panicked; [`Code::Exit`] when its process was ended from outside.
    pub async fn result(self, timeout: Duration) -> Result<T> {
        match tokio::time::timeout(timeout, self.result).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(failure))) => Err(Error::failed(&failure)),
            Ok(Err(_)) => Err(Error::exited("its process was ended")),
            Err(_) => {
                self.handle.abort();
                // Who waited knows: a link's exit signal would say it twice.
                let _ = self.process.exit("normal").await;
                Err(Error::new(Code::Timeout, true, "the task has no result in time"))
            }
        }
    }

    /// Stops the function, and ends its process with the reason `shutdown`, which links hear.
    ///
    /// # Errors
    /// [`Code::NoProc`](crate::Code::NoProc) when it has ended before.
    pub async fn shutdown(self) -> Result<()> {
        self.handle.abort();
        self.process.exit("shutdown").await
    }
}

impl Process {
    /// Runs a function in a process of its own, linked with this one. When it fails, its process exits with `CLASS: TEXT`, and
    /// the link's exit signal comes here: as an event where this process traps exits, else it ends this process as well.
    /// When its process is ended from outside, the function is stopped.
    ///
    /// # Errors
    /// Those of [`Process::spawn`].
    pub async fn task<T, F, W>(&self, how: Spawn, function: F) -> Result<Task<T>>
    where
        T: Send + 'static,
        F: FnOnce(Process) -> W,
        W: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let process = self.spawn_as(how.link(), Role::Plain, false).await?;
        let (result, receiver) = oneshot::channel();
        let (work, own) = (function(process.clone()), process.clone());
        let handle = process.shared().run(async move {
            let ended = tokio::select! {
                biased;
                _ = own.ended() => return,
                ended = caught(work) => ended,
            };
            let reason = match &ended {
                Ok(_) => "normal".to_owned(),
                Err(failure) => failure.exit_reason(),
            };
            let _ = result.send(ended);
            let _ = own.exit(&reason).await;
        });
        Ok(Task { process, result: receiver, handle })
    }
}
