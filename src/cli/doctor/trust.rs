//! Who may join: the cookie, or the certificates and their time.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value as Json, json};

use super::findings::Finding;
use super::machine::utc;
use super::node::texts;
use crate::cli::peers::span;
use crate::config::{Config, Trust};
use crate::tls::cookie::{self, CookieError};
use crate::tls::{self, Tls};

/// A certificate that ends sooner is worth a word, unless a third of its life is less.
const SOON: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The cookie: there, ours alone, strong, and the one that the node uses.
pub(super) fn cookie(
    diagnosis: Option<&Json>,
    config: Option<&Config>,
    findings: &mut Vec<Finding>,
) {
    if diagnosis.is_some_and(|diagnosis| diagnosis["trust"] == "certificates") {
        return;
    }
    if let Some(issued) = diagnosis.map(|diagnosis| &diagnosis["issued"]).filter(|i| i.is_object())
    {
        return findings.push(of_issuer(issued));
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
    let running = used.as_ref().and_then(|used| used.first().cloned());
    findings.push(match used {
        Some(used) if used != ids => {
            let why = diagnosis.and_then(|diagnosis| diagnosis["trust_problem"].as_str());
            let why = why.map(|why| format!(", which does not take it: {why}")).unwrap_or_default();
            let found = format!(
                "{shown} holds another cookie (id {first}) than the node uses (id {}){why}",
                used.first().cloned().unwrap_or_default()
            );
            let advice = "the node reads the file again every 5 s: run this once more, and if it stays, the log of the node says why it does not take it";
            Finding::failed("cookie", found, advice)
        }
        Some(_) => Finding::ok("cookie", format!("{shown} is yours alone and the one that the node uses (id {first})")),
        None => Finding::ok("cookie", format!("{shown} is yours alone and strong enough (id {first} in the mesh {mesh})")),
    });
    if let (Some(running), Some(config)) = (running, config) {
        of_this_shell(&file, &running, &mesh, config, findings);
    }
}

/// The certificate that the node has been issued, or why there is none.
fn of_issuer(issued: &Json) -> Finding {
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
        (None, why) if issued["ended_ms"].is_u64() => {
            let ended = span(&issued["ended_ms"]);
            let why = why.map_or_else(|| format!("{issuer} is being asked"), str::to_owned);
            let found = format!(
                "ended {ended} ago: this node keeps the connections that it has, and joins nobody: {why}"
            );
            Finding::failed("certificate", found, advice)
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

/// What `pillion cookie` and a node that is started here would use, where that is another file than the node's.
fn of_this_shell(
    of_node: &Path,
    running: &str,
    mesh: &str,
    config: &Config,
    findings: &mut Vec<Finding>,
) {
    let Trust::Cookie { file, .. } = &config.trust else { return };
    if file == of_node {
        return;
    }
    let Ok(own) = cookie::read(file) else { return };
    let ids: Vec<String> = own.iter().map(|cookie| cookie::hex(&cookie.id(mesh))).collect();
    if ids.iter().any(|id| id == running) {
        return;
    }
    let found = format!(
        "your own cookie {} (id {}) is not that of this node (id {running}, {})",
        file.display(),
        ids.first().cloned().unwrap_or_default(),
        of_node.display()
    );
    let advice = format!(
        "`pillion cookie show` and a node that you start here use yours, and would not join this one: set PILLION_COOKIE_FILE={}, or copy the right one over the other",
        of_node.display()
    );
    findings.push(Finding::warning("cookie", found, advice));
}

/// The certificates of the node, or of the configuration where no node runs: there, ours, and of now.
pub(super) fn certificates(
    diagnosis: Option<&Json>,
    config: Option<&Config>,
    findings: &mut Vec<Finding>,
) {
    let all = match diagnosis {
        Some(diagnosis) => {
            if diagnosis["trust"] == "certificates"
                && let Some(why) = diagnosis["trust_problem"].as_str()
            {
                let found = format!("what the files hold now is not taken: {why}");
                let advice = "the node goes on with what it has read before: mend the files, it looks at them every 5 s";
                findings.push(Finding::failed("certificate", found, advice));
            }
            diagnosis["certificates"].as_array().cloned().unwrap_or_default()
        }
        None => match config.map(of_config) {
            Some(Ok(all)) => all,
            Some(Err(why)) => {
                let advice = "no node starts with these: mend that first";
                return findings.push(Finding::failed("certificate", why, advice));
            }
            None => return,
        },
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    findings.extend(all.iter().map(|certificate| judge(certificate, now)));
}

/// Reads the files as a node would.
fn of_config(config: &Config) -> Result<Vec<Json>, String> {
    let Trust::Certificates { ca, cert, key } = &config.trust else { return Ok(Vec::new()) };
    let trust = tls::Trust::Certificates { ca: ca.clone(), cert: cert.clone(), key: key.clone() };
    let tls = Tls::new(&trust, config.mesh.as_str(), &config.host);
    let all = tls.map_err(|error| error.to_string())?.certificates();
    let shown = |certificate: &tls::Validity| {
        json!({
            "role": certificate.role,
            "subject": certificate.subject,
            "file": certificate.file.as_ref().map(|file| file.display().to_string()),
            "not_before_ms": certificate.not_before.saturating_mul(1000),
            "not_after_ms": certificate.not_after.saturating_mul(1000),
        })
    };
    Ok(all.iter().map(shown).collect())
}

fn judge(certificate: &Json, now: i64) -> Finding {
    let text = |key: &str| certificate[key].as_str().unwrap_or_default();
    let whose = match text("role") {
        "node" => "the node's own certificate",
        "authority" => "the authority's certificate",
        _ => "the certificate between the node's and its authority",
    };
    let file = if text("file").is_empty() { "memory" } else { text("file") };
    let subject = if text("subject").is_empty() { "no subject" } else { text("subject") };
    let who = format!("{whose} in {file} ({subject})");
    let at = |key: &str| certificate[key].as_i64().unwrap_or_default();
    let (begins, ends) = (at("not_before_ms"), at("not_after_ms"));
    let date = |ms: i64| utc(u64::try_from(ms / 1000).unwrap_or_default());
    let time = |ms: i64| span(&Json::from(u64::try_from(ms).unwrap_or_default()));
    let rest = ends.saturating_sub(now);
    let soon = i64::try_from(SOON.as_millis()).unwrap_or(i64::MAX);
    let soon = soon.min(ends.saturating_sub(begins) / 3);
    let is_authority = text("role") == "authority";
    if rest < 0 && is_authority {
        let found = format!("{who} ended on {}, {} ago", date(ends), time(-rest));
        let advice = "nodes do not look at its dates, other programs do: have a new one made, and put it beside the old one into the file before certificates of it are used";
        Finding::warning("certificate", found, advice)
    } else if rest < 0 {
        let found = format!(
            "{who} ended on {}, {} ago: every node refuses this one at its next connection",
            date(ends),
            time(-rest)
        );
        let advice = "put a renewed one and its key in place of the old: the node reads them again within 5 s, without a restart. If it should count still, the clock of this machine is wrong (`date -u`)";
        Finding::failed("certificate", found, advice)
    } else if now < begins && !is_authority {
        let found = format!(
            "{who} does not count before {}, {} from now",
            date(begins),
            time(begins - now)
        );
        let advice = "is the clock of this machine right? `date -u` shows it; if it is, have one issued that counts now";
        Finding::failed("certificate", found, advice)
    } else if rest < soon {
        let found = format!("{who} ends on {}, in {}", date(ends), time(rest));
        let advice = "renew it now: whoever does so by himself (cert-manager, a timer) would have done it by this time. The node reads the new files within 5 s, without a restart";
        Finding::warning("certificate", found, advice)
    } else {
        let found = format!("{who} counts until {}, for {}", date(ends), time(rest));
        Finding::ok("certificate", found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::findings::State;

    const DAY: i64 = 24 * 60 * 60 * 1000;

    fn of(role: &str, begins: i64, ends: i64) -> Finding {
        let certificate = json!({
            "role": role, "subject": "CN=hal", "file": "/tls.crt",
            "not_before_ms": 1000 * DAY + begins, "not_after_ms": 1000 * DAY + ends
        });
        judge(&certificate, 1000 * DAY)
    }

    #[test]
    fn of_an_issued_certificate_it_is_told_when_it_ends_and_since_when_it_has_ended() {
        let why = "the issuer does not answer";
        for (issued, state, words) in [
            (json!({"ends_ms": 7_200_000}), State::Ok, "good for 2 h"),
            (
                json!({"ends_ms": 7_200_000, "trouble": why}),
                State::Warning,
                "cannot be renewed: the",
            ),
            (
                json!({"ended_ms": 600_000, "trouble": why}),
                State::Failed,
                "ended 10 min ago: this node keeps",
            ),
            (json!({"ended_ms": 600_000}), State::Failed, "https://i/ is being asked"),
            (json!({"trouble": why}), State::Failed, "none, so this node joins nobody: the"),
            (json!({}), State::Warning, "none yet: https://i/ is being asked"),
        ] {
            let mut issued = issued;
            issued["issuer"] = json!("https://i/");
            let finding = of_issuer(&issued);
            assert_eq!(finding.state, state, "{finding:?}");
            assert!(finding.found.contains(words), "{finding:?}");
        }
    }

    #[test]
    fn a_certificate_is_told_of_in_time_to_renew_it() {
        let cases = [
            (-80 * DAY, 10 * DAY, State::Ok),
            (-80 * DAY, 6 * DAY, State::Warning),
            // One of a day is renewed at two thirds of its life.
            (-DAY / 2, DAY / 2, State::Ok),
            (-DAY * 3 / 4, DAY / 4, State::Warning),
            (-DAY, -1, State::Failed),
            (DAY, 2 * DAY, State::Failed),
        ];
        for (begins, ends, state) in cases {
            let finding = of("node", begins, ends);
            assert_eq!(finding.state, state, "{finding:?}");
            assert!(finding.found.contains("/tls.crt (CN=hal)"), "{finding:?}");
            assert_eq!(finding.advice.is_empty(), state == State::Ok);
        }
        assert_eq!(of("authority", -DAY, -1).state, State::Warning, "nobody looks at it");
        let soon = of("node", -80 * DAY, 6 * DAY);
        assert!(soon.found.contains("ends on 1972-10-03 00:00:00 UTC, in 6 days"), "{soon:?}");
    }
}
