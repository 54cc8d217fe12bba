//! What every strategy promises, as tests.
//!
//! A strategy's tests make a [`Place`] for it and hand that to [`conformance!`](crate::conformance!), which
//! writes one test for each promise. Nothing here sleeps: every step waits for a report, and no wait is
//! longer than [`PATIENCE`].

#![expect(clippy::missing_panics_doc, reason = "a broken promise is a panic")]

use std::any::Any;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::{Announcement, Health, Report, Reporter, Sighting, Strategy};

/// The longest that a report is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long a source is away for hours.
const HOURS: Duration = Duration::from_secs(6 * 3600);

/// A world of its own in which nodes find each other with one strategy.
pub trait Place: Send + Sync {
    /// The strategy of one more node here.
    fn strategy(&self) -> Box<dyn Strategy>;

    /// Makes a node visible where running a strategy does not, because the strategy announces nothing. It
    /// vanishes when the value is dropped.
    fn plant(&self, _: &Announcement) -> Option<Box<dyn Any + Send>> {
        None
    }

    /// Puts into the source what no strategy should choke on.
    fn spoil(&self);

    /// Breaks the source in this way, for those that run. False when the source has no such way of failing.
    fn fault(&self, fault: Fault) -> bool;

    /// Undoes [`Place::fault`].
    fn mend(&self);

    /// Whether hours pass in no time here, because the test's clock is paused and the source answers from memory.
    fn hours_pass(&self) -> bool {
        false
    }
}

/// How a source may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It refuses, or answers with an error.
    Error,
    /// It answers well, and nobody is in the answer.
    Empty,
    /// It answers well, and only some are in the answer.
    Partial,
    /// What it answers cannot be read.
    Malformed,
    /// It answers late, but in time.
    Slow,
    /// It takes the question and never answers.
    Silent,
}

/// Node number `n`.
#[must_use]
pub fn announcement(n: u16) -> Announcement {
    let port = 40_000 + n;
    Announcement {
        mesh: "conformance".into(),
        node: format!("node-{n}@hal"),
        incarnation: (1 << 40) + u64::from(n) + (u64::from(std::process::id()) << 20),
        protocol: 1,
        ids: vec![u64::from(n).to_be_bytes(), [0xfe; 8]],
        listen: vec![SocketAddr::from(([0, 0, 0, 0], port))],
        socket: Some(format!("/tmp/conformance/{n}.sock").into()),
        labels: BTreeMap::from([("role".into(), "test".into())]),
    }
}

/// A node that runs. Dropping it withdraws it.
pub struct Node {
    /// What it says of itself.
    pub announcement: Announcement,
    reports: watch::Receiver<Report>,
    _task: JoinSet<()>,
    _planted: Option<Box<dyn Any + Send>>,
}

impl Node {
    /// Starts node number `n` in `place`.
    pub fn start(place: &dyn Place, n: u16) -> Self {
        let announcement = announcement(n);
        let (reporter, reports) = Reporter::new();
        let strategy = place.strategy();
        let own = announcement.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let ended = strategy.run(own, &reporter).await;
            panic!("{} ended: {ended:?}", strategy.name());
        });
        let planted = place.plant(&announcement);
        Self { announcement, reports, _task: task, _planted: planted }
    }

    /// Whether a report has this node in it.
    #[must_use]
    pub fn is_in(&self, report: &Report) -> bool {
        report.sightings.iter().any(|sighting| is_of(sighting, &self.announcement))
    }

    /// Waits for a report of which `what` holds.
    pub async fn reports(&mut self, what: &str, mut holds: impl FnMut(&Report) -> bool) -> Report {
        let found = timeout(PATIENCE, self.reports.wait_for(|report| holds(report)))
            .await
            .map(|report| report.map(|report| report.clone()));
        match found {
            Ok(Ok(report)) => report,
            Ok(Err(_)) => panic!("{}: its strategy ended before {what}", self.announcement.node),
            Err(_) => {
                let last = self.reports.borrow().clone();
                panic!(
                    "{}: no report in {PATIENCE:?} of {what}; the last is {last:?}",
                    self.announcement.node
                )
            }
        }
    }

    /// Waits until this node sees `other`.
    pub async fn sees(&mut self, other: &Self) -> Report {
        let what = format!("{} being visible", other.announcement.node);
        self.reports(&what, |report| other.is_in(report)).await
    }

    /// Waits until this node does not see the node of `gone` any more.
    pub async fn forgets(&mut self, gone: &Announcement) -> Report {
        let what = format!("{} being gone", gone.node);
        self.reports(&what, |report| !report.sightings.iter().any(|s| is_of(s, gone))).await
    }
}

/// Whether a sighting is of this node, by its identity or, where the source knows none, by its port.
fn is_of(sighting: &Sighting, announcement: &Announcement) -> bool {
    if let (Some(node), Some(incarnation)) = (&sighting.node, sighting.incarnation) {
        return *node == announcement.node && incarnation == announcement.incarnation;
    }
    let has_port =
        |address: &SocketAddr| announcement.listen.iter().any(|own| own.port() == address.port());
    sighting.addresses.iter().any(has_port)
}

fn is_unwell(report: &Report) -> bool {
    matches!(report.health, Health::Unwell(_))
}

/// What one node announces is what the other sees.
pub async fn a_node_sees_another_as_it_announced_itself(place: &dyn Place) {
    let other = Node::start(place, 1);
    let mut node = Node::start(place, 2);
    let report = node.sees(&other).await;
    let sighting =
        report.sightings.iter().find(|s| is_of(s, &other.announcement)).expect("it is in there");
    let announced = &other.announcement;
    assert!(sighting.node.as_ref().is_none_or(|node| *node == announced.node));
    assert!(sighting.mesh.as_ref().is_none_or(|mesh| *mesh == announced.mesh));
    assert!(sighting.ids.is_empty() || sighting.ids == announced.ids);
    assert!(!sighting.source.is_empty(), "a source for people");
    assert!(!sighting.addresses.is_empty(), "somewhere to dial");
    for address in &sighting.addresses {
        assert_eq!(address.port(), announced.listen[0].port());
        assert!(!address.ip().is_unspecified(), "{address} cannot be dialled");
    }
}

/// One report has everybody in it, also those that came earlier.
pub async fn a_report_is_the_whole_set(place: &dyn Place) {
    let others: Vec<Node> = (1..=3).map(|n| Node::start(place, n)).collect();
    let mut node = Node::start(place, 4);
    let whole = |others: &[Node], report: &Report| others.iter().all(|other| other.is_in(report));
    node.reports("all three", |report| whole(&others, report)).await;
    let late = Node::start(place, 5);
    let report = node.sees(&late).await;
    assert!(whole(&others, &report), "{report:?}");
}

/// Two nodes see each other, and nobody sees itself under its own identity.
pub async fn nodes_see_each_other_and_never_themselves(place: &dyn Place) {
    let mut a = Node::start(place, 1);
    let mut b = Node::start(place, 2);
    let of_a = a.sees(&b).await;
    let of_b = b.sees(&a).await;
    for (node, report) in [(&a, of_a), (&b, of_b)] {
        let own = |s: &Sighting| {
            s.node.as_ref() == Some(&node.announcement.node)
                && s.incarnation == Some(node.announcement.incarnation)
        };
        assert!(!report.sightings.iter().any(own), "{report:?}");
    }
}

/// One of two others vanishes: it is gone, and the other stays.
pub async fn a_node_that_stops_vanishes_and_the_others_stay(place: &dyn Place) {
    let stays = Node::start(place, 1);
    let goes = Node::start(place, 2);
    let mut node = Node::start(place, 3);
    node.sees(&stays).await;
    node.sees(&goes).await;
    let gone = goes.announcement.clone();
    drop(goes);
    let report = node.forgets(&gone).await;
    assert!(stays.is_in(&report), "{report:?}");
}

/// A strategy that was dropped can be run again, and is seen again.
pub async fn a_strategy_can_be_run_again(place: &dyn Place) {
    let mut other = Node::start(place, 1);
    let strategy = place.strategy();
    let own = announcement(2);
    let (reporter, mut reports) = Reporter::new();
    for _ in 0..2 {
        let planted = place.plant(&own);
        let seen = async {
            let what = "the node that runs again";
            other.reports(what, |report| report.sightings.iter().any(|s| is_of(s, &own))).await;
            let sees =
                |report: &Report| report.sightings.iter().any(|s| is_of(s, &other.announcement));
            assert!(reports.wait_for(sees).await.is_ok());
        };
        tokio::select! {
            biased;
            ended = strategy.run(own.clone(), &reporter) => panic!("it ended: {ended:?}"),
            seen = timeout(PATIENCE, seen) => seen.expect("both see each other in time"),
        }
        drop(planted);
        other.forgets(&own).await;
    }
}

/// The source breaks in a way that leaves the answer in doubt: nobody is dropped, it is told of, and the source is used
/// again once it is well.
async fn keeps_the_last_set_through(place: &dyn Place, fault: Fault) {
    let other = Node::start(place, 1);
    let mut node = Node::start(place, 2);
    let report = node.sees(&other).await;
    let before = report.sightings.len();
    if !place.fault(fault) {
        println!("SKIPPED: the source of this strategy cannot fail like this: {fault:?}");
        return;
    }
    let report = node.reports("the failure", is_unwell).await;
    assert!(other.is_in(&report) && report.sightings.len() == before, "{report:?}");
    place.mend();
    let report = node.reports("the recovery", |report| report.health == Health::Well).await;
    assert!(other.is_in(&report), "{report:?}");
    let late = Node::start(place, 3);
    node.sees(&late).await;
}

/// The source answers, but less than is there, or late: the strategy goes on, and everybody is seen once it is mended.
async fn goes_on_through(place: &dyn Place, fault: Fault) {
    let other = Node::start(place, 1);
    let mut node = Node::start(place, 2);
    node.sees(&other).await;
    if !place.fault(fault) {
        println!("SKIPPED: the source of this strategy cannot fail like this: {fault:?}");
        return;
    }
    let late = Node::start(place, 3);
    if fault == Fault::Slow {
        node.sees(&late).await;
    }
    place.mend();
    let report = node.sees(&late).await;
    if !other.is_in(&report) {
        node.sees(&other).await;
    }
}

/// A source that fails drops nobody, is told of, and is used again once it is well.
pub async fn a_failing_source_keeps_the_last_set(place: &dyn Place) {
    keeps_the_last_set_through(place, Fault::Error).await;
}

/// An answer that cannot be read drops nobody.
pub async fn a_malformed_answer_keeps_the_last_set(place: &dyn Place) {
    keeps_the_last_set_through(place, Fault::Malformed).await;
}

/// A source that never answers drops nobody, and does not hold the strategy for good.
pub async fn a_source_that_never_answers_keeps_the_last_set(place: &dyn Place) {
    keeps_the_last_set_through(place, Fault::Silent).await;
}

/// An answer without anybody ends nothing.
pub async fn an_empty_answer_is_survived(place: &dyn Place) {
    goes_on_through(place, Fault::Empty).await;
}

/// An answer with only some of them ends nothing.
pub async fn a_partial_answer_is_survived(place: &dyn Place) {
    goes_on_through(place, Fault::Partial).await;
}

/// A slow source is a source.
pub async fn a_slow_source_is_waited_for(place: &dyn Place) {
    goes_on_through(place, Fault::Slow).await;
}

/// A source that comes and goes drops nobody, and is used whenever it is there.
pub async fn a_flapping_source_drops_nobody(place: &dyn Place) {
    let other = Node::start(place, 1);
    let mut node = Node::start(place, 2);
    node.sees(&other).await;
    for _ in 0..5 {
        if !place.fault(Fault::Error) {
            println!("SKIPPED: the source of this strategy cannot be made to fail here");
            return;
        }
        let report = node.reports("the failure", is_unwell).await;
        assert!(other.is_in(&report), "{report:?}");
        place.mend();
        let report = node.reports("the recovery", |report| report.health == Health::Well).await;
        assert!(other.is_in(&report), "{report:?}");
    }
    let late = Node::start(place, 3);
    node.sees(&late).await;
}

/// A source that is away for hours drops nobody and is found again when it comes back.
pub async fn a_source_that_is_away_for_hours_is_found_again(place: &dyn Place) {
    if !place.hours_pass() {
        println!(
            "SKIPPED: hours take hours here; this is tested where the clock of a test can be paused"
        );
        return;
    }
    let other = Node::start(place, 1);
    let mut node = Node::start(place, 2);
    node.sees(&other).await;
    for fault in [Fault::Error, Fault::Silent] {
        if place.fault(fault) {
            tokio::time::sleep(HOURS).await;
            let report = node.reports("the failure", is_unwell).await;
            assert!(other.is_in(&report), "{report:?}");
            place.mend();
            let report = node.reports("the recovery", |report| report.health == Health::Well).await;
            assert!(other.is_in(&report), "{report:?}");
        }
    }
    let late = Node::start(place, 3);
    node.sees(&late).await;
}

/// Garbage in the source neither ends the strategy nor hides the good.
pub async fn malformed_input_is_survived(place: &dyn Place) {
    place.spoil();
    let mut node = Node::start(place, 1);
    let other = Node::start(place, 2);
    node.sees(&other).await;
    place.spoil();
    let late = Node::start(place, 3);
    let report = node.sees(&late).await;
    assert!(other.is_in(&report), "{report:?}");
    for sighting in &report.sightings {
        assert!(!sighting.addresses.is_empty(), "{sighting:?}");
    }
}

/// Writes one test for every promise. The first argument makes a [`Place`] for one test: a `Result` whose
/// error says why there can be none here, which skips the tests. What follows goes to `#[tokio::test(...)]`:
/// `start_paused = true` for a strategy that waits for nothing but time.
#[macro_export]
macro_rules! conformance {
    ($place:expr $(, $how:ident = $value:expr)*) => {
        $crate::conformance! { @each $place, ($($how = $value)*),
            a_node_sees_another_as_it_announced_itself,
            a_report_is_the_whole_set,
            nodes_see_each_other_and_never_themselves,
            a_node_that_stops_vanishes_and_the_others_stay,
            a_strategy_can_be_run_again,
            a_failing_source_keeps_the_last_set,
            a_malformed_answer_keeps_the_last_set,
            a_source_that_never_answers_keeps_the_last_set,
            an_empty_answer_is_survived,
            a_partial_answer_is_survived,
            a_slow_source_is_waited_for,
            a_flapping_source_drops_nobody,
            a_source_that_is_away_for_hours_is_found_again,
            malformed_input_is_survived,
        }
    };
    (@each $place:expr, $how:tt, $($promise:ident,)*) => {
        $($crate::conformance! { @one $place, $how, $promise })*
    };
    (@one $place:expr, ($($how:tt)*), $promise:ident) => {
        #[tokio::test($($how)*)]
        async fn $promise() {
            match $place {
                Ok(place) => $crate::conformance::$promise(&place).await,
                Err(why) => println!("SKIPPED: {why}"),
            }
        }
    };
}
