//! Which network interfaces a strategy uses, which of their addresses it tells others, and what they look like now.
//!
//! The one rule on what is told, for every strategy that announces: loopback addresses are told nobody, because they
//! lead back to whoever hears them; link-local ones only to those who hear them on the very link, and only where there
//! is nothing else; those of the bridges and cables of containers and virtual machines are told nobody, because they
//! mean another machine (or none) wherever they are heard but here. Nodes in such containers are still found: we listen
//! there, and to dial them one side is enough. An interface that was asked for by its name is used as it is.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use if_addrs::{Interface, get_if_addrs};

/// How the interfaces begin that containers and virtual machines are plugged into, and the cables to them.
const OF_CONTAINERS: [&str; 14] = [
    "docker",
    "podman",
    "cni",
    "veth",
    "virbr",
    "vnet",
    "lxc",
    "lxdbr",
    "incusbr",
    "cali",
    "flannel",
    "cilium",
    "kube-",
    "nodelocaldns",
];
/// Docker calls the bridge of a network `br-` and this many hex digits. `br-lan` is the house's own network.
const DOCKER_ID_DIGITS: usize = 12;

/// Whether an interface of this name is a bridge or a cable of containers or virtual machines on this machine.
#[must_use]
pub fn is_of_containers(name: &str) -> bool {
    let docker =
        |id: &str| id.len() == DOCKER_ID_DIGITS && id.bytes().all(|b| b.is_ascii_hexdigit());
    OF_CONTAINERS.iter().any(|prefix| name.starts_with(prefix))
        || name.strip_prefix("br-").is_some_and(docker)
}

/// Whether an address means the same host to whoever hears of it on another one.
#[must_use]
pub fn is_tellable(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let good =
        !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast() && !is_link_local(ip);
    good && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// Whether an address is one of its link only.
#[must_use]
pub fn is_link_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// The addresses of a node that listens on `listen`, for those anywhere: an unspecified one becomes those of all
/// interfaces. In an order that does not change.
///
/// # Errors
/// When the system does not list its interfaces.
pub fn tellable(listen: &[SocketAddr]) -> io::Result<Vec<SocketAddr>> {
    Ok(tellable_of(&get_if_addrs()?, listen))
}

fn tellable_of(interfaces: &[Interface], listen: &[SocketAddr]) -> Vec<SocketAddr> {
    let there = || interfaces.iter().filter(|i| i.is_oper_up() && !is_of_containers(&i.name));
    let ips = || there().map(Interface::ip).filter(|ip| is_tellable(*ip));
    let mut told: Vec<SocketAddr> = Vec::new();
    for address in listen.iter().filter(|address| address.port() != 0) {
        if !address.ip().is_unspecified() {
            told.extend(is_tellable(address.ip()).then_some(*address));
            continue;
        }
        let taken = ips().filter(|ip| takes(*address, *ip));
        told.extend(taken.map(|ip| SocketAddr::new(ip, address.port())));
    }
    told.sort_unstable();
    told.dedup();
    told
}

/// Whether a socket on an unspecified address is reached at this one. A socket on `[::]` takes both kinds, unless the
/// system or its owner says otherwise.
pub(crate) fn takes(unspecified: SocketAddr, ip: IpAddr) -> bool {
    unspecified.is_ipv6() || ip.is_ipv4()
}

/// An address of this machine, and the network that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// The interface's name.
    pub name: String,
    /// Its number.
    pub index: Option<u32>,
    /// The address.
    pub ip: IpAddr,
    /// How many bits of it are the network's.
    pub prefix: u8,
    /// The interface works.
    pub is_up: bool,
    /// It has one other end.
    pub is_p2p: bool,
}

impl Own {
    /// Whether an address is in the network of this one.
    #[must_use]
    pub fn is_beside(&self, ip: IpAddr) -> bool {
        let common = match (self.ip.to_canonical(), ip.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => (own.to_bits() ^ ip.to_bits()).leading_zeros(),
            (IpAddr::V6(own), IpAddr::V6(ip)) => (own.to_bits() ^ ip.to_bits()).leading_zeros(),
            _ => return false,
        };
        common >= u32::from(self.prefix)
    }
}

/// Every address of this machine; nothing when the system does not say.
#[must_use]
pub fn own() -> Vec<Own> {
    let own = |interface: Interface| Own {
        ip: interface.ip(),
        prefix: match &interface.addr {
            if_addrs::IfAddr::V4(v4) => v4.prefixlen,
            if_addrs::IfAddr::V6(v6) => v6.prefixlen,
        },
        is_up: interface.is_oper_up(),
        is_p2p: interface.is_p2p(),
        index: interface.index,
        name: interface.name,
    };
    get_if_addrs().unwrap_or_default().into_iter().map(own).collect()
}

/// The interfaces that were asked for; none means all that make sense.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice(Vec<String>);

/// The usable interfaces with their addresses at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Network(BTreeSet<Place>);

/// One address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The interface's name.
    pub(crate) name: String,
    /// Its number.
    pub(crate) index: Option<u32>,
    /// The address.
    pub(crate) ip: IpAddr,
    /// How many bits of it are the network's.
    pub(crate) prefix: u8,
    /// Whether others may be told of it.
    pub(crate) told: bool,
}

impl Choice {
    /// Reads `eth0,wlan0`, names or addresses; nothing is all.
    pub(crate) fn parse(text: &str) -> Self {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        Self(names.map(str::to_owned).collect())
    }

    /// Whether this address of an interface is listened at.
    pub(crate) fn wants(&self, interface: &Interface) -> bool {
        if !interface.is_oper_up() || interface.is_p2p() {
            return false;
        }
        if self.0.is_empty() {
            // The host's ends of containers' cables come and go with the containers, and the bridge that
            // they are plugged into carries the multicast.
            !interface.is_loopback() && !interface.name.starts_with("veth")
        } else {
            self.0.contains(&interface.name) || self.0.contains(&interface.ip().to_string())
        }
    }

    /// Whether others are told of this node there.
    pub(crate) fn tells(&self, interface: &Interface) -> bool {
        self.wants(interface) && (!self.0.is_empty() || !is_of_containers(&interface.name))
    }

    pub(crate) fn network(&self) -> io::Result<Network> {
        Ok(self.of(&get_if_addrs()?))
    }

    fn of(&self, all: &[Interface]) -> Network {
        let wanted = all.iter().filter(|interface| self.wants(interface));
        Network(
            wanted
                .map(|interface| Place {
                    name: interface.name.clone(),
                    index: interface.index,
                    ip: interface.ip(),
                    prefix: match &interface.addr {
                        if_addrs::IfAddr::V4(v4) => v4.prefixlen,
                        if_addrs::IfAddr::V6(v6) => v6.prefixlen,
                    },
                    told: self.tells(interface),
                })
                .collect(),
        )
    }

    /// Why there is nothing to use, for people.
    pub(crate) fn nothing_to_use(&self) -> String {
        let all: BTreeSet<String> = get_if_addrs()
            .unwrap_or_default()
            .into_iter()
            .map(|interface| interface.name)
            .collect();
        let there: Vec<String> = all.into_iter().collect();
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        if self.0.is_empty() {
            format!(
                "no network interface is up and has an address (there are: {there}); waiting for one"
            )
        } else {
            let asked = self.0.join(", ");
            format!(
                "no interface {asked} is up, has an address and is not point to point (there are: {there}); waiting for it"
            )
        }
    }
}

impl Network {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn of(places: impl IntoIterator<Item = Place>) -> Self {
        Self(places.into_iter().collect())
    }

    #[cfg(feature = "gossip")]
    pub(crate) fn places(&self) -> impl Iterator<Item = &Place> {
        self.0.iter()
    }

    /// Whether others are told of this node anywhere.
    #[cfg(feature = "mdns")]
    pub(crate) fn tells(&self) -> bool {
        self.0.iter().any(|place| place.told)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: BTreeSet<&str> = self.0.iter().map(|place| &*place.name).collect();
        f.write_str(&names.into_iter().collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use if_addrs::{IfAddr, IfOperStatus, Ifv4Addr, Ifv6Addr};

    use super::*;

    fn interface(name: &str, ip: [u8; 4], up: bool, is_p2p: bool) -> Interface {
        let addr = IfAddr::V4(Ifv4Addr {
            ip: ip.into(),
            netmask: [255, 255, 255, 0].into(),
            prefixlen: 24,
            broadcast: None,
        });
        let oper_status = if up { IfOperStatus::Up } else { IfOperStatus::Down };
        Interface { name: name.into(), addr, index: Some(7), oper_status, is_p2p }
    }

    fn with_v6(name: &str, ip: &str) -> Interface {
        let addr = IfAddr::V6(Ifv6Addr {
            ip: ip.parse().expect("an address"),
            netmask: "ffff:ffff:ffff:ffff::".parse().expect("a mask"),
            prefixlen: 64,
            broadcast: None,
        });
        Interface { addr, ..interface(name, [0; 4], true, false) }
    }

    #[test]
    fn without_a_choice_all_that_reach_others_are_used() {
        let all = Choice::parse("");
        assert!(all.wants(&interface("eth0", [10, 0, 0, 1], true, false)));
        assert!(!all.wants(&interface("eth0", [10, 0, 0, 1], false, false)));
        assert!(!all.wants(&interface("lo", [127, 0, 0, 1], true, false)));
        assert!(!all.wants(&interface("tun0", [10, 8, 0, 1], true, true)));
        assert!(!all.wants(&interface("veth1a2b", [169, 254, 0, 1], true, false)));
    }

    #[test]
    fn a_choice_is_by_name_and_may_be_loopback() {
        let chosen = Choice::parse("lo, eth1");
        assert!(chosen.wants(&interface("lo", [127, 0, 0, 1], true, false)));
        assert!(chosen.tells(&interface("lo", [127, 0, 0, 1], true, false)));
        assert!(chosen.wants(&interface("eth1", [10, 0, 0, 1], true, false)));
        assert!(!chosen.wants(&interface("eth0", [10, 0, 0, 1], true, false)));
        assert!(Choice::parse("nosuch0").nothing_to_use().contains("nosuch0"));
    }

    #[test]
    fn bridges_of_containers_are_listened_at_and_never_told() {
        let all = Choice::parse("");
        for name in ["docker0", "br-1f2e3d4c5b6a", "cni0", "virbr0", "podman1", "lxcbr0"] {
            let bridge = interface(name, [172, 17, 0, 1], true, false);
            assert!(all.wants(&bridge) && !all.tells(&bridge), "{name}");
            assert!(Choice::parse(name).tells(&bridge), "{name} was asked for");
        }
        // The bridges of people's own networks are networks.
        for name in ["br0", "br-lan", "bridge0", "eth0", "wlan0", "en0"] {
            assert!(all.tells(&interface(name, [192, 168, 1, 1], true, false)), "{name}");
        }
    }

    #[test]
    fn what_others_anywhere_are_told_leaves_out_loopback_links_and_bridges() {
        let interfaces = [
            interface("lo", [127, 0, 0, 1], true, false),
            with_v6("lo", "::1"),
            interface("eth0", [10, 0, 0, 5], true, false),
            with_v6("eth0", "fd00::5"),
            with_v6("eth0", "fe80::5"),
            interface("eth1", [169, 254, 3, 3], true, false),
            interface("eth2", [10, 2, 0, 5], false, false),
            interface("docker0", [172, 17, 0, 1], true, false),
            with_v6("br-0123456789ab", "fd17::1"),
            interface("wg0", [10, 8, 0, 5], true, true),
        ];
        let told = |listen: &[&str]| -> Vec<String> {
            let listen: Vec<SocketAddr> =
                listen.iter().map(|text| text.parse().expect("an address")).collect();
            tellable_of(&interfaces, &listen).iter().map(ToString::to_string).collect()
        };
        assert_eq!(told(&["[::]:4470"]), ["10.0.0.5:4470", "10.8.0.5:4470", "[fd00::5]:4470"]);
        assert_eq!(told(&["0.0.0.0:4470"]), ["10.0.0.5:4470", "10.8.0.5:4470"]);
        assert_eq!(told(&["192.0.2.9:1", "127.0.0.1:1", "[fe80::5]:1"]), ["192.0.2.9:1"]);
        assert!(told(&["[::1]:4470", "0.0.0.0:0"]).is_empty());
    }
}
