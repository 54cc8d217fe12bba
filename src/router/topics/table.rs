//! Who has subscribed to what, here and at which peers.

use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::trie::Trie;
use crate::router::Map;
use crate::router::peers::PeerId;

/// The number of a topic or pattern that somebody has subscribed to, for as long as somebody has.
pub(in crate::router) type PointId = u32;
/// The number of a queue group at one of them.
pub(in crate::router) type QueueId = u32;

/// How many levels of the trie are one entry of a hold of the lock.
const LEVELS: usize = 16;
/// Longest topic, in bytes, and most segments.
const TOPIC_BYTES_MAX: usize = 255;
const SEGMENTS_MAX: usize = 32;

/// What a text that is subscribed or published to is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::router) enum Text {
    Topic,
    Pattern,
}

/// Whether a text is what most topics are: printable ASCII without wildcards. It is looked at for every message whose
/// topic is not that of the one before.
fn is_plain(text: &str) -> bool {
    let (mut segments, mut before) = (1, b'.');
    for &byte in text.as_bytes() {
        match byte {
            b'.' if before == b'.' => return false,
            b'.' => segments += 1,
            b'*' | b'>' => return false,
            _ if !byte.is_ascii_graphic() => return false,
            _ => {}
        }
        before = byte;
    }
    before != b'.' && segments <= SEGMENTS_MAX && text.len() <= TOPIC_BYTES_MAX
}

/// What a topic or pattern is, or why it is none.
pub(in crate::router) fn check_topic(text: &str) -> Result<Text, String> {
    if is_plain(text) {
        return Ok(Text::Topic);
    }
    let shown = || text.chars().take(80).collect::<String>();
    if !(1..=TOPIC_BYTES_MAX).contains(&text.len())
        || text.chars().any(|c| c.is_whitespace() || c.is_control())
    {
        return Err(format!(
            "`{}` is no topic: 1 to {TOPIC_BYTES_MAX} bytes without spaces and control characters",
            shown()
        ));
    }
    let mut pattern = false;
    let mut left = text.split('.').count();
    if left > SEGMENTS_MAX {
        return Err(format!("`{}` has more than {SEGMENTS_MAX} segments", shown()));
    }
    for segment in text.split('.') {
        left -= 1;
        match segment {
            "" => {
                return Err(format!("`{}` has an empty segment between its dots", shown()));
            }
            "*" => pattern = true,
            ">" if left == 0 => pattern = true,
            _ if segment.contains(['*', '>']) => {
                return Err(format!(
                    "in `{}` a wildcard is not alone: `*` is a whole segment, `>` the whole last one",
                    shown()
                ));
            }
            _ => {}
        }
    }
    Ok(if pattern { Text::Pattern } else { Text::Topic })
}

/// A process and how often it has subscribed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) serial: u64,
    /// 0 for one that has left.
    pub(super) times: u32,
}

/// Processes here, by serial. Those that leave stay in place until they are half of all, so that fifty thousand of them
/// leave one after the other in no time.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// Most have one, who needs no piece of memory of its own.
    list: SmallVec<[Member; 1]>,
    gone: u32,
    times: u32,
}

impl Members {
    pub(super) fn is_empty(&self) -> bool {
        self.times == 0
    }

    /// How many subscriptions there are.
    pub(super) fn subscriptions(&self) -> u32 {
        self.times
    }

    /// How many places there are; [`Members::at`] says who has one.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn at(&self, place: usize) -> Option<Member> {
        self.list.get(place).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Member> {
        self.list.iter().copied().filter(|member| member.times > 0)
    }

    /// How often a process has subscribed.
    pub(super) fn times_of(&self, serial: u64) -> u32 {
        let place = self.list.binary_search_by_key(&serial, |member| member.serial);
        place.map_or(0, |place| self.list[place].times)
    }

    pub(super) fn add(&mut self, serial: u64) {
        self.times += 1;
        match self.list.last_mut() {
            Some(last) if last.serial == serial && last.times > 0 => last.times += 1,
            Some(last) if last.serial < serial => self.list.push(Member { serial, times: 1 }),
            None => self.list.push(Member { serial, times: 1 }),
            Some(_) => match self.list.binary_search_by_key(&serial, |member| member.serial) {
                Ok(place) => {
                    let member = &mut self.list[place];
                    self.gone -= u32::from(member.times == 0);
                    member.times += 1;
                }
                Err(place) => self.list.insert(place, Member { serial, times: 1 }),
            },
        }
    }

    /// All subscriptions of a process. How many there were.
    pub(super) fn remove(&mut self, serial: u64) -> u32 {
        let place = self.list.binary_search_by_key(&serial, |member| member.serial);
        let Ok(place) = place else { return 0 };
        let times = std::mem::take(&mut self.list[place].times);
        if times > 0 {
            self.times -= times;
            self.gone += 1;
            if self.gone as usize * 2 > self.list.len() {
                self.list.retain(|member| member.times > 0);
                self.gone = 0;
                if self.list.capacity() > 4 * self.list.len() + 16 {
                    self.list.shrink_to_fit();
                }
            }
        }
        times
    }
}

/// Peers in order; one or two take no more room than none.
pub(super) type Peers = SmallVec<[PeerId; 2]>;

/// A queue group at a topic or pattern.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) id: QueueId,
    pub(super) here: Members,
    pub(super) there: Peers,
    /// Whose turn it is.
    pub(super) turn: usize,
}

/// A topic or pattern that somebody has subscribed to.
#[derive(Debug)]
pub(super) struct Point {
    pub(super) text: Arc<str>,
    pub(super) here: Members,
    pub(super) there: Peers,
    #[allow(clippy::box_collection, reason = "most have none, and there may be a million of them")]
    pub(super) queues: Option<Box<BTreeMap<Arc<str>, Queue>>>,
}

impl Point {
    fn is_nothing(&self) -> bool {
        self.here.is_empty() && self.there.is_empty() && self.queues.is_none()
    }

    pub(super) fn queue(&self, group: &str) -> Option<&Queue> {
        self.queues.as_ref()?.get(group)
    }

    pub(super) fn queues(&self) -> impl Iterator<Item = (&Arc<str>, &Queue)> {
        self.queues.iter().flat_map(|queues| queues.iter())
    }

    /// How many subscriptions there are here.
    pub(super) fn subscriptions(&self) -> u64 {
        let queues = self.queues().map(|(_, queue)| u64::from(queue.here.subscriptions()));
        u64::from(self.here.subscriptions()) + queues.sum::<u64>()
    }

    /// The peers that have subscribed in any way.
    pub(super) fn peers(&self) -> impl Iterator<Item = PeerId> {
        let queues = self.queues().flat_map(|(_, queue)| queue.there.iter());
        self.there.iter().chain(queues).copied()
    }
}

/// Every topic and pattern that somebody has subscribed to.
#[derive(Debug, Default)]
pub(super) struct Table {
    texts: Map<Arc<str>, PointId>,
    trie: Trie,
    points: Vec<Option<Point>>,
    free: Vec<PointId>,
    /// The topic or pattern of each queue group, and its name.
    queues: Vec<Option<(PointId, Arc<str>)>>,
    free_queues: Vec<QueueId>,
    /// Changes whenever a topic may lead elsewhere than before: to other points, processes or peers.
    changes: u64,
}

impl Table {
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// One more than the highest number of a point.
    pub(super) fn end(&self) -> PointId {
        u32::try_from(self.points.len()).unwrap_or(u32::MAX)
    }

    /// How many points there are.
    pub(super) fn len(&self) -> usize {
        self.points.len() - self.free.len()
    }

    pub(super) fn get(&self, id: PointId) -> Option<&Point> {
        self.points.get(id as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: PointId) -> Option<&mut Point> {
        self.changes += 1;
        self.points.get_mut(id as usize)?.as_mut()
    }

    pub(super) fn find(&self, text: &str, kind: Text) -> Option<PointId> {
        match kind {
            Text::Topic => self.texts.get(text).copied(),
            Text::Pattern => self.trie.get(text),
        }
    }

    pub(super) fn find_or_add(&mut self, text: &str, kind: Text) -> PointId {
        if let Some(id) = self.find(text, kind) {
            return id;
        }
        self.changes += 1;
        let text: Arc<str> = text.into();
        let point = Point {
            text: Arc::clone(&text),
            here: Members::default(),
            there: Peers::new(),
            queues: None,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.points[id as usize] = Some(point);
                id
            }
            None => {
                self.points.push(Some(point));
                self.end() - 1
            }
        };
        match kind {
            Text::Topic => {
                self.texts.insert(text, id);
            }
            Text::Pattern => self.trie.insert(&text, id),
        }
        id
    }

    /// Forgets a point that nobody has subscribed to any more.
    pub(super) fn tidy(&mut self, id: PointId) {
        if self.get(id).is_none_or(|point| !point.is_nothing()) {
            return;
        }
        let Some(point) = self.points[id as usize].take() else { return };
        self.changes += 1;
        if check_topic(&point.text) == Ok(Text::Pattern) {
            self.trie.remove(&point.text);
        } else {
            self.texts.remove(&point.text);
        }
        self.free.push(id);
        if self.free.len() == self.points.len() {
            // What was grown for many is given back when all of them have gone.
            *self = Self { changes: self.changes, ..Self::default() };
        }
    }

    /// A queue group at a point, made where there is none.
    pub(super) fn queue_mut(&mut self, id: PointId, group: &str) -> Option<&mut Queue> {
        self.changes += 1;
        let point = self.points.get_mut(id as usize)?.as_mut()?;
        let queues = point.queues.get_or_insert_default();
        if !queues.contains_key(group) {
            let group: Arc<str> = group.into();
            let entry = Some((id, Arc::clone(&group)));
            let number = match self.free_queues.pop() {
                Some(number) => {
                    self.queues[number as usize] = entry;
                    number
                }
                None => {
                    self.queues.push(entry);
                    u32::try_from(self.queues.len() - 1).unwrap_or(u32::MAX)
                }
            };
            let (here, there) = (Members::default(), Peers::new());
            queues.insert(group, Queue { id: number, here, there, turn: 0 });
        }
        queues.get_mut(group)
    }

    /// A queue group at a point, where there is one. Whose turn it is there changes nothing for what is plainly subscribed.
    pub(super) fn queue_of(&mut self, id: PointId, group: &str) -> Option<&mut Queue> {
        self.points.get_mut(id as usize)?.as_mut()?.queues.as_mut()?.get_mut(group)
    }

    /// The group of a queue.
    pub(super) fn queue_group(&self, id: QueueId) -> Option<Arc<str>> {
        self.queues.get(id as usize)?.as_ref().map(|(_, group)| Arc::clone(group))
    }

    /// Forgets a queue group that nobody is in any more.
    pub(super) fn tidy_queue(&mut self, id: PointId, group: &str) {
        let Some(point) = self.points.get_mut(id as usize).and_then(Option::as_mut) else { return };
        let Some(queues) = &mut point.queues else { return };
        let empty =
            queues.get(group).is_some_and(|queue| queue.here.is_empty() && queue.there.is_empty());
        if empty && let Some(queue) = queues.remove(group) {
            self.queues[queue.id as usize] = None;
            self.free_queues.push(queue.id);
        }
        if queues.is_empty() {
            point.queues = None;
            self.changes += 1;
        }
        self.tidy(id);
    }

    /// Every point that a topic matches. Returns what it cost, in entries of a hold of the lock: patterns may be made so
    /// that each segment of a topic leads two ways.
    pub(super) fn collect(&self, topic: &str, found: &mut Vec<PointId>) -> usize {
        found.clear();
        found.extend(self.texts.get(topic));
        if self.trie.is_empty() { 0 } else { self.trie.collect(topic, found) / LEVELS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_with_one_subscriber_is_no_larger_than_one_without() {
        assert!(size_of::<Option<Point>>() <= 80, "{}", size_of::<Option<Point>>());
        let mut members = Members::default();
        members.add(7);
        assert!(!members.list.spilled());
    }

    #[test]
    fn a_topic_has_segments_and_wildcards_stand_alone() {
        assert_eq!(check_topic("room:1"), Ok(Text::Topic));
        assert_eq!(check_topic("a.b"), Ok(Text::Topic));
        for pattern in ["*", ">", "a.*", "*.a", "a.*.>"] {
            assert_eq!(check_topic(pattern), Ok(Text::Pattern), "{pattern}");
        }
        for wrong in ["", ".", "a.", ".a", "a..b", "a b", "a\n", "a*", "*a.b", "a.>.b", ">.a", "a>"]
        {
            assert!(check_topic(wrong).is_err(), "{wrong}");
        }
        assert!(check_topic(&"a".repeat(255)).is_ok() && check_topic(&"a".repeat(256)).is_err());
        let segments = |n| vec!["a"; n].join(".");
        assert!(check_topic(&segments(32)).is_ok() && check_topic(&segments(33)).is_err());
    }

    #[test]
    fn members_that_leave_make_no_work_for_those_that_stay() {
        let mut members = Members::default();
        for serial in (0..1000).rev().chain(500..1000) {
            members.add(serial);
        }
        assert_eq!(
            (members.subscriptions(), members.times_of(7), members.times_of(700)),
            (1500, 1, 2)
        );
        for serial in 0..999 {
            assert_eq!(members.remove(serial), if serial < 500 { 1 } else { 2 });
            assert_eq!(members.remove(serial), 0);
        }
        assert_eq!((members.subscriptions(), members.len() < 4), (2, true));
        members.add(3);
        assert_eq!(members.iter().map(|member| member.serial).collect::<Vec<_>>(), [3, 999]);
    }

    #[test]
    fn a_table_that_is_emptied_keeps_nothing() {
        let mut table = Table::default();
        for number in 0..100 {
            let id = table.find_or_add(&format!("a.{number}"), Text::Topic);
            table.get_mut(id).expect("a point").here.add(100);
            let id = table.find_or_add(&format!("a.{number}.*"), Text::Pattern);
            table.queue_mut(id, "workers").expect("a queue").here.add(100);
        }
        let mut found = Vec::new();
        table.collect("a.7", &mut found);
        assert_eq!(found.len(), 1);
        table.collect("a.7.x", &mut found);
        assert_eq!(found.len(), 1);
        for id in 0..table.end() {
            table.get_mut(id).expect("a point").here.remove(100);
            if let Some(queue) = table.queue_mut(id, "workers") {
                queue.here.remove(100);
            }
            table.tidy_queue(id, "workers");
        }
        assert_eq!((table.len(), table.end(), table.queues.len()), (0, 0, 0));
    }
}
