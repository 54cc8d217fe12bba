//! Which network interfaces are used, and what they look like now.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::IpAddr;

use if_addrs::{Interface, get_if_addrs};

/// The interfaces that were asked for; none means all that make sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice(Vec<String>);

/// The usable interfaces with their addresses at one moment.
#[derive(PartialEq, Eq)]
pub(super) struct Network(BTreeSet<(String, Option<u32>, IpAddr)>);

impl Choice {
    /// Reads `eth0,wlan0`; nothing is all.
    pub(super) fn parse(text: &str) -> Self {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        Self(names.map(str::to_owned).collect())
    }

    /// Whether this address of an interface is used.
    pub(super) fn wants(&self, interface: &Interface) -> bool {
        if !interface.is_oper_up() || interface.is_p2p() {
            return false;
        }
        if self.0.is_empty() {
            // The host's ends of containers' cables come and go with the containers, and the bridge that
            // they are plugged into carries the multicast.
            !interface.is_loopback() && !interface.name.starts_with("veth")
        } else {
            self.0.contains(&interface.name)
        }
    }

    pub(super) fn network(&self) -> io::Result<Network> {
        let all = get_if_addrs()?.into_iter();
        let wanted = all.filter(|interface| self.wants(interface));
        Ok(Network(wanted.map(|i| (i.name.clone(), i.index, i.ip())).collect()))
    }

    /// Why there is nothing to use, for people.
    pub(super) fn nothing_to_use(&self) -> String {
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
                "no interface named {asked} is up, has an address and is not point to point (there are: {there}); waiting for it"
            )
        }
    }
}

impl Network {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: BTreeSet<&str> = self.0.iter().map(|(name, ..)| name.as_str()).collect();
        f.write_str(&names.into_iter().collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use if_addrs::{IfAddr, IfOperStatus, Ifv4Addr};

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
        assert!(chosen.wants(&interface("eth1", [10, 0, 0, 1], true, false)));
        assert!(!chosen.wants(&interface("eth0", [10, 0, 0, 1], true, false)));
        assert!(Choice::parse("nosuch0").nothing_to_use().contains("nosuch0"));
    }
}
