//! Patterns by their segments: `*` stands for one segment, a last `>` for one or more.
//!
//! A look-up walks down one level per segment, along the segment itself and along `*`; what it costs does not depend on
//! how many patterns there are beside those ways. The nodes are numbers, and one map has the ways of all of them, so
//! that a hundred thousand patterns cost little more than their texts.

use super::table::PointId;
use crate::router::Map;

/// One level of the patterns that begin alike. Numbers are one more than what they stand for, 0 is none.
#[derive(Debug, Default)]
struct Level {
    /// The level behind `*`.
    any: u32,
    /// The pattern that ends here.
    end: u32,
    /// The pattern that goes on with `>`.
    rest: u32,
    /// How many segments lead on from here.
    ways: u32,
}

impl Level {
    fn is_nothing(&self) -> bool {
        self.any == 0 && self.end == 0 && self.rest == 0 && self.ways == 0
    }
}

/// Every pattern.
#[derive(Debug, Default)]
pub(super) struct Trie {
    levels: Vec<Level>,
    free: Vec<u32>,
    /// From a level by a segment to the next level.
    ways: Map<u32, Map<Box<str>, u32>>,
    patterns: usize,
}

impl Trie {
    pub(super) fn is_empty(&self) -> bool {
        self.patterns == 0
    }

    fn level(&mut self) -> u32 {
        if let Some(level) = self.free.pop() {
            return level;
        }
        self.levels.push(Level::default());
        u32::try_from(self.levels.len() - 1).unwrap_or(u32::MAX)
    }

    fn way(&self, level: u32, segment: &str) -> Option<u32> {
        if self.levels[level as usize].ways == 0 {
            return None;
        }
        self.ways.get(&level)?.get(segment).copied()
    }

    /// Adds a pattern.
    pub(super) fn insert(&mut self, pattern: &str, point: PointId) {
        if self.levels.is_empty() {
            self.levels.push(Level::default());
        }
        self.patterns += 1;
        let mut at = 0;
        for segment in pattern.split('.') {
            if segment == ">" {
                self.levels[at as usize].rest = point + 1;
                return;
            }
            if segment == "*" {
                if self.levels[at as usize].any == 0 {
                    let next = self.level();
                    self.levels[at as usize].any = next + 1;
                }
                at = self.levels[at as usize].any - 1;
                continue;
            }
            at = match self.way(at, segment) {
                Some(next) => next,
                None => {
                    let next = self.level();
                    self.ways.entry(at).or_default().insert(segment.into(), next);
                    self.levels[at as usize].ways += 1;
                    next
                }
            };
        }
        self.levels[at as usize].end = point + 1;
    }

    /// Which pattern this is, letter for letter.
    pub(super) fn get(&self, pattern: &str) -> Option<PointId> {
        if self.levels.is_empty() {
            return None;
        }
        let mut at = 0;
        for segment in pattern.split('.') {
            match segment {
                ">" => return self.levels[at as usize].rest.checked_sub(1),
                "*" => at = self.levels[at as usize].any.checked_sub(1)?,
                _ => at = self.way(at, segment)?,
            }
        }
        self.levels[at as usize].end.checked_sub(1)
    }

    /// Takes a pattern out, and the levels that nothing else needs.
    pub(super) fn remove(&mut self, pattern: &str) {
        let mut passed: Vec<(u32, &str)> = Vec::new();
        let mut at = 0;
        for segment in pattern.split('.') {
            if segment == ">" {
                self.levels[at as usize].rest = 0;
                passed.push((at, segment));
                break;
            }
            let next = match segment {
                "*" => self.levels[at as usize].any.checked_sub(1),
                _ => self.way(at, segment),
            };
            let Some(next) = next else { return };
            passed.push((at, segment));
            at = next;
        }
        if passed.last().is_none_or(|(_, segment)| *segment != ">") {
            self.levels[at as usize].end = 0;
        }
        self.patterns -= 1;
        if self.patterns == 0 {
            *self = Self::default();
            return;
        }
        while let Some((before, segment)) = passed.pop() {
            if segment == ">" {
                at = before;
                continue;
            }
            if !self.levels[at as usize].is_nothing() {
                return;
            }
            self.free.push(at);
            if segment == "*" {
                self.levels[before as usize].any = 0;
            } else {
                self.levels[before as usize].ways -= 1;
                if let Some(ways) = self.ways.get_mut(&before) {
                    ways.remove(segment);
                    if ways.is_empty() {
                        self.ways.remove(&before);
                    }
                }
            }
            at = before;
        }
    }

    /// Adds every pattern that a topic matches. How many levels were looked at.
    pub(super) fn collect(&self, topic: &str, found: &mut Vec<PointId>) -> usize {
        if self.patterns == 0 { 0 } else { self.collect_below(0, Some(topic), found) }
    }

    fn collect_below(&self, at: u32, topic: Option<&str>, found: &mut Vec<PointId>) -> usize {
        let level = &self.levels[at as usize];
        let Some(topic) = topic else {
            found.extend(level.end.checked_sub(1));
            return 1;
        };
        let mut looked = 1;
        found.extend(level.rest.checked_sub(1));
        let (segment, rest) = match topic.split_once('.') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (topic, None),
        };
        if let Some(any) = level.any.checked_sub(1) {
            looked += self.collect_below(any, rest, found);
        }
        if let Some(next) = self.way(at, segment) {
            looked += self.collect_below(next, rest, found);
        }
        looked
    }
}

/// Whether a topic matches a pattern: what the trie finds, one at a time.
pub(super) fn matches(pattern: &str, topic: &str) -> bool {
    let (mut pattern, mut topic) = (pattern.split('.'), topic.split('.'));
    loop {
        match (pattern.next(), topic.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(trie: &Trie, topic: &str) -> Vec<PointId> {
        let mut found = Vec::new();
        trie.collect(topic, &mut found);
        found.sort_unstable();
        found
    }

    #[test]
    fn a_star_is_one_segment_and_a_last_angle_one_or_more() {
        let mut trie = Trie::default();
        for (number, pattern) in (0..).zip(["a.*", "a.>", ">", "*.b", "a.*.c", "*"]) {
            trie.insert(pattern, number);
        }
        assert_eq!(found(&trie, "a"), [2, 5]);
        assert_eq!(found(&trie, "a.b"), [0, 1, 2, 3]);
        assert_eq!(found(&trie, "a.b.c"), [1, 2, 4]);
        assert_eq!(found(&trie, "x.y.z"), [2]);
        assert_eq!(trie.get("a.*"), Some(0));
        assert_eq!(trie.get("a.b"), None);
    }

    #[test]
    fn a_trie_that_is_emptied_keeps_no_level() {
        let mut trie = Trie::default();
        trie.insert("a.b.>", 1);
        trie.insert("a.*.c", 2);
        trie.remove("a.b.>");
        assert_eq!(found(&trie, "a.b.c"), [2]);
        assert_eq!(trie.levels.len() - trie.free.len(), 4);
        trie.remove("a.*.c");
        assert!(trie.is_empty() && trie.levels.is_empty() && trie.ways.is_empty());
    }

    proptest! {
        #[test]
        fn the_trie_finds_what_each_pattern_by_itself_matches(
            patterns in proptest::collection::btree_set("[ab*](\\.[ab*]){0,3}(\\.>)?|>", 1..20),
            gone in proptest::collection::vec(any::<bool>(), 20),
            topic in "[abc](\\.[abc]){0,4}",
        ) {
            let mut trie = Trie::default();
            let patterns: Vec<String> = patterns.into_iter().collect();
            for (number, pattern) in (0..).zip(&patterns) {
                trie.insert(pattern, number);
            }
            let mut left = Vec::new();
            for ((number, pattern), gone) in (0..).zip(&patterns).zip(gone) {
                if gone {
                    trie.remove(pattern);
                } else if matches(pattern, &topic) {
                    left.push(number);
                }
            }
            prop_assert_eq!(found(&trie, &topic), left);
        }
    }
}
