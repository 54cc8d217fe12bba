//! One kind of object in one namespace: listed, watched, and begun anew when that fails.

use std::fmt::Debug;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::cluster::Connect;
use super::pause::{Pause, part};
use super::seen::Entry;
use super::words::{Asked, Meaning, meaning};

/// Objects in one answer: a full slice has a thousand endpoints, a pod's text is some ten kilobytes.
const PAGE: u32 = 25;
/// How long a watch lasts before it is asked for anew, and how much sooner chance may end it: nodes that were started
/// together are not to come together.
const WATCH: Duration = Duration::from_secs(290);
const WATCH_SOONER: Duration = Duration::from_secs(50);
/// A watch that went well for so long was no failure.
const LASTED: Duration = Duration::from_secs(30);

/// What a [`Follow`] tells.
#[derive(Debug)]
pub(super) enum News {
    /// It talks to an API server, about this namespace. `home` is the one of this pod, if this is one.
    Connected {
        namespace: String,
        home: Option<String>,
    },
    /// A new list begins; what was known holds until it is whole.
    Begins,
    Listed(String, Entry),
    Whole,
    Put(String, Entry),
    Gone(String),
    /// It cannot go on at the moment, and why.
    Failed(String),
}

/// Where to look, and whom to tell.
pub(super) struct Follow {
    pub(super) connect: Connect,
    /// The one that the client comes with, where none is given.
    pub(super) namespace: Option<String>,
    /// As in a role.
    pub(super) resource: &'static str,
    pub(super) selector: String,
    pub(super) index: usize,
    pub(super) news: mpsc::Sender<(usize, News)>,
}

impl Follow {
    /// Goes on until nobody listens any more.
    pub(super) async fn run<K>(self, read: impl Fn(&K) -> Entry + Send)
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
        read: &(impl Fn(&K) -> Entry + Send),
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
        let cluster = (self.connect)().await?;
        let namespace = self.namespace.clone().unwrap_or_else(|| cluster.namespace.clone());
        let home = cluster.inside.then_some(cluster.namespace);
        let asked =
            Asked { resource: self.resource, namespace: namespace.clone(), url: cluster.url };
        let told = News::Connected { namespace: namespace.clone(), home };
        self.tell(told).await.map_err(|()| ended())?;
        let lasts = (WATCH - part(WATCH_SOONER)).as_secs();
        let config = watcher::Config::default()
            .labels(&self.selector)
            .page_size(PAGE)
            .timeout(u32::try_from(lasts).unwrap_or_default());
        let api: Api<K> = Api::namespaced(cluster.client, &namespace);
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
        read: &(impl Fn(&K) -> Entry + Send),
        asked: &Asked,
        well_since: &mut Option<Instant>,
    ) -> Result<(), String> {
        while let Some(event) = events.next().await {
            let news = match event {
                Ok(Event::Init) => News::Begins,
                Ok(Event::InitApply(object)) => News::Listed(object.name_any(), read(&object)),
                Ok(Event::InitDone) => {
                    well_since.get_or_insert_with(Instant::now);
                    News::Whole
                }
                Ok(Event::Apply(object)) => News::Put(object.name_any(), read(&object)),
                Ok(Event::Delete(object)) => News::Gone(object.name_any()),
                Err(error) => match meaning(&error, asked) {
                    Meaning::Trouble(why) => return Err(why),
                    Meaning::Expired => return Ok(()),
                },
            };
            self.tell(news).await.map_err(|()| ended())?;
        }
        Err("the watch ended".to_owned())
    }

    async fn tell(&self, news: News) -> Result<(), ()> {
        self.news.send((self.index, news)).await.map_err(|_| ())
    }
}

/// Nobody reads it: the strategy was dropped.
fn ended() -> String {
    "nobody listens".to_owned()
}
