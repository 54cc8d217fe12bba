//! The addresses behind a name, as this machine finds them: for whoever has a host and wants to dial it.
//!
//! The system's resolver is asked first, so that `/etc/hosts`, `hal.local` and whatever else a machine is set up for
//! count. A program that is linked statically has only part of it: musl's reads `/etc/hosts` and `/etc/resolv.conf`,
//! glibc's does without what it would load at run time, and may find nobody. So where the system knows of none, the name
//! servers of `/etc/resolv.conf` are asked directly, as the strategy `dns` does (builds with that feature).

use std::io;
use std::net::SocketAddr;

/// The addresses of a host, A and AAAA, with this port. At least one.
///
/// It takes as long as the system's resolver takes, which knows no deadline, and ten seconds more: callers bound it.
/// Dropping it ends the wait; the system's question goes on by itself on a thread of the runtime's.
///
/// # Errors
/// What the system said, and what the name servers said where that is more.
pub async fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let said = match tokio::net::lookup_host((host, port)).await {
        Ok(found) => {
            let found: Vec<SocketAddr> = found.collect();
            if !found.is_empty() {
                return Ok(found);
            }
            io::Error::other("it has no address")
        }
        Err(error) => error,
    };
    #[cfg(feature = "dns")]
    return match crate::dns::servers::Servers::of_system().lookup(host, port).await {
        Ok(found) => Ok(found),
        Err(Some(more)) => Err(io::Error::other(format!("{said}; asked directly, {more}"))),
        Err(None) => Err(said),
    };
    #[cfg(not(feature = "dns"))]
    Err(said)
}

/// The same of the name servers of `/etc/resolv.conf` alone, without a thread.
///
/// # Errors
/// What they said.
#[cfg(feature = "dns")]
pub async fn ask_servers(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let answer = crate::dns::servers::Servers::of_system().lookup(host, port).await;
    answer.map_err(|why| io::Error::other(why.unwrap_or_else(|| "there is no such name".into())))
}
