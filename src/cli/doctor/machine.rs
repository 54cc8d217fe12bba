//! The machine: local directory, clock, ports, multicast, open files.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pillion_strategies::interfaces::{is_of_containers, is_tellable, own};
use rustix::process::{Resource, getrlimit};
use serde_json::Value as Json;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::findings::{Finding, State};
use super::multicast;
use crate::transport::{self, PORT_FIRST};

/// A peer's clock that differs by more is worth a look: beats, timeouts and calls do not mind.
const SKEW_WORTH: Duration = Duration::from_secs(5);
/// A clock that differs by more breaks certificates, and which of two global names is older.
const SKEW_WRONG: Duration = Duration::from_secs(5 * 60);
/// How long an address of this machine may take to answer.
const DIAL_WITHIN: Duration = Duration::from_secs(2);
/// Most addresses that are dialled.
const ADDRESSES_MAX: usize = 16;
/// With fewer a mesh of some dozens of nodes and apps is at its end.
const FILES_FEW: u64 = 1024;
/// With fewer even a small one is.
const FILES_TOO_FEW: u64 = 128;

/// The directory of sockets and of the local registry.
pub(super) fn local_dir(dir: &Path, uid: u32, runs: bool, findings: &mut Vec<Finding>) {
    let shown = dir.display();
    let found = match std::fs::symlink_metadata(dir) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !runs => {
            let found = format!("{shown} does not exist yet: the first `pillion up` makes it");
            return findings.push(Finding::ok("directory", found));
        }
        Err(error) => {
            let advice = "restart the node: it makes the directory anew, and nodes of this machine find each other again";
            let found = format!("{shown} cannot be looked at: {error}");
            return findings.push(Finding::failed("directory", found, advice));
        }
    };
    let mode = found.mode() & 0o777;
    let (wrong, advice) = if found.is_symlink() || !found.is_dir() {
        (
            "is not a directory".to_owned(),
            "remove what stands there, or choose another --dir".to_owned(),
        )
    } else if found.uid() != uid {
        (
            format!("belongs to user {}, and you are user {uid}", found.uid()),
            "whoever owns it can be your apps: choose another --dir".to_owned(),
        )
    } else if mode != 0o700 {
        let wrong = format!(
            "has mode {mode:04o}: whoever may write there can be your apps, and no node starts there"
        );
        (wrong, format!("`chmod 700 {shown}`"))
    } else {
        return findings.push(Finding::ok("directory", format!("{shown} is yours alone")));
    };
    findings.push(Finding::failed("directory", format!("{shown} {wrong}"), advice));
}

/// The clock: against the peers, or against what cannot be from the future.
pub(super) fn clock(diagnosis: Option<&Json>, findings: &mut Vec<Finding>) {
    let now = SystemTime::now();
    let skews: Vec<(String, i64)> = diagnosis
        .and_then(|diagnosis| diagnosis["skews_ms"].as_object())
        .into_iter()
        .flatten()
        .filter_map(|(node, skew)| Some((node.clone(), skew.as_i64()?)))
        .collect();
    let built = std::env::current_exe().and_then(std::fs::metadata).and_then(|m| m.modified());
    if let Ok(built) = built
        && let Ok(ahead) = built.duration_since(now)
        && ahead > SKEW_WRONG
    {
        let found = format!("this clock is {} behind the date of the pillion binary", text(ahead));
        let advice = "set it (`date -u` shows it) and run NTP: certificates count as not valid yet with a clock like that";
        return findings.push(Finding::failed("clock", found, advice));
    }
    let Some((worst, skew)) = skews.iter().max_by_key(|(_, skew)| skew.unsigned_abs()) else {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let found = format!("nobody to compare it with; it says {}", utc(since));
        return findings.push(Finding::ok("clock", found));
    };
    let off = Duration::from_millis(skew.unsigned_abs());
    let way = if *skew > 0 { "ahead of" } else { "behind" };
    let found = format!("the clock of {worst} was {} {way} this one when it joined", text(off));
    let all = skews.len();
    let others =
        skews.iter().filter(|(_, skew)| Duration::from_millis(skew.unsigned_abs()) > SKEW_WORTH);
    let others = others.count();
    let whose = if all > 1 && others * 2 > all {
        "most peers differ, so it is likely this machine's clock that is wrong"
    } else {
        "compare `date -u` on both machines"
    };
    let advice = format!(
        "{whose}; run NTP on both. With minutes between them certificates fail and the older of two global names is not the older one"
    );
    findings.push(if off > SKEW_WRONG {
        Finding::failed("clock", found, advice)
    } else if off > SKEW_WORTH {
        Finding::warning("clock", found, advice)
    } else {
        Finding::ok(
            "clock",
            format!("within {} of {all} {}", text(off), if all == 1 { "peer" } else { "peers" }),
        )
    });
}

fn text(time: Duration) -> String {
    crate::cli::peers::span(&Json::from(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
}

/// `2026-11-21 19:02:47 UTC`. Days are counted as Howard Hinnant's `civil_from_days` does.
pub(super) fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, early) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year_of_era + era * 400 + early;
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

fn addresses(diagnosis: &Json, key: &str) -> Vec<SocketAddr> {
    let texts = diagnosis[key].as_array().into_iter().flatten().filter_map(Json::as_str);
    texts.filter_map(|text| text.parse().ok()).collect()
}

/// Whether the mesh port is bound and answers at each address of this machine.
pub(super) async fn ports(diagnosis: Option<&Json>, findings: &mut Vec<Finding>) {
    let Some(diagnosis) = diagnosis else { return free_port(findings) };
    let listens = addresses(diagnosis, "listens");
    let own = own();
    let mut dialled: BTreeSet<SocketAddr> = BTreeSet::new();
    for address in &listens {
        if address.ip().is_unspecified() {
            dialled.insert(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()));
            let others = own.iter().filter(|own| own.is_up && !is_of_containers(&own.name));
            let others = others.map(|own| own.ip).filter(|ip| is_tellable(*ip));
            let others = others.filter(|ip| address.is_ipv6() || ip.is_ipv4());
            dialled.extend(others.map(|ip| SocketAddr::new(ip, address.port())));
        } else {
            dialled.insert(*address);
        }
    }
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for address in dialled.into_iter().take(ADDRESSES_MAX) {
        match dial(address).await {
            Ok(()) => good.push(address.to_string()),
            Err(why) => bad.push(format!("{address} {why}")),
        }
    }
    let shown: Vec<String> = listens.iter().map(ToString::to_string).collect();
    let shown = shown.join(", ");
    if bad.is_empty() {
        let found = format!("listens on {shown}, and answers at {}", good.join(", "));
        findings.push(Finding::ok("ports", found));
    } else {
        let found =
            format!("listens on {shown}, and does not answer from here: {}", bad.join("; "));
        let advice = "a firewall of this machine drops it: let TCP to that port through (`nft list ruleset` or `iptables -L -n` show what it does)";
        findings.push(Finding::failed("ports", found, advice));
    }
    if listens.iter().all(|address| address.ip().is_loopback()) && !listens.is_empty() {
        let found = format!("listens on loopback only ({shown}): no other machine reaches it");
        let advice = "that is right for nodes of one machine; else start it with another --listen, or without";
        findings.push(Finding::warning("ports", found, advice));
    }
    for address in addresses(diagnosis, "advertised").into_iter().take(ADDRESSES_MAX) {
        findings.push(match dial(address).await {
            Ok(()) => Finding::ok("advertised", format!("{address} answers")),
            Err(why) => {
                let found = format!("{address} {why}, as seen from here");
                let advice = format!(
                    "some routers do not let their own network in that way: try `nc -vz {} {}` from outside; if that fails too, the forwarding to this machine is wrong",
                    address.ip(),
                    address.port()
                );
                Finding::warning("advertised", found, advice)
            }
        });
    }
}

async fn dial(address: SocketAddr) -> Result<(), String> {
    match timeout(DIAL_WITHIN, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err("refuses connections".to_owned())
        }
        Ok(Err(error)) => Err(format!("cannot be dialled ({error})")),
        Err(_) => Err("does not answer".to_owned()),
    }
}

/// Whether a node that starts now gets the usual port.
fn free_port(findings: &mut Vec<Finding>) {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT_FIRST));
    findings.push(match transport::listen(any, false) {
        Ok(_) => Finding::ok("ports", format!("{PORT_FIRST} is free for a node")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let found = format!("another program has the mesh port {PORT_FIRST}");
            let advice = format!(
                "`pillion up` takes the next free port from 4472 and says so in `pillion nodes`; whoever joins by address has to name it. `ss -ltnp 'sport = :{PORT_FIRST}'` shows the program"
            );
            Finding::warning("ports", found, advice)
        }
        Err(error) => {
            let found = format!("a node could not listen on port {PORT_FIRST}: {error}");
            Finding::failed("ports", found, "start it with another --listen")
        }
    });
}

/// Whether multicast works on each interface, where a strategy needs it.
pub(super) async fn multicast(diagnosis: Option<&Json>, findings: &mut Vec<Finding>) {
    let strategies = diagnosis.and_then(|diagnosis| diagnosis["strategies"].as_array());
    let needs = |strategy: &Json| {
        let kind = strategy["strategy"].as_str().unwrap_or_default();
        kind.starts_with("mdns") || kind.starts_with("gossip")
    };
    let needed = strategies.is_none_or(|strategies| strategies.iter().any(needs));
    if !needed {
        return findings
            .push(Finding::ok("multicast", "not looked at: no strategy of the node needs it"));
    }
    let echoes = multicast::echoes().await;
    if echoes.is_empty() {
        let found = "no interface is up but loopback and those of containers";
        let advice = "nodes of this machine still find each other by local://; for others connect the machine to a network";
        return findings.push(Finding::warning("multicast", found, advice));
    }
    let many = echoes.len();
    let mut deaf = 0;
    let mut found = Vec::new();
    for echo in echoes {
        let interface = &echo.interface;
        let each = [("IPv4", &echo.v4), ("IPv6", &echo.v6)];
        let good: Vec<&str> =
            each.iter().filter(|(_, r)| matches!(r, Some(Ok(())))).map(|(kind, _)| *kind).collect();
        let bad: Vec<String> = each
            .iter()
            .filter_map(|(kind, result)| match result {
                Some(Err(why)) => Some(format!("{kind}: {why}")),
                _ => None,
            })
            .collect();
        let check = format!("multicast {interface}");
        found.push(if bad.is_empty() && !good.is_empty() {
            Finding::ok(check, format!("hears itself ({})", good.join(", ")))
        } else if good.is_empty() {
            deaf += 1;
            let text = if bad.is_empty() { "has no address to try".to_owned() } else { bad.join("; ") };
            let advice = format!(
                "does it carry multicast (`ip link show {interface}` says MULTICAST), and does a firewall drop UDP 5353 (`nft list ruleset`)? Until then mdns finds nobody there: --join HOST or another --strategy does without"
            );
            Finding::failed(check, text, advice)
        } else {
            let text = format!("hears itself ({}), but not {}", good.join(", "), bad.join("; "));
            Finding::warning(check, text, "one of the two is enough, if all machines of this network have it")
        });
    }
    if deaf < many {
        // One network without it among others is how many machines are.
        for finding in found.iter_mut().filter(|finding| finding.state == State::Failed) {
            finding.state = State::Warning;
        }
    }
    findings.append(&mut found);
}

/// How many files may be open: each app and each peer is one.
pub(super) fn files(diagnosis: Option<&Json>, findings: &mut Vec<Finding>) {
    let advice = "raise it where the node is started: `ulimit -n 65536`, LimitNOFILE= of systemd, --ulimit nofile= of docker";
    let used = diagnosis.and_then(|diagnosis| diagnosis["files"].as_u64());
    let limit = match diagnosis {
        Some(diagnosis) => diagnosis["files_max"].as_u64(),
        None => getrlimit(Resource::Nofile).current,
    };
    let Some(limit) = limit else {
        return findings.push(Finding::ok("files", "no limit of open files"));
    };
    let whose = if diagnosis.is_some() { "the node" } else { "a node started from here" };
    let found = match used {
        Some(used) => {
            format!("{whose} has {used} of {limit} files open; each app and each peer is one")
        }
        None => format!("{whose} may open {limit} files; each app and each peer is one"),
    };
    let full = used.is_some_and(|used| used.saturating_mul(5) >= limit.saturating_mul(4));
    findings.push(if full || limit < FILES_TOO_FEW {
        Finding::failed("files", found, advice)
    } else if limit < FILES_FEW {
        Finding::warning("files", found, advice)
    } else {
        Finding::ok("files", found)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(check: impl FnOnce(&mut Vec<Finding>)) -> Finding {
        let mut findings = Vec::new();
        check(&mut findings);
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings.remove(0)
    }

    #[test]
    fn a_clock_is_told_in_words_that_people_compare() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_795_287_767), "2026-11-21 19:02:47 UTC");
    }

    #[test]
    fn the_clock_that_is_wrong_is_the_one_that_most_differ_from() {
        let skewed = |skews: Json| {
            let diagnosis = serde_json::json!({ "skews_ms": skews });
            found(|findings| clock(Some(&diagnosis), findings))
        };
        let good = skewed(serde_json::json!({"b@h": 12, "c@h": -900}));
        assert_eq!((good.state, good.found.as_str()), (State::Ok, "within 900 ms of 2 peers"));
        let one = skewed(serde_json::json!({"b@h": 12, "c@h": -30_000, "d@h": 3}));
        assert_eq!(one.state, State::Warning);
        assert!(one.found.contains("c@h was 30 s behind") && one.advice.contains("date -u"));
        let ours = skewed(serde_json::json!({"b@h": 7_200_000, "c@h": 7_200_100}));
        assert_eq!(ours.state, State::Failed);
        assert!(ours.found.contains("2 h ahead") && ours.advice.contains("this machine's"));
    }

    #[test]
    fn few_files_are_told_before_they_run_out() {
        let open = |used: u64, limit: u64| {
            let diagnosis = serde_json::json!({ "files": used, "files_max": limit });
            found(|findings| files(Some(&diagnosis), findings)).state
        };
        assert_eq!(open(20, 1024), State::Ok);
        assert_eq!(open(20, 512), State::Warning);
        assert_eq!(open(900, 1024), State::Failed);
        assert_eq!(open(20, 64), State::Failed);
    }
}
