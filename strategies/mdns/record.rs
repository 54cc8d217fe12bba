//! What is announced and what is read: the service, its TXT record and its addresses.
//!
//! ```text
//! stock-19b3f0c2a4e5f3c9._pillion._tcp.local.  SRV  0 0 4470 stock-19b3f0c2a4e5f3c9.local.
//!                                              TXT  mesh= node= inc= proto= id=<hex>,<hex>
//! stock-19b3f0c2a4e5f3c9.local.                A, AAAA  the addresses of the interface it is heard on
//! ```

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use mdns_sd::{IfKind, IfPredicate, ResolvedService, ScopedIp, ServiceInfo};

use crate::interfaces::{Choice, takes};
use crate::options::hex_u64;
use crate::{Announcement, Sighting};

/// The service type (RFC 6763 section 7).
pub(super) const SERVICE: &str = "_pillion._tcp.local.";
/// Longest value of a TXT string beside its key and `=` (RFC 6763 section 6.1): 255 bytes in all.
const VALUE_BYTES_MAX: usize = 250;
/// Most ids that fit into one TXT string, with their commas.
const IDS_MAX: usize = 14;
/// Longest part of the node's base in the instance name, whose bound is 63 bytes with the incarnation.
const BASE_BYTES_MAX: usize = 40;
/// Most addresses that are believed of one instance.
const ADDRESSES_MAX: usize = 64;

/// What this node announces.
#[derive(Debug)]
pub(super) struct Record {
    node: String,
    incarnation: u64,
    instance: String,
    port: u16,
    addresses: Vec<IpAddr>,
    /// The unspecified addresses that it listens on: those of the interfaces are taken instead.
    automatic: Vec<SocketAddr>,
    txt: Vec<(&'static str, String)>,
}

impl Record {
    /// The record for `announcement`; the error is a sentence on what cannot be announced.
    pub(super) fn of(announcement: &Announcement) -> Result<Self, String> {
        let Announcement { mesh, node, incarnation, protocol, ids, listen, .. } = announcement;
        if mesh.len() > VALUE_BYTES_MAX {
            return Err(format!(
                "the mesh's name is too long for mdns: at most {VALUE_BYTES_MAX} bytes"
            ));
        }
        let ids: Vec<String> = ids
            .iter()
            .take(IDS_MAX)
            .map(|id| format!("{:016x}", u64::from_be_bytes(*id)))
            .collect();
        let mut txt = vec![
            ("mesh", mesh.clone()),
            ("inc", format!("{incarnation:016x}")),
            ("proto", protocol.to_string()),
            ("id", ids.join(",")),
        ];
        // A name that is too long is told in the hello only.
        if node.len() <= VALUE_BYTES_MAX {
            txt.push(("node", node.clone()));
        }
        // There is one port in an SRV record: that of the first address that others can reach.
        let reachable = listen.iter().filter(|address| !address.ip().is_loopback());
        let port = reachable.clone().next().map_or(0, SocketAddr::port);
        let listen = || listen.iter().map(SocketAddr::ip).filter(|ip| !ip.is_loopback());
        let automatic =
            reachable.filter(|address| address.ip().is_unspecified()).copied().collect();
        Ok(Self {
            node: node.clone(),
            incarnation: *incarnation,
            instance: instance(node, *incarnation),
            port,
            addresses: listen().filter(|ip| !ip.is_unspecified()).collect(),
            automatic,
            txt,
        })
    }

    pub(super) fn full_name(&self) -> String {
        format!("{}.{SERVICE}", self.instance)
    }

    pub(super) fn node(&self) -> &str {
        &self.node
    }

    pub(super) const fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Whether there is an address that others could dial.
    pub(super) const fn is_announced(&self) -> bool {
        self.port != 0
    }

    pub(super) fn service(&self, choice: &Choice) -> mdns_sd::Result<Option<ServiceInfo>> {
        if !self.is_announced() {
            return Ok(None);
        }
        let host = format!("{}.local.", self.instance);
        let mut service = ServiceInfo::new(
            SERVICE,
            &self.instance,
            &host,
            &self.addresses[..],
            self.port,
            &self.txt[..],
        )?;
        // The names carry the incarnation, so nobody else has them, and probing would cost most of a second.
        service.set_requires_probe(false);
        if !self.automatic.is_empty() {
            let (choice, automatic) = (choice.clone(), self.automatic.clone());
            let told = IfPredicate::new(move |interface| {
                choice.tells(interface) && automatic.iter().any(|a| takes(*a, interface.ip()))
            });
            service.set_interfaces(vec![IfKind::Predicate(told)]);
            service = service.enable_addr_auto();
        }
        Ok(Some(service))
    }
}

fn instance(node: &str, incarnation: u64) -> String {
    let base = node.split('@').next().unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let base: String = base.chars().take(BASE_BYTES_MAX).map(plain).collect();
    format!("{base}-{incarnation:016x}")
}

/// What somebody else announces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) node: Option<String>,
    pub(super) incarnation: u64,
    pub(super) mesh: String,
    pub(super) ids: Vec<[u8; 8]>,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) interface: String,
}

impl Found {
    /// Reads an answer. Nothing, when it is not one of ours or cannot be used.
    pub(super) fn read(service: &ResolvedService) -> Option<Self> {
        let value = |key| service.get_property_val_str(key);
        let plain = |text: &&str| !text.is_empty() && !text.chars().any(char::is_control);
        let mesh = value("mesh").filter(plain)?.to_owned();
        let incarnation = hex_u64(value("inc")?)?;
        let node = match value("node") {
            None => None,
            Some(node) => Some(node.to_owned())
                .filter(|node| plain(&&**node) && node.contains('@'))
                .map(Some)?,
        };
        let texts = value("id").unwrap_or_default().split(',').filter(|id| !id.is_empty());
        let ids = texts.map(|id| hex_u64(id).map(u64::to_be_bytes)).collect::<Option<Vec<_>>>()?;
        let (addresses, interface) = addresses(service.get_addresses().iter(), service.get_port());
        (!addresses.is_empty()).then_some(Self {
            node,
            incarnation,
            mesh,
            ids,
            addresses,
            interface,
        })
    }

    pub(super) fn sighting(&self, addresses: Vec<SocketAddr>) -> Sighting {
        let on = if self.interface.is_empty() {
            String::new()
        } else {
            format!(" on {}", self.interface)
        };
        Sighting {
            node: self.node.clone(),
            incarnation: Some(self.incarnation),
            mesh: Some(self.mesh.clone()),
            ids: self.ids.clone(),
            addresses,
            source: format!("mdns{on}"),
            ..Sighting::default()
        }
    }
}

/// The addresses that can be dialled, in an order that does not change, and where they were heard.
///
/// Link-local addresses are a last resort: they need the interface named, and count only where there is
/// nothing else, as on a cable between two machines.
fn addresses<'a>(ips: impl Iterator<Item = &'a ScopedIp>, port: u16) -> (Vec<SocketAddr>, String) {
    let mut good = Vec::new();
    let mut last_resort = Vec::new();
    let mut interfaces = Vec::new();
    for ip in ips.take(ADDRESSES_MAX).filter(|_| port != 0) {
        match ip {
            ScopedIp::V4(v4) if v4.addr().is_unspecified() || v4.addr().is_multicast() => {}
            ScopedIp::V4(v4) => {
                let address = SocketAddr::new((*v4.addr()).into(), port);
                if v4.addr().is_link_local() { &mut last_resort } else { &mut good }.push(address);
                interfaces.extend(v4.interface_ids().iter().map(|id| id.name.clone()));
            }
            ScopedIp::V6(v6) if v6.addr().is_unspecified() || v6.addr().is_multicast() => {}
            ScopedIp::V6(v6) => {
                let scope = v6.scope_id();
                if !v6.addr().is_unicast_link_local() {
                    good.push(SocketAddr::new((*v6.addr()).into(), port));
                } else if scope.index != 0 {
                    last_resort.push(SocketAddrV6::new(*v6.addr(), port, 0, scope.index).into());
                }
                interfaces.push(scope.name.clone());
            }
            _ => {}
        }
    }
    let mut addresses = if good.is_empty() { last_resort } else { good };
    addresses.sort_unstable();
    addresses.dedup();
    interfaces.retain(|name| !name.is_empty());
    interfaces.sort_unstable();
    interfaces.dedup();
    (addresses, interfaces.join(", "))
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;

    pub(in crate::mdns) fn announcement() -> Announcement {
        Announcement {
            mesh: "default".into(),
            node: "Stock_1@hal.example".into(),
            incarnation: 0x19b3_f0c2_a4e5_f3c9,
            protocol: 1,
            ids: vec![[1; 8], [0xff; 8]],
            listen: vec![
                "0.0.0.0:4470".parse().expect("an address"),
                "[::]:4470".parse().expect("one"),
            ],
            socket: Some("/secret/place.sock".into()),
            labels: BTreeMap::from([("role".into(), "api".into())]),
        }
    }

    fn resolved(txt: &[(&str, &str)], ip: &str, port: u16) -> ResolvedService {
        ServiceInfo::new(SERVICE, "x", "x.local.", ip, port, txt)
            .expect("a service")
            .as_resolved_service()
    }

    #[test]
    fn names_carry_the_incarnation_and_never_the_host() {
        let record = Record::of(&announcement()).expect("a record");
        let service = record.service(&Choice::default()).expect("good").expect("announced");
        assert_eq!(service.get_fullname(), "stock-1-19b3f0c2a4e5f3c9._pillion._tcp.local.");
        assert_eq!(service.get_fullname(), record.full_name());
        assert_eq!(service.get_hostname(), "stock-1-19b3f0c2a4e5f3c9.local.");
        let longest = Announcement { node: format!("{}@h", "b".repeat(64)), ..announcement() };
        let record = Record::of(&longest).expect("a record");
        assert!(record.full_name().split('.').next().is_some_and(|label| label.len() <= 63));
    }

    #[test]
    fn what_is_announced_is_read_back_and_holds_nothing_else() {
        let record = Record::of(&announcement()).expect("a record");
        let txt: Vec<(&str, &str)> =
            record.txt.iter().map(|(key, value)| (*key, &value[..])).collect();
        let keys: Vec<&str> = txt.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, ["mesh", "inc", "proto", "id", "node"]);
        let found =
            Found::read(&resolved(&txt, "10.0.0.1,fd00::1,fe80::1", 4470)).expect("one of ours");
        assert_eq!(found.node.as_deref(), Some("Stock_1@hal.example"));
        assert_eq!(found.incarnation, announcement().incarnation);
        assert_eq!(found.ids, announcement().ids);
        let dialled: Vec<String> = found.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(dialled, ["10.0.0.1:4470", "[fd00::1]:4470"]);
    }

    #[test]
    fn any_name_and_any_number_of_ids_fit_into_a_record() {
        let announcement = Announcement {
            node: format!("a@{}", "h".repeat(255)),
            ids: vec![[9; 8]; 40],
            ..announcement()
        };
        let record = Record::of(&announcement).expect("a record");
        assert!(record.service(&Choice::default()).expect("it fits").is_some());
        let mesh = "m".repeat(300);
        assert!(Record::of(&Announcement { mesh, ..announcement }).is_err());
    }

    #[test]
    fn a_node_on_loopback_only_announces_nothing() {
        let listen =
            vec!["127.0.0.1:4470".parse().expect("an address"), "[::1]:4470".parse().expect("one")];
        let record = Record::of(&Announcement { listen, ..announcement() }).expect("a record");
        assert!(
            !record.is_announced() && record.service(&Choice::default()).expect("good").is_none()
        );
    }

    #[test]
    fn strangers_answers_are_ignored() {
        let good = [
            ("mesh", "m"),
            ("inc", "0000000000000001"),
            ("node", "a@b"),
            ("id", "0000000000000002"),
        ];
        assert!(Found::read(&resolved(&good, "10.0.0.1", 1)).is_some());
        assert!(
            Found::read(&resolved(&good[..2], "10.0.0.1", 1)).is_some(),
            "node and id may be missing"
        );
        assert!(Found::read(&resolved(&good, "10.0.0.1", 0)).is_none(), "no port");
        assert!(
            Found::read(&resolved(&good, "fe80::1", 1)).is_none(),
            "no interface to reach it by"
        );
        assert!(
            Found::read(&resolved(&good, "224.0.0.1", 1)).is_none(),
            "not an address of anybody"
        );
        assert!(Found::read(&resolved(&[], "10.0.0.1", 1)).is_none());
        for (at, value) in [
            (0, ""),
            (0, "\u{7}"),
            (1, "1"),
            (1, "000000000000000g"),
            (2, ""),
            (2, "ab"),
            (3, "2"),
            (3, "é"),
        ] {
            let mut bad = good;
            bad[at].1 = value;
            assert!(Found::read(&resolved(&bad, "10.0.0.1", 1)).is_none(), "{bad:?}");
        }
    }
}
