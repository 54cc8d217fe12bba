//! Accepts connections, as many strangers at a time as are allowed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;
use tracing::warn;

use crate::transport::Transport;

/// Most connections that have not shown yet that they are one of us. The others wait in the kernel's backlog.
const STRANGERS_MAX: usize = 64;
/// The wait after a failed accept: doubling, from the first to the last.
const WAITS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// An accepted connection.
pub(super) struct Inbound<S> {
    pub stream: S,
    pub remote: SocketAddr,
    pub local: SocketAddr,
    /// Given back once it is no stranger any more.
    pub permit: OwnedSemaphorePermit,
}

/// Starts one task per listener.
pub(super) fn start<T: Transport>(
    tasks: &mut JoinSet<()>,
    services: &mut Vec<AbortHandle>,
    transport: &Arc<T>,
    listeners: Vec<T::Listener>,
    inbound: &mpsc::Sender<Inbound<T::Stream>>,
) {
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    for listener in listeners {
        let (transport, strangers) = (Arc::clone(transport), Arc::clone(&strangers));
        let inbound = inbound.clone();
        services.push(tasks.spawn(accept_all(transport, listener, strangers, inbound)));
    }
}

async fn accept_all<T: Transport>(
    transport: Arc<T>,
    mut listener: T::Listener,
    strangers: Arc<Semaphore>,
    inbound: mpsc::Sender<Inbound<T::Stream>>,
) {
    let mut wait = WAITS.0;
    let mut last = None;
    loop {
        let Ok(permit) = Arc::clone(&strangers).acquire_owned().await else { return };
        let accepted = match transport.accept(&mut listener).await {
            Ok((stream, remote)) => {
                transport.local_address_of(&stream).map(|local| (stream, remote, local))
            }
            Err(error) => Err(error),
        };
        match accepted {
            Ok((stream, remote, local)) => {
                (wait, last) = (WAITS.0, None);
                if inbound.send(Inbound { stream, remote, local, permit }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                if last != Some(error.kind()) {
                    warn!(%error, "accepting a connection failed; trying on");
                    last = Some(error.kind());
                }
                sleep(wait).await;
                wait = (wait * 2).min(WAITS.1);
            }
        }
    }
}
