//! How much is published, topic by topic, where the configuration asks for that.
//!
//! The topics that are published to first have a count each; all others have one together, which is called `other`. So their
//! number has a bound, and a count never ends or begins anew.

use std::sync::Arc;

use crate::router::{Map, Router, SLICE};

/// Where what is published comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::router) enum From {
    /// An app here.
    Here,
    /// Another node.
    There,
}

/// What those count together that have no count of their own.
pub const OTHER: &str = "other";

/// What was published to one topic: by apps here, and by other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicCount {
    /// The topic, or [`OTHER`].
    pub topic: Arc<str>,
    /// By apps here.
    pub here: u64,
    /// By other nodes, as far as somebody here has subscribed.
    pub there: u64,
}

/// The counts of topics.
#[derive(Debug)]
pub(in crate::router) struct Counted {
    most: usize,
    places: Map<Arc<str>, usize>,
    /// That of all others stands first.
    counts: Vec<TopicCount>,
}

impl Counted {
    pub(in crate::router) fn new(most: usize) -> Self {
        let other = TopicCount { topic: OTHER.into(), ..TopicCount::default() };
        let places = Map::from_iter([(Arc::clone(&other.topic), 0)]);
        Self { most, places, counts: vec![other] }
    }

    fn note(&mut self, topic: &str, from: From) {
        let place = match self.places.get(topic) {
            Some(place) => *place,
            None if self.counts.len() <= self.most => {
                let topic: Arc<str> = topic.into();
                self.counts.push(TopicCount { topic: Arc::clone(&topic), ..TopicCount::default() });
                self.places.insert(topic, self.counts.len() - 1);
                self.counts.len() - 1
            }
            None => 0,
        };
        let Some(count) = self.counts.get_mut(place) else { return };
        match from {
            From::Here => count.here += 1,
            From::There => count.there += 1,
        }
    }
}

impl super::Topics {
    /// Something has been published.
    pub(in crate::router) fn published(&mut self, topic: &str, from: From) {
        if let Some(counted) = &mut self.counted {
            counted.note(topic, from);
        }
    }
}

impl Router {
    /// Goes on listing what was published by topic, at one slice of them. False when all are listed, or none are counted.
    pub fn list_counted_topics(&self, listed: &mut Vec<TopicCount>) -> bool {
        let Some(counted) = &self.topics.counted else { return false };
        listed.extend(counted.counts.iter().skip(listed.len()).take(SLICE).cloned());
        listed.len() < counted.counts.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_topics_are_counted_one_by_one_and_the_others_together() {
        let mut counted = Counted::new(2);
        for topic in ["a.b", "c", "a.b", "d", "other", "e", "c"] {
            counted.note(topic, From::Here);
        }
        counted.note("a.b", From::There);
        counted.note("f", From::There);
        let counts: Vec<_> =
            counted.counts.iter().map(|count| (&*count.topic, count.here, count.there)).collect();
        assert_eq!(counts, [("other", 3, 1), ("a.b", 2, 1), ("c", 2, 0)]);
    }

    #[test]
    fn many_counts_are_listed_in_slices() {
        use crate::router::Limits;
        use crate::wire::id::{Incarnation, Node};
        let me = Node { name: "a@h".parse().expect("a name"), incarnation: Incarnation(1) };
        let limits = Limits { counted_topics: 3 * SLICE, ..Limits::default() };
        let mut router = Router::new(me.clone(), limits);
        for number in 0..2 * SLICE {
            router.topics.published(&format!("t.{number}"), From::Here);
        }
        let (mut listed, mut slices) = (Vec::new(), 1);
        while router.list_counted_topics(&mut listed) {
            slices += 1;
        }
        assert_eq!((slices, listed.len()), (3, 2 * SLICE + 1));
        let mut none = Vec::new();
        assert!(!Router::new(me, Limits::default()).list_counted_topics(&mut none));
        assert!(none.is_empty());
    }
}
