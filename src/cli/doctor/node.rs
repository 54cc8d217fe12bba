//! The node: its socket, its strategies, its peers.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::findings::Finding;
use crate::cli::peers::span;
use crate::client::{self, FindError};

/// Most nodes that are named in one line.
const NAMED_MAX: usize = 3;
/// What was heard longer ago than this may be over.
const FRESH_MS: u64 = 10 * 60 * 1000;
/// A node that is dialled for so long is worth a word.
const WANTED_FOR_MS: u64 = 10_000;

/// The socket that is looked at: the one that was named, or the only one there is.
pub(super) fn socket(
    named: Option<PathBuf>,
    uid: u32,
    findings: &mut Vec<Finding>,
) -> Option<PathBuf> {
    let found = match client::find(named) {
        Ok(path) => path,
        Err(FindError::None { directory }) => {
            // One that does not answer is worth more than none.
            let silent = silent_under(&directory);
            if silent.is_empty() {
                let found = format!("no node runs here: nothing is below {}", directory.display());
                let advice = "`pillion up` starts one; what follows is what it would find";
                findings.push(Finding::warning("socket", found, advice));
            }
            for path in silent {
                let _ = connects(&path, uid, findings);
            }
            return None;
        }
        Err(error @ FindError::NotOurs { .. }) => {
            let advice =
                "name the socket of your node with --socket, or start one with --dir elsewhere";
            findings.push(Finding::failed("socket", error.to_string(), advice));
            return None;
        }
        Err(FindError::Several(paths)) => {
            let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            let found = format!("{} nodes run here: {}", paths.len(), paths.join(", "));
            let advice = "say which one: `pillion doctor --socket PATH`, or set PILLION_SOCKET";
            findings.push(Finding::failed("socket", found, advice));
            return None;
        }
    };
    connects(&found, uid, findings).then_some(found)
}

/// Sockets that somebody has left, or that do not let us in.
fn silent_under(directory: &Path) -> Vec<PathBuf> {
    let entries = |path: &Path| {
        std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path())
    };
    let mut silent: Vec<PathBuf> = entries(directory)
        .flat_map(|mesh| entries(&mesh).collect::<Vec<_>>())
        .filter(|path| path.extension() == Some(OsStr::new("sock")))
        .collect();
    silent.sort();
    silent
}

/// Whether the socket lets us in. Says so when it does not, or when it lets in nobody else.
fn connects(path: &Path, uid: u32, findings: &mut Vec<Finding>) -> bool {
    let shown = path.display();
    let mut failed = |found: String, advice: &str| {
        findings.push(Finding::failed("socket", found, advice));
        false
    };
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let advice = "does the node run? `pillion up` starts one; without --socket and PILLION_SOCKET it is looked for in the local directory";
            return failed(format!("{shown} does not exist"), advice);
        }
        Err(error) => {
            let advice = "may you enter its directory? `ls -ld` shows whose it is";
            return failed(format!("{shown} cannot be looked at: {error}"), advice);
        }
    };
    let (mode, owner) = (metadata.mode() & 0o777, metadata.uid());
    if mode & 0o600 != 0o600 {
        let found =
            format!("{shown} has mode {mode:04o}: not even the apps of its owner may open it");
        return failed(
            found,
            &format!("`chmod 600 {shown}` lets them in again; nothing needs a restart"),
        );
    }
    match UnixStream::connect(path) {
        Ok(_) => true,
        Err(error) => match error.kind() {
            io::ErrorKind::PermissionDenied => {
                let found = format!(
                    "{shown} does not let you in: it belongs to user {owner} with mode {mode:04o}, and you are user {uid}"
                );
                failed(found, "run this as that user, or start the node with a wider --socket-mode")
            }
            io::ErrorKind::ConnectionRefused => {
                let found =
                    format!("{shown} is there and nobody answers: its node was killed and left it");
                failed(found, "start the node again with `pillion up`: it takes the socket over")
            }
            _ => {
                let found = format!("{shown} cannot be connected to: {error}");
                failed(found, "start the node again with `pillion up`")
            }
        },
    }
}

/// What the socket says of its node.
pub(super) fn answers(path: &Path, diagnosis: Option<&Json>, findings: &mut Vec<Finding>) {
    let Some(diagnosis) = diagnosis else { return };
    let text = |key: &str| diagnosis[key].as_str().unwrap_or("?");
    let found = format!(
        "{} answers: {} in the mesh {}, process {}, up for {}",
        path.display(),
        text("node"),
        text("mesh"),
        diagnosis["os_pid"],
        span(&diagnosis["up_ms"])
    );
    let own = env!("CARGO_PKG_VERSION");
    if text("version") == own {
        findings.push(Finding::ok("socket", found));
    } else {
        let found = format!("{found}, of version {}; this command is {own}", text("version"));
        findings.push(Finding::warning(
            "socket",
            found,
            "restart the node to use the newer one of the two",
        ));
    }
}

/// The texts of a list.
pub(super) fn texts(json: &Json, key: &str) -> Vec<String> {
    json[key].as_array().into_iter().flatten().filter_map(Json::as_str).map(str::to_owned).collect()
}

/// How each strategy of the node is doing.
pub(super) fn strategies(diagnosis: &Json, findings: &mut Vec<Finding>) {
    let strategies = diagnosis["strategies"].as_array().cloned().unwrap_or_default();
    if strategies.is_empty() {
        let found = "the node has no strategy: it finds nobody by itself";
        let advice = "that is right when others find it, or with `pillion connect`; else start it with --strategy or --join";
        findings.push(Finding::warning("strategies", found, advice));
    }
    for strategy in &strategies {
        let text = |key: &str| strategy[key].as_str().unwrap_or_default();
        let seen = texts(strategy, "sees");
        let count = strategy["count"].as_u64().unwrap_or(0);
        let named = seen.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
        let more = if count > NAMED_MAX as u64 { ", ..." } else { "" };
        let sees = match count {
            0 => "nobody".to_owned(),
            1 => named,
            n => format!("{n} nodes ({named}{more})"),
        };
        let since = span(&strategy["since_ms"]);
        let check = text("strategy").to_owned();
        findings.push(match text("health") {
            "well" => Finding::ok(check, format!("well for {since}; sees {sees}")),
            "unwell" => {
                let last = match strategy["well_ms"].as_u64() {
                    Some(_) => format!("it was last well {} ago and saw {sees}", span(&strategy["well_ms"])),
                    None => format!("it has never been well; it saw {sees}"),
                };
                let found = format!("unwell for {since}: {}; {last}", text("reason").trim_end_matches('.'));
                let advice = format!("nobody who is connected is dropped for that, and it is tried on and on; it was started as {}", text("url"));
                Finding::failed(check, found, advice)
            }
            _ => {
                let found = format!("has not heard from its source yet, for {since}");
                Finding::warning(check, found, format!("run this again in a moment; it was started as {}", text("url")))
            }
        });
    }
}

/// The pods that an agent serves: whether they can be looked up, and who was turned away.
pub(super) fn pods(diagnosis: &Json, findings: &mut Vec<Finding>) {
    let pods = &diagnosis["pods"];
    if !pods.is_object() {
        return;
    }
    let known = format!(
        "serves the pods {} of its machine; {} are known",
        texts(pods, "allowed").join(", "),
        pods["known"]
    );
    findings.push(match pods["problem"].as_str() {
        None => Finding::ok("pods", known),
        Some(problem) => {
            let found = format!("{known}, and new ones cannot be looked up: {}", problem.trim_end_matches('.'));
            let advice = "apps of known pods come as before, those of new ones wait 5 s and are told; it is tried on and on";
            Finding::failed("pods", found, advice)
        }
    });
    for (reason, count) in pods["refused"].as_object().into_iter().flatten() {
        let (what, advice) = match reason.as_str() {
            "no_pod" => (
                "run in no pod",
                "an app on the machine itself starts a node of its own, `pillion up`",
            ),
            "not_allowed" => (
                "run in pods that may not come",
                "if they may, add their namespace to `pods` (in the chart `agent.namespaces`)",
            ),
            "unknown" => (
                "run in pods that the API server does not tell of",
                "is NODE_NAME of this node the name of its machine? `kubectl get nodes` lists them",
            ),
            _ => ("were too many", "see the log of the node for the pod that they are of"),
        };
        let found = format!("turned {count} apps away that {what}");
        findings.push(Finding::warning("pods", found, advice));
    }
}

/// What strategies heard and did not believe: whose it is, and whether it matters.
pub(super) fn ignored(diagnosis: &Json, findings: &mut Vec<Finding>) {
    let alone = diagnosis["connected"] == 0;
    for strategy in diagnosis["strategies"].as_array().into_iter().flatten() {
        let check = strategy["strategy"].as_str().unwrap_or_default();
        for ignored in strategy["ignored"].as_array().into_iter().flatten() {
            let is_fresh = ignored["ago_ms"].as_u64() <= Some(FRESH_MS);
            let (what, matters, advice) = match ignored["why"].as_str().unwrap_or_default() {
                "foreign" => (
                    "sealed with a secret that this node has not",
                    alone,
                    "that is right for nodes of somebody else. For one of yours: compare `pillion cookie show` on both machines (or the files of secret-file=), and copy the one that is right",
                ),
                "replayed" => (
                    "heard before",
                    false,
                    "a machine with two interfaces in one network hears itself twice; many of them from elsewhere are somebody who plays back what he recorded, which changes nothing",
                ),
                "skewed" => (
                    "sealed more than a minute before or after this clock",
                    true,
                    "compare `date -u` on both machines, and run NTP on both; else somebody plays back what he recorded, which changes nothing",
                ),
                _ => (
                    "that make no sense",
                    true,
                    "another program uses the same port or service name, or they are changed on their way. `pillion version` on both machines says whether one is much older; tcpdump shows who sends them",
                ),
            };
            let found = format!(
                "ignored what it heard, {what}: {} times, last {} ago from {}",
                ignored["count"],
                span(&ignored["ago_ms"]),
                ignored["from"].as_str().unwrap_or("?"),
            );
            findings.push(if matters && is_fresh {
                Finding::warning(check, found, advice)
            } else {
                Finding { advice: advice.to_owned(), ..Finding::ok(check, found) }
            });
        }
    }
}

/// Who is seen and never dialled, and why.
fn left_alone(diagnosis: &Json, peers: &[Json], findings: &mut Vec<Finding>) {
    let who = |peer: &Json| {
        let node = peer["node"].as_str().or_else(|| peer["addresses"][0].as_str());
        node.unwrap_or("?").to_owned()
    };
    let known: Vec<(String, &str)> = peers
        .iter()
        .filter(|peer| peer["state"] == "known")
        .filter_map(|peer| Some((who(peer), peer["reason"].as_str()?)))
        .collect();
    let Some((first, _)) = known.first() else { return };
    let told: Vec<String> =
        known.iter().take(NAMED_MAX).map(|(who, why)| format!("{who} {why}")).collect();
    let more = if known.len() > NAMED_MAX { "; ..." } else { "" };
    let found = format!("seen and left alone: {}{more}", told.join("; "));
    let advice = format!(
        "nothing, where that is as you want it. Cookies are compared with `pillion cookie show` on both machines; `pillion explain {first}` says more"
    );
    findings.push(if diagnosis["connected"] == 0 {
        Finding::warning("peers", found, advice)
    } else {
        Finding { advice, ..Finding::ok("peers", found) }
    });
}

/// Who is connected, and who should be.
pub(super) fn peers(diagnosis: &Json, findings: &mut Vec<Finding>) {
    let count = |key: &str| diagnosis[key].as_u64().unwrap_or(0);
    let found = format!(
        "{} connected, {} dialled and not connected, {} known and left alone",
        count("connected"),
        count("wanted"),
        count("known")
    );
    let peers = diagnosis["peers"].as_array().cloned().unwrap_or_default();
    left_alone(diagnosis, &peers, findings);
    let in_vain = |peer: &&Json| {
        peer["state"] == "wanted" && peer["since_ms"].as_u64() >= Some(WANTED_FOR_MS)
    };
    let in_vain: Vec<&Json> = peers.iter().filter(in_vain).collect();
    let who = |peer: &Json| {
        let address = || peer["addresses"][0].as_str().unwrap_or("?").to_owned();
        peer["node"].as_str().map_or_else(address, str::to_owned)
    };
    let Some(first) = in_vain.first() else {
        return findings.push(if diagnosis["ready"] == true {
            Finding::ok("peers", found)
        } else {
            let why = diagnosis["unready"].as_str().unwrap_or("it does not say why");
            let found = format!("{found}; not ready: {why}");
            Finding::warning("peers", found, "`pillion peers` shows who is known, `pillion explain NODE` why one is not connected")
        });
    };
    let names: Vec<String> = in_vain.iter().take(NAMED_MAX).map(|peer| who(peer)).collect();
    let reason = first["reason"].as_str().unwrap_or("no try has ended yet");
    let found = format!("{found}; in vain: {} ({}: {reason})", names.join(", "), names[0]);
    let advice = format!("`pillion explain {}` says more", names[0]);
    findings.push(Finding::warning("peers", found, advice));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_agent_is_told_of_pods_that_cannot_be_looked_up_and_of_apps_that_were_turned_away() {
        let told = |diagnosis: Json| {
            let mut findings = Vec::new();
            pods(&diagnosis, &mut findings);
            findings.into_iter().map(|finding| format!("{finding:?}")).collect::<Vec<_>>()
        };
        assert!(told(json!({"node": "a@h"})).is_empty(), "it is no agent");
        let well = told(json!({"pods": {"allowed": ["*"], "known": 12, "refused": {}}}));
        assert!(well.len() == 1 && well[0].contains("12 are known"), "{well:?}");
        let problem = "ida may not list pods in all namespaces";
        let refused = json!({"no_pod": 2, "not_allowed": 1});
        let pods = json!({"allowed": ["shop"], "known": 0, "refused": refused, "problem": problem});
        let ill = told(json!({"pods": pods}));
        assert_eq!(ill.len(), 3, "{ill:?}");
        assert!(ill[0].contains(problem), "{ill:?}");
        assert!(ill[1].contains("2 apps") && ill[2].contains("agent.namespaces"), "{ill:?}");
    }
}
