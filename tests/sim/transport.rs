//! TCP as turmoil simulates it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pillion::transport::Transport;
use turmoil::net::{TcpListener, TcpStream};

/// The simulated network of the current host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Simulated {
    /// How often anybody was dialled.
    pub(crate) dials: Arc<AtomicU64>,
}

impl Transport for Simulated {
    type Stream = TcpStream;
    type Listener = TcpListener;

    async fn bind(&self, address: SocketAddr) -> io::Result<TcpListener> {
        TcpListener::bind(address).await
    }

    fn local_address(&self, listener: &TcpListener) -> io::Result<SocketAddr> {
        listener.local_addr()
    }

    async fn accept(&self, listener: &mut TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        listener.accept().await
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.dials.fetch_add(1, Ordering::Relaxed);
        TcpStream::connect(address).await
    }

    fn local_address_of(&self, stream: &TcpStream) -> io::Result<SocketAddr> {
        stream.local_addr()
    }
}
