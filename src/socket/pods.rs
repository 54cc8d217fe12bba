//! Which pod an app runs in, where one node serves the apps of all pods of its machine (`--pods`).
//!
//! The system says which process has connected ([`caller`]), its control groups say of which pod it is ([`cgroup`]), and the API
//! server says which pods there are ([`known`]). Whoever is in no pod, or in one that may not come, is told so and goes. A pod
//! may be so new that the API server has not told of it yet: its app is looked up again until [`WAIT`] is over.
//!
//! Nothing here is started, kept or asked where no pods are served.

mod caller;
mod cgroup;
mod known;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pillion_strategies::pods::PodNews;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use self::cgroup::Mark;
use self::known::Known;
use crate::config::PodsServed;
use crate::hub::Hub;
use crate::wire::command::Refused;
use crate::wire::pod::Pod;

/// How long an app waits for the API server to tell of its pod.
const WAIT: Duration = Duration::from_secs(5);
/// Most apps that wait for that at a time.
const WAITING_MAX: usize = 256;
/// Most apps that are told at a time that they may not come; more are let go without a word, so that they keep no others out.
pub(super) const TELLING_MAX: usize = 256;
/// Most connections of one pod, so that none keeps the others out.
const SEATS_MAX: usize = 1024;
/// How often it is told that apps were turned away: one line stands for all of them since the last.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// The pods whose apps this node serves.
#[derive(Debug)]
pub struct Pods {
    served: PodsServed,
    /// `/proc`, but for tests.
    proc: PathBuf,
    /// The control groups of this node, which others of its own pod have too.
    own_groups: Option<String>,
    /// What is around the groups of every pod of the machine.
    around: Vec<Mark>,
    own_seats: Arc<()>,
    known: Mutex<Known>,
    /// Changes when a pod has come.
    news: watch::Sender<()>,
    waiting: Semaphore,
    /// A permit for each app that is being told that it may not come.
    pub(super) telling: Semaphore,
    told: Mutex<Told>,
}

/// Who was turned away since that was told last.
#[derive(Debug, Default)]
struct Told {
    last: Option<Instant>,
    quiet: u64,
}

/// An app that may come. Its pod has a connection less when it is dropped.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) pod: Arc<Pod>,
    _seat: Arc<()>,
}

/// An app that may not.
#[derive(Debug)]
pub(super) struct Turned {
    /// Of [`REFUSALS`](crate::hub::REFUSALS).
    reason: usize,
    pub(super) refused: Refused,
}

impl Turned {
    fn new(reason: usize, code: &'static str, message: String) -> Self {
        Self { reason, refused: Refused { code, message } }
    }

    fn no_pod(why: &str) -> Self {
        let text = format!(
            "{why}. This node serves pods of its machine only: run the app in one of them, or start a node of its own with `pillion up`"
        );
        Self::new(0, "denied", text)
    }
}

impl Pods {
    /// Serves the pods that the configuration names. None is known yet.
    #[must_use]
    pub fn new(served: PodsServed) -> Self {
        Self::at(served, "/proc".into())
    }

    fn at(served: PodsServed, proc: PathBuf) -> Self {
        let own_groups = std::fs::read_to_string(proc.join("self/cgroup")).ok();
        let around = own_groups.as_deref().map(cgroup::around).unwrap_or_default();
        Self {
            around,
            // A machine that is no pod has nothing of its own.
            own_groups: own_groups.filter(|_| served.own.is_some()),
            served,
            proc,
            own_seats: Arc::default(),
            known: Mutex::default(),
            news: watch::channel(()).0,
            waiting: Semaphore::new(WAITING_MAX),
            telling: Semaphore::new(TELLING_MAX),
            told: Mutex::default(),
        }
    }

    /// The machine whose pods are served, as Kubernetes calls it.
    #[must_use]
    pub fn machine(&self) -> &str {
        &self.served.machine
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps up with what is told of the pods of the machine, for as long as somebody tells. Cancel safe.
    pub async fn listen(&self, mut news: mpsc::Receiver<PodNews>, hub: &Hub) {
        while let Some(news) = news.recv().await {
            if let PodNews::Failed(why) = &news
                && self.known().problem() != Some(why)
            {
                tracing::warn!("the pods of this machine cannot be looked up: {why}; trying again");
            }
            let (changed, count, problem) = {
                let mut known = self.known();
                let changed = known.hears(news);
                (changed, known.len(), known.problem().map(str::to_owned))
            };
            hub.note(|notes| {
                let pods = notes.pods.get_or_insert_default();
                (pods.known, pods.problem) = (count, problem);
            });
            if changed {
                self.news.send_replace(());
            }
        }
    }

    /// Finds out of which pod the app is that has connected, and whether it may come. Takes up to five seconds where nothing is
    /// known of its pod yet. Cancel safe.
    pub(super) async fn admit(&self, stream: &UnixStream, hub: &Hub) -> Result<Guest, Turned> {
        let admitted = self.judge(stream).await;
        if let Err(turned) = &admitted {
            hub.note(|notes| notes.pods.get_or_insert_default().refused[turned.reason] += 1);
            self.tell(&turned.refused.message);
        }
        admitted
    }

    async fn judge(&self, stream: &UnixStream) -> Result<Guest, Turned> {
        let caller = caller::caller(stream, &self.proc)
            .map_err(|untold| Turned::no_pod(&format!("nothing is known of this app: {untold}")))?;
        let pid = caller.pid;
        if let Some(own) =
            self.served.own.as_ref().filter(|_| self.own_groups.as_ref() == Some(&caller.cgroup))
        {
            // Who is with this node in its own container is its operator's business.
            return seat(own, Arc::clone(&self.own_seats));
        }
        let marks = cgroup::marks(&caller.cgroup, &self.around);
        if marks.is_empty() {
            return Err(Turned::no_pod(&format!("this app (process {pid}) runs in no pod")));
        }
        let mut news = self.news.subscribe();
        let found = |news: &mut watch::Receiver<()>| {
            news.mark_unchanged();
            let known = self.known();
            known.find(&marks).map(|entry| (Arc::clone(&entry.pod), Arc::clone(&entry.seats)))
        };
        let entry = match found(&mut news) {
            Some(entry) => entry,
            None => {
                let Ok(_waits) = self.waiting.try_acquire() else {
                    let text = format!(
                        "{WAITING_MAX} apps of pods that are not known yet wait already; connect again later"
                    );
                    return Err(Turned::new(3, "overloaded", text));
                };
                let comes = async {
                    loop {
                        if news.changed().await.is_err() {
                            // Its sender is ours.
                            std::future::pending::<()>().await;
                        }
                        if let Some(entry) = found(&mut news) {
                            return entry;
                        }
                    }
                };
                match tokio::time::timeout(WAIT, comes).await {
                    Ok(entry) => entry,
                    Err(_) => return Err(self.unknown(pid)),
                }
            }
        };
        let (pod, seats) = entry;
        if !self.served.allowed.iter().any(|rule| rule.allows(&pod)) {
            let Pod { namespace, account, .. } = &*pod;
            let text = format!(
                "the pod {pod} (service account `{account}`) may not use this node, which serves {}: whoever runs it has to add `{namespace}` or `{namespace}/{account}` to `pods`, in its chart `agent.namespaces`",
                self.served.shown().join(", ")
            );
            return Err(Turned::new(1, "denied", text));
        }
        seat(&pod, seats)
    }

    fn unknown(&self, pid: u32) -> Turned {
        let (seconds, machine) = (WAIT.as_secs(), &self.served.machine);
        let text = match self.known().problem() {
            Some(problem) => format!(
                "the pod of this app (process {pid}) cannot be looked up: {problem}. Connect again later"
            ),
            None => format!(
                "the API server has not told within {seconds} s of a pod of the machine {machine} with the control groups of this app (process {pid}). Connect again; where that does not help, NODE_NAME of this node is another machine's"
            ),
        };
        Turned::new(2, "timeout", text)
    }

    /// One line for all that were turned away since the last one.
    fn tell(&self, why: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if told.last.is_some_and(|last| now.duration_since(last) < TOLD_EVERY) {
            told.quiet += 1;
            return;
        }
        let quiet = std::mem::take(&mut told.quiet);
        told.last = Some(now);
        if quiet > 0 {
            tracing::warn!("an app was turned away, and {quiet} before it: {why}");
        } else {
            tracing::warn!("an app was turned away: {why}");
        }
    }
}

fn seat(pod: &Arc<Pod>, seat: Arc<()>) -> Result<Guest, Turned> {
    // One is the table's, and one is this.
    if Arc::strong_count(&seat).saturating_sub(2) >= SEATS_MAX {
        let text = format!(
            "the pod {pod} has {SEATS_MAX} connections to this node already, and more are not possible; close some, or use one for several processes"
        );
        return Err(Turned::new(3, "overloaded", text));
    }
    Ok(Guest { pod: Arc::clone(pod), _seat: seat })
}
