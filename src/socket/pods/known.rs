//! The pods of this machine, as far as the API server has told of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use pillion_strategies::pods::{MachinePod, PodNews, workload};

use super::cgroup::Mark;
use crate::wire::pod::Pod;

/// Most pods that are known: a kubelet runs some hundreds.
const PODS_MAX: usize = 4096;

/// A pod that may come, and the connections of its apps.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) pod: Arc<Pod>,
    /// Held by each of its connections.
    pub(super) seats: Arc<()>,
    marks: Vec<Mark>,
    /// It is known by the uid of its own, not by what stands for one.
    uid: Mark,
}

impl Entry {
    /// `seats` of an earlier word of the same pod are those of this one.
    fn of(pod: MachinePod, before: Option<&Entry>) -> Self {
        let uid = Mark::Pod(pod.uid);
        let marks = pod.hash.into_iter().map(Mark::Pod);
        let marks = marks.chain(pod.containers.into_iter().map(Mark::Container)).collect();
        let app = pod.app.unwrap_or_else(|| workload(&pod.name).to_owned());
        let same = before.filter(|before| before.uid == uid);
        Self {
            seats: same.map(|before| Arc::clone(&before.seats)).unwrap_or_default(),
            pod: Arc::new(Pod {
                namespace: pod.namespace.into(),
                name: pod.name.into(),
                account: pod.account.into(),
                app: app.into(),
            }),
            marks,
            uid,
        }
    }
}

/// The pods of this machine.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// By `namespace/name`.
    pods: BTreeMap<String, Entry>,
    /// A list that is not whole yet.
    coming: BTreeMap<String, Entry>,
    listed: bool,
    problem: Option<String>,
}

impl Known {
    /// Takes news in. True when who waits for a pod should look again.
    pub(super) fn hears(&mut self, news: PodNews) -> bool {
        match news {
            PodNews::Begins => {
                self.coming.clear();
                false
            }
            PodNews::Listed(name, pod) => {
                let entry = Entry::of(pod, self.pods.get(&name));
                if self.coming.len() < PODS_MAX {
                    self.coming.insert(name, entry);
                }
                false
            }
            PodNews::Whole => {
                self.pods = std::mem::take(&mut self.coming);
                (self.listed, self.problem) = (true, None);
                true
            }
            PodNews::Put(name, pod) => {
                let entry = Entry::of(pod, self.pods.get(&name));
                if self.pods.len() < PODS_MAX || self.pods.contains_key(&name) {
                    self.pods.insert(name, entry);
                }
                true
            }
            PodNews::Gone(name) => {
                self.pods.remove(&name);
                false
            }
            PodNews::Failed(why) => {
                self.problem = Some(why);
                false
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.pods.len()
    }

    /// Why the API server does not tell of pods now, or that it has not yet.
    pub(super) fn problem(&self) -> Option<&str> {
        let not_yet = (!self.listed).then_some("the API server has not answered yet");
        self.problem.as_deref().or(not_yet)
    }

    /// The pod that has one of these marks, the first one counting most. What a pod is called beside its uid, by what its
    /// manifest says, gives it no other's.
    pub(super) fn find(&self, marks: &[Mark]) -> Option<&Entry> {
        marks.iter().find_map(|mark| {
            let own = self.pods.values().find(|entry| entry.uid == *mark);
            own.or_else(|| self.pods.values().find(|entry| entry.marks.contains(mark)))
        })
    }
}
