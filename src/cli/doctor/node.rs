//! The node: its socket, its cookie, its strategies, its peers.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::findings::Finding;
use crate::cli::peers::span;
use crate::client::{self, FindError};
use crate::config::{Config, Trust};
use crate::tls::cookie::{self, CookieError};

/// Most nodes that are named in one line.
const NAMED_MAX: usize = 3;
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

/// The cookie: there, ours alone, strong, and the one that the node uses.
pub(super) fn cookie(
    diagnosis: Option<&Json>,
    config: Option<&Config>,
    findings: &mut Vec<Finding>,
) {
    if diagnosis.is_some_and(|diagnosis| diagnosis["trust"] == "certificates") {
        let found = "this mesh is held together by certificates; the node checks them each time they change";
        return findings.push(Finding::ok("cookie", found));
    }
    if let Some(issued) = diagnosis.map(|diagnosis| &diagnosis["issued"]).filter(|i| i.is_object())
    {
        return findings.push(certificate(issued));
    }
    let of_node =
        diagnosis.and_then(|diagnosis| diagnosis["cookie_file"].as_str()).map(PathBuf::from);
    let file = of_node.or_else(|| match &config?.trust {
        Trust::Cookie { file, .. } => Some(file.clone()),
        Trust::Certificates { .. } | Trust::Issued { .. } => None,
    });
    let Some(file) = file else { return };
    let shown = file.display();
    let cookies = match cookie::read(&file) {
        Ok(cookies) => cookies,
        Err(CookieError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let found = format!("{shown} does not exist");
            return findings.push(if diagnosis.is_some() {
                let advice = "the node goes on with the one it has read, and will not start again without: copy it from another node of the mesh (`pillion cookie path` there says where it is)";
                Finding::failed("cookie", found, advice)
            } else {
                let advice = "the first `pillion up` makes one; to join a mesh that is there, copy the file from one of its machines first";
                Finding::warning("cookie", found, advice)
            });
        }
        Err(error @ CookieError::Mode { .. }) => {
            let advice = format!(
                "`chmod 600 {shown}`, and if others could read it, make a new one for the whole mesh: `pillion cookie new`"
            );
            return findings.push(Finding::failed("cookie", error.to_string(), advice));
        }
        Err(error) => {
            let advice = "put the cookie of the mesh there, one line of 64 hex digits, mode 0600; `pillion cookie new` prints a new one";
            return findings.push(Finding::failed("cookie", error.to_string(), advice));
        }
    };
    let mesh = diagnosis.and_then(|diagnosis| diagnosis["mesh"].as_str().map(str::to_owned));
    let mesh = mesh.or_else(|| config.map(|config| config.mesh.as_str().to_owned()));
    let Some(mesh) = mesh else { return };
    let ids: Vec<String> = cookies.iter().map(|cookie| cookie::hex(&cookie.id(&mesh))).collect();
    let used = diagnosis.map(|diagnosis| texts(diagnosis, "ids"));
    let first = ids.first().cloned().unwrap_or_default();
    findings.push(match used {
        Some(used) if used != ids => {
            let found = format!(
                "{shown} holds another cookie (id {first}) than the node uses (id {})",
                used.first().cloned().unwrap_or_default()
            );
            let advice = "the node reads the file again every 5 s: run this once more, and if it stays, the log of the node says why it does not take it";
            Finding::failed("cookie", found, advice)
        }
        Some(_) => Finding::ok("cookie", format!("{shown} is yours alone and the one that the node uses (id {first})")),
        None => Finding::ok("cookie", format!("{shown} is yours alone and strong enough (id {first} in the mesh {mesh})")),
    });
}

/// The certificate that the node has been issued, or why there is none.
fn certificate(issued: &Json) -> Finding {
    let issuer = issued["issuer"].as_str().unwrap_or("?");
    let trouble = issued["trouble"].as_str();
    let advice = "it is asked again by itself: look at the injector's pods and their log, at network policies, and at this pod's token (audience pillion.dev)";
    match (issued["ends_ms"].as_u64(), trouble) {
        (Some(_), None) => {
            let found = format!("issued by {issuer}, good for {}", span(&issued["ends_ms"]));
            Finding::ok("certificate", found)
        }
        (Some(_), Some(why)) => {
            let ends = span(&issued["ends_ms"]);
            let found = format!("good for {ends} and cannot be renewed: {why}");
            Finding::warning("certificate", found, advice)
        }
        (None, Some(why)) => {
            let found = format!("none, so this node joins nobody: {why}");
            Finding::failed("certificate", found, advice)
        }
        (None, None) => {
            let found =
                format!("none yet: {issuer} is being asked, and this node joins nobody before");
            Finding::warning("certificate", found, "run this again in a moment")
        }
    }
}

fn texts(json: &Json, key: &str) -> Vec<String> {
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
    let in_vain = |peer: &&Json| {
        peer["state"] == "wanted" && peer["since_ms"].as_u64() >= Some(WANTED_FOR_MS)
    };
    let in_vain: Vec<&Json> = peers.iter().filter(in_vain).collect();
    let who = |peer: &Json| {
        let address = || peer["addresses"][0].as_str().unwrap_or("?").to_owned();
        peer["node"].as_str().map_or_else(address, str::to_owned)
    };
    let Some(first) = in_vain.first() else {
        let (min_peers, ready) = (count("min_peers"), diagnosis["ready"] == true);
        return findings.push(if ready {
            Finding::ok("peers", found)
        } else {
            let found = format!("{found}; not ready: it waits for {min_peers} (--min-peers)");
            Finding::warning("peers", found, "`pillion peers` shows who is known, `pillion explain NODE` why one is not connected")
        });
    };
    let names: Vec<String> = in_vain.iter().take(NAMED_MAX).map(|peer| who(peer)).collect();
    let reason = first["reason"].as_str().unwrap_or("no try has ended yet");
    let found = format!("{found}; in vain: {} ({}: {reason})", names.join(", "), names[0]);
    let advice = format!("`pillion explain {}` says more", names[0]);
    findings.push(Finding::warning("peers", found, advice));
}
