//! The network as gossip sees it: links, and packets that everybody on a link hears. UDP, or in tests a memory.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use crate::interfaces::{Choice, Network};

/// One interface at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) index: u32,
    pub(super) ips: Vec<IpAddr>,
    /// Whether others may be told of these addresses there.
    pub(super) told: bool,
    v4: Option<(Ipv4Addr, u8)>,
    v6: bool,
}

/// The links of a network. Those where others are told come first: the system bounds how many can be joined.
pub(super) fn links(network: &Network) -> Vec<Link> {
    let mut links: BTreeMap<(&str, Option<u32>), Link> = BTreeMap::new();
    for place in network.places() {
        let link = links.entry((&place.name, place.index)).or_default();
        link.name.clone_from(&place.name);
        link.index = place.index.unwrap_or_default();
        link.told = place.told;
        link.ips.push(place.ip);
        match place.ip {
            IpAddr::V4(ip) if link.v4.is_none() => link.v4 = Some((ip, place.prefix)),
            IpAddr::V4(_) => {}
            IpAddr::V6(_) => link.v6 = true,
        }
    }
    let mut links: Vec<Link> = links.into_values().collect();
    links.sort_by_key(|link| !link.told);
    links
}

/// The two kinds of addresses: each carries packets of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    V4,
    V6,
}

/// Where packets go.
pub(super) trait Ether: Send + Sync {
    /// What is open.
    type Wire: Wire;

    /// What there is to be used now.
    fn network(&self) -> io::Result<Network>;

    /// Why there is nothing, for people.
    fn nothing_to_use(&self) -> String;

    /// Opens it on these links.
    fn open(&self, links: &[Link]) -> io::Result<Self::Wire>;

    /// What is used, for people: `UDP port 45892`.
    fn what(&self) -> String;
}

/// An open network.
pub(super) trait Wire: Send + Sync {
    /// Whether there is a way to a link by this kind of address.
    fn reaches(&self, link: &Link, kind: Kind) -> bool;

    /// Sends to everybody on a link, this node too.
    fn send(&self, link: &Link, kind: Kind, packet: &[u8]) -> io::Result<()>;

    /// The next packet: how long it is and who sent it. What does not fit is cut. Cancel safe.
    fn receive(
        &mut self,
        buffer: &mut [u8],
    ) -> impl Future<Output = io::Result<(usize, SocketAddr)>> + Send;
}

/// UDP multicast, or broadcast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Udp {
    pub(super) choice: Choice,
    pub(super) port: u16,
    pub(super) v4: Option<Ipv4Addr>,
    pub(super) v6: Option<Ipv6Addr>,
    pub(super) ttl: u8,
    pub(super) broadcast_only: bool,
}

/// Its sockets: one for each kind of address, for all links.
pub(super) struct Sockets {
    udp: Udp,
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    v6_first: bool,
}

impl Ether for Udp {
    type Wire = Sockets;

    fn network(&self) -> io::Result<Network> {
        self.choice.network()
    }

    fn nothing_to_use(&self) -> String {
        self.choice.nothing_to_use()
    }

    fn open(&self, links: &[Link]) -> io::Result<Sockets> {
        let v4 = self.open_v4(links);
        let v6 = self.open_v6(links);
        let (v4, v6) = match (v4, v6) {
            // Somebody keeps the port for himself: half of the nodes would hear half of the others.
            (Err(error), _) | (_, Err(error)) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(error);
            }
            (Err(error), Err(_) | Ok(None)) | (Ok(None), Err(error)) => return Err(error),
            (v4, v6) => (v4.ok().flatten(), v6.ok().flatten()),
        };
        if v4.is_none() && v6.is_none() {
            return Err(io::Error::other(
                "no interface has an address of the kind that is sent to",
            ));
        }
        Ok(Sockets { udp: self.clone(), v4, v6, v6_first: false })
    }

    fn what(&self) -> String {
        format!("UDP port {}", self.port)
    }
}

impl Udp {
    fn open_v4(&self, links: &[Link]) -> io::Result<Option<UdpSocket>> {
        let links = || links.iter().filter(|link| link.v4.is_some());
        let group = self.v4.filter(|_| !self.broadcast_only);
        if links().next().is_none() || (group.is_none() && !self.broadcast_only) {
            return Ok(None);
        }
        let socket = socket(Domain::IPV4)?;
        if let Some(group) = group {
            #[cfg(target_os = "linux")]
            socket.set_multicast_all_v4(false)?;
            socket.set_multicast_loop_v4(true)?;
            socket.set_multicast_ttl_v4(self.ttl.into())?;
            joined(links().map(|link| {
                socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(link.index))
            }))?;
        } else {
            socket.set_broadcast(true)?;
        }
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.port)).into())?;
        Ok(Some(UdpSocket::from_std(socket.into())?))
    }

    fn open_v6(&self, links: &[Link]) -> io::Result<Option<UdpSocket>> {
        let links = || links.iter().filter(|link| link.v6 && link.index != 0);
        let Some(group) = self.v6.filter(|_| !self.broadcast_only) else { return Ok(None) };
        if links().next().is_none() {
            return Ok(None);
        }
        let socket = socket(Domain::IPV6)?;
        socket.set_only_v6(true)?;
        #[cfg(target_os = "linux")]
        socket.set_multicast_all_v6(false)?;
        socket.set_multicast_loop_v6(true)?;
        socket.set_multicast_hops_v6(self.ttl.into())?;
        joined(links().map(|link| socket.join_multicast_v6(&group, link.index)))?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, self.port)).into())?;
        Ok(Some(UdpSocket::from_std(socket.into())?))
    }
}

/// A socket that shares its port with other nodes of this machine.
fn socket(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    Ok(socket)
}

/// One is enough: an interface may have gone meanwhile.
fn joined(all: impl Iterator<Item = io::Result<()>>) -> io::Result<()> {
    let mut failed = None;
    let mut is_in = false;
    for joined in all {
        match joined {
            Ok(()) => is_in = true,
            Err(error) => failed = Some(error),
        }
    }
    if is_in { Ok(()) } else { failed.map_or(Ok(()), Err) }
}

impl Sockets {
    fn send_v4(&self, link: &Link, packet: &[u8]) -> Option<io::Result<usize>> {
        let (socket, (ip, prefix)) = (self.v4.as_ref()?, link.v4?);
        // Not through the runtime, which would have to learn first that there is room.
        let socket = SockRef::from(socket);
        let to = if self.udp.broadcast_only {
            let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or_default();
            Ipv4Addr::from_bits(ip.to_bits() | hosts)
        } else {
            if let Err(error) = socket.set_multicast_if_v4(&ip) {
                return Some(Err(error));
            }
            self.udp.v4?
        };
        Some(socket.send_to(packet, &SocketAddr::from((to, self.udp.port)).into()))
    }

    fn send_v6(&self, link: &Link, packet: &[u8]) -> Option<io::Result<usize>> {
        let (socket, group) = (self.v6.as_ref()?, self.udp.v6?);
        let socket = SockRef::from(socket);
        if let Err(error) = socket.set_multicast_if_v6(link.index) {
            return Some(Err(error));
        }
        let to = SocketAddrV6::new(group, self.udp.port, 0, link.index);
        Some(socket.send_to(packet, &SocketAddr::from(to).into()))
    }
}

impl Wire for Sockets {
    fn reaches(&self, link: &Link, kind: Kind) -> bool {
        match kind {
            Kind::V4 => self.v4.is_some() && link.v4.is_some(),
            Kind::V6 => self.v6.is_some() && link.v6 && link.index != 0,
        }
    }

    fn send(&self, link: &Link, kind: Kind, packet: &[u8]) -> io::Result<()> {
        let sent = match kind {
            Kind::V4 => self.send_v4(link, packet),
            Kind::V6 => self.send_v6(link, packet),
        };
        sent.unwrap_or(Ok(0)).map(drop)
    }

    async fn receive(&mut self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            // Neither kind of address keeps the other waiting.
            self.v6_first = !self.v6_first;
            let (first, second) =
                if self.v6_first { (&self.v6, &self.v4) } else { (&self.v4, &self.v6) };
            let socket = tokio::select! {
                biased;
                ready = readable(first) => ready?,
                ready = readable(second) => ready?,
            };
            match socket.try_recv_from(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Somebody's answer that nobody listens there: it says nothing of the others.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                received => return received,
            }
        }
    }
}

async fn readable(socket: &Option<UdpSocket>) -> io::Result<&UdpSocket> {
    match socket {
        Some(socket) => socket.readable().await.map(|()| socket),
        None => std::future::pending().await,
    }
}
