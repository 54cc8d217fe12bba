//! The objects of one kind as a watch tells them, and as we have written them since.

use std::collections::{BTreeMap, VecDeque};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource;
use kube::runtime::watcher::Event;

use super::objects::{MeshService, NodeZone, PodSeen};

/// Most objects of one kind. A cluster has 150 000 pods at most, and few of them are in a mesh of 4096 nodes.
const OBJECTS_MAX: usize = 50_000;
/// Most writes of one object that its watch has not told yet.
const UNTOLD_MAX: usize = 64;

/// Namespace and name.
type Key = (String, String);

/// What is kept of an object.
pub(super) trait Kept: Resource<DynamicType = ()> {
    /// Leaves out what nobody looks at.
    fn lean(&mut self) {
        let meta = self.meta_mut();
        meta.managed_fields = None;
        meta.annotations = None;
    }

    /// Whether a change to `other` may change what is written.
    fn is_news(&self, other: &Self) -> bool {
        self.meta().resource_version != other.meta().resource_version
    }
}

impl Kept for PodSeen {
    fn is_news(&self, other: &Self) -> bool {
        let of = |pod: &Self| {
            let meta = &pod.metadata;
            (meta.uid.clone(), meta.labels.clone(), meta.deletion_timestamp.is_some())
        };
        self.spec != other.spec || self.status != other.status || of(self) != of(other)
    }
}

impl Kept for NodeZone {
    fn is_news(&self, other: &Self) -> bool {
        self.zone != other.zone
    }
}

impl Kept for MeshService {}
impl Kept for EndpointSlice {}

/// Every object of a kind, once the first list was whole.
#[derive(Debug)]
pub(super) struct Watched<K> {
    objects: BTreeMap<Key, K>,
    /// A list that is not whole yet.
    coming: BTreeMap<Key, K>,
    whole: bool,
    /// The versions that we have written and the watch has not told.
    untold: BTreeMap<Key, VecDeque<String>>,
}

impl<K> Default for Watched<K> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            coming: BTreeMap::new(),
            whole: false,
            untold: BTreeMap::new(),
        }
    }
}

impl<K: Kept> Watched<K> {
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &K> {
        self.objects.values()
    }

    /// Goes on as if there were none.
    pub(super) fn without(&mut self) {
        self.whole = true;
    }

    /// Takes news in. True when they may change what is written.
    pub(super) fn on(&mut self, event: Event<K>) -> Result<bool, String> {
        match event {
            Event::Init => self.coming.clear(),
            Event::InitApply(mut object) => {
                object.lean();
                let key = key(&object);
                bounded(&self.coming, &key)?;
                self.coming.insert(key, object);
            }
            Event::InitDone => {
                self.objects = std::mem::take(&mut self.coming);
                self.untold.clear();
                self.whole = true;
                return Ok(true);
            }
            Event::Apply(mut object) => {
                object.lean();
                let key = key(&object);
                if self.is_stale(&key, object.meta().resource_version.as_deref()) {
                    return Ok(false);
                }
                bounded(&self.objects, &key)?;
                let news = self.objects.get(&key).is_none_or(|known| known.is_news(&object));
                self.objects.insert(key, object);
                return Ok(news);
            }
            Event::Delete(object) => {
                let key = key(&object);
                self.untold.remove(&key);
                return Ok(self.objects.remove(&key).is_some());
            }
        }
        Ok(false)
    }

    /// Whether this is what we have written ourselves, or what was so before.
    fn is_stale(&mut self, key: &Key, version: Option<&str>) -> bool {
        let Some(untold) = self.untold.get_mut(key) else { return false };
        let Some(at) = untold.iter().position(|ours| Some(ours.as_str()) == version) else {
            // Somebody else has written it.
            self.untold.remove(key);
            return false;
        };
        untold.drain(..=at);
        let newer = !untold.is_empty();
        if !newer {
            self.untold.remove(key);
        }
        newer
    }

    /// Takes in what the API server answered to a write.
    pub(super) fn wrote(&mut self, mut object: K) {
        object.lean();
        let key = key(&object);
        if let Some(version) = object.meta().resource_version.clone() {
            let untold = self.untold.entry(key.clone()).or_default();
            untold.push_back(version);
            if untold.len() > UNTOLD_MAX {
                untold.pop_front();
            }
        }
        self.objects.insert(key, object);
    }
}

fn key<K: Kept>(object: &K) -> Key {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// Whether there is room for one more, unless it is there.
fn bounded<K>(objects: &BTreeMap<Key, K>, key: &Key) -> Result<(), String> {
    if objects.len() < OBJECTS_MAX || objects.contains_key(key) {
        return Ok(());
    }
    Err(format!("there are more than {OBJECTS_MAX} of a kind, which is more than is kept"))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn slice(name: &str, version: &str) -> EndpointSlice {
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            resource_version: Some(version.to_owned()),
            ..ObjectMeta::default()
        };
        EndpointSlice { metadata, ..EndpointSlice::default() }
    }

    fn versions(watched: &Watched<EndpointSlice>) -> Vec<&str> {
        watched.all().filter_map(|slice| slice.metadata.resource_version.as_deref()).collect()
    }

    #[test]
    fn a_list_counts_when_it_is_whole_and_replaces_what_was_known() {
        let mut watched = Watched::default();
        watched.on(Event::Init).expect("fine");
        assert!(!watched.on(Event::InitApply(slice("a", "1"))).expect("fine"));
        assert!(!watched.is_whole() && watched.all().next().is_none());
        assert!(watched.on(Event::InitDone).expect("fine") && watched.is_whole());
        assert_eq!(versions(&watched), ["1"]);
        watched.on(Event::Init).expect("fine");
        watched.on(Event::InitApply(slice("b", "5"))).expect("fine");
        assert_eq!(versions(&watched), ["1"], "what was known holds until then");
        watched.on(Event::InitDone).expect("fine");
        assert_eq!(versions(&watched), ["5"]);
        assert!(watched.on(Event::Delete(slice("b", "6"))).expect("fine"));
        assert!(!watched.on(Event::Delete(slice("b", "6"))).expect("fine"));
    }

    #[test]
    fn no_more_objects_are_kept_than_there_is_room_for_and_those_that_are_go_on_changing() {
        let (mut listed, mut watched) = (Watched::default(), Watched::default());
        listed.on(Event::Init).expect("fine");
        for number in 0..OBJECTS_MAX {
            let name = number.to_string();
            listed.on(Event::InitApply(slice(&name, "1"))).expect("there is room");
            watched.on(Event::Apply(slice(&name, "1"))).expect("there is room");
        }
        assert!(listed.on(Event::InitApply(slice("more", "1"))).is_err());
        assert!(watched.on(Event::Apply(slice("more", "1"))).is_err());
        listed.on(Event::InitDone).expect("fine");
        for mut all in [listed, watched] {
            assert_eq!(all.all().count(), OBJECTS_MAX);
            assert!(all.on(Event::Apply(slice("7", "2"))).expect("it is there"));
        }
    }

    #[test]
    fn what_we_wrote_is_not_undone_by_what_the_watch_tells_late() {
        let mut watched = Watched::default();
        watched.wrote(slice("a", "10"));
        watched.wrote(slice("a", "12"));
        assert!(!watched.on(Event::Apply(slice("a", "10"))).expect("fine"));
        assert_eq!(versions(&watched), ["12"]);
        assert!(!watched.on(Event::Apply(slice("a", "12"))).expect("fine"), "that is no news");
        assert!(watched.on(Event::Apply(slice("a", "15"))).expect("fine"), "somebody else's is");
        assert_eq!(versions(&watched), ["15"]);
        watched.wrote(slice("a", "16"));
        assert!(watched.on(Event::Apply(slice("a", "20"))).expect("fine"));
        assert_eq!(versions(&watched), ["20"]);
    }
}
