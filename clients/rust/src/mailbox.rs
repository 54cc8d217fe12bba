//! Receiving: what lies in a mailbox, in its order, or the first that is wanted.

use std::task::{Context, Poll};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::event::Event;
use crate::process::Process;

impl Process {
    /// The next event, once there is one. What is taken is consumed; the node gives 256 messages ahead of that.
    ///
    /// Cancel safe: no event is lost. Several may receive at the same time; each event is one's.
    ///
    /// # Errors
    /// [`Code::NoProc`](crate::Code::NoProc) when the process has ended and its mailbox is empty;
    /// [`Error::reason`] says why.
    pub async fn receive(&self) -> Result<Event> {
        let event = std::future::poll_fn(|cx| self.poll_receive(cx)).await;
        event.map_err(|reason| Error::over(&reason))
    }

    /// The next event within this time; none when it is over. Cancel safe.
    ///
    /// # Errors
    /// Those of [`Process::receive`].
    pub async fn receive_within(&self, timeout: Duration) -> Result<Option<Event>> {
        match tokio::time::timeout(timeout, self.receive()).await {
            Ok(event) => event.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// The first event that is wanted. The others stay in the mailbox, in their order. Cancel safe.
    ///
    /// # Errors
    /// Those of [`Process::receive`]; what is not wanted may be in the mailbox still.
    pub async fn receive_where(&self, mut wanted: impl FnMut(&Event) -> bool) -> Result<Event> {
        let mut looked_at = 0;
        std::future::poll_fn(|cx| {
            loop {
                // The app's function runs without the lock.
                let events = self.shared().state().since(self.key(), looked_at);
                for (number, event) in events {
                    looked_at = number + 1;
                    if wanted(&event) {
                        let mut state = self.shared().state();
                        let taken = state.take(self.key(), Some(number));
                        crate::state::release(state);
                        if let Some(event) = taken {
                            return Poll::Ready(Ok(event));
                        }
                    }
                }
                let mut state = self.shared().state();
                if state.has_since(self.key(), looked_at) {
                    continue;
                }
                let over = state.wait(self.key(), cx.waker());
                crate::state::release(state);
                return match over {
                    Some(reason) => Poll::Ready(Err(Error::over(&reason))),
                    None => Poll::Pending,
                };
            }
        })
        .await
    }

    /// The first event that is wanted, within this time; none when it is over. Cancel safe.
    ///
    /// # Errors
    /// Those of [`Process::receive_where`].
    pub async fn receive_where_within(
        &self,
        timeout: Duration,
        wanted: impl FnMut(&Event) -> bool,
    ) -> Result<Option<Event>> {
        match tokio::time::timeout(timeout, self.receive_where(wanted)).await {
            Ok(event) => event.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Waits until this process has ended, and gives the reason. Cancel safe; the client's own lasts as long as the client.
    pub async fn ended(&self) -> String {
        std::future::poll_fn(|cx| {
            let mut state = self.shared().state();
            let ended = state.wait_end(self.key(), cx.waker());
            drop(state);
            ended.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Whether it has ended, and is not only given nothing any more.
    pub(crate) fn has_ended(&self) -> bool {
        let state = self.shared().state();
        let process = state.processes.get(&self.key());
        process.is_none_or(|process| process.ended.is_some())
    }

    /// The next event, or why there will be none.
    pub(crate) fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<Result<Event, String>> {
        let mut state = self.shared().state();
        let polled = match state.take(self.key(), None) {
            Some(event) => Poll::Ready(Ok(event)),
            None => match state.wait(self.key(), cx.waker()) {
                Some(reason) => Poll::Ready(Err(reason)),
                None => Poll::Pending,
            },
        };
        crate::state::release(state);
        polled
    }
}
