//! The addresses of this machine, looked up now and then, and how near an address is.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pillion_strategies::interfaces::Own;
use tokio::time::Instant;

/// How long a look is good for. Interfaces come and go; an address that is ranked wrongly is still dialled.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The addresses of this machine.
pub(crate) struct Interfaces {
    list: fn() -> Vec<Own>,
    looked: Mutex<Option<(Instant, Arc<[Own]>)>>,
}

impl Interfaces {
    /// Looked up as `list` says: the simulation has a machine of its own.
    pub(crate) fn new(list: fn() -> Vec<Own>) -> Self {
        Self { list, looked: Mutex::default() }
    }

    /// As they are, or were a moment ago. Nobody looks while nobody asks.
    pub(crate) fn now(&self) -> Arc<[Own]> {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some((at, own)) = &*looked
            && now < *at + LOOK_EVERY
        {
            return Arc::clone(own);
        }
        let own: Arc<[Own]> = (self.list)().into();
        *looked = Some((now, Arc::clone(&own)));
        own
    }
}

/// How near an address is. What compares less is dialled first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Distance {
    /// This machine.
    Here,
    /// A network that this machine is in.
    Beside,
    /// A private one.
    Private,
    /// Any other.
    Far,
}

/// How near `address` is to a machine with these addresses.
pub(crate) fn distance(address: SocketAddr, own: &[Own]) -> Distance {
    let ip = address.ip().to_canonical();
    if ip.is_loopback() || own.iter().any(|own| own.ip.to_canonical() == ip) {
        return Distance::Here;
    }
    // A network of one address is a tunnel or an alias.
    let is_network = |own: &Own| own.prefix < if own.ip.is_ipv4() { 31 } else { 127 };
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if link_local || own.iter().any(|own| is_network(own) && own.is_beside(ip)) {
        return Distance::Beside;
    }
    let is_private = match ip {
        // RFC 1918, and what carriers and overlay networks use (RFC 6598).
        IpAddr::V4(ip) => ip.is_private() || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64),
        IpAddr::V6(ip) => ip.is_unique_local(),
    };
    if is_private { Distance::Private } else { Distance::Far }
}

/// `addresses`, the nearest first; equals stay in their order.
pub(crate) fn nearest_first(addresses: &mut [SocketAddr], own: &[Own]) {
    addresses.sort_by_key(|address| distance(*address, own));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(ip: &str, prefix: u8) -> Own {
        let ip = ip.parse().expect("an address");
        Own { name: "eth0".into(), index: Some(2), ip, prefix, is_up: true, is_p2p: false }
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn this_machine_comes_first_then_its_networks_then_private_ones_then_the_rest() {
        let own = [own("10.1.2.3", 24), own("fd00:1::3", 64), own("192.0.2.9", 32)];
        let nearest = [
            ("127.0.0.1:1", Distance::Here),
            ("10.1.2.3:1", Distance::Here),
            ("10.1.2.99:1", Distance::Beside),
            ("[fd00:1::99]:1", Distance::Beside),
            ("[fe80::1%2]:1", Distance::Beside),
            ("10.1.3.1:1", Distance::Private),
            ("100.64.0.1:1", Distance::Private),
            ("[fd00:2::1]:1", Distance::Private),
            ("192.0.2.8:1", Distance::Far),
            ("[2001:db8::1]:1", Distance::Far),
        ];
        for (text, distance_of_it) in nearest {
            assert_eq!(distance(at(text), &own), distance_of_it, "{text}");
        }
        let mut addresses: Vec<SocketAddr> =
            nearest.iter().rev().map(|(text, _)| at(text)).collect();
        nearest_first(&mut addresses, &own);
        assert_eq!(addresses[0].ip(), at("10.1.2.3:1").ip());
        assert_eq!(distance(addresses[9], &own), Distance::Far);
    }
}
