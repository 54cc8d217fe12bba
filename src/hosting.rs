//! Programs as processes of the mesh: started, watched and ended as the router asks.
//!
//! ```text
//! router --HostRequest--> here --fork--> program (a process group of its own)
//!        <--started-----       <--SIGCHLD--'
//!        <--exited------   lines of it --> the log
//! ```
//!
//! A node that hosts nothing has one task here, which sleeps. A program finds its node and itself in its environment;
//! whether it connects is its own business.

mod lines;
mod program;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::backoff::{Backoff, Rng, Waits};
use crate::hub::{HostRequest, Hub};
use crate::shutdown::Shutdown;
use crate::wire::host;
use program::Program;

/// The pauses before a supervisor that has given up starts again.
const REVIVAL_WAITS: Waits = Waits { first: Duration::from_secs(1), cap: Duration::from_secs(60) };

/// What programs are told of their node.
#[derive(Clone, Debug)]
pub struct HostingOptions {
    /// The app socket.
    pub socket: PathBuf,
    /// Where the jitter of pauses starts.
    pub seed: u64,
}

/// Does what the router asks, until it is asked to stop: then every program that is left is killed.
pub async fn run(options: HostingOptions, hub: Arc<Hub>, mut shutdown: Shutdown) {
    let mut tasks = JoinSet::new();
    let mut runs: BTreeMap<u64, watch::Sender<Option<host::Shutdown>>> = BTreeMap::new();
    let mut backoffs: BTreeMap<String, Backoff> = BTreeMap::new();
    let mut rng = Rng::new(options.seed);
    loop {
        let request = tokio::select! {
            biased;
            () = shutdown.asked() => return,
            Some(ended) = tasks.join_next() => {
                match ended {
                    Ok(Some(run)) => drop(runs.remove(&run)),
                    Ok(None) => {}
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {}
                }
                continue;
            }
            request = hub.next_host_request() => request,
        };
        match request {
            HostRequest::Start(start) => {
                let run = start.run;
                let token = hub.host_token(run);
                match Program::start(&start, &options.socket, &hub.me().name, &token) {
                    Ok(program) => {
                        let (stop, stopped) = watch::channel(None);
                        runs.insert(run, stop);
                        tracing::info!("{} started, os pid {}", program.label(), program.os_pid());
                        hub.host_started(run, Ok(program.os_pid()));
                        let hub = Arc::clone(&hub);
                        tasks.spawn(async move {
                            program.live(&hub, stopped).await;
                            Some(run)
                        });
                    }
                    Err(words) => hub.host_started(run, Err(words)),
                }
                // To start a program takes a while, and there may be many.
                tokio::task::yield_now().await;
            }
            HostRequest::Stop { run, how } => {
                if let Some(stop) = runs.get(&run) {
                    stop.send_modify(|stop| {
                        // Nothing makes a program that is to be killed live longer.
                        if *stop != Some(host::Shutdown::BrutalKill) {
                            *stop = Some(how);
                        }
                    });
                }
            }
            HostRequest::Rest { supervisor, well_for } => {
                let backoff = backoffs.entry(supervisor.clone()).or_default();
                if well_for >= REVIVAL_WAITS.cap {
                    backoff.reset();
                }
                let wait = backoff.next(REVIVAL_WAITS, &mut rng);
                tracing::warn!(
                    "supervisor {supervisor} gave up: its children end too often; it starts again in {:.1} s",
                    wait.as_secs_f64()
                );
                let (hub, at) = (Arc::clone(&hub), Instant::now() + wait);
                tasks.spawn(async move {
                    tokio::time::sleep_until(at).await;
                    hub.host_revived(&supervisor);
                    None
                });
            }
            HostRequest::Warn(text) => tracing::warn!("{text}"),
        }
    }
}
