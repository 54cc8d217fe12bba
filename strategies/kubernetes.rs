//! `kubernetes`: the nodes in the pods of a Service, or in the pods with a label, as the API server knows them.
//!
//! It lists and watches: a change is known when the API server tells it, and nothing is asked in between. It reports
//! pods; whether a pillion is in one is found out by who reports it to the mesh.
//!
//! ```text
//! --strategy kubernetes                                             # Service pillion-<mesh>, this pod's namespace
//! --strategy 'kubernetes://?service=web&namespace=shop'             # the EndpointSlices of the Service web
//! --strategy 'kubernetes://?service=web&namespace=shop,till'        # in several namespaces
//! --strategy 'kubernetes://?from=pods&selector=app=web'             # pods by their labels, without a Service
//! --strategy 'kubernetes://?service=web&dns=web.shop.svc'           # the headless Service's name meanwhile
//! --strategy 'kubernetes://?kubeconfig=/home/ida/.kube/config&context=kind&service=web&namespace=shop'
//! ```
//!
//! | option | default | |
//! | --- | --- | --- |
//! | `service` | `pillion-<mesh>` | the Service whose EndpointSlices are watched, all of them |
//! | `namespace` | the pod's own, or that of the kubeconfig's context | names, separated by commas; each is a connection to the API server |
//! | `selector` | none | a label selector; for slices in addition to `service`, or instead of it |
//! | `from` | `endpointslices` | or `pods`: needs `selector`, and another permission |
//! | `port` | the port called `mesh`, else 4470 | the name of a port (of the Service, or of a container), or a number |
//! | `serving` | `any` | `only`: who has not been ready yet is left out |
//! | `node` | nothing: nodes say their names themselves | what stands behind the `@` of the others' names: `pod` (`web-0.shop`, as nodes in pods are called that nobody named), `hostname` (`web-0`) or `ip` |
//! | `base` | this node's own, for a pod of another app its label `app.kubernetes.io/name` (`from=pods`), or what made it (`till` of `till-6d4cf56db6-x7x2k`) | what stands before it |
//! | `labels` | for pods `role=app.kubernetes.io/component,zone=topology.kubernetes.io/zone`, for slices none | which label of a node comes from which label of its pod. With slices it makes the metadata of pods be watched too |
//! | `dns` | none | a name, as of a headless Service, that is looked up while the API server refuses or is away; `name:port`. The name servers of `/etc/resolv.conf` are asked, with its search domains, as by [`dns`](crate::dns) |
//! | `interval` | that of all strategies | how often that name is looked up then |
//! | `kubeconfig` | in a pod its service account, elsewhere `KUBECONFIG` or `~/.kube/config` | a file |
//! | `context` | the current one | a context of the kubeconfig |
//!
//! In a file: `strategy = ["kubernetes://?service=web&namespace=shop"]`.
//!
//! **What a Service should be like.** Headless (`clusterIP: None`) and with `publishNotReadyAddresses: true`, with the
//! mesh's port called `mesh`. Nodes must find each other before their pods are ready, so who is not ready is reported
//! too; `serving=only` changes that. A pod that is ending (`terminating`) is not newly reported. One that was reported
//! stays until the API server removes it, and neither that nor a readiness that flaps ends a connection: a strategy
//! says who is there, and the mesh decides. The condition `ready` of an endpoint is not looked at where `serving` is
//! there: with `publishNotReadyAddresses` it is always true.
//!
//! **What is known of the nodes.** A pod with an IPv4 and an IPv6 address stands in two slices and is one sighting.
//! The label `zone` is the endpoint's zone. What is found of this pod itself is told to this node as its own labels, and
//! this pod is never reported. It knows itself by `POD_UID`, by `POD_NAME` and `POD_NAMESPACE`, or by `POD_IP` and
//! `POD_IPS` with its port: variables that a pod's manifest fills by `fieldRef`; without them by its host name in its
//! own namespace. `node=` is worth it only where the nodes are really named so: a wrong guess is corrected at the
//! first hello.
//!
//! **Permissions.** `list` and `watch` on `endpointslices` of `discovery.k8s.io`, or on `pods` with `from=pods`; with
//! slices and `labels` on both. In each namespace that is watched:
//!
//! ```text
//! kubectl -n shop create role pillion-discovery --verb=list,watch --resource=endpointslices.discovery.k8s.io
//! kubectl -n shop create rolebinding pillion-discovery --role=pillion-discovery --serviceaccount=shop:default
//! ```
//!
//! **What failure looks like.** Whatever fails, the last set stays and is asked for again after a tenth of a second,
//! then twice that, up to half a minute, with certificates, token and kubeconfig read afresh; until then the strategy's
//! health says what happened. *Forbidden*: who may not do what in which namespace, and the commands that allow it.
//! *Not accepted*: the token has expired or its service account is gone. *Away, silent, not readable*: an answer begins
//! within ten seconds or is given up, and one longer than 8 MiB in a piece is not read. *An expired watch* (410) begins
//! again with a list and is no trouble. *No slice*: there is no Service of that name, or nothing it selects. *No such
//! port*: which slice, and the names of its ports. At most 4096 nodes are reported.

mod cluster;
mod fallback;
mod follow;
mod guard;
mod machine;
mod objects;
mod own;
mod pause;
mod review;
mod seen;
mod view;
mod wish;
mod words;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::core::PartialObjectMeta;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

pub use self::machine::follow_pods;
pub use self::review::{Access, Review, review};

use self::cluster::Connect;
use self::fallback::Fallback;
use self::follow::{Follow, News, Place};
use self::objects::{Pod, Slice};
use self::own::Own;
use self::seen::{Entry, Key};
use self::view::view;
use self::wish::{From, Wish};
use crate::list::Resolve;
use crate::options::Url;
use crate::{Announcement, Reporter, Running, Sighting, Strategy, StrategyError, Surroundings};

/// The mesh port where none is written.
const PORT: u16 = 4470;
/// News on their way.
const NEWS_MAX: usize = 64;
/// Most problems told in one sentence of health.
const PROBLEMS_TOLD_MAX: usize = 3;

/// The strategy `kubernetes`. See the [module](self).
pub struct Kubernetes {
    wish: Wish,
    interval: Duration,
    own: Own,
    connect: Connect,
    resolve: Resolve,
}

impl Kubernetes {
    pub(crate) fn from_url(url: &Url, surroundings: &Surroundings) -> Result<Self, StrategyError> {
        let wish = Wish::from_url(url)?;
        let interval = url.duration("interval")?.unwrap_or(surroundings.interval);
        let connect = cluster::connect(wish.kubeconfig.clone(), wish.context.clone());
        Ok(Self { wish, interval, own: Own::here(), connect, resolve: fallback::servers() })
    }

    async fn watch(
        &self,
        announcement: &Announcement,
        reporter: &Reporter,
    ) -> Result<(), StrategyError> {
        let (news, mut heard) = mpsc::channel(NEWS_MAX);
        let mut state = State::new(self, announcement);
        let mut tasks = JoinSet::new();
        for (index, table) in state.tables.iter().enumerate() {
            let follow = Follow {
                connect: self.connect.clone(),
                place: table.asked.clone().map_or(Place::Home, Place::Namespace),
                resource: table.kind.resource(),
                selector: match table.kind {
                    // Whose labels they are is known by the slices only; of one label, who has it is asked for.
                    Kind::Labels => match &self.wish.labels[..] {
                        [(_, label)] => label.clone(),
                        _ => String::new(),
                    },
                    Kind::Slices | Kind::Pods => self.wish.asked(&announcement.mesh),
                },
                fields: String::new(),
                index,
                news: news.clone(),
            };
            let wish = self.wish.clone();
            // What kube logs of an error is told in our words, once.
            let silent = Dispatch::none();
            match table.kind {
                Kind::Slices => tasks.spawn(
                    follow
                        .run::<Slice>(move |slice| seen::in_slice(slice, &wish))
                        .with_subscriber(silent),
                ),
                Kind::Pods => tasks.spawn(
                    follow.run::<Pod>(move |pod| seen::in_pod(pod, &wish)).with_subscriber(silent),
                ),
                Kind::Labels => tasks.spawn(
                    follow
                        .run::<PartialObjectMeta<Pod>>(move |pod| {
                            seen::in_metadata(&pod.metadata, &wish)
                        })
                        .with_subscriber(silent),
                ),
            };
        }
        loop {
            tokio::select! {
                biased;
                Some((index, first)) = heard.recv() => {
                    let mut told = state.on_news(index, first);
                    while let Ok((index, more)) = heard.try_recv() {
                        told |= state.on_news(index, more);
                    }
                    if told {
                        state.report(reporter);
                    }
                }
                () = look(&mut state.fallback) => state.report(reporter),
                // They go on for ever, unless one panicked.
                ended = tasks.join_next() => {
                    return Err(StrategyError::Source(format!("a watch of the API server broke off: {ended:?}")));
                }
            }
        }
    }
}

async fn look(fallback: &mut Option<Fallback>) {
    match fallback {
        Some(fallback) => fallback.look().await,
        None => std::future::pending().await,
    }
}

impl Strategy for Kubernetes {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    fn run<'a>(&'a self, announcement: Announcement, reporter: &'a Reporter) -> Running<'a> {
        Box::pin(async move { self.watch(&announcement, reporter).await })
    }
}

/// What a table is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Slices,
    Pods,
    /// The metadata of pods, for their labels.
    Labels,
}

impl Kind {
    fn resource(self) -> &'static str {
        match self {
            Self::Slices => "endpointslices.discovery.k8s.io",
            Self::Pods | Self::Labels => "pods",
        }
    }
}

/// One kind of object in one namespace, as it was last told.
struct Table {
    kind: Kind,
    asked: Option<String>,
    namespace: String,
    entries: BTreeMap<String, Entry>,
    /// A list that is not whole yet.
    coming: BTreeMap<String, Entry>,
    listed: bool,
    problem: Option<String>,
}

/// Everything that is known, and what follows from it.
struct State<'a> {
    wish: &'a Wish,
    service: Option<String>,
    base: String,
    own: Own,
    tables: Vec<Table>,
    fallback: Option<Fallback>,
    reported: BTreeSet<Key>,
    trouble: Option<String>,
}

impl<'a> State<'a> {
    fn new(strategy: &'a Kubernetes, announcement: &Announcement) -> Self {
        let wish = &strategy.wish;
        let mut namespaces: Vec<Option<String>> =
            wish.namespaces.iter().cloned().map(Some).collect();
        if namespaces.is_empty() {
            namespaces.push(None);
        }
        let kinds: &[Kind] = match (wish.from, wish.labels.is_empty()) {
            (From::Pods, _) => &[Kind::Pods],
            (From::Slices, true) => &[Kind::Slices],
            (From::Slices, false) => &[Kind::Slices, Kind::Labels],
        };
        let tables = kinds.iter().flat_map(|kind| {
            namespaces.iter().map(|namespace| Table {
                kind: *kind,
                asked: namespace.clone(),
                namespace: namespace.clone().unwrap_or_default(),
                entries: BTreeMap::new(),
                coming: BTreeMap::new(),
                listed: false,
                problem: None,
            })
        });
        let mut own = strategy.own.clone();
        own.ports = announcement.listen.iter().map(std::net::SocketAddr::port).collect();
        Self {
            wish,
            service: wish.service(&announcement.mesh),
            base: announcement.node.split('@').next().unwrap_or_default().to_owned(),
            own,
            tables: tables.collect(),
            fallback: wish.dns.clone().map(|(name, port)| {
                Fallback::new(name, port, strategy.interval, strategy.resolve.clone())
            }),
            reported: BTreeSet::new(),
            trouble: None,
        }
    }

    /// Takes news in. True when they may change what is reported.
    fn on_news(&mut self, index: usize, news: News<Entry>) -> bool {
        let Some(table) = self.tables.get_mut(index) else { return false };
        match news {
            News::Connected { namespace, home } => {
                self.own.namespace = self.own.namespace.take().or(home);
                table.namespace = namespace.unwrap_or_default();
                return false;
            }
            News::Begins => {
                table.coming.clear();
                return false;
            }
            News::Listed(name, entry) => {
                table.coming.insert(name, entry);
                return false;
            }
            News::Whole => {
                table.entries = std::mem::take(&mut table.coming);
                table.listed = true;
                table.problem = None;
            }
            News::Put(name, entry) => {
                if table.entries.get(&name) == Some(&entry) {
                    return false;
                }
                table.entries.insert(name, entry);
            }
            News::Gone(name) => return table.entries.remove(&name).is_some(),
            News::Failed(why) => {
                if table.problem.as_ref() == Some(&why) {
                    return false;
                }
                table.problem = Some(why);
            }
        }
        true
    }

    fn report(&mut self, reporter: &Reporter) {
        let away = self.tables.iter().any(|t| t.kind != Kind::Labels && t.problem.is_some());
        if let Some(fallback) = &mut self.fallback {
            fallback.needed(away);
        }
        // Until each has been heard of, half of it would be reported as if it were all.
        if self.tables.iter().any(|table| !table.listed && table.problem.is_none()) {
            return;
        }
        let of = |is: fn(Kind) -> bool| self.tables.iter().filter(move |table| is(table.kind));
        let nodes = of(|kind| kind != Kind::Labels);
        let seen = nodes.clone().flat_map(|table| table.entries.values()).flat_map(|e| &e.seen);
        let labels = of(|kind| kind == Kind::Labels).flat_map(|table| table.entries.values());
        let labels: BTreeMap<(&str, &str), &BTreeMap<String, String>> = labels
            .flat_map(|entry| &entry.seen)
            .filter_map(|seen| {
                Some(((seen.namespace.as_str(), seen.pod.as_deref()?), &seen.labels))
            })
            .collect();
        let view = view(seen, &labels, self.wish, &self.base, &self.own, &self.reported);
        let left_out = view.left_out;
        let mut sightings = view.sightings;
        if let Some(fallback) = self.fallback.as_ref().filter(|_| away) {
            let known: BTreeSet<_> = sightings.iter().flat_map(|s| s.addresses.clone()).collect();
            let new = fallback.addresses.iter().filter(|at| !known.contains(at));
            sightings.extend(new.filter(|at| !self.own.listens_on(at)).map(|at| Sighting {
                addresses: vec![*at],
                source: fallback.source(),
                ..Sighting::default()
            }));
        }
        if let Some(labels) = view.own_labels {
            reporter.own_labels(labels);
        }
        let trouble = self.told(sightings.len(), left_out, away);
        let heard_of = nodes.clone().any(|table| table.listed) || !sightings.is_empty();
        self.reported = view.keys;
        if trouble != self.trouble {
            match &trouble {
                Some(why) => tracing::warn!(strategy = "kubernetes", "{why}"),
                None => tracing::info!(strategy = "kubernetes", "is well again"),
            }
            self.trouble.clone_from(&trouble);
        }
        match trouble {
            None => reporter.visible(sightings),
            Some(why) if heard_of => reporter.visible_but(sightings, why),
            // Of an earlier run.
            Some(why) => reporter.unwell(why),
        }
    }

    /// What is wrong, all in all, and what becomes of it.
    fn told(&self, visible: usize, left_out: usize, away: bool) -> Option<String> {
        let mut problems: Vec<String> = Vec::new();
        for table in &self.tables {
            let notes = table.entries.values().filter_map(|entry| entry.note.clone());
            let empty = (table.listed && table.entries.is_empty() && table.problem.is_none())
                .then(|| self.nothing(table))
                .flatten();
            problems.extend(table.problem.iter().cloned().chain(empty).chain(notes));
        }
        if left_out > 0 {
            problems.push(format!(
                "{left_out} nodes beyond {} are left out: give a narrower selector",
                view::SIGHTINGS_MAX
            ));
        }
        let mut told = BTreeSet::new();
        problems.retain(|problem| told.insert(problem.clone()));
        if problems.is_empty() {
            return None;
        }
        let more = problems.len().saturating_sub(PROBLEMS_TOLD_MAX);
        problems.truncate(PROBLEMS_TOLD_MAX);
        let mut text = problems.join("; ");
        if more > 0 {
            text = format!("{text}; and {more} more");
        }
        if away {
            text = match (&self.fallback, visible) {
                (Some(fallback), _) => format!("{text}. It is tried again; {}", fallback.told()),
                (None, 0) => format!("{text}. It is tried again"),
                (None, 1) => format!("{text}. It is tried again; the node seen last stays"),
                (None, n) => format!("{text}. It is tried again; the {n} nodes seen last stay"),
            };
        }
        Some(text)
    }

    /// Why a list that came whole has nobody in it.
    fn nothing(&self, table: &Table) -> Option<String> {
        let namespace = &table.namespace;
        match (table.kind, &self.service) {
            (Kind::Slices, Some(service)) => Some(format!(
                "there is no EndpointSlice of a Service `{service}` in the namespace {namespace}: check service= and namespace=, and that the Service selects pods"
            )),
            (Kind::Slices, None) => Some(format!(
                "no EndpointSlice in the namespace {namespace} has the labels of selector=: check both"
            )),
            // Nobody else is up yet: no trouble.
            (Kind::Pods | Kind::Labels, _) => None,
        }
    }
}
