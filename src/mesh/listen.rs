//! Accepts connections and hands them to the mesh, one by one.
//!
//! The mesh takes the next one when it has a place for a stranger; until then the others wait in the kernel's backlog.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;
use tracing::warn;

use crate::backoff::{Backoff, Rng, Waits};
use crate::transport::Transport;

/// An accepted connection.
pub(super) struct Inbound<S> {
    pub stream: S,
    pub remote: SocketAddr,
    pub local: SocketAddr,
}

/// Starts one task per listener.
pub(super) fn start<T: Transport>(
    tasks: &mut JoinSet<()>,
    services: &mut Vec<AbortHandle>,
    transport: &Arc<T>,
    listeners: Vec<T::Listener>,
    inbound: &mpsc::Sender<Inbound<T::Stream>>,
    seed: u64,
) {
    for (listener, number) in listeners.into_iter().zip(0_u64..) {
        let (transport, inbound) = (Arc::clone(transport), inbound.clone());
        let rng = Rng::new(seed.wrapping_add(number));
        services.push(tasks.spawn(accept_all(transport, listener, inbound, rng)));
    }
}

/// Until it is aborted, which the mesh does first when the node stops: nothing here has to be finished.
async fn accept_all<T: Transport>(
    transport: Arc<T>,
    mut listener: T::Listener,
    inbound: mpsc::Sender<Inbound<T::Stream>>,
    mut rng: Rng,
) {
    let mut backoff = Backoff::default();
    let mut last = None;
    loop {
        // Room first, so that what is not taken stays with the kernel.
        let Ok(room) = inbound.reserve().await else { return };
        let accepted = match transport.accept(&mut listener).await {
            Ok((stream, remote)) => {
                transport.local_address_of(&stream).map(|local| (stream, remote, local))
            }
            Err(error) => Err(error),
        };
        match accepted {
            Ok((stream, remote, local)) => {
                backoff.reset();
                last = None;
                room.send(Inbound { stream, remote, local });
            }
            Err(error) => {
                if last != Some(error.kind()) {
                    warn!(%error, "accepting a connection failed; trying on");
                    last = Some(error.kind());
                }
                sleep(backoff.next(Waits::ACCEPT, &mut rng)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use tokio::io::{DuplexStream, duplex};
    use tokio::time::{Duration, Instant, timeout};

    use super::*;

    /// Fails so often, then accepts once; again and again.
    struct Flaky {
        failures: usize,
        asked: Mutex<Vec<Instant>>,
    }

    impl Transport for Flaky {
        type Stream = DuplexStream;
        type Listener = ();

        async fn bind(&self, _: SocketAddr) -> io::Result<()> {
            Ok(())
        }
        fn local_address(&self, (): &()) -> io::Result<SocketAddr> {
            Ok(([127, 0, 0, 1], 4470).into())
        }
        async fn accept(&self, (): &mut ()) -> io::Result<(DuplexStream, SocketAddr)> {
            let mut asked = self.asked.lock().expect("no panic");
            asked.push(Instant::now());
            if asked.len().is_multiple_of(self.failures + 1) {
                return Ok((duplex(1).0, ([127, 0, 0, 1], 9).into()));
            }
            Err(io::Error::other("too many open files"))
        }
        async fn connect(&self, _: SocketAddr) -> io::Result<DuplexStream> {
            std::future::pending().await
        }
        fn local_address_of(&self, _: &DuplexStream) -> io::Result<SocketAddr> {
            Ok(([127, 0, 0, 1], 4470).into())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_fails_is_asked_again_ever_later_and_never_given_up() {
        const FAILURES: usize = 20;
        let flaky = Arc::new(Flaky { failures: FAILURES, asked: Mutex::default() });
        let (tell, mut told) = mpsc::channel(1);
        let (mut tasks, mut services) = (JoinSet::new(), Vec::new());
        start(&mut tasks, &mut services, &flaky, vec![()], &tell, 1);
        for _ in 0..2 {
            let accepted = timeout(Duration::from_secs(60), told.recv()).await;
            assert!(matches!(accepted, Ok(Some(_))));
        }
        let asked = flaky.asked.lock().expect("no panic").clone();
        let waits: Vec<Duration> = asked.windows(2).map(|two| two[1] - two[0]).collect();
        let (first, second) = (&waits[..FAILURES], &waits[FAILURES + 1..][..FAILURES]);
        for waits in [first, second] {
            assert!(waits[0] <= Waits::ACCEPT.first, "{waits:?}");
            assert!(waits.iter().all(|wait| *wait <= Waits::ACCEPT.cap), "{waits:?}");
            assert!(waits[FAILURES - 1] >= Waits::ACCEPT.cap / 2, "{waits:?}");
        }
        assert_ne!(first, second, "the waits are jittered");
        assert_eq!(services.len(), 1);
    }
}
