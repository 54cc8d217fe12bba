//! Connections: TLS for the API server and the sidecars, plain HTTP for probes and collectors.
//!
//! Anybody in the cluster can connect: connections, their time and the bytes of their requests are bounded. When there are
//! too many connections, one that has no whole request under way gives its place to a new one. So whoever says little, slowly,
//! keeps nobody out.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;

use super::health::Health;
use super::{Injector, issuing, webhook};
use crate::shutdown::Shutdown;

/// Most connections of one listener.
const CONNECTIONS_MAX: usize = 512;
/// Largest body of a request: what the API server takes itself.
pub(crate) const BODY_BYTES_MAX: usize = 3 << 20;
/// Most bytes of large bodies that are read at a time, in KiB.
const BODIES_KIB_MAX: usize = 32 << 10;
/// A body up to this long waits for no room: nearly every pod's is that, and they cannot be more than connections.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// How long a body may take to come: whoever announces a large one has the room of others.
const BODY: Duration = Duration::from_secs(3);
/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 32 << 10;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a connection may wait for its next request: longer than the API server keeps one that it does not use.
const IDLE: Duration = Duration::from_secs(120);
/// How long a request may take, its body included: the API server waits 5 s by default and at most 30 s.
const REQUEST: Duration = Duration::from_secs(10);
/// After how long what failed to be accepted is tried again: no file descriptor was left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

// ===== TLS =====

/// Which certificate is shown: the newest.
#[derive(Debug, Default)]
pub(crate) struct Shown(Mutex<Option<Arc<CertifiedKey>>>);

impl Shown {
    /// From the next handshake on it is this one.
    pub(crate) fn show(&self, key: Arc<CertifiedKey>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A TLS server that asks for no certificate, and where the one that it shows is put. Until then handshakes fail.
pub(crate) fn tls() -> (TlsAcceptor, Arc<Shown>) {
    let shown = Arc::new(Shown::default());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let resolver: Arc<dyn ResolvesServerCert> = Arc::clone(&shown) as _;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of TLS 1.3")
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    (TlsAcceptor::from(Arc::new(config)), shown)
}

// ===== routes =====

/// What is served with TLS.
pub(crate) fn routes(injector: Injector) -> Router {
    Router::new()
        .route("/mutate", post(webhook::mutate))
        .route("/healthz", get(|| async { "ok" }))
        .with_state(injector.clone())
        .merge(issuing::Issuing::new(injector.client, injector.authority).routes())
}

/// What is served without.
pub(crate) fn probe_routes(health: Arc<Health>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health)
}

async fn ready(State(health): State<Arc<Health>>) -> Response {
    match health.not_ready() {
        None => "ok".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

async fn metrics(State(health): State<Arc<Health>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], health.metrics()).into_response()
}

/// The body of a request, within the bounds.
///
/// # Errors
/// The answer to a request without a length, with too much, or that does not come.
pub(crate) async fn body(
    request: Request,
    room: &Semaphore,
    bytes_max: usize,
) -> Result<Bytes, Response> {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let Some(length) = length else {
        return Err((StatusCode::LENGTH_REQUIRED, "a Content-Length is needed").into_response());
    };
    let too_large = || {
        let said = format!("a body is at most {bytes_max} bytes");
        (StatusCode::PAYLOAD_TOO_LARGE, said).into_response()
    };
    if length > bytes_max {
        return Err(too_large());
    }
    // Never closed; the time that a request may take ends the wait.
    let kib = u32::try_from(length.div_ceil(1024)).unwrap_or(u32::MAX);
    let _room = if length > SMALL_BYTES_MAX { room.acquire_many(kib).await.ok() } else { None };
    match timeout(BODY, axum::body::to_bytes(request.into_body(), bytes_max)).await {
        Ok(read) => read.map_err(|_| too_large()),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the body does not come").into_response()),
    }
}

/// Room for the large bodies of all requests.
pub(crate) fn room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(BODIES_KIB_MAX))
}

// ===== connections =====

/// One connection's place.
#[derive(Default)]
struct Place {
    /// A whole request has come and is under way.
    busy: AtomicBool,
    /// It has to go.
    leave: Notify,
    /// Another connection has its place already.
    lost: AtomicBool,
}

/// A request; over with the value, whatever becomes of it.
struct Busy(Arc<Place>);

/// The body of a request, which is under way once that has come.
struct Arriving {
    body: Incoming,
    place: Arc<Place>,
}

impl Arriving {
    fn look(&self) {
        if self.body.is_end_stream() {
            self.place.busy.store(true, Ordering::Relaxed);
        }
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.look();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Relaxed);
    }
}

/// How connections are served.
#[derive(Clone)]
pub(crate) struct Serving {
    pub health: Arc<Health>,
    /// How long it goes on after it was asked to stop.
    pub grace: Duration,
}

/// Serves connections until it is asked to stop; then, after the grace, what is under way is finished.
pub(crate) async fn serve(
    serving: Serving,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    routes: Router,
    mut shutdown: Shutdown,
) {
    let Serving { health, grace } = serving;
    let mut connections = JoinSet::new();
    let mut places: BTreeMap<u64, Arc<Place>> = BTreeMap::new();
    let mut next = 0_u64;
    let leaving = async {
        shutdown.asked().await;
        // Who has not heard of it yet still comes here for a while.
        health.leave();
        sleep(grace).await;
    };
    let mut leaving = std::pin::pin!(leaving);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut leaving => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                // A task that panicked had a bug; its place is taken from it below like that of one that hangs.
                if let Ok(number) = ended {
                    places.remove(&number);
                }
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("a connection could not be accepted: {error}");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        if places.len() >= CONNECTIONS_MAX && !make_room(&mut places) {
            count(&health, "refused");
            continue;
        }
        let _ = stream.set_nodelay(true);
        let place = Arc::new(Place::default());
        places.insert(next, Arc::clone(&place));
        connections.spawn(connection(
            next,
            place,
            stream,
            tls.clone(),
            routes.clone(),
            Arc::clone(&health),
        ));
        next += 1;
    }
    drop(listener);
    for place in places.values() {
        place.leave.notify_one();
    }
    let _ = timeout(REQUEST, async { while connections.join_next().await.is_some() {} }).await;
}

/// Sends the oldest connection away that has no whole request under way.
fn make_room(places: &mut BTreeMap<u64, Arc<Place>>) -> bool {
    let idle = places.iter().find(|(_, place)| !place.busy.load(Ordering::Relaxed));
    let Some(number) = idle.map(|(number, _)| *number) else { return false };
    if let Some(place) = places.remove(&number) {
        place.lost.store(true, Ordering::Relaxed);
        place.leave.notify_one();
    }
    true
}

fn count(health: &Health, end: &'static str) {
    health.connections.get_or_create(&[("end", end)]).inc();
}

async fn connection(
    number: u64,
    place: Arc<Place>,
    stream: tokio::net::TcpStream,
    tls: Option<TlsAcceptor>,
    routes: Router,
    health: Arc<Health>,
) -> u64 {
    let served = match tls {
        None => requests(&place, stream, routes).await,
        Some(tls) => {
            let shaken = tokio::select! {
                biased;
                () = place.leave.notified() => None,
                shaken = timeout(HANDSHAKE, tls.accept(stream)) => shaken.ok().and_then(Result::ok),
            };
            match shaken {
                Some(stream) => requests(&place, stream, routes).await,
                None => false,
            }
        }
    };
    count(&health, if served { "served" } else { "failed" });
    number
}

/// Serves the requests of a connection; whether there was one.
async fn requests(
    place: &Arc<Place>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    routes: Router,
) -> bool {
    let asked = AtomicBool::new(false);
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let mut routes = routes.clone();
        asked.store(true, Ordering::Relaxed);
        let busy = Busy(Arc::clone(place));
        let request = request.map(|body| Arriving { body, place: Arc::clone(place) });
        request.body().look();
        async move {
            let answer = timeout(REQUEST, routes.call(request.map(Body::new))).await;
            drop(busy);
            Ok::<_, Infallible>(match answer {
                Ok(Ok(answer)) => answer,
                Err(_) => {
                    (StatusCode::REQUEST_TIMEOUT, "the request took too long").into_response()
                }
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        () = place.leave.notified() => None,
        ended = &mut connection => Some(ended),
    };
    if ended.is_none() {
        // What is under way is answered; nothing else is taken. Whose place is another's has no time left to say the rest.
        connection.as_mut().graceful_shutdown();
        let lost = place.lost.load(Ordering::Relaxed) && !place.busy.load(Ordering::Relaxed);
        let _ = timeout(if lost { Duration::ZERO } else { REQUEST }, connection).await;
    }
    asked.into_inner()
}

#[cfg(test)]
mod tests;
