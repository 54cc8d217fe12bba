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

/// Parts that were not taken yet. The node holds the callee when too many of them are under way.
#[derive(Default)]
pub(crate) struct Parts(Mutex<(VecDeque<Event>, Option<Waker>)>);

impl Parts {
    fn lock(&self) -> MutexGuard<'_, (VecDeque<Event>, Option<Waker>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, event: Event) -> Option<Waker> {
        let mut parts = self.lock();
        parts.0.push_back(event);
        parts.1.take()
    }
}

/// The parts of an answer, and its value behind them. Made by [`Process::call_parts`](crate::Process::call_parts).
///
/// Dropping it loses what is still to come; the callee goes on.
#[must_use = "the answer is here, and so is the error"]
pub struct Replies<T> {
    parts: Arc<Parts>,
    end: oneshot::Receiver<Result<Event>>,
    value: Option<Result<Event>>,
    kind: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Replies<T> {
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
