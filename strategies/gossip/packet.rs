//! What goes over the network, sealed.
//!
//! ```text
//! 0   4  "plg1"
//! 4   8  which key: 8 bytes of HKDF(key, "which")
//! 12 16  salt: drawn at random by each sender when it starts
//! 28  8  number of this packet of that sender, from 1
//! 36     sealed: u64 unix milliseconds, then JSON; and the 16 bytes of the tag
//! ```
//!
//! The key of a sender is HKDF-SHA256(key, "seal" and its salt), so a nonce (the number) is used once, however many senders
//! share a key and however often they start. What stands before the sealed part is authenticated with it.

use std::collections::BTreeMap;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk};
use serde::{Deserialize, Serialize};

use crate::keys::Key;

/// Largest packet: it fits into every Ethernet frame.
pub(super) const PACKET_BYTES_MAX: usize = 1400;
const MAGIC: [u8; 4] = *b"plg1";
const WHICH: std::ops::Range<usize> = 4..12;
const SALT: std::ops::Range<usize> = 12..28;
const NUMBER: std::ops::Range<usize> = 28..36;
const HEAD_BYTES: usize = 36;
const TIME_BYTES: usize = 8;
const TAG_BYTES: usize = 16;

/// Tells one start of a sender from all others.
pub(super) type Salt = [u8; 16];

/// What a node says of itself on one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Message {
    /// It is about to stop.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) gone: bool,
    pub(super) mesh: String,
    pub(super) node: String,
    /// 16 hex digits.
    pub(super) incarnation: String,
    pub(super) protocol: u16,
    /// The interface that this is sent on, as the sender calls it.
    #[serde(default)]
    pub(super) on: String,
    /// Where it can be dialled there.
    #[serde(default)]
    pub(super) addresses: Vec<String>,
    #[serde(default)]
    pub(super) ids: Vec<String>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
}

/// A packet that was sealed with a key of ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) salt: Salt,
    pub(super) number: u64,
    pub(super) unix_ms: u64,
    pub(super) message: Message,
}

/// Why a packet was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// No packet of this kind, or one that was changed on its way or forged.
    Malformed,
    /// Of nodes that share no key with us.
    Foreign,
}

/// Opens with all keys, seals with the first.
pub(super) struct Seal {
    salt: Salt,
    openers: Vec<([u8; 8], Prk)>,
    sealer: LessSafeKey,
}

impl Seal {
    /// None without a key.
    pub(super) fn new(keys: &[Key], salt: Salt) -> Option<Self> {
        let openers: Vec<([u8; 8], Prk)> = keys
            .iter()
            .map(|key| {
                let key = Prk::new_less_safe(HKDF_SHA256, key.bytes());
                let which = derived(&key, &[b"which"]);
                (std::array::from_fn(|at| which[at]), key)
            })
            .collect();
        let sealer = of_sender(&openers.first()?.1, &salt);
        Some(Self { salt, openers, sealer })
    }

    /// A packet. What is too long loses its labels first, then addresses; none when that is not enough.
    pub(super) fn seal(&self, mut message: Message, number: u64, unix_ms: u64) -> Option<Vec<u8>> {
        let room = PACKET_BYTES_MAX - HEAD_BYTES - TIME_BYTES - TAG_BYTES;
        let mut json = serde_json::to_vec(&message).ok()?;
        if json.len() > room {
            message.labels.clear();
            json = serde_json::to_vec(&message).ok()?;
        }
        while json.len() > room {
            message.addresses.pop()?;
            json = serde_json::to_vec(&message).ok()?;
        }
        let mut packet = Vec::with_capacity(PACKET_BYTES_MAX);
        packet.extend_from_slice(&MAGIC);
        packet.extend_from_slice(&self.openers.first()?.0);
        packet.extend_from_slice(&self.salt);
        packet.extend_from_slice(&number.to_be_bytes());
        let mut sealed = unix_ms.to_be_bytes().to_vec();
        sealed.extend_from_slice(&json);
        self.sealer
            .seal_in_place_append_tag(nonce(number), Aad::from(&packet[..]), &mut sealed)
            .ok()?;
        packet.extend_from_slice(&sealed);
        Some(packet)
    }

    /// Reads a packet, in place.
    pub(super) fn open(&self, packet: &mut [u8]) -> Result<Opened, Refused> {
        let whole = HEAD_BYTES + TIME_BYTES + TAG_BYTES..=PACKET_BYTES_MAX;
        if !whole.contains(&packet.len()) || packet[..4] != MAGIC {
            return Err(Refused::Malformed);
        }
        let (head, sealed) = packet.split_at_mut(HEAD_BYTES);
        // What says which key is public: comparing it tells nobody anything.
        let key = self.openers.iter().find(|(which, _)| which[..] == head[WHICH]);
        let (_, key) = key.ok_or(Refused::Foreign)?;
        let salt: Salt = std::array::from_fn(|at| head[SALT.start + at]);
        let number = u64::from_be_bytes(std::array::from_fn(|at| head[NUMBER.start + at]));
        let plain = of_sender(key, &salt)
            .open_in_place(nonce(number), Aad::from(&*head), sealed)
            .map_err(|_| Refused::Malformed)?;
        let (time, json) = plain.split_at(TIME_BYTES);
        let unix_ms = u64::from_be_bytes(std::array::from_fn(|at| time[at]));
        let message = serde_json::from_slice(json).map_err(|_| Refused::Malformed)?;
        Ok(Opened { salt, number, unix_ms, message })
    }
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn of_sender(key: &Prk, salt: &Salt) -> LessSafeKey {
    let bytes = derived(key, &[b"seal", salt]);
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &bytes).expect("32 bytes are its key"))
}

fn derived(key: &Prk, info: &[&[u8]]) -> [u8; 32] {
    let mut out = [0; 32];
    key.expand(info, HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut out))
        .expect("32 bytes are one block of HKDF-SHA256");
    out
}

/// Which of a sender's packets were heard: each counts once, and those far behind the last not at all.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    last: u64,
    /// Bit n stands for `last - n`.
    heard: u64,
}

impl Window {
    /// Whether this one is new; it is not any more.
    pub(super) fn takes(&mut self, number: u64) -> bool {
        if number > self.last {
            let by = number - self.last;
            self.heard = if by < 64 { self.heard << by | 1 } else { 1 };
            self.last = number;
            return true;
        }
        let behind = self.last - number;
        let is_new = number > 0 && behind < 64 && self.heard & (1 << behind) == 0;
        if is_new {
            self.heard |= 1 << behind;
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(keys: &[u8]) -> Seal {
        let keys: Vec<Key> = keys.iter().map(|byte| Key::new([*byte; 32])).collect();
        Seal::new(&keys, [7; 16]).expect("a key")
    }

    fn message() -> Message {
        Message {
            mesh: "default".into(),
            node: "a@hal".into(),
            incarnation: "00000000000000ff".into(),
            protocol: 1,
            on: "eth0".into(),
            addresses: vec!["10.0.0.1:4470".into()],
            labels: BTreeMap::from([("zone".into(), "b".into())]),
            ..Message::default()
        }
    }

    #[test]
    fn what_was_sealed_is_opened_by_those_who_have_the_key_and_by_nobody_else() {
        let mut packet = seal(&[1, 2]).seal(message(), 5, 1_000).expect("it fits");
        let text = String::from_utf8_lossy(&packet);
        assert!(!text.contains("hal") && !text.contains("10.0.0.1"), "sealed");
        for keys in [&[1][..], &[2, 1], &[3, 1, 2]] {
            let opened = seal(keys).open(&mut packet.clone()).expect("opened");
            assert_eq!((opened.number, opened.unix_ms, opened.salt), (5, 1_000, [7; 16]));
            assert_eq!(opened.message, message());
        }
        assert_eq!(seal(&[2]).open(&mut packet), Err(Refused::Foreign));
        assert!(Seal::new(&[], [0; 16]).is_none());
    }

    #[test]
    fn a_packet_that_was_changed_anywhere_or_cut_is_refused() {
        let packet = seal(&[1]).seal(message(), 5, 1_000).expect("it fits");
        for at in 0..packet.len() {
            let mut changed = packet.clone();
            changed[at] ^= 1;
            assert!(seal(&[1]).open(&mut changed).is_err(), "byte {at}");
        }
        for length in 0..packet.len() {
            assert!(seal(&[1]).open(&mut packet[..length].to_vec()).is_err(), "{length} bytes");
        }
        let mut long = [&packet[..], &[0; PACKET_BYTES_MAX]].concat();
        assert_eq!(seal(&[1]).open(&mut long), Err(Refused::Malformed));
    }

    #[test]
    fn two_packets_of_one_message_have_nothing_in_common_but_their_head() {
        let seal = seal(&[1]);
        let one = seal.seal(message(), 1, 1_000).expect("it fits");
        let two = seal.seal(message(), 2, 1_000).expect("it fits");
        let same = one[HEAD_BYTES..].iter().zip(&two[HEAD_BYTES..]).filter(|(a, b)| a == b).count();
        assert!(same < one.len() / 8, "{same} of {}", one.len());
    }

    #[test]
    fn whatever_a_node_has_to_say_a_packet_has_its_bound() {
        let labels = (0..200).map(|n| (format!("label-{n}"), "x".repeat(50))).collect();
        let addresses = (0..100).map(|n| format!("[fd00::{n}]:4470")).collect();
        let big =
            Message { labels, addresses, node: format!("a@{}", "h".repeat(255)), ..message() };
        let mut packet = seal(&[1]).seal(big, 1, 1).expect("it fits");
        assert!(packet.len() <= PACKET_BYTES_MAX);
        let opened = seal(&[1]).open(&mut packet).expect("opened");
        assert!(opened.message.labels.is_empty() && opened.message.addresses.len() > 10);
        let hopeless = Message { node: "x".repeat(2 * PACKET_BYTES_MAX), ..message() };
        assert!(seal(&[1]).seal(hopeless, 1, 1).is_none());
    }

    #[test]
    fn each_number_counts_once_in_whatever_order_they_come() {
        let mut window = Window::default();
        assert!(!window.takes(0));
        for number in [1, 3, 2, 10, 4, 100, 99, 37] {
            assert!(window.takes(number), "{number}");
            assert!(!window.takes(number), "{number} again");
        }
        assert!(!window.takes(36), "too far behind");
        assert!(!window.takes(3));
        assert!(window.takes(u64::MAX) && window.takes(u64::MAX - 63));
        assert!(!window.takes(u64::MAX - 64) && !window.takes(101));
    }
}
