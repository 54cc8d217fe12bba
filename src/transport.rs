//! How bytes reach another sidecar: trait [`Transport`], and TCP.
//!
//! It is not TLS ([`crate::tls`] wraps whatever stream comes from here) and it knows no peers. The simulator brings a
//! transport of its own, so nothing above this file may name a socket.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// The port that a node listens on first. Below 32768, so that no outgoing connection ever sits on it.
pub const PORT_FIRST: u16 = 4470;
/// The port of the health endpoint, which the search for a free mesh port leaves out.
pub const PORT_HEALTH: u16 = 4471;
/// How many ports are tried before a node gives up: more nodes than that on one machine set theirs.
pub const PORTS_TRIED_MAX: u16 = 256;

/// Connections that the kernel holds for us between two accepts; a whole mesh may dial at once after a restart.
const BACKLOG: u32 = 1024;

/// Streams between sidecars, and the listeners that make them.
pub trait Transport: Send + Sync + 'static {
    /// One connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// What connections are accepted from.
    type Listener: Send + 'static;

    /// Listens on an address. Port 0 means any.
    fn bind(&self, address: SocketAddr) -> impl Future<Output = io::Result<Self::Listener>> + Send;

    /// Where a listener listens, with the port that it got.
    ///
    /// # Errors
    /// Those of the system.
    fn local_address(&self, listener: &Self::Listener) -> io::Result<SocketAddr>;

    /// Waits for the next connection. Cancel safe. An error is of one connection or of the moment (no file
    /// descriptors left): the listener stays good, and the caller waits a little before it asks again.
    fn accept(
        &self,
        listener: &mut Self::Listener,
    ) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;

    /// Dials. It has no timeout of its own; dropping the future gives the attempt up.
    fn connect(&self, address: SocketAddr)
    -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// The near end of a stream: which of our addresses this peer can reach.
    ///
    /// # Errors
    /// Those of the system.
    fn local_address_of(&self, stream: &Self::Stream) -> io::Result<SocketAddr>;
}

/// Binds where the configuration says nothing of ports: [`PORT_FIRST`], then upward past [`PORT_HEALTH`] for as long as
/// ports are taken. A machine without IPv6 gets `0.0.0.0` where `[::]` was asked for.
///
/// # Errors
/// That of the last port when [`PORTS_TRIED_MAX`] are taken; any other than "in use" at once.
pub async fn bind_from<T: Transport>(
    transport: &T,
    ip: IpAddr,
) -> io::Result<(T::Listener, SocketAddr)> {
    let mut ip = ip;
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for port in (PORT_FIRST..).take(usize::from(PORTS_TRIED_MAX)).filter(|p| *p != PORT_HEALTH) {
        let mut bound = transport.bind(SocketAddr::new(ip, port)).await;
        if let Err(error) = &bound
            && error.kind() != io::ErrorKind::AddrInUse
            && ip.is_ipv6()
            && ip.is_unspecified()
        {
            ip = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            bound = transport.bind(SocketAddr::new(ip, port)).await;
        }
        match bound {
            Ok(listener) => {
                let address = transport.local_address(&listener)?;
                return Ok((listener, address));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// Most bytes that the kernel keeps at each end of a connection, about; Linux doubles it. It is 5 to 10 MB/s to a peer
/// that is 100 ms away.
const KERNEL_BYTES_MAX: u32 = 512 * 1024;

/// Real TCP.
///
/// There are no keepalives and no user timeout: beats of the mesh notice a dead peer sooner than the kernel would.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Transport for Tcp {
    type Stream = TcpStream;
    type Listener = TcpListener;

    async fn bind(&self, address: SocketAddr) -> io::Result<TcpListener> {
        listen(address, false)
    }

    fn local_address(&self, listener: &TcpListener) -> io::Result<SocketAddr> {
        listener.local_addr()
    }

    async fn accept(&self, listener: &mut TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, from) = listener.accept().await?;
        stream.set_nodelay(true)?;
        Ok((stream, canonical(from)))
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let stream = socket_for(address)?.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn local_address_of(&self, stream: &TcpStream) -> io::Result<SocketAddr> {
        stream.local_addr().map(canonical)
    }
}

/// Listens on TCP. `[::]` takes IPv4 as well, whatever the system's default is, unless `v6_only` is asked for.
///
/// # Errors
/// Those of the system.
pub fn listen(address: SocketAddr, v6_only: bool) -> io::Result<TcpListener> {
    let socket = socket_for(address)?;
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, v6_only)?;
    }
    // A restarted node takes its port back although connections of its last run are still in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A socket with bounded buffers, which accepted connections inherit.
///
/// Left to itself the kernel lets 32 MiB be under way to a peer that is short of processor. All of that still arrives
/// after the peer has said `hold`, and must find room there.
fn socket_for(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    socket.set_recv_buffer_size(KERNEL_BYTES_MAX)?;
    socket.set_send_buffer_size(KERNEL_BYTES_MAX)?;
    Ok(socket)
}

/// The one way to write an address. IPv4 that came through a dual stack socket (`::ffff:10.0.0.7`) is told to nobody in
/// that shape. A link-local address of IPv6 means nothing without its zone and keeps it; others have none.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    let zone = match address {
        SocketAddr::V6(address) if address.ip().is_unicast_link_local() => address.scope_id(),
        _ => 0,
    };
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, address.port(), 0, zone).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    /// A machine on which some ports are taken and that may lack IPv6.
    struct Ports {
        taken: BTreeSet<u16>,
        v6: bool,
        asked: Mutex<Vec<SocketAddr>>,
    }

    impl Ports {
        fn new(taken: impl IntoIterator<Item = u16>, v6: bool) -> Self {
            Self { taken: taken.into_iter().collect(), v6, asked: Mutex::default() }
        }
    }

    impl Transport for Ports {
        type Stream = DuplexStream;
        type Listener = SocketAddr;

        async fn bind(&self, address: SocketAddr) -> io::Result<SocketAddr> {
            self.asked.lock().unwrap().push(address);
            if address.is_ipv6() && !self.v6 {
                return Err(io::Error::from(io::ErrorKind::Unsupported));
            }
            if self.taken.contains(&address.port()) {
                return Err(io::Error::from(io::ErrorKind::AddrInUse));
            }
            Ok(address)
        }
        fn local_address(&self, listener: &SocketAddr) -> io::Result<SocketAddr> {
            Ok(*listener)
        }
        async fn accept(&self, _: &mut SocketAddr) -> io::Result<(DuplexStream, SocketAddr)> {
            std::future::pending().await
        }
        async fn connect(&self, _: SocketAddr) -> io::Result<DuplexStream> {
            std::future::pending().await
        }
        fn local_address_of(&self, _: &DuplexStream) -> io::Result<SocketAddr> {
            Err(io::Error::from(io::ErrorKind::Unsupported))
        }
    }

    fn any_v6() -> IpAddr {
        "::".parse().unwrap()
    }

    #[tokio::test]
    async fn the_first_free_port_is_taken_and_the_health_port_never() {
        let (_, address) = bind_from(&Ports::new([], true), any_v6()).await.unwrap();
        assert_eq!(address.port(), 4470);
        let ports = Ports::new([4470, 4472], true);
        let (_, address) = bind_from(&ports, any_v6()).await.unwrap();
        assert_eq!(address.port(), 4473);
        assert!(ports.asked.lock().unwrap().iter().all(|a| a.port() != PORT_HEALTH));
    }

    #[tokio::test]
    async fn a_machine_without_ipv6_listens_on_ipv4() {
        let (_, address) = bind_from(&Ports::new([4470], false), any_v6()).await.unwrap();
        assert_eq!(address, "0.0.0.0:4472".parse().unwrap());
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_bound_is_an_error_at_once() {
        let ports = Ports::new([], false);
        let error = bind_from(&ports, "fd00::1".parse().unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert_eq!(ports.asked.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn the_search_for_a_port_ends() {
        let ports = Ports::new(0..=u16::MAX, true);
        let error = bind_from(&ports, any_v6()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(ports.asked.lock().unwrap().len(), usize::from(PORTS_TRIED_MAX) - 1);
    }

    async fn hello_over(bind: &str, dial: IpAddr) -> (SocketAddr, SocketAddr) {
        let mut listener = Tcp.bind(bind.parse().unwrap()).await.unwrap();
        let port = Tcp.local_address(&listener).unwrap().port();
        let (accepted, dialled) =
            tokio::join!(Tcp.accept(&mut listener), Tcp.connect(SocketAddr::new(dial, port)));
        let ((mut accepted, from), mut dialled) = (accepted.unwrap(), dialled.unwrap());
        assert!(accepted.nodelay().unwrap() && dialled.nodelay().unwrap());
        dialled.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        accepted.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        (from, Tcp.local_address_of(&accepted).unwrap())
    }

    #[tokio::test]
    async fn a_dual_stack_listener_takes_ipv4_and_says_so_plainly() {
        if listen("[::1]:0".parse().unwrap(), false).is_err() {
            return; // This machine has no IPv6; the listener on IPv4 is tested below.
        }
        let (from, near) = hello_over("[::]:0", Ipv4Addr::LOCALHOST.into()).await;
        assert_eq!(from.ip(), IpAddr::from(Ipv4Addr::LOCALHOST));
        assert_eq!(near.ip(), IpAddr::from(Ipv4Addr::LOCALHOST));
        let (from, _) = hello_over("[::]:0", "::1".parse().unwrap()).await;
        assert!(from.is_ipv6());
    }

    #[test]
    fn an_address_is_written_in_one_way_and_a_link_local_one_keeps_its_zone() {
        let one_way = |text: &str| canonical(text.parse().unwrap()).to_string();
        assert_eq!(one_way("10.0.0.7:1"), "10.0.0.7:1");
        assert_eq!(one_way("[::ffff:10.0.0.7]:1"), "10.0.0.7:1");
        assert_eq!(one_way("[fe80::7%3]:1"), "[fe80::7%3]:1");
        assert_eq!(one_way("[fd00::7%3]:1"), "[fd00::7]:1");
    }

    #[tokio::test]
    async fn a_peer_that_comes_over_a_link_local_address_is_seen_with_its_zone() {
        // Address, number of the interface, prefix length, scope (20 is link-local), flags, name. Not on every machine.
        let table = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
        let own = table.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let ip = u128::from_str_radix(fields.first()?, 16).ok()?;
            let zone = u32::from_str_radix(fields.get(1)?, 16).ok()?;
            (*fields.get(3)? == "20").then(|| SocketAddrV6::new(ip.into(), 0, 0, zone))
        });
        let Some(mut own) = own else {
            println!("this machine has no link-local address");
            return;
        };
        let mut listener = Tcp.bind("[::]:0".parse().unwrap()).await.unwrap();
        own.set_port(Tcp.local_address(&listener).unwrap().port());
        let (accepted, dialled) = tokio::join!(Tcp.accept(&mut listener), Tcp.connect(own.into()));
        let ((accepted, from), dialled) = (accepted.unwrap(), dialled.unwrap());
        assert_eq!(from, dialled.local_addr().unwrap());
        assert_eq!(Tcp.local_address_of(&accepted).unwrap(), own.into());
        // What the peer is seen at can be dialled.
        own.set_ip(match from {
            SocketAddr::V6(from) if from.scope_id() == own.scope_id() => *from.ip(),
            other => panic!("{other}"),
        });
        Tcp.connect(own.into()).await.unwrap();
    }

    #[tokio::test]
    async fn ipv4_alone_works() {
        let (from, _) = hello_over("127.0.0.1:0", Ipv4Addr::LOCALHOST.into()).await;
        assert!(from.is_ipv4());
    }
}
