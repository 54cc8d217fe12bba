//! Where injected pods find each other: the `EndpointSlices` of the Services `pillion-<mesh>`, in one namespace for all.
//!
//! The holder of the Lease watches the pods that are labelled with a mesh, in all namespaces, and writes the slices of
//! Services without a selector. So a sidecar needs to see one namespace only, and nothing is made where the apps are. The
//! chart ships the Service of its own mesh; those of other meshes are made here, and belong to the Lease: an uninstall
//! removes it, and what belongs to it.
//!
//! Changes that come within a tenth of a second are written together, and of the slices only those that differ. Slices of
//! an earlier holder are known by their label and go on being used. What is not written because the API server is away is
//! written later: nothing is remembered but what is so.

mod objects;
mod plan;
mod watched;

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use self::objects::{MeshService, NodeZone, PodSeen};
use self::plan::{Known, Write};
use self::watched::Watched;
use super::chain;
use super::told::Told;
use crate::backoff::{Backoff, Rng, Waits};
use crate::shutdown::Shutdown;

/// Changes that come within this are written together.
const COALESCE: Duration = Duration::from_millis(100);
/// Most writes at a time.
const WRITES: usize = 4;
/// Objects in one answer of a list.
const PAGE: u32 = 250;
/// How long a watch lasts before it is asked for anew, in seconds.
const WATCH: u32 = 290;
/// After how long nodes are asked for again that this injector may not see, or that could not be had.
const ZONES_AGAIN: Duration = Duration::from_secs(5 * 60);
/// The pauses before what failed is written again.
const WAITS: Waits = Waits { first: Duration::from_millis(250), cap: Duration::from_secs(30) };

/// Where the slices are.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The namespace of the Services.
    pub(super) namespace: String,
    /// The Lease, to which Services belong that are made here.
    pub(super) lease: String,
}

/// Keeps the slices for as long as `holds` says that we hold the Lease, until shutdown.
pub(super) async fn keep(
    client: Client,
    place: Place,
    mut holds: watch::Receiver<bool>,
    mut shutdown: Shutdown,
) {
    let mut rng = Rng::new(u64::from(std::process::id()));
    let (mut backoff, mut told) = (Backoff::default(), Told::default());
    loop {
        tokio::select! {
            biased;
            () = shutdown.asked() => return,
            held = held(&mut holds, true) => {
                if !held {
                    // Whoever stood for it is gone, and so is the Lease.
                    shutdown.asked().await;
                    return;
                }
            }
        }
        let began = Instant::now();
        tokio::select! {
            biased;
            () = shutdown.asked() => return,
            _ = held(&mut holds, false) => {}
            why = hold(&client, &place) => {
                told.warn(&format!("the endpoints of the mesh are not kept at the moment: {why}; it is tried again"));
                if began.elapsed() >= WAITS.cap {
                    backoff.reset();
                }
                if shutdown.asked_within(backoff.next(WAITS, &mut rng)).await {
                    return;
                }
            }
        }
    }
}

/// Waits until the Lease is held, or is not; false when nobody stands for it any more.
async fn held(holds: &mut watch::Receiver<bool>, wanted: bool) -> bool {
    holds.wait_for(|holds| *holds == wanted).await.is_ok()
}

fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    // What fails is asked for again, later and later; what was known holds meanwhile.
    watcher(api, config.page_size(PAGE).timeout(WATCH)).default_backoff()
}

/// Keeps the slices until something fails, and says what.
async fn hold(client: &Client, place: &Place) -> String {
    let leases: Api<Lease> = Api::namespaced(client.clone(), &place.namespace);
    let lease = match leases.get_metadata(&place.lease).await {
        Ok(lease) => lease.metadata.uid.unwrap_or_default(),
        Err(error) => {
            return format!("the Lease {} cannot be read: {}", place.lease, chain(&error));
        }
    };
    let all = watcher::Config::default;
    let ours = format!("{}={}", plan::MANAGED_BY_SLICES, plan::MANAGER);
    let mut pods =
        pin!(follow(Api::<PodSeen>::all(client.clone()), all().labels(super::issuing::MESH)));
    let zones = || Box::pin(follow(Api::<NodeZone>::all(client.clone()), all()));
    let (mut nodes, mut zones_again) = (zones(), None::<Instant>);
    let services: Api<MeshService> = Api::namespaced(client.clone(), &place.namespace);
    let mut services = pin!(follow(services, all()));
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), &place.namespace);
    let mut slices = pin!(follow(slices, all().labels(&ours)));
    let mut state = State::new(place, lease);
    loop {
        let due = state.due;
        let result = tokio::select! {
            biased;
            Some(event) = pods.next() => of(event, "pods").and_then(|e| state.pods.on(e)),
            Some(event) = slices.next() => {
                of(event, "endpointslices").and_then(|e| state.slices.on(e))
            }
            Some(event) = services.next() => {
                of(event, "services").and_then(|e| state.services.on(e))
            }
            Some(event) = nodes.next(), if zones_again.is_none() => match of(event, "nodes") {
                Ok(event) => state.zones.on(event),
                // A zone is a hint: without the permission, or while they cannot be had, what is known of them is used.
                Err(why) => {
                    (nodes, zones_again) = (zones(), Some(Instant::now() + ZONES_AGAIN));
                    state.without_zones(&why);
                    Ok(true)
                }
            },
            () = at(zones_again) => {
                zones_again = None;
                Ok(false)
            }
            () = at(due) => {
                state.due = None;
                state.reconcile(client).await;
                Ok(false)
            }
        };
        match result {
            Ok(true) => state.changed(COALESCE),
            Ok(false) => {}
            Err(why) => state.told.warn(&format!("{why}; it is tried again")),
        }
    }
}

/// Completes at this time; never when there is none. Cancel safe.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn of<K>(event: watcher::Result<Event<K>>, what: &str) -> Result<Event<K>, String> {
    event.map_err(|error| format!("{what} cannot be watched: {}", chain(&error)))
}

/// All that is known, and what is to be written.
struct State<'a> {
    place: &'a Place,
    lease: String,
    pods: Watched<PodSeen>,
    zones: Watched<NodeZone>,
    services: Watched<MeshService>,
    slices: Watched<EndpointSlice>,
    /// When to write.
    due: Option<Instant>,
    backoff: Backoff,
    rng: Rng,
    told: Told,
}

impl<'a> State<'a> {
    fn new(place: &'a Place, lease: String) -> Self {
        Self {
            place,
            lease,
            pods: Watched::default(),
            zones: Watched::default(),
            services: Watched::default(),
            slices: Watched::default(),
            due: None,
            backoff: Backoff::default(),
            rng: Rng::new(u64::from(std::process::id())),
            told: Told::default(),
        }
    }

    fn changed(&mut self, within: Duration) {
        let at = Instant::now() + within;
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    fn without_zones(&mut self, why: &str) {
        self.told.warn(&format!("{why}: endpoints are written without their zone"));
        self.zones.without();
    }

    /// Writes what differs. What fails is tried again, later and later.
    async fn reconcile(&mut self, client: &Client) {
        let whole = self.pods.is_whole() && self.services.is_whole() && self.slices.is_whole();
        if !whole || !self.zones.is_whole() {
            return;
        }
        let zones: BTreeMap<&str, &str> = self
            .zones
            .all()
            .filter_map(|node| Some((node.name.as_str(), node.zone.as_deref()?)))
            .collect();
        let known = Known {
            namespace: &self.place.namespace,
            lease: (&self.place.lease, &self.lease),
            pods: self.pods.all().collect(),
            zones,
            services: self.services.all().collect(),
            slices: self.slices.all().collect(),
        };
        let plan = plan::plan(&known);
        for words in plan.complaints {
            self.told.warn(&words);
        }
        let (slices, services) = (self.slices_of(client), self.services_of(client));
        let done: Vec<(Write, Result<Done, kube::Error>)> = stream::iter(plan.writes)
            .map(|write| {
                let (slices, services) = (&slices, &services);
                async move {
                    let done = apply(&write, slices, services).await;
                    (write, done)
                }
            })
            .buffer_unordered(WRITES)
            .collect()
            .await;
        let mut failed = false;
        for (write, result) in done {
            match result {
                Ok(Done::Slice(slice)) => self.slices.wrote(*slice),
                Ok(Done::Service(service)) => {
                    self.services.wrote(*service);
                    // Its slices need what it is called by the API server.
                    self.changed(Duration::ZERO);
                }
                Ok(Done::Gone) => {}
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                    // Somebody else was faster: the watch tells what is so.
                    tracing::debug!("{write}: {}", status.message);
                    failed = true;
                }
                Err(error) => {
                    self.told
                        .warn(&format!("{write} failed: {}; it is tried again", chain(&error)));
                    failed = true;
                }
            }
        }
        if failed {
            let wait = self.backoff.next(WAITS, &mut self.rng);
            self.changed(wait);
        } else {
            self.backoff.reset();
        }
    }

    fn slices_of(&self, client: &Client) -> Api<EndpointSlice> {
        Api::namespaced(client.clone(), &self.place.namespace)
    }

    fn services_of(&self, client: &Client) -> Api<MeshService> {
        Api::namespaced(client.clone(), &self.place.namespace)
    }
}

enum Done {
    Slice(Box<EndpointSlice>),
    Service(Box<MeshService>),
    Gone,
}

async fn apply(
    write: &Write,
    slices: &Api<EndpointSlice>,
    services: &Api<MeshService>,
) -> Result<Done, kube::Error> {
    let create = PostParams::default();
    let gone = |result: Result<_, kube::Error>| match result {
        Ok(()) => Ok(Done::Gone),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Done::Gone),
        Err(error) => Err(error),
    };
    match write {
        Write::Create(slice) => {
            slices.create(&create, slice).await.map(|slice| Done::Slice(Box::new(slice)))
        }
        Write::Replace(slice) => {
            let name = slice.metadata.name.as_deref().unwrap_or_default();
            slices.replace(name, &create, slice).await.map(|slice| Done::Slice(Box::new(slice)))
        }
        Write::Delete { name, uid } => gone(slices.delete(name, &this_one(uid)).await.map(|_| ())),
        Write::CreateService(service) => {
            services.create(&create, service).await.map(|service| Done::Service(Box::new(service)))
        }
        Write::DeleteService { name, uid } => {
            gone(services.delete(name, &this_one(uid)).await.map(|_| ()))
        }
    }
}

/// Not another one that has its name by now.
fn this_one(uid: &str) -> DeleteParams {
    let uid = (!uid.is_empty()).then(|| uid.to_owned());
    DeleteParams {
        preconditions: Some(Preconditions { uid, resource_version: None }),
        ..DeleteParams::default()
    }
}
