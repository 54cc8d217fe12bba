//! Answers that come in parts.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use crate::error::{Code, Error, Result};
use crate::event::Event;

/// Bytes of parts that nobody takes and that are kept, each counted with [`PART_COST`].
const UNREAD_MAX: usize = 64 * 1024 * 1024;
const PART_COST: usize = 128;

/// Parts that were not taken yet, and how many bytes they are.
#[derive(Default)]
pub(crate) struct Parts(Mutex<(VecDeque<Event>, Option<Waker>, usize)>);

fn cost(part: &Event) -> usize {
    part.bytes().len() + PART_COST
}

impl Parts {
    fn lock(&self) -> MutexGuard<'_, (VecDeque<Event>, Option<Waker>, usize)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a part; an error when there are too many that nobody has taken.
    pub(crate) fn push(&self, event: Event) -> Result<Option<Waker>> {
        let mut parts = self.lock();
        parts.2 += cost(&event);
        if parts.2 > UNREAD_MAX {
            let told = "64 MiB of the answer's parts lie here, because they come faster than they are taken; no more of them are kept";
            return Err(Error::new(Code::Overloaded, true, told));
        }
        parts.0.push_back(event);
        Ok(parts.1.take())
    }
}

/// The parts of an answer, and its value behind them. Made by [`Process::call_parts`](crate::Process::call_parts).
///
/// Dropping it loses what is still to come; the callee goes on. What has come and was not taken lies in this program, at most 64 MiB of it: what has
/// come may be taken then, and behind it is the error [`Code::Overloaded`].
#[must_use = "the answer is here, and so is the error"]
pub struct Replies<T> {
    parts: Arc<Parts>,
    end: oneshot::Receiver<Result<Event>>,
    value: Option<Result<Event>>,
    kind: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Replies<T> {
    /// What holds them, for tests of who does.
    #[cfg(test)]
    pub(crate) fn held(&self) -> std::sync::Weak<Parts> {
        Arc::downgrade(&self.parts)
    }

    pub(crate) fn new(parts: Arc<Parts>, end: oneshot::Receiver<Result<Event>>) -> Self {
        Self { parts, end, value: None, kind: PhantomData }
    }

    /// The next part; none when the value has come, or an error in its place.
    ///
    /// Cancel safe: no part is lost.
    ///
    /// # Errors
    /// [`Code::BadBody`] for a part that is no `T`; the others can be taken still.
    pub async fn next(&mut self) -> Option<Result<T>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Passes over the parts that are left, and gives the value: the answer that came last.
    ///
    /// # Errors
    /// As of [`Process::call`](crate::Process::call).
    pub async fn value<V: DeserializeOwned>(mut self) -> Result<V> {
        while self.next().await.is_some() {}
        let closed = || Err(Error::new(Code::Closed, true, "the client is closed"));
        self.value.unwrap_or_else(closed)?.body()
    }
}

impl<T: DeserializeOwned> Stream for Replies<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<T>>> {
        let this = &mut *self;
        let mut parts = this.parts.lock();
        if let Some(part) = parts.0.pop_front() {
            parts.2 -= cost(&part);
            return Poll::Ready(Some(part.body()));
        }
        if this.value.is_some() {
            return Poll::Ready(None);
        }
        parts.1 = Some(cx.waker().clone());
        // Parts are pushed before the value is sent, and this lock is held: there are none between the two looks.
        match Pin::new(&mut this.end).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(value) => {
                this.value = Some(value.unwrap_or_else(|_| Err(Error::closed())));
                match parts.0.pop_front() {
                    Some(part) => Poll::Ready(Some(part.body())),
                    None => Poll::Ready(None),
                }
            }
        }
    }
}
