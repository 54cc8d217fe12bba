//! What subscriptions of others cost those who have nothing to do with them.

use super::frames;
use super::many::Session;
use super::process::{Trouble, resident_bytes};
use super::publisher::Topics;
use super::sample::float;
use super::way::{Nodes, Pair};

/// Of what kind they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Topics.
    Exact,
    /// Patterns with a wildcard.
    Wildcard,
}

impl Kind {
    /// For people.
    #[must_use]
    pub(super) const fn print(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Wildcard => "wildcard",
        }
    }

    /// So many of them; `own` tells several lots apart.
    #[must_use]
    pub(super) fn topics(self, own: &str, count: u32) -> Topics {
        let behind = if self == Self::Wildcard { ".*" } else { "" };
        Topics { before: format!("bench.{own}."), behind: behind.to_owned(), count }
    }

    /// Topics, each of which only one of them matches.
    #[must_use]
    pub(super) fn matching(self, own: &str, count: u32) -> Topics {
        let behind = if self == Self::Wildcard { ".x" } else { "" };
        Topics { behind: behind.to_owned(), ..self.topics(own, count) }
    }
}

/// A pair of nodes with many subscriptions that concern nobody.
pub(super) struct Others {
    pub kind: Kind,
    pub pair: Pair,
    /// Who has subscribed.
    session: Session,
    count: u32,
    /// Resident bytes before the first subscription, of the node that has them and of the other.
    before: [Option<u64>; 2],
}

impl Others {
    /// None as yet.
    ///
    /// # Errors
    /// When the daemons do not take a session.
    pub(super) fn new(kind: Kind, pair: Pair) -> Result<Self, Trouble> {
        let mut session = Session::at(pair.leave(Nodes::Two))?;
        session.sync()?;
        let before = resident(&pair);
        Ok(Self { kind, pair, session, count: 0, before })
    }

    /// Lets there be so many, known to both nodes.
    ///
    /// # Errors
    /// When the daemon does not do it.
    pub(super) fn grow(&mut self, count: u32) -> Result<(), Trouble> {
        let topics = self.kind.topics("other", count);
        let mut commands = Vec::new();
        for number in self.count..count {
            let header = frames::header(&[("op", "subscribe"), ("topic", &topics.at(number))]);
            frames::frame(&mut commands, &header, &[]);
        }
        self.session.tell(&commands)?;
        self.session.sync()?;
        self.count = self.count.max(count);
        Ok(())
    }

    /// Resident bytes of each subscription, at its node and at the other.
    #[must_use]
    pub(super) fn each(&self) -> [Option<f64>; 2] {
        let now = resident(&self.pair);
        let each = |place: usize| {
            let (before, now) = self.before[place].zip(now[place])?;
            Some(float(now.saturating_sub(before)) / f64::from(self.count.max(1)))
        };
        [each(0), each(1)]
    }
}

fn resident(pair: &Pair) -> [Option<u64>; 2] {
    match pair.ids(Nodes::Two) {
        [a, b] => [resident_bytes(*b, false), resident_bytes(*a, false)],
        _ => [None, None],
    }
}
