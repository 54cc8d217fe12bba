//! The lock, and what is done around it: commands are written, tasks run, the app is told.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;

use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{After, Key, PATIENCE, Phase, Put, State, Then, UNWRITTEN_MAX, Want};
use crate::client::Settings;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::op::Op;
use crate::program::Program;

/// What all handles of one client share.
pub(crate) struct Shared {
    state: Mutex<State>,
    pub(crate) phase: watch::Sender<Phase>,
    /// There is room in the buffer, or the phase has changed.
    pub(crate) room: Notify,
    /// Something that a leaving client waits for has ended.
    pub(crate) idle: Notify,
    pub(crate) closing: Notify,
    pub(crate) settings: Settings,
    /// What [`run`](crate::run) made of the client.
    pub(crate) program: OnceLock<Program>,
    /// Whoever has to wait to write something does so here, in the order in which they came.
    turn: tokio::sync::Mutex<()>,
    tasks: Mutex<JoinSet<()>>,
}

/// Releases the lock, and wakes the driver when there is something to write.
pub(crate) fn release(mut state: MutexGuard<'_, State>) {
    let driver = if state.out.is_empty() { None } else { state.driver.take() };
    drop(state);
    if let Some(driver) = driver {
        driver.wake();
    }
}

impl Shared {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            state: Mutex::new(State::new()),
            phase: watch::Sender::new(Phase::Away),
            room: Notify::new(),
            idle: Notify::new(),
            closing: Notify::new(),
            settings,
            program: OnceLock::new(),
            turn: tokio::sync::Mutex::new(()),
            tasks: Mutex::new(JoinSet::new()),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that panics runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a task until the client is closed.
    pub(crate) fn run(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> tokio::task::AbortHandle {
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task)
    }

    pub(crate) fn end_tasks(&self) {
        self.tasks().abort_all();
    }

    pub(crate) fn set_phase(&self, state: &mut State, phase: Phase) {
        state.phase = phase;
        self.phase.send_replace(phase);
        self.room.notify_waiters();
        self.idle.notify_waiters();
    }

    /// Does what was left for after the lock.
    pub(crate) fn finish(self: &Arc<Self>, after: After) {
        after.wakers.into_iter().for_each(Waker::wake);
        if after.idle {
            self.idle.notify_waiters();
        }
        for failed in after.failed {
            self.settings.failed(&failed);
        }
        if let Some(report) = after.report {
            self.settings.report(&report);
        }
        if after.draining {
            crate::drain::begin(self);
        }
    }

    /// Writes a command, once there is a connection and room for it.
    ///
    /// Cancelled before it returns, nothing was written.
    pub(crate) async fn put(
        &self,
        key: Key,
        op: &Op,
        want: Want<'_>,
        mut then: Option<Then>,
    ) -> Result<Option<oneshot::Receiver<Result<Event>>>> {
        op.check()?;
        // Nobody is overtaken that waits already.
        if let Ok(_turn) = self.turn.try_lock()
            && let Put::Done(answer) = self.attempt(key, op, want, &mut then, false)?
        {
            return Ok(answer);
        }
        let patience = match want {
            Want::Call(timeout) | Want::Parts(timeout, _) => timeout,
            _ => PATIENCE,
        };
        let mut deadline = Instant::now() + patience;
        let _turn = loop {
            match tokio::time::timeout_at(deadline, self.turn.lock()).await {
                Ok(turn) => break turn,
                // The node is there and does not keep up: that is felt for as long as it lasts.
                Err(_) if self.state().phase == Phase::Ready => deadline += patience,
                Err(_) => return Err(Error::lost(false)),
            }
        };
        loop {
            let mut phase = self.phase.subscribe();
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            match self.attempt(key, op, want, &mut then, false)? {
                Put::Done(answer) => return Ok(answer),
                Put::NoRoom => room.await,
                Put::Away => {
                    let ready =
                        phase.wait_for(|phase| matches!(phase, Phase::Ready | Phase::Closed));
                    if tokio::time::timeout_at(deadline, ready).await.is_err() {
                        return Err(Error::lost(false));
                    }
                }
            }
        }
    }

    /// Writes a command if that is possible now; `declaring` is for what is said before others may.
    pub(crate) fn attempt(
        &self,
        key: Key,
        op: &Op,
        want: Want<'_>,
        then: &mut Option<Then>,
        declaring: bool,
    ) -> Result<Put> {
        let mut state = self.state();
        match state.phase {
            Phase::Closed => return Err(Error::closed()),
            Phase::Ready => {}
            Phase::Away if declaring => {}
            Phase::Away | Phase::Drained => return Ok(Put::Away),
        }
        if state.out.len() + state.writing >= UNWRITTEN_MAX && !declaring {
            return Ok(Put::NoRoom);
        }
        let answer = state.write(key, op, want, then.take())?;
        let driver = state.driver.take();
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(Put::Done(answer))
    }

    /// Writes a command and waits for its answer.
    ///
    /// Cancelled, the answer is lost, and the command is if it was not written yet.
    pub(crate) async fn request(
        &self,
        key: Key,
        op: &Op,
        want: Want<'_>,
        then: Option<Then>,
    ) -> Result<Event> {
        match self.put(key, op, want, then).await? {
            Some(answer) => answer.await.unwrap_or_else(|_| Err(Error::closed())),
            None => Err(Error::lost(true)),
        }
    }

    /// The same while the client declares itself.
    pub(crate) fn declare(
        &self,
        key: Key,
        op: &Op,
        mut then: Option<Then>,
    ) -> Result<oneshot::Receiver<Result<Event>>> {
        op.check()?;
        match self.attempt(key, op, Want::Answer, &mut then, true)? {
            Put::Done(Some(answer)) => Ok(answer),
            _ => Err(Error::lost(false)),
        }
    }

    /// A call was answered by this app, or nobody waits for it any more.
    pub(crate) fn answered(&self, reference: u64) {
        let given = self.state().given.remove(&reference);
        if given.is_some() {
            self.idle.notify_waiters();
        }
    }
}
