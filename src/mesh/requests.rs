//! What apps ask of the mesh: connect, disconnect.
//!
//! `connect` answers true once connected, at once when it was before; false when that takes longer than
//! [`CONNECT_WITHIN`]. A wish that came true is kept: the node is dialled again whenever it is lost, until somebody
//! asks for `disconnect`. `disconnect` keeps both nodes apart until one of them is asked to connect, or restarts.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use pillion_strategies::hosts;
use tokio::time::{Instant, timeout};

use super::wanted::{Held, Wanted};
use crate::hub::{MeshAnswer, MeshToken};
use crate::peer::{ConnId, scope};
use crate::transport::PORT_FIRST;
use crate::wire::id::NodeName;

/// How long `connect` may take: as long as Erlang's `net_setuptime`.
const CONNECT_WITHIN: Duration = Duration::from_secs(7);
/// How long DNS may take of that.
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);
/// Most requests that wait.
const REQUESTS_MAX: usize = 1024;

/// Requests that are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Requests {
    connecting: Vec<Connecting>,
    disconnecting: Vec<(ConnId, MeshToken)>,
}

#[derive(Debug)]
struct Connecting {
    token: MeshToken,
    to: To,
    until: Instant,
}

#[derive(Debug)]
enum To {
    Name(NodeName),
    /// To be resolved.
    Host,
    Addresses(BTreeSet<SocketAddr>),
}

/// What became of a `connect` so far.
pub(super) enum Begun {
    Answered(MeshAnswer),
    Waits,
    /// This host and port must be looked up.
    Resolve(String),
}

/// What DNS said.
pub(super) struct Resolved {
    token: MeshToken,
    host: String,
    addresses: Result<BTreeSet<SocketAddr>, String>,
}

impl Requests {
    pub(super) fn connect(
        &mut self,
        token: MeshToken,
        to: &str,
        told: &Held,
        wanted: &mut Wanted,
        now: Instant,
    ) -> Begun {
        if self.connecting.len() >= REQUESTS_MAX {
            return Begun::Answered(MeshAnswer::Failed {
                code: "overloaded",
                message: format!("{REQUESTS_MAX} requests to connect are waiting already"),
            });
        }
        let until = now + CONNECT_WITHIN;
        if to.contains('@') {
            let name = match to.parse::<NodeName>() {
                Ok(name) => name,
                Err(error) => {
                    let message = error.to_string();
                    return Begun::Answered(MeshAnswer::Failed { code: "badarg", message });
                }
            };
            if name == wanted.me().name || told.contains_key(&name) {
                return Begun::Answered(MeshAnswer::True);
            }
            if !wanted.ask_name(&name, now) {
                return Begun::Answered(MeshAnswer::False);
            }
            self.connecting.push(Connecting { token, to: To::Name(name), until });
            return Begun::Waits;
        }
        if let Some(address) = literal(to) {
            let addresses = BTreeSet::from([scope::canonical(address)]);
            if addresses.iter().any(|a| !scope::is_dialable(*a)) {
                let message = format!("`{to}` cannot be dialled: write host:port of another node");
                return Begun::Answered(MeshAnswer::Failed { code: "badarg", message });
            }
            wanted.ask_addresses(addresses.clone(), now);
            self.connecting.push(Connecting { token, to: To::Addresses(addresses), until });
            return Begun::Waits;
        }
        let host = if to.contains(':') { to.to_owned() } else { format!("{to}:{PORT_FIRST}") };
        self.connecting.push(Connecting { token, to: To::Host, until });
        Begun::Resolve(host)
    }

    /// DNS has answered.
    pub(super) fn resolved(
        &mut self,
        resolved: Resolved,
        wanted: &mut Wanted,
        now: Instant,
    ) -> Option<(MeshToken, MeshAnswer)> {
        let at = self.connecting.iter().position(|c| c.token == resolved.token)?;
        match resolved.addresses {
            Ok(addresses) if !addresses.is_empty() => {
                wanted.ask_addresses(addresses.clone(), now);
                self.connecting[at].to = To::Addresses(addresses);
                self.connecting[at].until = now + CONNECT_WITHIN;
                None
            }
            other => {
                self.connecting.swap_remove(at);
                let why = other.err().unwrap_or_else(|| "it has no usable address".to_owned());
                let message = format!("cannot find `{}`: {why}", resolved.host);
                Some((resolved.token, MeshAnswer::Failed { code: "not_found", message }))
            }
        }
    }

    /// Whether nobody waits to be connected.
    pub(super) fn is_idle(&self) -> bool {
        self.connecting.is_empty()
    }

    pub(super) fn disconnecting(&mut self, conn: ConnId, token: MeshToken) {
        self.disconnecting.push((conn, token));
    }

    /// Who waits for the end of this connection.
    pub(super) fn disconnected(&mut self, conn: ConnId) -> Vec<MeshToken> {
        let tokens = self.disconnecting.extract_if(.., |(c, _)| *c == conn);
        tokens.map(|(_, token)| token).collect()
    }

    /// Every request that has its answer now.
    pub(super) fn due(
        &mut self,
        now: Instant,
        told: &Held,
        wanted: &mut Wanted,
    ) -> Vec<(MeshToken, MeshAnswer)> {
        let mut answers = Vec::new();
        self.connecting.retain(|waiting| {
            let done = match &waiting.to {
                To::Name(name) => told.contains_key(name),
                To::Host => false,
                To::Addresses(addresses) => addresses.iter().any(|address| {
                    wanted.owner(address).is_some_and(|node| {
                        node == wanted.me() || told.get(&node.name) == Some(&node.incarnation)
                    })
                }),
            };
            if done {
                answers.push((waiting.token, MeshAnswer::True));
            } else if now >= waiting.until {
                answers.push((waiting.token, MeshAnswer::False));
                match &waiting.to {
                    To::Name(name) => wanted.unask_name(name),
                    To::Host => {}
                    To::Addresses(addresses) => wanted.unask_addresses(addresses),
                }
            }
            !done && now < waiting.until
        });
        answers
    }

    /// When the next request has waited long enough.
    pub(super) fn next(&self) -> Option<Instant> {
        self.connecting.iter().map(|waiting| waiting.until).min()
    }

    /// The node stops.
    pub(super) fn give_up(&mut self) -> Vec<(MeshToken, MeshAnswer)> {
        let connecting = self.connecting.drain(..).map(|c| (c.token, MeshAnswer::False));
        let disconnecting = self.disconnecting.drain(..).map(|(_, t)| (t, MeshAnswer::True));
        connecting.chain(disconnecting).collect()
    }
}

/// `10.0.0.7:4470`, `[fd00::7]:4470`, or either without its port.
fn literal(to: &str) -> Option<SocketAddr> {
    let bare = to.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(to);
    to.parse().ok().or_else(|| bare.parse().ok().map(|ip| SocketAddr::new(ip, PORT_FIRST)))
}

/// Looks a host up.
pub(super) async fn resolve(token: MeshToken, host: String) -> Resolved {
    let split = host.rsplit_once(':').map(|(name, port)| (name, port.parse::<u16>()));
    let Some((name, Ok(port))) = split else {
        let addresses = Err("write host or host:port".to_owned());
        return Resolved { token, host, addresses };
    };
    let addresses = match timeout(RESOLVE_WITHIN, hosts::lookup(name, port)).await {
        Ok(Ok(found)) => Ok(found
            .into_iter()
            .map(scope::canonical)
            .filter(|a| scope::is_dialable(*a))
            .take(scope::ADDRESSES_MAX)
            .collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("DNS did not answer".to_owned()),
    };
    Resolved { token, host, addresses }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_leave_its_port_out() {
        let at = |text: &str| literal(text).map(|a| a.to_string());
        assert_eq!(at("10.0.0.7").as_deref(), Some("10.0.0.7:4470"));
        assert_eq!(at("10.0.0.7:9").as_deref(), Some("10.0.0.7:9"));
        assert_eq!(at("[fd00::7]:9").as_deref(), Some("[fd00::7]:9"));
        assert_eq!(at("[fd00::7]").as_deref(), Some("[fd00::7]:4470"));
        assert_eq!(at("fd00::7").as_deref(), Some("[fd00::7]:4470"));
        assert_eq!(at("hal"), None);
        assert_eq!(at("hal:9"), None);
    }
}
