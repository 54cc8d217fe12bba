//! A mesh of many nodes: until each sees all the others, and what one publishes to all of them.

use std::thread;

use super::daemon::{Daemon, Plan};
use super::life::SEEN_WITHIN;
use super::process::{Scratch, Trouble, resident_bytes};
use super::publisher::Say;
use super::responder::RoundTrips;
use super::sample::float;
use super::send::{Course, Sent};
use super::subscriber::Hears;
use super::way::FAR;

/// Publications per second where it is measured how long they are under way.
const RATE: f64 = 100.0;

/// What one round found.
#[derive(Clone, Debug)]
pub(super) struct Meshed {
    /// From the first start until the last node saw all the others.
    pub joined: f64,
    /// As fast as it went.
    pub sent: Sent,
    /// How long a publication was under way to each of the others.
    pub trips: RoundTrips,
    /// The most that each node had in memory.
    pub resident: Vec<f64>,
}

/// Starts a mesh, publishes to all of it, ends it.
///
/// # Errors
/// When the nodes do not see each other, or not all that was published was delivered to each.
pub(super) fn measure(
    scratch: &Scratch,
    round: usize,
    count: usize,
    body_bytes: usize,
    secs: f64,
) -> Result<Meshed, Trouble> {
    let home = scratch.sub(&format!("mesh-{round}"))?;
    let names: Vec<String> = (0..count).map(|number| format!("n{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let daemons = Plan::list(&home, &names)?.start()?;
    let seen: Result<Vec<_>, Trouble> = thread::scope(|scope| {
        let see = |daemon: &Daemon| daemon.control()?.connected(count - 1, SEEN_WITHIN);
        let waits: Vec<_> = daemons.iter().map(|daemon| scope.spawn(move || see(daemon))).collect();
        let bug = || Err(Trouble::Unexpected("a bug".to_owned()));
        waits.into_iter().map(|wait| wait.join().unwrap_or_else(|_| bug())).collect()
    });
    let (first, last) = (daemons.iter().map(Daemon::started).min(), seen?.into_iter().max());
    let joined = first.zip(last).map_or(0.0, |(first, last)| (last - first).as_secs_f64());
    let ids: Vec<u32> = daemons.iter().map(Daemon::id).collect();
    let course = Course {
        enter: daemons[0].socket(),
        leave: daemons[1..].iter().map(|daemon| daemon.socket().to_owned()).collect(),
        ids: &ids,
        say: Say::Publish { topic: FAR.to_owned() },
        hears: Hears::Topic(FAR.to_owned()),
        publishers: 1,
        body_bytes,
        seconds: secs,
        rate: None,
    };
    let sent = course.run()?;
    let paced = Course { rate: Some(RATE), ..course }.run()?;
    let trips = paced.trips.ok_or_else(|| Trouble::Unexpected("no times".to_owned()))?;
    let resident = ids.iter().filter_map(|id| resident_bytes(*id, true)).map(float).collect();
    Ok(Meshed { joined, sent, trips, resident })
}
