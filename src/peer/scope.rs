//! Which address may be told to whom.
//!
//! A node says where it listens as it is bound: an unspecified address (`0.0.0.0`, `::`) means "all my
//! interfaces", and the reader puts the address there at which it sees the node. So the addresses of bridges of
//! containers are told only where somebody binds to one or is seen at one, and there they are left out: the rule
//! which interfaces these are is in `strategies/interfaces.rs`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use pillion_strategies::interfaces::{Own, is_of_containers};

pub(crate) use crate::transport::canonical;

/// Most addresses that one node may have.
pub(crate) const ADDRESSES_MAX: usize = 16;

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Whether anything could listen there at all.
pub(crate) fn is_dialable(address: SocketAddr) -> bool {
    let ip = address.ip();
    address.port() != 0
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// Whether `address` means something to somebody whom we see at `listener`.
fn is_tellable(address: SocketAddr, listener: IpAddr) -> bool {
    is_dialable(address)
        && !is_link_local(address.ip())
        && (listener.is_loopback() || !address.ip().is_loopback())
}

/// Bridges that hide what is behind them from other machines: their networks have the same addresses everywhere. Those of
/// clusters (`cni0` and others) are routed, so that an address behind them means the same on every machine.
const HIDING: [&str; 7] = ["docker", "podman", "virbr", "lxcbr", "lxdbr", "incusbr", "br-"];

/// Whether an address is one of a bridge that others know nothing of, as `listener` sees it.
fn is_behind_a_bridge(ip: IpAddr, listener: IpAddr, interfaces: &[Own]) -> bool {
    interfaces.iter().any(|own| {
        let hides = is_of_containers(&own.name) && HIDING.iter().any(|p| own.name.starts_with(p));
        hides && own.is_beside(ip) && !own.is_beside(listener) && !listener.is_loopback()
    })
}

/// Whether an address is this machine's own on the interface of containers or virtual machines.
fn is_our_bridge(ip: IpAddr, listener: IpAddr, interfaces: &[Own]) -> bool {
    let of_ours = |own: &&Own| own.ip == ip && is_of_containers(&own.name);
    let own = interfaces.iter().find(of_ours);
    own.is_some_and(|own| !own.is_beside(listener) && !listener.is_loopback())
}

/// What this node says of itself to somebody at `listener`: what it was told to say, then where it is bound, unspecified
/// addresses as they are.
pub(crate) fn own(
    advertised: &[SocketAddr],
    bound: &[SocketAddr],
    listener: SocketAddr,
    interfaces: &[Own],
) -> Vec<String> {
    let to = listener.ip();
    let bound = bound.iter().filter(|a| !is_our_bridge(a.ip(), to, interfaces));
    advertised
        .iter()
        .chain(bound)
        .filter(|a| a.port() != 0)
        .filter(|a| a.ip().is_unspecified() || is_tellable(**a, to))
        .take(ADDRESSES_MAX)
        .map(ToString::to_string)
        .collect()
}

/// Where a peer listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// Where this node can dial it.
    pub addresses: Vec<SocketAddr>,
    /// Ports at which it listens on all interfaces of this very machine.
    pub here: Vec<u16>,
}

/// Reads what a peer whom we see at `from` says of itself. What cannot be dialled is left out.
pub(crate) fn heard(told: &[String], from: SocketAddr) -> Places {
    let mut places = Places::default();
    for address in told.iter().take(ADDRESSES_MAX).filter_map(|a| a.parse::<SocketAddr>().ok()) {
        let mut address = canonical(address);
        if address.ip().is_unspecified() && address.port() != 0 {
            if from.ip().is_loopback() {
                places.here.push(address.port());
            }
            // Keeps the zone of a link-local address.
            let port = address.port();
            address = canonical(from);
            address.set_port(port);
        } else if !is_tellable(address, from.ip()) {
            continue;
        }
        if is_dialable(address) && !places.addresses.contains(&address) {
            places.addresses.push(address);
        }
    }
    places.here.dedup();
    places
}

/// What we say of a peer at `places` to somebody whom we see at `listener` and who sees us at `us`.
pub(crate) fn hearsay(
    places: &Places,
    listener: SocketAddr,
    us: SocketAddr,
    interfaces: &[Own],
) -> Vec<String> {
    let to = listener.ip();
    let mut told: Vec<SocketAddr> = places
        .addresses
        .iter()
        .copied()
        .filter(|a| is_tellable(*a, to))
        .filter(|a| !is_our_bridge(a.ip(), to, interfaces))
        .filter(|a| !is_behind_a_bridge(a.ip(), to, interfaces))
        .collect();
    // The peer is on this machine and listens on all interfaces: it is found where we are.
    if !listener.ip().is_loopback() {
        for port in &places.here {
            let mut address = canonical(us);
            address.set_port(*port);
            if is_tellable(address, listener.ip()) && !told.contains(&address) {
                told.push(address);
            }
        }
    }
    told.into_iter().take(ADDRESSES_MAX).map(|a| a.to_string()).collect()
}

/// Reads what a peer whom we see at `from` says of another node.
pub(crate) fn rumoured(told: &[String], from: SocketAddr) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = told
        .iter()
        .take(ADDRESSES_MAX)
        .filter_map(|a| a.parse().ok())
        .map(canonical)
        .filter(|a| is_tellable(*a, from.ip()))
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn texts(addresses: &[&str]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn loopback_is_told_only_over_loopback() {
        let bound = [at("127.0.0.1:4470"), at("10.0.0.1:4470")];
        assert_eq!(own(&[], &bound, at("10.0.0.2:9"), &[]), texts(&["10.0.0.1:4470"]));
        assert_eq!(
            own(&[], &bound, at("127.0.0.1:9"), &[]),
            texts(&["127.0.0.1:4470", "10.0.0.1:4470"])
        );
        assert_eq!(own(&[], &bound, at("[::1]:9"), &[]).len(), 2);
    }

    #[test]
    fn link_local_and_useless_addresses_are_never_told() {
        let bound = [at("169.254.1.1:4470"), at("[fe80::1]:4470"), at("224.0.0.1:4470")];
        assert!(own(&[], &bound, at("127.0.0.1:9"), &[]).is_empty());
        assert!(
            heard(&texts(&["10.0.0.1:0", "nonsense", "[ff02::1]:1"]), at("10.0.0.2:9"))
                .addresses
                .is_empty()
        );
    }

    #[test]
    fn an_unspecified_address_means_where_the_peer_is_seen() {
        let told = own(&[], &[at("[::]:4470")], at("10.0.0.1:9"), &[]);
        assert_eq!(told, texts(&["[::]:4470"]));
        assert_eq!(heard(&told, at("[::ffff:10.0.0.7]:50000")).addresses, [at("10.0.0.7:4470")]);
        assert_eq!(heard(&told, at("[fe80::7%3]:50000")).addresses, [at("[fe80::7%3]:4470")]);
    }

    #[test]
    fn a_peer_on_this_machine_is_told_to_others_where_we_are() {
        let places = heard(&texts(&["0.0.0.0:4472"]), at("127.0.0.1:50000"));
        assert_eq!(places.addresses, [at("127.0.0.1:4472")]);
        assert_eq!(
            hearsay(&places, at("10.0.0.2:9"), at("10.0.0.1:4470"), &[]),
            texts(&["10.0.0.1:4472"])
        );
        assert_eq!(
            hearsay(&places, at("127.0.0.1:9"), at("127.0.0.1:4470"), &[]),
            texts(&["127.0.0.1:4472"])
        );
        let only_here = heard(&texts(&["127.0.0.1:4472"]), at("127.0.0.1:50000"));
        assert!(hearsay(&only_here, at("10.0.0.2:9"), at("10.0.0.1:4470"), &[]).is_empty());
    }

    #[test]
    fn a_rumour_of_a_loopback_address_from_afar_is_ignored() {
        let told = texts(&["127.0.0.1:4470", "10.0.0.3:4470", "10.0.0.3:4470"]);
        assert_eq!(rumoured(&told, at("10.0.0.2:9")), [at("10.0.0.3:4470")]);
    }

    fn bridge(name: &str, ip: &str) -> Own {
        let ip = ip.parse().expect("an address");
        Own { name: name.into(), index: Some(7), ip, prefix: 16, is_up: true, is_p2p: false }
    }

    #[test]
    fn the_address_of_a_bridge_is_told_to_nobody_but_those_on_it() {
        let docker = [bridge("docker0", "172.17.0.1")];
        let bound = [at("172.17.0.1:4470"), at("10.0.0.1:4470")];
        let all = texts(&["172.17.0.1:4470", "10.0.0.1:4470"]);
        assert_eq!(own(&[], &bound, at("10.0.0.2:9"), &docker), all[1..]);
        assert_eq!(own(&[], &bound, at("172.17.0.2:9"), &docker), all);
        assert_eq!(own(&bound[..1], &[], at("10.0.0.2:9"), &docker), all[..1], "as it was told to");
    }

    #[test]
    fn a_peer_behind_a_bridge_is_told_to_those_behind_it_and_on_this_machine() {
        let places = heard(&texts(&["0.0.0.0:4470"]), at("172.17.0.5:50000"));
        let docker = [bridge("docker0", "172.17.0.1")];
        let told = |to: &str, own: &[Own]| hearsay(&places, at(to), at("10.0.0.1:4470"), own);
        assert!(told("10.0.0.2:9", &docker).is_empty());
        assert_eq!(told("172.17.0.6:9", &docker), texts(&["172.17.0.5:4470"]));
        assert_eq!(told("127.0.0.1:9", &docker), texts(&["172.17.0.5:4470"]));
        // What a cluster routes means the same everywhere.
        let routed = [bridge("cni0", "172.17.0.1")];
        assert_eq!(told("10.0.0.2:9", &routed), texts(&["172.17.0.5:4470"]));
    }
}
