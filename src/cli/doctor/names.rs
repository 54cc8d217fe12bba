//! DNS: whether a resolver is configured, and whether the names that strategies need have addresses.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use pillion_strategies::hosts;
use serde_json::Value as Json;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::findings::Finding;
use crate::config::Config;

/// How long one name may take. Resolvers that are away make the system wait for longer.
const RESOLVE_WITHIN: Duration = Duration::from_secs(4);
/// Most names that are looked up.
const NAMES_MAX: usize = 8;
/// What the system's own resolver reads.
const RESOLV_CONF: &str = "/etc/resolv.conf";

pub(super) async fn names(
    diagnosis: Option<&Json>,
    config: Option<&Config>,
    findings: &mut Vec<Finding>,
) {
    let urls: Vec<String> = match diagnosis {
        Some(diagnosis) => {
            let strategies = diagnosis["strategies"].as_array().into_iter().flatten();
            strategies.filter_map(|strategy| strategy["url"].as_str().map(str::to_owned)).collect()
        }
        None => config.map(|config| config.strategies.clone()).unwrap_or_default(),
    };
    let names: BTreeSet<String> = urls.iter().flat_map(|url| names_of(url)).collect();
    let servers = servers();
    let servers_shown = if servers.is_empty() {
        format!("no resolver is configured in {RESOLV_CONF}")
    } else {
        format!("asks {}", servers.join(", "))
    };
    if names.is_empty() {
        let found = format!("{servers_shown}; no strategy needs a name");
        return findings.push(Finding::ok("dns", found));
    }
    let lookups =
        names.iter().take(NAMES_MAX).map(|name| async move { (name, resolve(name).await) });
    let mut looked = Vec::new();
    for lookup in lookups {
        looked.push(lookup.await);
    }
    let (mut good, mut bad, mut silent) = (Vec::new(), Vec::new(), false);
    for (name, result) in looked {
        match result {
            Ok(count) => good.push(format!("{name} ({count})")),
            Err(why) => {
                silent |= why == SILENT;
                bad.push(format!("{name}: {why}"));
            }
        }
    }
    if bad.is_empty() {
        let found = format!("{servers_shown}; names and their addresses: {}", good.join(", "));
        return findings.push(Finding::ok("dns", found));
    }
    let found = format!("{servers_shown}; no address for {}", bad.join("; "));
    let advice = if servers.is_empty() {
        format!("put `nameserver ADDRESS` into {RESOLV_CONF}, or write addresses in place of names")
    } else if silent {
        format!(
            "the resolver does not answer: is {} right, and does the way there work (`nc -vzu {} 53`)? Addresses in place of names do without",
            servers[0], servers[0]
        )
    } else {
        "is the name spelled right, and is it there yet? `getent hosts NAME` shows what this machine finds".to_owned()
    };
    findings.push(Finding::failed("dns", found, advice));
}

const SILENT: &str = "nobody answers";

fn servers() -> Vec<String> {
    let text = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    lines.map(|server| server.trim().to_owned()).filter(|server| !server.is_empty()).collect()
}

/// The names among the addresses of a strategy that looks names up.
fn names_of(url: &str) -> Vec<String> {
    let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
    if !matches!(scheme, "list" | "dns") {
        return Vec::new();
    }
    let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
    // Servers of its own: the strategy itself says how they do.
    let own = ["server=", "resolv-conf="];
    if options.split('&').any(|option| own.iter().any(|own| option.starts_with(own))) {
        return Vec::new();
    }
    let hosts = place.split(',').map(|host| {
        let bare = host.trim();
        let is_ip = |text: &str| text.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
        if is_ip(bare) {
            return "";
        }
        let host = bare.rsplit_once(':').map_or(bare, |(host, _)| host);
        if is_ip(host) { "" } else { host }
    });
    // Names of services (SRV) are not what the system looks up.
    hosts.filter(|host| !host.is_empty() && !host.starts_with('_')).map(str::to_owned).collect()
}

/// How many addresses a name has, as the strategies find them. On a thread of its own, which the end of this command does
/// not wait for: the system's resolver knows no deadline.
async fn resolve(name: &str) -> Result<usize, String> {
    let (tell, told) = oneshot::channel();
    let host = name.to_owned();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let found = runtime.and_then(|runtime| runtime.block_on(hosts::lookup(&host, 0)));
        let found = found.map(|found| found.iter().map(SocketAddr::ip).collect::<BTreeSet<_>>());
        // Nobody may wait for it any more.
        let _ = tell.send(found.map(|found| found.len()).map_err(|error| error.to_string()));
    });
    match timeout(RESOLVE_WITHIN, told).await {
        Ok(Ok(Ok(count))) => Ok(count),
        Ok(Ok(Err(why))) => Err(why),
        Ok(Err(_)) | Err(_) => Err(SILENT.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_are_looked_up() {
        assert_eq!(
            names_of("list://hal,10.0.0.1:5,[::1]:7,fd00::1,ida.local:4470?file=x"),
            ["hal", "ida.local"]
        );
        assert_eq!(names_of("dns://stock.default.svc"), ["stock.default.svc"]);
        assert!(names_of("dns://_mesh._tcp.stock").is_empty());
        assert!(names_of("dns://stock?type=a&server=127.0.0.1:5353").is_empty());
        assert!(names_of("mdns://?interface=eth0").is_empty());
        assert!(names_of("local").is_empty());
    }
}
