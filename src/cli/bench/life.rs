//! A daemon's life: how soon it takes connections, what it costs when nothing happens, how soon nodes that start
//! together see each other, and how soon the death of one is known.

use std::net::UdpSocket;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::daemon::{Daemon, Plan};
use super::process::{Scratch, Trouble, cpu_ns, resident_bytes};
use super::sample::{Sample, float, seconds};

/// How often the start is measured.
const STARTS: usize = 20;
/// A daemon is idle this long before it is looked at.
pub(super) const SETTLE: Duration = Duration::from_secs(3);
/// For how long an idle daemon's processor time is counted.
const IDLE: Duration = Duration::from_secs(5);
/// Bound for nodes to see each other.
pub(super) const SEEN_WITHIN: Duration = Duration::from_secs(20);
/// Bound for a death to be known.
const KNOWN_WITHIN: Duration = Duration::from_secs(30);

/// From just before the exec to the first accepted connection.
///
/// # Errors
/// When a daemon does not start.
pub(super) fn start(scratch: &Scratch) -> Result<Sample, Trouble> {
    let home = scratch.sub("start")?;
    let mut sample = Sample::default();
    // The first start makes the cookie, which happens once on a machine.
    for number in 0..=STARTS {
        let name = format!("a{number}");
        let daemon = Plan::list(&home, &[&name])?.start_one(0)?;
        let _stream = daemon.connect()?;
        if number > 0 {
            sample.push(daemon.started().elapsed().as_secs_f64());
        }
    }
    Ok(sample)
}

/// What idle daemons hold and use.
#[derive(Clone, Debug, Default)]
pub(super) struct Idle {
    /// Resident bytes, one value per daemon.
    pub resident: Sample,
    /// Processor seconds per second, one value per daemon.
    pub load: Sample,
}

/// Lets this many daemons be peers of each other and do nothing.
///
/// # Errors
/// When a daemon does not start or they do not all see each other.
pub(super) fn idle(scratch: &Scratch, count: usize) -> Result<Idle, Trouble> {
    let home = scratch.sub(&format!("idle-{count}"))?;
    let names: Vec<String> = (0..count).map(|number| format!("n{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let daemons = Plan::list(&home, &names)?.start()?;
    for daemon in &daemons {
        daemon.control()?.connected(count - 1, SEEN_WITHIN)?;
    }
    thread::sleep(SETTLE);
    let before: Vec<_> = daemons.iter().map(|daemon| cpu_ns(daemon.id())).collect();
    let start = Instant::now();
    thread::sleep(IDLE);
    let mut idle = Idle::default();
    for (daemon, before) in daemons.iter().zip(before) {
        if let (Some(before), Some(after)) = (before, cpu_ns(daemon.id())) {
            idle.load.push(seconds(after - before) / start.elapsed().as_secs_f64());
        }
        if let Some(bytes) = resident_bytes(daemon.id(), false) {
            idle.resident.push(float(bytes));
        }
    }
    Ok(idle)
}

/// How nodes find each other.
#[derive(Clone, Copy, Debug)]
pub(super) enum Finding<'a> {
    /// Each is given the addresses of all.
    List,
    /// By files on this machine.
    Local,
    /// By multicast.
    Mdns,
    /// By the API server of this kubeconfig.
    Kubernetes(&'a Path),
}

impl Finding<'_> {
    /// One word.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Local => "local",
            Self::Mdns => "mdns",
            Self::Kubernetes(_) => "kubernetes",
        }
    }

    /// Daemons that find each other like this.
    ///
    /// # Errors
    /// When no ports are free.
    pub(super) fn plan(self, home: &Path, names: &[&str]) -> Result<Plan, Trouble> {
        Ok(match self {
            Self::List => Plan::list(home, names)?,
            Self::Local => Plan::by(home, names, "local"),
            // A port of their own, so that they are no news to the nodes of this network.
            Self::Mdns => {
                let strategy = format!("mdns://?port={}", free_udp_port()?);
                Plan::by(home, names, &strategy).outside()
            }
            Self::Kubernetes(kubeconfig) => Plan::listed(home, names, kubeconfig)?,
        })
    }
}

/// Three daemons start together: from the last start until each sees the two others.
///
/// # Errors
/// When they do not see each other in time.
pub(super) fn join(scratch: &Scratch, finding: Finding<'_>, round: usize) -> Result<f64, Trouble> {
    let home = scratch.sub(&format!("join-{}-{round}", finding.name()))?;
    let plan = finding.plan(&home, &["a", "b", "c"])?;
    let daemons = plan.start()?;
    let last = daemons.iter().map(Daemon::started).max().unwrap_or_else(Instant::now);
    let seen: Result<Vec<Instant>, Trouble> = thread::scope(|scope| {
        let waits: Vec<_> = daemons
            .iter()
            .map(|daemon| scope.spawn(|| daemon.control()?.connected(2, SEEN_WITHIN)))
            .collect();
        waits
            .into_iter()
            .map(|wait| {
                wait.join().unwrap_or_else(|_| Err(Trouble::Unexpected("a bug".to_owned())))
            })
            .collect()
    });
    let seen = seen?.into_iter().max().unwrap_or(last);
    Ok(seen.saturating_duration_since(last).as_secs_f64())
}

fn free_udp_port() -> Result<u16, Trouble> {
    let socket = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    socket.map(|address| address.port()).map_err(Trouble::io("finding a free port"))
}

/// How a node goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// Killed: its connections close.
    Killed,
    /// Stopped: its connections stay and say nothing.
    Stopped,
}

/// Two daemons see each other, one goes: how long until the other tells its app.
///
/// # Errors
/// When they do not see each other, or the death is not told in time.
pub(super) fn failure(
    scratch: &Scratch,
    name: &str,
    death: Death,
    arguments: &[&str],
    rounds: usize,
) -> Result<Sample, Trouble> {
    let home = scratch.sub(name)?;
    let plan = Plan::list(&home, &["a", "b"])?.with(arguments);
    let watcher = plan.start_one(0)?;
    let mut control = watcher.control()?;
    let mut sample = Sample::default();
    for _ in 0..rounds {
        let victim = plan.start_one(1)?;
        control.connected(1, SEEN_WITHIN)?;
        let gone = Instant::now();
        victim.signal(match death {
            Death::Killed => Signal::KILL,
            Death::Stopped => Signal::STOP,
        });
        let (known, _reason) = control.left(0, KNOWN_WITHIN)?;
        sample.push(known.saturating_duration_since(gone).as_secs_f64());
    }
    Ok(sample)
}
