//! Subscribers that do not keep up: one that is stopped beside others that are not, and two that are outrun for long.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::process::{Trouble, Worker, resident_bytes};
use super::publisher::{self, Published, Say};
use super::role::{Ready, Role};
use super::sample::{Sample, float};
use super::send::{Course, LATE_MAX, READY_WITHIN, Sent};
use super::subscriber::{self, Delivered, Hears};
use super::way::{Nodes, Pair};

/// Messages per second beside a subscriber that is stopped: far from what the machine can do, so that what is measured
/// is the subscriber and not the queue.
pub(super) const RATE: f64 = 100_000.0;
/// Bytes per second that the subscribers of a soak read: a small part of what is published.
const PACE: f64 = 8.0 * 1024.0 * 1024.0;
/// The body of a soak's messages.
const BODY_BYTES: usize = 64;
/// How often memory is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Publishes to subscribers that read, beside one that is stopped with the first message if so wanted. It is a process
/// of its own with the mailbox that processes have unless they say otherwise, which loses what comes last.
///
/// # Errors
/// When anything fails, when one that reads does not have all, and when the stopped one is not told what it lost.
pub(super) fn measure(course: &Course<'_>, stopped: bool) -> Result<Sent, Trouble> {
    let spec = subscriber::Spec {
        sockets: course.leave[..1].to_vec(),
        wait: false,
        ..course.subscriber()
    };
    let mut slow = Worker::start(&Role::Subscriber(spec).argument())?;
    let Ready::Ready = slow.hear("subscriber", READY_WITHIN)?;
    if stopped {
        slow.process.signal(Signal::STOP);
    }
    let sent = course.run();
    if stopped {
        slow.process.signal(Signal::CONT);
    }
    let sent = sent?;
    slow.tell(&sent.published.to_string())?;
    let Delivered { count, misplaced, holes, gaps, .. } = slow.hear("last message", LATE_MAX)?;
    let misplaced = misplaced + holes;
    if count + gaps != sent.published || misplaced > 0 {
        let (published, told) = (sent.published, "; to the stopped one".to_owned());
        return Err(Trouble::Lost { published, delivered: count, gaps, misplaced, told });
    }
    Ok(sent)
}

/// What a subscriber of a soak saw.
#[derive(Clone, Debug)]
pub(super) struct Soaked {
    /// What its mailbox does when it is full.
    pub mailbox: &'static str,
    /// Messages that were published.
    pub published: u64,
    /// Messages that came.
    pub delivered: u64,
    /// Losses that were told where they happened.
    pub gaps: u64,
    /// Losses that the publisher was told.
    pub failed: u64,
    /// Messages of which nobody heard.
    pub untold: u64,
    /// Messages out of order.
    pub misplaced: u64,
    /// Resident bytes of both nodes in the first tenth, in the last, and the most.
    pub resident: Option<(Sample, Sample, Sample)>,
}

/// A publisher outruns a subscriber that reads slowly, through two nodes: one with a mailbox that loses what comes last,
/// at the same time another with a mailbox that lets its publisher wait.
///
/// # Errors
/// When anything fails.
pub(super) fn soak(
    pair: &Pair,
    duration: Duration,
    mut left: impl FnMut(Duration),
) -> Result<Vec<Soaked>, Trouble> {
    let mut lanes = Vec::new();
    for (mailbox, wait) in [("mailbox `drop_newest`", false), ("mailbox `wait`", true)] {
        let topic = format!("bench.soak.{wait}");
        let spec = subscriber::Spec {
            sockets: vec![pair.leave(Nodes::Two).to_owned()],
            hears: Hears::Topic(topic.clone()),
            wait,
            publishers: 1,
            body_bytes: BODY_BYTES,
            pace: Some(PACE),
        };
        let sink = Worker::start(&Role::Subscriber(spec).argument())?;
        let Ready::Ready = sink.hear("subscriber", READY_WITHIN)?;
        let spec = publisher::Spec {
            socket: pair.enter().to_owned(),
            say: Say::Publish { topic },
            own: 0,
            body_bytes: BODY_BYTES,
            seconds: duration.as_secs_f64(),
            rate: None,
            refusable: true,
        };
        let source = Worker::start(&Role::Publisher(spec).argument())?;
        let Ready::Ready = source.hear("publisher", READY_WITHIN)?;
        lanes.push((mailbox, sink, source));
    }
    for (_, _, source) in &mut lanes {
        source.tell("go")?;
    }
    let (began, mut resident) = (Instant::now(), Vec::new());
    while began.elapsed() < duration {
        thread::sleep(LOOK_EVERY.min(duration.saturating_sub(began.elapsed())));
        let sum: Option<u64> =
            pair.ids(Nodes::Two).iter().map(|id| resident_bytes(*id, false)).sum();
        resident.extend(sum.map(float));
        left(duration.saturating_sub(began.elapsed()));
    }
    let tenth = resident.len().div_ceil(10);
    let last = resident.len().saturating_sub(tenth);
    let peak: Option<u64> = pair.ids(Nodes::Two).iter().map(|id| resident_bytes(*id, true)).sum();
    let memory = peak.map(|peak| {
        let (first, last) = (resident[..tenth].to_vec(), resident[last..].to_vec());
        (Sample(first), Sample(last), Sample(vec![float(peak)]))
    });
    let mut soaked = Vec::new();
    for (mailbox, mut sink, source) in lanes {
        let Published { count: published, failed, .. } =
            source.hear("end of publishing", LATE_MAX + LATE_MAX)?;
        sink.tell(&published.saturating_sub(failed).to_string())?;
        let Delivered { count, misplaced, gaps, .. } = sink.hear("last message", LATE_MAX)?;
        // What the publisher was told of is a hole here, which the sum accounts for.
        soaked.push(Soaked {
            mailbox,
            published,
            delivered: count,
            gaps,
            failed,
            untold: published.abs_diff(count + gaps + failed),
            misplaced,
            resident: None,
        });
    }
    if let Some(first) = soaked.first_mut() {
        first.resident = memory;
    }
    Ok(soaked)
}
