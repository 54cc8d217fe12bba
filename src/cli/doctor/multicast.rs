//! Whether multicast works: asks a question on each interface as mDNS does, and listens for itself.
//!
//! That shows this machine's half: that the interface carries multicast and that no firewall here drops it. Whether the
//! switch or the access point passes it on can only be seen from another machine.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::time::Duration;

use pillion_strategies::interfaces::{Own, is_of_containers, own};
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketType, sockopt};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::tls::cookie::hex;

/// The group and port of mDNS.
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
const PORT: u16 = 5353;
/// An echo comes at once; a machine that is short of processor takes its time.
const WITHIN: Duration = Duration::from_millis(800);
/// Most interfaces that are tried.
const INTERFACES_MAX: usize = 16;

/// What came of one interface: in each kind that it has an address of.
#[derive(Debug)]
pub(super) struct Echo {
    pub(super) interface: String,
    pub(super) v4: Option<Result<(), String>>,
    pub(super) v6: Option<Result<(), String>>,
}

/// Tries every interface that reaches other machines.
pub(super) async fn echoes() -> Vec<Echo> {
    let mut interfaces: BTreeMap<String, Vec<Own>> = BTreeMap::new();
    for own in own() {
        let good = own.is_up && !own.is_p2p && !own.ip.is_loopback();
        if good && !is_of_containers(&own.name) {
            interfaces.entry(own.name.clone()).or_default().push(own);
        }
    }
    let mut echoes = Vec::new();
    for (interface, addresses) in interfaces.into_iter().take(INTERFACES_MAX) {
        let v4 = addresses.iter().find(|own| own.ip.is_ipv4());
        let v6 = addresses.iter().find(|own| match own.ip {
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
            IpAddr::V4(_) => false,
        });
        let (v4, v6) = tokio::join!(maybe(v4), maybe(v6));
        echoes.push(Echo { interface, v4, v6 });
    }
    echoes
}

async fn maybe(own: Option<&Own>) -> Option<Result<(), String>> {
    Some(echo(own?).await)
}

async fn echo(own: &Own) -> Result<(), String> {
    let (listener, sender, group) = sockets(own)?;
    let question = question();
    sender
        .send_to(&question, group)
        .await
        .map_err(|error| format!("cannot send to {}: {error}", group.ip()))?;
    let heard = async {
        let mut packet = [0; 2048];
        loop {
            // Others talk there too.
            match listener.recv_from(&mut packet).await {
                Ok((length, _)) if packet[..length] == question => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(format!("cannot receive: {error}")),
            }
        }
    };
    timeout(WITHIN, heard)
        .await
        .unwrap_or_else(|_| Err("what was sent did not come back".to_owned()))
}

fn sockets(own: &Own) -> Result<(UdpSocket, UdpSocket, SocketAddr), String> {
    let told = |doing: &str| {
        let doing = doing.to_owned();
        move |error: io::Error| format!("cannot {doing}: {error}")
    };
    let listen = told("listen on port 5353 beside whoever has it");
    let (listener, sender, group) = match own.ip {
        IpAddr::V4(ip) => {
            let listener = shared((Ipv4Addr::UNSPECIFIED, PORT).into()).map_err(listen)?;
            listener.join_multicast_v4(&GROUP_V4, &ip).map_err(told("join 224.0.0.251"))?;
            let sender = std::net::UdpSocket::bind((ip, 0)).map_err(told("bind"))?;
            (listener, sender, SocketAddr::from((GROUP_V4, PORT)))
        }
        IpAddr::V6(ip) => {
            let index = own.index.unwrap_or(0);
            let listener = shared((Ipv6Addr::UNSPECIFIED, PORT).into()).map_err(listen)?;
            listener.join_multicast_v6(&GROUP_V6, index).map_err(told("join ff02::fb"))?;
            let bound = SocketAddrV6::new(ip, 0, 0, index);
            let sender = std::net::UdpSocket::bind(bound).map_err(told("bind"))?;
            (listener, sender, SocketAddrV6::new(GROUP_V6, PORT, 0, index).into())
        }
    };
    let ready = |socket: std::net::UdpSocket| {
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    };
    let failed = told("use a socket");
    let listener = ready(listener).map_err(&failed)?;
    let sender = ready(sender).map_err(&failed)?;
    Ok((listener, sender, group))
}

/// A socket on a port that others have too, as all who speak mDNS on one machine do.
fn shared(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    // Not every system takes the flag with the call.
    let socket: OwnedFd = rustix::net::socket(family, SocketType::DGRAM, None)?;
    rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Older kernels lack it, and then the other one is enough.
    let _ = sockopt::set_socket_reuseport(&socket, true);
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    Ok(socket.into())
}

/// A question of DNS for a name that nobody has.
fn question() -> Vec<u8> {
    let mut random = [0; 8];
    // A name that is not random is as good, when nobody else asks at this moment.
    let _ = getrandom::fill(&mut random);
    let label = hex(&random);
    let mut packet = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [label.as_str(), "_pillion-doctor", "_udp", "local"] {
        packet.push(u8::try_from(label.len()).unwrap_or(0));
        packet.extend_from_slice(label.as_bytes());
    }
    // The root, type PTR, class IN.
    packet.extend_from_slice(&[0, 0, 12, 0, 1]);
    packet
}
