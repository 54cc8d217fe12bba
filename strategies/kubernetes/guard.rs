//! What every answer of the API server is held to: it begins in time, does not stop in the middle, and no object
//! is larger than could be meant.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tower_layer::Layer;
use tower_service::Service;

/// How long the head of an answer may take.
pub(super) const HEAD: Duration = Duration::from_secs(10);
/// How long a list may pause.
const LIST_PAUSE: Duration = Duration::from_secs(10);
/// How long a watch may say nothing. The API server sends a bookmark about every minute; one that sends none is asked
/// anew from where the watch was, which costs it little.
const WATCH_PAUSE: Duration = Duration::from_secs(150);
/// How long a watch lasts at least, for who reads it: another one is asked for as soon as it ends, and a server or a proxy may end
/// each at once.
const WATCH_MIN: Duration = Duration::from_secs(1);
/// The longest line: a page of a list, or one object of a watch.
pub(super) const LINE_MAX: usize = 8 << 20;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Puts a [`Guarded`] around a client's service.
pub(super) struct Guard;

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner }
    }
}

#[derive(Clone)]
pub(super) struct Guarded<S> {
    inner: S,
}

impl<S, Q, B> Service<Request<Q>> for Guarded<S>
where
    S: Service<Request<Q>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Unpin,
{
    type Response = Response<Bounded<B>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let query = request.uri().query().unwrap_or_default();
        let watch = query.split('&').any(|pair| pair == "watch=true");
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = timeout(HEAD, answer).await.map_err(|_| Stopped::Unanswered)?;
            let answer = answer.map_err(Into::into)?;
            // What is said instead of a watch is none.
            let watch = watch && answer.status().is_success();
            Ok(answer.map(|body| Bounded::new(body, watch)))
        })
    }
}

/// Why an answer was given up.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stopped {
    #[error("it takes the question and does not answer within {} s", HEAD.as_secs())]
    Unanswered,
    #[error("its answer stopped in the middle for {} s", LIST_PAUSE.as_secs())]
    Paused,
    #[error("its answer is longer than {} MiB in one piece", LINE_MAX >> 20)]
    TooLong,
}

/// The body of an answer, while it keeps to the bounds.
pub(super) struct Bounded<B> {
    inner: B,
    watch: bool,
    /// Bytes since the last end of a line.
    line: usize,
    pause: Pin<Box<Sleep>>,
    began: Instant,
    /// Nothing more comes.
    over: bool,
}

impl<B> Bounded<B> {
    fn new(inner: B, watch: bool) -> Self {
        let pause = Box::pin(sleep(Self::longest(watch)));
        Self { inner, watch, line: 0, pause, began: Instant::now(), over: false }
    }

    fn longest(watch: bool) -> Duration {
        if watch { WATCH_PAUSE } else { LIST_PAUSE }
    }
}

impl<B> Body for Bounded<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.over {
            return this.pause.as_mut().poll(context).map(|()| None);
        }
        match Pin::new(&mut this.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let data = frame.data_ref().map_or(&[][..], Buf::chunk);
                this.line = match data.iter().rposition(|byte| *byte == b'\n') {
                    Some(end) => data.len() - end - 1,
                    None => this.line + data.len(),
                };
                if this.line > LINE_MAX {
                    return Poll::Ready(Some(Err(Stopped::TooLong.into())));
                }
                let longest = Self::longest(this.watch);
                this.pause.as_mut().reset(Instant::now() + longest);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) if this.watch => {
                this.over = true;
                this.pause.as_mut().reset(this.began + WATCH_MIN);
                this.pause.as_mut().poll(context).map(|()| None)
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => match this.pause.as_mut().poll(context) {
                Poll::Pending => Poll::Pending,
                // The watch goes on with another question.
                Poll::Ready(()) if this.watch => Poll::Ready(None),
                Poll::Ready(()) => Poll::Ready(Some(Err(Stopped::Paused.into()))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        !self.watch && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::poll_fn;

    use super::*;

    /// Ends at once.
    struct Nothing;

    impl Body for Nothing {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(None)
        }

        fn is_end_stream(&self) -> bool {
            true
        }
    }

    #[tokio::test(start_paused = true)]
    async fn watches_that_end_at_once_are_not_asked_for_over_and_over() {
        for (watch, lasts) in [(true, WATCH_MIN), (false, Duration::ZERO)] {
            let mut body = Bounded::new(Nothing, watch);
            let began = Instant::now();
            assert_eq!(body.is_end_stream(), !watch);
            let ended = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
            assert!(ended.is_none());
            assert_eq!(began.elapsed(), lasts);
        }
    }
}
