//! Many nodes that start together: until each sees all the others, and what each of them costs.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::daemon::Daemon;
use super::life::Finding;
use super::process::{Scratch, Trouble, cpu_ns, resident_bytes};
use super::report::{Row, Target};
use super::sample::{Sample, Unit, float, seconds};
use super::{Bench, Part, machine};

/// How many nodes start together, and how often that is measured at most.
const CROWDS: [(usize, usize); 4] = [(3, 3), (16, 3), (50, 1), (100, 1)];
/// Bound for nodes to see each other.
const SEEN_WITHIN: Duration = Duration::from_secs(120);
/// They are idle this long before they are looked at: by then `local` looks about as seldom as it ever does.
const SETTLE: Duration = Duration::from_secs(13);
/// Nodes that find each other by mdns ask at 1, 2, 4, 8 seconds and so on (RFC 6762, section 5.2): this is between 63 and 127.
const SETTLE_MDNS: Duration = Duration::from_secs(70);
/// How many nodes the target of an idle one's processor is for.
const IDLE_OF: usize = 16;
/// For how long idle nodes are looked at.
const IDLE: Duration = Duration::from_secs(10);

/// What one round found.
#[derive(Clone, Debug, Default)]
struct Crowd {
    /// From the last start until the last node saw all the others.
    joined: f64,
    /// Processor time of each node until then.
    cpu: Vec<f64>,
    /// What each node has in memory afterwards.
    resident: Vec<f64>,
    /// Processor seconds per second of each node that does nothing.
    load: Vec<f64>,
    /// What an idle connection carries in each direction, in bytes per second.
    idle_bytes: Option<f64>,
}

fn measure(
    scratch: &Scratch,
    finding: Finding<'_>,
    count: usize,
    round: usize,
) -> Result<Crowd, Trouble> {
    let home = scratch.sub(&format!("crowd-{}-{count}-{round}", finding.name()))?;
    let names: Vec<String> = (0..count).map(|number| format!("n{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let plan = finding.plan(&home, &names)?;
    let daemons = plan.start()?;
    let last = daemons.iter().map(Daemon::started).max().unwrap_or_else(Instant::now);
    let seen: Result<Vec<Instant>, Trouble> = thread::scope(|scope| {
        let see = |daemon: &Daemon| daemon.control()?.connected(count - 1, SEEN_WITHIN);
        let waits: Vec<_> = daemons.iter().map(|daemon| scope.spawn(move || see(daemon))).collect();
        let bug = || Err(Trouble::Unexpected("a bug".to_owned()));
        waits.into_iter().map(|wait| wait.join().unwrap_or_else(|_| bug())).collect()
    });
    let seen = seen?.into_iter().max().unwrap_or(last);
    let cpu = |daemon: &Daemon| cpu_ns(daemon.id());
    let until_then = daemons.iter().filter_map(cpu).map(seconds).collect();
    let asks = matches!(finding, Finding::Mdns) && count == IDLE_OF;
    thread::sleep(if asks { SETTLE_MDNS } else { SETTLE });
    let ports: Vec<u16> = daemons.iter().flat_map(Daemon::ports).collect();
    let (sent, before) = (sent_by(&ports), daemons.iter().filter_map(cpu).collect::<Vec<_>>());
    let start = Instant::now();
    thread::sleep(IDLE);
    let took = start.elapsed().as_secs_f64();
    let after = daemons.iter().filter_map(cpu);
    let load = after.zip(before).map(|(after, before)| seconds(after - before) / took).collect();
    let idle_bytes = sent.zip(sent_by(&ports)).map(|((_, before), (sockets, after))| {
        float(after.saturating_sub(before)) / took / float(sockets.max(1))
    });
    let resident = daemons.iter().filter_map(|d| resident_bytes(d.id(), false)).map(float);
    Ok(Crowd {
        joined: seen.saturating_duration_since(last).as_secs_f64(),
        cpu: until_then,
        resident: resident.collect(),
        load,
        idle_bytes,
    })
}

/// How many ends of connections there are to and from these ports, and how many bytes they have sent together: `ss`
/// knows, where it is installed.
fn sent_by(ports: &[u16]) -> Option<(u64, u64)> {
    let said = Command::new("ss").args(["-tinHO", "state", "established"]).output().ok()?;
    let text = String::from_utf8(said.stdout).ok().filter(|_| said.status.success())?;
    let (mut sockets, mut bytes) = (0, 0);
    for line in text.lines() {
        let of_ours = line.split_whitespace().take(4).any(|word| {
            let port = word.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
            port.is_some_and(|port| ports.contains(&port))
        });
        let sent = line.split_whitespace().find_map(|word| word.strip_prefix("bytes_sent:"));
        if let Some(sent) = sent.and_then(|sent| sent.parse::<u64>().ok()).filter(|_| of_ours) {
            sockets += 1;
            bytes += sent;
        }
    }
    (sockets > 0).then_some((sockets, bytes))
}

impl Daemon {
    /// The ports on which it takes connections, as the system lists them for its own network.
    fn ports(&self) -> Vec<u16> {
        let mut inodes = Vec::new();
        for link in fs::read_dir(format!("/proc/{}/fd", self.id())).into_iter().flatten().flatten()
        {
            let target = fs::read_link(link.path()).unwrap_or_default();
            let inode = target.to_string_lossy().strip_prefix("socket:[").map(str::to_owned);
            inodes.extend(inode.map(|inode| inode.trim_end_matches(']').to_owned()));
        }
        let mut ports = Vec::new();
        for table in ["tcp", "tcp6"] {
            let text = fs::read_to_string(format!("/proc/{}/net/{table}", self.id()));
            for line in text.unwrap_or_default().lines().skip(1) {
                let words: Vec<&str> = line.split_whitespace().collect();
                let [_, local, _, "0A", _, _, _, _, _, inode, ..] = words[..] else { continue };
                let port = local.rsplit_once(':').map(|(_, port)| u16::from_str_radix(port, 16));
                if let Some(Ok(port)) = port
                    && inodes.iter().any(|own| own == inode)
                {
                    ports.push(port);
                }
            }
        }
        ports
    }
}

impl Bench<'_> {
    /// Crowds of every size, by every way of finding each other that a machine has.
    pub(super) fn crowds(&mut self) {
        if !self.args.wants(Part::Crowd) {
            return;
        }
        let args = self.args;
        let findings = match args.kubeconfig.as_deref() {
            Some(kubeconfig) => vec![Finding::Kubernetes(kubeconfig)],
            None => vec![Finding::List, Finding::Local, Finding::Mdns],
        };
        for finding in findings {
            // What a node has in memory with few peers: what more it has is of the others.
            let mut few: Option<(usize, f64)> = None;
            for (count, rounds) in CROWDS {
                let found = self.crowd(finding, count, rounds.min(self.args.rounds), few);
                if let Some(resident) = found {
                    few = few.or(Some((count, resident)));
                }
            }
        }
    }

    /// The median of what a node has in memory.
    fn crowd(
        &mut self,
        finding: Finding<'_>,
        count: usize,
        rounds: usize,
        few: Option<(usize, f64)>,
    ) -> Option<f64> {
        let name = finding.name();
        let what = format!("{count} nodes by {name}: last start to full mesh");
        let mut found = Vec::new();
        for round in 0..rounds {
            self.say(&format!("{count} nodes by {name}, round {}", round + 1));
            match measure(&self.scratch, finding, count, round) {
                Ok(crowd) => found.push(crowd),
                Err(_) if matches!(finding, Finding::Mdns) && !machine::has_multicast() => {
                    let why = "skipped: no interface here does multicast";
                    self.rows.push(Row::skipped(what, &why));
                    return None;
                }
                Err(trouble) => {
                    self.rows.push(Row::failed(what, &trouble));
                    return None;
                }
            }
        }
        let bound = match (finding, count) {
            (Finding::Mdns | Finding::Kubernetes(_), _) => None,
            (_, 16) => Some(Target::AtMost(0.3)),
            (_, 100) => Some(Target::AtMost(5.0)),
            _ => None,
        };
        let each = |of: fn(&Crowd) -> &Vec<f64>| found.iter().flat_map(of).copied().collect();
        let joined = found.iter().map(|crowd| crowd.joined).collect();
        self.rows.push(Row::plain(what, Unit::Seconds, joined, bound));
        let cpu: Sample = each(|crowd| &crowd.cpu);
        self.rows.push(Row::plain("  processor of each until then", Unit::Seconds, cpu, None));
        let resident: Sample = each(|crowd| &crowd.resident);
        let median = resident.median();
        self.rows.push(Row::plain("  resident memory of each", Unit::Bytes, resident, None));
        if let (Some((before, less)), Some(more)) = (few, median) {
            let each = (more - less) / float(count as u64 - before as u64);
            let target = Some(Target::AtMost(150.0 * 1024.0));
            let row =
                Row::plain("  memory of each peer", Unit::BytesEach, Sample(vec![each]), target);
            self.rows.push(row);
        }
        let load: Sample = each(|crowd| &crowd.load);
        let target = (count == IDLE_OF).then_some(Target::AtMost(0.0005));
        self.rows.push(Row::plain("  idle: processor of each", Unit::Load, load, target));
        let idle: Sample = found.iter().filter_map(|crowd| crowd.idle_bytes).collect();
        let what = "  idle: bytes per second and peer, each way";
        self.rows.push(if idle.0.is_empty() {
            Row::skipped(what, &"skipped: `ss` is not installed, or does not tell")
        } else {
            Row::plain(what, Unit::BytesEach, idle, Some(Target::AtMost(40.0)))
        });
        median
    }
}
