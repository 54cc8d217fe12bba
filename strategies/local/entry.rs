//! What a node writes of itself into the registry.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Announcement;

/// Longest node name, in bytes: 64 of the base, the `@` and 255 of the host.
const NODE_BYTES_MAX: usize = 320;
/// Longest mesh name that is believed, in bytes.
const MESH_BYTES_MAX: usize = 255;

/// A node of this machine, as its file in the registry describes it. Members that are not known are ignored,
/// so that nodes of different versions share a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// `base@host`.
    pub node: String,
    /// Which run of that name; 16 hex digits in the file.
    #[serde(with = "incarnation")]
    pub incarnation: u64,
    /// The mesh it belongs to.
    pub mesh: String,
    /// Newest protocol it speaks.
    #[serde(default)]
    pub protocol: u16,
    /// What it can be recognised by; each 16 hex digits in the file.
    #[serde(default, with = "ids")]
    pub ids: Vec<[u8; 8]>,
    /// Where its mesh port listens.
    #[serde(default)]
    pub listen: Vec<SocketAddr>,
    /// Its app socket.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// The id of its OS process.
    pub pid: u32,
    /// role, zone and whatever else was given.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl Entry {
    pub(super) fn of(announcement: &Announcement) -> Self {
        Self {
            node: announcement.node.clone(),
            incarnation: announcement.incarnation,
            mesh: announcement.mesh.clone(),
            protocol: announcement.protocol,
            ids: announcement.ids.clone(),
            listen: announcement.listen.clone(),
            // JSON has no way to write a path that is not text; such a socket is found by its `--socket` only.
            socket: announcement.socket.clone().filter(|path| path.to_str().is_some()),
            pid: std::process::id(),
            labels: announcement.labels.clone(),
        }
    }

    /// Reads an entry; the error says what is wrong with it.
    pub(super) fn parse(content: &[u8]) -> Result<Self, String> {
        let entry: Self = serde_json::from_slice(content).map_err(|error| error.to_string())?;
        let plain = |text: &str, bytes_max| {
            (1..=bytes_max).contains(&text.len()) && !text.chars().any(char::is_control)
        };
        if !plain(&entry.node, NODE_BYTES_MAX) || !entry.node.contains('@') {
            return Err("its node is not named base@host".into());
        }
        if !plain(&entry.mesh, MESH_BYTES_MAX) {
            return Err("its mesh has no name".into());
        }
        Ok(entry)
    }

    /// Whether both are of the same run of the same node.
    pub(super) fn is_same_run(&self, other: &Self) -> bool {
        self.incarnation == other.incarnation && self.node == other.node
    }
}

pub(crate) mod incarnation {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    pub(crate) fn serialize<S: Serializer>(value: &u64, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(&format_args!("{value:016x}"))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        crate::options::hex_u64(&text)
            .ok_or_else(|| D::Error::custom("an incarnation is 16 hex digits"))
    }
}

pub(crate) mod ids {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(ids: &[[u8; 8]], out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(ids.iter().map(|id| format!("{:016x}", u64::from_be_bytes(*id))))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<[u8; 8]>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        let id = |text: &String| crate::options::hex_u64(text).map(u64::to_be_bytes);
        let ids: Option<Vec<_>> = texts.iter().map(id).collect();
        ids.ok_or_else(|| D::Error::custom("an id is 16 hex digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            node: "stock@hal".into(),
            incarnation: 0x19b3_f0c2_a4e5_f3c9,
            mesh: "default".into(),
            protocol: 1,
            ids: vec![[0, 1, 2, 3, 4, 5, 6, 255]],
            listen: vec!["[::]:4470".parse().expect("an address")],
            socket: Some("/tmp/pillion-1000/default/stock.sock".into()),
            pid: 7,
            labels: [("role".to_owned(), "api".to_owned())].into(),
        }
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let text = serde_json::to_string(&entry()).expect("json");
        assert_eq!(Entry::parse(text.as_bytes()), Ok(entry()));
        assert!(
            text.contains("\"19b3f0c2a4e5f3c9\"") && text.contains("\"00010203040506ff\""),
            "{text}"
        );
    }

    #[test]
    fn what_is_no_entry_is_refused_and_unknown_members_are_ignored() {
        let good =
            r#"{"node":"a@b","incarnation":"0000000000000001","mesh":"m","pid":1,"later":[1]}"#;
        assert!(Entry::parse(good.as_bytes()).is_ok());
        for bad in [
            "",
            "null",
            "{}",
            "[[[[",
            &good.replace("a@b", "ab"),
            &good.replace("a@b", "a@b\\u0000"),
            &good.replace("a@b", &format!("a@{}", "b".repeat(400))),
            &good.replace("0000000000000001", "1"),
            &good.replace("0000000000000001", "+000000000000001"),
            &good.replace("\"m\"", "\"\""),
            &good.replace("\"pid\":1", "\"pid\":-1"),
            &good.replace("[1]", "[1"),
        ] {
            assert!(Entry::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
