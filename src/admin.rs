//! Probes and metrics over HTTP, for whoever runs the node: `--health`.
//!
//! What stands here is for machines that look after machines: a kubelet, a collector. Nothing of it changes anything, and
//! nothing of a request reaches the mesh. What operators look at is on the socket that they alone may open.
//!
//! | path | 200 | 503 |
//! | --- | --- | --- |
//! | `/startupz` | the app socket is bound | not yet |
//! | `/readyz` | [`Readiness::ready`](crate::hub::Readiness::ready) | why not, in words |
//! | `/livez` | the node's main task answers | it has not for five seconds |
//! | `/metrics` | all that is counted | |
//!
//! A node without `--health` binds nothing, starts nothing and keeps nothing for it.

mod metrics;
mod process;
pub mod serve;
#[cfg(test)]
mod tests;
mod text;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::config::{Host, Listen};
use crate::hub::{Hub, Unready};
use crate::router::tally::Durations;
use crate::shutdown::Shutdown;

/// The port where probes and metrics are, unless another one is asked for.
const PORT: u16 = 4471;

/// What the answers are made of.
#[derive(Debug)]
struct Admin {
    hub: Arc<Hub>,
    mesh: String,
    /// How long the node's main task took to answer, each time that somebody asked.
    lag: Mutex<Durations>,
}

impl Admin {
    /// Whether the node's main task answers, and how long it took.
    async fn is_live(&self) -> bool {
        let start = Instant::now();
        let live = self.hub.is_live().await;
        self.lag.lock().unwrap_or_else(PoisonError::into_inner).note(start.elapsed());
        live
    }
}

/// Binds the address. `[::]` falls back to `0.0.0.0` on a machine without IPv6.
///
/// # Errors
/// What the system said; nothing is bound then.
pub async fn bind(listen: &Listen) -> io::Result<TcpListener> {
    let port = listen.port.unwrap_or(PORT);
    let any = IpAddr::from([0_u16; 8]);
    let ip = match &listen.host {
        Host::Any => any,
        Host::Ip(ip) => *ip,
        Host::Name(name) => tokio::net::lookup_host((name.as_str(), 0))
            .await?
            .next()
            .map(|address| address.ip())
            .ok_or_else(|| io::Error::other("the name has no address"))?,
    };
    match TcpListener::bind(SocketAddr::new(ip, port)).await {
        Err(error) if ip == any && error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)).await
        }
        bound => bound,
    }
}

/// Answers probes and collectors until shutdown. Dropping the future closes every connection.
pub async fn run(listener: TcpListener, hub: Arc<Hub>, mesh: String, shutdown: Shutdown) {
    let admin = Arc::new(Admin { hub, mesh, lag: Mutex::default() });
    let routes = Router::new()
        .route("/startupz", get(started))
        .route("/readyz", get(ready))
        .route("/livez", get(live))
        .route("/metrics", get(collected))
        .with_state(admin);
    serve::run(listener, routes, shutdown).await;
}

fn told(result: Result<(), Unready>) -> Response {
    match result {
        Ok(()) => "ok\n".into_response(),
        Err(why) => {
            let said = format!("{}: {why}\n", why.code());
            (StatusCode::SERVICE_UNAVAILABLE, said).into_response()
        }
    }
}

async fn started(State(admin): State<Arc<Admin>>) -> Response {
    told(admin.hub.readiness().startup())
}

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    told(admin.hub.readiness().ready())
}

async fn live(State(admin): State<Arc<Admin>>) -> Response {
    if admin.is_live().await {
        return "ok\n".into_response();
    }
    let said = "stuck: the node's main task has not answered for 5 s\n";
    (StatusCode::SERVICE_UNAVAILABLE, said).into_response()
}

async fn collected(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Response {
    // A sample of how late the node is, where nobody probes it.
    admin.is_live().await;
    let observed = admin.hub.observe().await;
    let sample = metrics::Sample {
        node: admin.hub.me().clone(),
        mesh: admin.mesh.clone(),
        observed,
        lag: *admin.lag.lock().unwrap_or_else(PoisonError::into_inner),
        process: process::Process::now(),
        unix: process::unix(),
    };
    let text = metrics::encode(sample);
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("");
    let (kind, text) = text::negotiated(accept, text);
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}
