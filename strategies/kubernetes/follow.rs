//! One kind of object, in one namespace or in all: listed, watched, and begun anew when that fails.

use std::fmt::Debug;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::cluster::Connect;
use super::pause::{Pause, part};
use super::words::{Asked, Meaning, meaning};

/// Objects in one answer: a full slice has a thousand endpoints, a pod's text is some ten kilobytes.
const PAGE: u32 = 25;
/// How long a watch lasts before it is asked for anew, and how much sooner chance may end it: nodes that were started
/// together are not to come together.
const WATCH: Duration = Duration::from_secs(290);
const WATCH_SOONER: Duration = Duration::from_secs(50);
/// How long making a client may take without being told: a kubeconfig may name a program to get a token with.
const CONNECT: Duration = Duration::from_secs(20);
/// A watch that went well for so long was no failure.
const LASTED: Duration = Duration::from_secs(30);

/// Where objects are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the namespace that the client comes with.
    Home,
    /// In this one.
    Namespace(String),
    /// In all of them.
    Everywhere,
}

/// What a [`Follow`] tells, of objects that are read as `T`. Each goes by its name, which is `namespace/name` where it was looked
/// for everywhere.
#[derive(Debug)]
pub(super) enum News<T> {
    /// It talks to an API server, about this namespace; none is all of them. `home` is the one of this pod, if this is one.
    Connected {
        namespace: Option<String>,
        home: Option<String>,
    },
    /// A new list begins; what was known holds until it is whole.
    Begins,
    Listed(String, T),
    Whole,
    Put(String, T),
    Gone(String),
    /// It cannot go on at the moment, and why.
    Failed(String),
}

/// Where to look, and whom to tell.
pub(super) struct Follow<T> {
    pub(super) connect: Connect,
    pub(super) place: Place,
    /// As in a role.
    pub(super) resource: &'static str,
    /// By labels.
    pub(super) selector: String,
    /// By fields.
    pub(super) fields: String,
    pub(super) index: usize,
    pub(super) news: mpsc::Sender<(usize, News<T>)>,
}

impl<T: Send> Follow<T> {
    /// Goes on until nobody listens any more.
    pub(super) async fn run<K>(self, read: impl Fn(&K) -> T + Send)
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let mut pause = Pause::new();
        loop {
            let mut well_since = None;
            let Err(why) = self.session::<K>(&read, &mut well_since).await;
            if self.tell(News::Failed(why)).await.is_err() {
                return;
            }
            if well_since.is_some_and(|since: Instant| since.elapsed() >= LASTED) {
                pause = Pause::new();
            }
            sleep(pause.next()).await;
        }
    }

    /// One client for as long as it works. Each has read token, certificates and kubeconfig afresh.
    async fn session<K>(
        &self,
        read: &(impl Fn(&K) -> T + Send),
        well_since: &mut Option<Instant>,
    ) -> Result<std::convert::Infallible, String>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let mut connecting = pin!((self.connect)());
        let cluster = match timeout(CONNECT, &mut connecting).await {
            Ok(cluster) => cluster?,
            Err(_) => {
                // Another try would start another program.
                let why = format!(
                    "what the kubeconfig names to get a token has not ended within {} s: run `kubectl get {}` by hand to see what it asks for",
                    CONNECT.as_secs(),
                    self.resource.split('.').next().unwrap_or_default()
                );
                self.tell(News::Failed(why)).await.map_err(|()| ended())?;
                connecting.await?
            }
        };
        let namespace = match &self.place {
            Place::Home => Some(cluster.namespace.clone()),
            Place::Namespace(namespace) => Some(namespace.clone()),
            Place::Everywhere => None,
        };
        let home = cluster.inside.then_some(cluster.namespace);
        let asked =
            Asked { resource: self.resource, namespace: namespace.clone(), url: cluster.url };
        let told = News::Connected { namespace: namespace.clone(), home };
        self.tell(told).await.map_err(|()| ended())?;
        let lasts = (WATCH - part(WATCH_SOONER)).as_secs();
        let config = watcher::Config::default()
            .labels(&self.selector)
            .fields(&self.fields)
            .page_size(PAGE)
            .timeout(u32::try_from(lasts).unwrap_or_default());
        let api: Api<K> = match &namespace {
            Some(namespace) => Api::namespaced(cluster.client, namespace),
            None => Api::all(cluster.client),
        };
        let mut expired = Pause::new();
        loop {
            let events = pin!(watcher(api.clone(), config.clone()));
            let began = Instant::now();
            self.listen(events, read, &asked, well_since).await?;
            if began.elapsed() >= LASTED {
                expired = Pause::new();
            }
            // It has expired. Where the question itself was refused as expired, kube's watcher would ask it for ever.
            sleep(expired.next()).await;
        }
    }

    /// Tells what happens until the history is gone that the watch would have to go on from.
    async fn listen<K: ResourceExt>(
        &self,
        mut events: Pin<&mut (impl Stream<Item = watcher::Result<Event<K>>> + Send)>,
        read: &(impl Fn(&K) -> T + Send),
        asked: &Asked,
        well_since: &mut Option<Instant>,
    ) -> Result<(), String> {
        while let Some(event) = events.next().await {
            let news = match event {
                Ok(Event::Init) => News::Begins,
                Ok(Event::InitApply(object)) => News::Listed(self.name(&object), read(&object)),
                Ok(Event::InitDone) => {
                    well_since.get_or_insert_with(Instant::now);
                    News::Whole
                }
                Ok(Event::Apply(object)) => News::Put(self.name(&object), read(&object)),
                Ok(Event::Delete(object)) => News::Gone(self.name(&object)),
                Err(error) => match meaning(&error, asked) {
                    Meaning::Trouble(why) => return Err(why),
                    Meaning::Expired => return Ok(()),
                },
            };
            self.tell(news).await.map_err(|()| ended())?;
        }
        Err("the watch ended".to_owned())
    }

    /// By which it is told apart from others that are followed.
    fn name(&self, object: &impl ResourceExt) -> String {
        let name = object.name_any();
        match (&self.place, object.namespace()) {
            (Place::Everywhere, Some(namespace)) => format!("{namespace}/{name}"),
            _ => name,
        }
    }

    async fn tell(&self, news: News<T>) -> Result<(), ()> {
        self.news.send((self.index, news)).await.map_err(|_| ())
    }
}

/// Nobody reads it: the strategy was dropped.
fn ended() -> String {
    "nobody listens".to_owned()
}
