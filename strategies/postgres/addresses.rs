//! Which addresses a node says it can be dialled at.

use std::net::{IpAddr, SocketAddr};

use if_addrs::{Interface, get_if_addrs};

use super::message::{ADDRESSES_MAX, is_link_local};

/// How the interfaces of containers and virtual machines begin: what is behind them can reach them, nobody else can.
const BRIDGES: &[&str] = &[
    "docker", "br-", "veth", "virbr", "vboxnet", "vmnet", "cni", "podman", "lxc", "lxdbr", "cali",
    "flannel",
];

/// One address of an interface.
struct Own {
    ip: IpAddr,
    is_bridge: bool,
}

/// Where somebody who uses the same database can dial what listens on these. `from` is the address from which the
/// database is reached; none when it is reached over a Unix socket.
pub(super) fn announced(listen: &[SocketAddr], from: Option<IpAddr>) -> Vec<SocketAddr> {
    let interfaces = get_if_addrs().unwrap_or_default();
    let own: Vec<Own> = interfaces.iter().filter(|i| i.is_oper_up()).map(own).collect();
    chosen(listen, from, &own)
}

fn own(interface: &Interface) -> Own {
    let is_bridge = BRIDGES.iter().any(|bridge| interface.name.starts_with(bridge));
    Own { ip: interface.ip(), is_bridge }
}

fn chosen(listen: &[SocketAddr], from: Option<IpAddr>, own: &[Own]) -> Vec<SocketAddr> {
    let from = from.map(|ip| ip.to_canonical());
    let is_local = from.is_none_or(|ip| ip.is_loopback());
    let is_good = |ip: IpAddr| !is_link_local(ip) && (is_local || !ip.is_loopback());
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in listen {
        let mut put = |ip: IpAddr| {
            let address = SocketAddr::new(ip, address.port());
            if is_good(ip) && !addresses.contains(&address) && addresses.len() < ADDRESSES_MAX {
                addresses.push(address);
            }
        };
        if !address.ip().is_unspecified() {
            put(address.ip().to_canonical());
            continue;
        }
        // A socket on [::] takes both kinds, unless the system or its owner says otherwise.
        let fits = |ip: IpAddr| address.is_ipv6() || ip.is_ipv4();
        from.into_iter().filter(|ip| fits(*ip)).for_each(&mut put);
        let of_kind = |is_bridge: bool| {
            own.iter().filter(move |own| own.is_bridge == is_bridge && fits(own.ip))
        };
        of_kind(false).for_each(|own| put(own.ip));
        let has_other = of_kind(false).any(|own| !own.ip.is_loopback() && is_good(own.ip));
        if !has_other {
            of_kind(true).for_each(|own| put(own.ip));
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    fn own() -> Vec<Own> {
        [
            ("127.0.0.1", false),
            ("::1", false),
            ("10.0.0.7", false),
            ("fd00::7", false),
            ("fe80::7", false),
            ("169.254.3.4", false),
            ("172.17.0.1", true),
        ]
        .map(|(ip, is_bridge)| Own { ip: ip.parse().expect("an address"), is_bridge })
        .into()
    }

    fn texts(addresses: &[SocketAddr]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn loopback_link_local_and_bridge_addresses_are_not_announced() {
        let from = Some("fd00::7".parse().expect("an address"));
        let all = chosen(&listen(&["[::]:1"]), from, &own());
        assert_eq!(texts(&all), ["[fd00::7]:1", "10.0.0.7:1"]);
        let v4 = chosen(&listen(&["0.0.0.0:1"]), from, &own());
        assert_eq!(texts(&v4), ["10.0.0.7:1"]);
        let named = ["127.0.0.1:1", "[fe80::7%2]:1", "10.9.9.9:2", "[::ffff:10.0.0.8]:3"];
        let named = chosen(&listen(&named), from, &own());
        assert_eq!(texts(&named), ["10.9.9.9:2", "10.0.0.8:3"]);
    }

    #[test]
    fn loopback_addresses_are_announced_when_the_database_is_reached_over_loopback() {
        for from in [None, Some("::ffff:127.0.0.1".parse().expect("an address"))] {
            let all = texts(&chosen(&listen(&["[::]:1"]), from, &own()));
            assert!(all.contains(&"127.0.0.1:1".into()) && all.contains(&"10.0.0.7:1".into()));
            assert!(!all.iter().any(|a| a.starts_with("172.17") || a.starts_with("[fe80")));
        }
    }

    #[test]
    fn the_address_of_a_bridge_is_announced_when_there_is_no_other_or_the_database_is_reached_from_it()
     {
        let bridge = || Own { ip: "172.17.0.1".parse().expect("an address"), is_bridge: true };
        let lo = || Own { ip: "127.0.0.1".parse().expect("an address"), is_bridge: false };
        let elsewhere = Some("192.0.2.1".parse().expect("an address"));
        let only = chosen(&listen(&["0.0.0.0:1"]), elsewhere, &[lo(), bridge()]);
        assert!(texts(&only).contains(&"172.17.0.1:1".into()));
        let from = Some("172.17.0.1".parse().expect("an address"));
        let first = chosen(&listen(&["0.0.0.0:1"]), from, &own());
        assert_eq!(texts(&first), ["172.17.0.1:1", "10.0.0.7:1"]);
    }
}
