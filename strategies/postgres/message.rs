//! What nodes say to each other through the database.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Announcement;
use crate::interfaces::is_link_local;
use crate::local::entry::{ids, incarnation};

/// PostgreSQL takes payloads that are shorter than this.
const BYTES_MAX: usize = 8000;
/// Most ids in one message.
const IDS_MAX: usize = 64;
/// Most addresses in one message.
pub(super) const ADDRESSES_MAX: usize = 32;
/// Longest node name and mesh name that are believed, in bytes.
const NAME_BYTES_MAX: usize = 320;
/// The shortest and the longest time between two heartbeats that is believed.
const EVERY_MIN: Duration = Duration::from_millis(100);
pub(super) const EVERY_MAX: Duration = Duration::from_secs(600);

/// Why it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Say {
    /// I am new: who else is there?
    Hello,
    /// I am there.
    Here,
    /// I am gone.
    Bye,
}

/// What is said. Members that are not known are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Message {
    pub(super) say: Say,
    pub(super) node: String,
    #[serde(with = "incarnation")]
    pub(super) incarnation: u64,
    pub(super) mesh: String,
    #[serde(default, with = "ids")]
    pub(super) ids: Vec<[u8; 8]>,
    #[serde(default)]
    pub(super) addresses: Vec<SocketAddr>,
    #[serde(default)]
    pub(super) protocol: u16,
    /// How often it says so.
    pub(super) every_ms: u64,
}

impl Message {
    pub(super) fn of(own: &Announcement, addresses: Vec<SocketAddr>, every: Duration) -> Self {
        Self {
            say: Say::Here,
            node: own.node.clone(),
            incarnation: own.incarnation,
            mesh: own.mesh.clone(),
            ids: own.ids.iter().take(IDS_MAX).copied().collect(),
            addresses,
            protocol: own.protocol,
            every_ms: u64::try_from(every.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// As it is sent, unless it is too long for that.
    pub(super) fn text(&self, say: Say) -> Option<String> {
        let said = Self { say, ..self.clone() };
        serde_json::to_string(&said).ok().filter(|text| text.len() < BYTES_MAX)
    }

    /// Reads what somebody sent. Nothing, when it makes no sense; addresses that nobody can dial are left out.
    pub(super) fn read(text: &str, is_local: bool) -> Option<Self> {
        let mut read: Self = serde_json::from_str(text.get(..text.len().min(BYTES_MAX))?).ok()?;
        let plain = |name: &str| {
            (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
        };
        if !plain(&read.node) || !read.node.contains('@') || !plain(&read.mesh) {
            return None;
        }
        read.ids.truncate(IDS_MAX);
        read.addresses.retain(|address| can_be_dialled(*address, is_local));
        read.addresses.truncate(ADDRESSES_MAX);
        Some(read)
    }

    pub(super) fn every(&self) -> Duration {
        Duration::from_millis(self.every_ms).clamp(EVERY_MIN, EVERY_MAX)
    }
}

fn can_be_dialled(address: SocketAddr, is_local: bool) -> bool {
    let ip = address.ip().to_canonical();
    let is_odd = ip.is_unspecified() || ip.is_multicast() || is_link_local(ip);
    !is_odd && address.port() != 0 && (is_local || !ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        Message {
            say: Say::Here,
            node: "stock@hal".into(),
            incarnation: 0x19b3_f0c2_a4e5_f3c9,
            mesh: "default".into(),
            ids: vec![[1; 8]],
            addresses: vec!["10.0.0.7:4470".parse().expect("an address")],
            protocol: 1,
            every_ms: 5000,
        }
    }

    #[test]
    fn what_is_said_is_heard_and_holds_nothing_else() {
        let text = message().text(Say::Hello).expect("short");
        let expected = r#"{"say":"hello","node":"stock@hal","incarnation":"19b3f0c2a4e5f3c9","mesh":"default","ids":["0101010101010101"],"addresses":["10.0.0.7:4470"],"protocol":1,"every_ms":5000}"#;
        assert_eq!(text, expected);
        let heard = Message { say: Say::Hello, ..message() };
        assert_eq!(Message::read(&text, false), Some(heard.clone()));
        let later = text.replace("\"protocol\"", "\"later\":[{}],\"protocol\"");
        assert_eq!(Message::read(&later, false), Some(heard));
    }

    #[test]
    fn what_makes_no_sense_is_ignored_and_odd_addresses_are_left_out() {
        let good = message().text(Say::Here).expect("short");
        for bad in [
            String::new(),
            "hello".into(),
            "[]".into(),
            "{\"say\":\"here\"}".into(),
            "é".repeat(5000),
            good.replace("here", "shout"),
            good.replace("stock@hal", "stock"),
            good.replace("stock@hal", "a@b\\u001b[2J"),
            good.replace("stock@hal", &format!("a@{}", "b".repeat(400))),
            good.replace("19b3f0c2a4e5f3c9", "19b3"),
            good.replace("\"default\"", "\"\""),
            good.replace("10.0.0.7:4470", "hal:4470"),
            good.replace("5000", "-1"),
        ] {
            assert_eq!(Message::read(&bad, true), None, "{bad}");
        }
        for odd in ["0.0.0.0:1", "10.0.0.7:0", "224.0.0.1:1", "169.254.1.1:1", "127.0.0.1:1"] {
            let read = Message::read(&good.replace("10.0.0.7:4470", odd), false).expect("read");
            assert!(read.addresses.is_empty(), "{odd}");
        }
        let local = Message::read(&good.replace("10.0.0.7:4470", "[::1]:1"), true).expect("read");
        assert_eq!(local.addresses.len(), 1);
        let eager = Message::read(&good.replace("5000", "0"), true).expect("read");
        assert_eq!(eager.every(), EVERY_MIN);
    }

    #[test]
    fn a_message_is_shorter_than_postgresql_allows_whatever_is_announced() {
        let own = Announcement {
            mesh: "m".repeat(255),
            node: format!("{}@{}", "a".repeat(64), "b".repeat(255)),
            incarnation: u64::MAX,
            protocol: u16::MAX,
            ids: vec![[255; 8]; 1000],
            listen: Vec::new(),
            socket: None,
            labels: std::collections::BTreeMap::new(),
        };
        let long = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".parse().expect("an address");
        let message = Message::of(&own, vec![long; ADDRESSES_MAX], EVERY_MAX);
        assert!(message.text(Say::Hello).is_some());
    }
}
