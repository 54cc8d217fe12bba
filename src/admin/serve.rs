//! Connections of HTTP, from people and machines that may be slow, many, or of ill will.
//!
//! Their number, the time of each, and the bytes of a request's head are bounded. When there are too many, the oldest one
//! makes room: whoever holds connections open keeps no probe out. Bodies are not read.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tower_service::Service as _;

use crate::shutdown::Shutdown;

/// Most connections at once: kubelets and collectors come one at a time.
const CONNECTIONS_MAX: usize = 64;
/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long a request's head may take, and how long a connection may wait for the next one.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long an answer may take to be made: a node that does not answer itself says so after five seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(9);
/// How long a connection lasts at most; collectors open the next one without a word.
const LASTS: Duration = Duration::from_secs(120);
/// How long what is under way may take when the node stops.
const ENDS_WITHIN: Duration = Duration::from_millis(500);
/// When a connection could not be accepted, the next one is waited for after this: no file descriptor was left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves connections until it is asked to stop; what is under way then has half a second.
pub async fn run(listener: TcpListener, routes: Router, mut shutdown: Shutdown) {
    let mut connections = JoinSet::new();
    let mut places: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.asked() => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended
                    && error.is_panic()
                {
                    // A bug ends the node loudly, as everywhere.
                    std::panic::resume_unwind(error.into_panic());
                }
                places.retain(|place| !place.is_finished());
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("a connection to the health port was not accepted: {error}");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        places.retain(|place| !place.is_finished());
        if places.len() >= CONNECTIONS_MAX
            && let Some(oldest) = places.pop_front()
        {
            oldest.abort();
        }
        places.push_back(connections.spawn(connection(stream, routes.clone(), shutdown.clone())));
    }
    drop(listener);
    let _ = timeout(ENDS_WITHIN, async { while connections.join_next().await.is_some() {} }).await;
}

/// Answers the requests of one connection.
async fn connection(stream: TcpStream, routes: Router, mut shutdown: Shutdown) {
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let mut routes = routes.clone();
        async move {
            let answer = timeout(ANSWER_WITHIN, routes.call(request.map(Body::new))).await;
            Ok::<_, Infallible>(match answer {
                Ok(Ok(answer)) => answer,
                Err(_) => {
                    let said = "the node took too long to answer\n";
                    (StatusCode::SERVICE_UNAVAILABLE, said).into_response()
                }
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let over = async {
        tokio::select! {
            biased;
            () = shutdown.asked() => {}
            () = sleep(LASTS) => {}
        }
    };
    tokio::select! {
        biased;
        () = over => {}
        _ = &mut connection => return,
    }
    // What is under way is answered; nothing else is taken.
    connection.as_mut().graceful_shutdown();
    let _ = timeout(ENDS_WITHIN, connection).await;
}
