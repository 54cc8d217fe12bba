//! Which addresses a node says it can be dialled at: by the rule of [`interfaces`](crate::interfaces), and by where the
//! database is reached from.
//!
//! Whoever uses the same database reaches the place where it is. So the address from which this node reaches it comes
//! first, whatever interface has it: with a database in a container that is the bridge, and it leads here from the
//! other containers. And a database that is reached over loopback or a Unix socket is on this machine, as are nodes
//! that listen on loopback only: for these the addresses of loopback are told too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::message::ADDRESSES_MAX;
use crate::interfaces::{is_link_local, takes, tellable};

/// Where somebody who uses the same database can dial what listens on these. `from` is the address from which the
/// database is reached; none when it is reached over a Unix socket.
pub(super) fn announced(listen: &[SocketAddr], from: Option<IpAddr>) -> Vec<SocketAddr> {
    let listen: Vec<SocketAddr> = listen.iter().map(|address| canonical(*address)).collect();
    // When the system does not list its interfaces, what was written stays.
    let told = tellable(&listen).unwrap_or_default();
    chosen(&listen, from.map(|ip| ip.to_canonical()), &told)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

fn chosen(listen: &[SocketAddr], from: Option<IpAddr>, told: &[SocketAddr]) -> Vec<SocketAddr> {
    let is_local = from.is_none_or(|ip| ip.is_loopback());
    let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let first = from.filter(|ip| !ip.is_loopback() && !is_link_local(*ip));
    let mut addresses: Vec<SocketAddr> = Vec::new();
    let mut put = |address: SocketAddr| {
        if addresses.len() < ADDRESSES_MAX && !addresses.contains(&address) {
            addresses.push(address);
        }
    };
    // Those of an unspecified address that it is reached at there.
    let taken = |ips: &[IpAddr]| -> Vec<SocketAddr> {
        let open = listen.iter().filter(|at| at.ip().is_unspecified() && at.port() != 0);
        let all = open.flat_map(|at| ips.iter().map(move |ip| (at, ip)));
        let all = all.filter(|(at, ip)| takes(**at, **ip));
        all.map(|(at, ip)| SocketAddr::new(*ip, at.port())).collect()
    };
    taken(first.as_slice()).into_iter().for_each(&mut put);
    told.iter().copied().for_each(&mut put);
    if is_local {
        let own = listen.iter().filter(|at| at.ip().is_loopback() && at.port() != 0);
        own.copied().for_each(&mut put);
        taken(&loopback).into_iter().for_each(&mut put);
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| canonical(text.parse().expect("an address"))).collect()
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse::<IpAddr>().expect("an address").to_canonical())
    }

    fn texts(addresses: &[SocketAddr]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn loopback_link_local_and_bridge_addresses_are_not_announced() {
        // What the one rule makes of the interfaces is tested with it.
        let announced =
            announced(&all(&["[::]:1", "127.0.0.1:2", "[fe80::7%2]:3"]), ip("192.0.2.7"));
        assert_eq!(announced[0], all(&["192.0.2.7:1"])[0]);
        let interfaces = crate::interfaces::own();
        let wrong = announced.iter().skip(1).find(|at| {
            let of_containers = |name: &str| crate::interfaces::is_of_containers(name);
            let mine = interfaces.iter().filter(|own| own.ip == at.ip());
            at.ip().is_loopback()
                || is_link_local(at.ip())
                || mine.clone().next().is_none()
                || mine.clone().all(|own| of_containers(&own.name))
        });
        assert_eq!(wrong, None);
        let named =
            announced_by(&["127.0.0.1:1", "[fe80::7%2]:1", "10.9.9.9:2", "[::ffff:10.0.0.8]:3"]);
        assert_eq!(named, ["10.0.0.8:3", "10.9.9.9:2"]);
    }

    fn announced_by(listen: &[&str]) -> Vec<String> {
        let listen: Vec<SocketAddr> =
            listen.iter().map(|text| text.parse().expect("an address")).collect();
        texts(&announced(&listen, ip("192.0.2.7")))
    }

    #[test]
    fn where_the_database_is_reached_from_comes_first_also_when_it_is_a_bridge() {
        let told = all(&["10.0.0.7:1", "[fd00::7]:1"]);
        let with = |listen: &str, from: &str| texts(&chosen(&all(&[listen]), ip(from), &told));
        assert_eq!(with("[::]:1", "fd00::7"), ["[fd00::7]:1", "10.0.0.7:1"]);
        assert_eq!(with("0.0.0.0:1", "172.17.0.1")[0], "172.17.0.1:1");
        assert_eq!(with("0.0.0.0:1", "fd17::1"), ["10.0.0.7:1", "[fd00::7]:1"], "not taken there");
        assert_eq!(with("[::]:1", "fe80::9"), ["10.0.0.7:1", "[fd00::7]:1"]);
        assert_eq!(with("10.0.0.7:1", "172.17.0.1"), ["10.0.0.7:1", "[fd00::7]:1"]);
    }

    #[test]
    fn loopback_addresses_are_announced_when_the_database_is_reached_over_loopback() {
        let told = all(&["10.0.0.7:1"]);
        for from in [None, ip("::ffff:127.0.0.1"), ip("::1")] {
            let all_of = |listen: &str| texts(&chosen(&all(&[listen]), from, &told));
            assert_eq!(all_of("[::]:1"), ["10.0.0.7:1", "127.0.0.1:1", "[::1]:1"]);
            assert_eq!(all_of("0.0.0.0:1"), ["10.0.0.7:1", "127.0.0.1:1"]);
            assert_eq!(all_of("127.0.0.1:5"), ["10.0.0.7:1", "127.0.0.1:5"]);
        }
        let elsewhere = chosen(&all(&["[::]:1", "127.0.0.1:5"]), ip("192.0.2.1"), &[]);
        assert_eq!(texts(&elsewhere), ["192.0.2.1:1"]);
    }
}
