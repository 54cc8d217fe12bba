//! The addresses of a host, from name servers alone: for those who have one name and no records to follow.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::ask::{Failure, Kind, Question};
use super::system::{RESOLV_CONF, System};

/// Those that `/etc/resolv.conf` names; read again whenever they are asked.
pub(crate) struct Servers(System);

impl Servers {
    pub(crate) fn of_system() -> Self {
        Self(System::of_file(PathBuf::from(RESOLV_CONF)))
    }

    /// Asks for A and AAAA at the same time; one that fails takes nothing from the other.
    ///
    /// # Errors
    /// Why there is no address; nothing, where the servers know that there is no such name.
    pub(crate) async fn lookup(
        &self,
        host: &str,
        port: u16,
    ) -> Result<Vec<SocketAddr>, Option<String>> {
        let ask = |kind| self.0.ask(Question { name: host.to_owned(), kind });
        let (a, aaaa) = tokio::join!(ask(Kind::A), ask(Kind::Aaaa));
        let mut found = Vec::new();
        let mut why = None;
        for answer in [a, aaaa] {
            match answer {
                Ok(answer) => found.extend(answer.addresses),
                Err(Failure::Failed(said)) => why = Some(said),
                Err(Failure::NoRecords(_)) => {}
            }
        }
        found.retain(|ip| !ip.is_unspecified() && !ip.is_multicast());
        if found.is_empty() {
            return Err(why);
        }
        Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }
}
