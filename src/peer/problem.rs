//! Why a connection did not come about, in words that say what to do.

use std::io;

use crate::tls::{explain, is_about_time};
use crate::wire::id::Node;
use crate::wire::message::{FrameError, Kind, Refusal, cbor_frame};

/// Longest text of a peer that is logged or kept.
const WORDS_BYTES_MAX: usize = 512;

/// Why the last try failed, as far as waiting is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nobody there, or the connection broke: worth another try soon.
    Passing,
    /// Refused for a cause that a person has to heal (another cookie, mesh or protocol; a name that is taken).
    Cause,
}

/// Why a connection ended before the hub was told of it. Reads after the peer's address: "10.0.0.7:4470 does not ...".
///
/// All are retried, those of [`Failure::Cause`] slowly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Problem {
    /// The dial failed, or the connection broke.
    #[error("{0}")]
    Broken(String),
    /// The dial went unanswered.
    #[error("does not answer")]
    NoAnswer,
    /// TLS, the hellos or the choice of a connection took too long.
    #[error("took too long to say hello: is that a mesh port?")]
    Slow,
    /// The other side has another root of trust, or does not speak TLS as we do.
    #[error("{0}")]
    Stranger(String),
    /// A certificate, ours or theirs, does not count now.
    #[error("{0}")]
    Expired(String),
    /// The other side closed without a word.
    #[error("closed the connection before it was accepted")]
    Closed,
    /// The other side does not speak the protocol.
    #[error("does not speak the protocol: {0}")]
    Malformed(#[from] FrameError),
    /// The other side refused, and said why.
    #[error("refuses this node: {} [{}]", words(&.0.message), words(&.0.code))]
    Refused(Refusal),
    /// We refused, and said why.
    #[error("is refused: {} [{}]", .0.message, .0.code)]
    Refusing(Refusal),
    /// It is this node itself.
    #[error("is this node itself")]
    Itself,
    /// It has the name of this node and started later; it is refused.
    #[error("has the name of this node and started later: start it with another --name")]
    SameName(Node),
    /// The mesh no longer wanted it.
    #[error("was called off")]
    CalledOff,
}

impl Problem {
    /// Somebody may have been too busy to shake hands in time, or has given up waiting for us.
    pub(crate) fn is_slow(&self) -> bool {
        matches!(self, Self::Slow | Self::Closed | Self::Broken(_))
    }

    /// What an IO error before the first frame means.
    pub(crate) fn from_io(error: &io::Error, mesh: &str) -> Self {
        let stranger = matches!(error.get_ref(), Some(inner) if inner.is::<rustls::Error>());
        let words = explain(error, mesh);
        if is_about_time(error) {
            Self::Expired(words)
        } else if stranger {
            Self::Stranger(words)
        } else {
            Self::Broken(words)
        }
    }

    /// In one word, for programs.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Broken(words) if words.starts_with("refuses connections") => "refused",
            Self::Broken(words) if words.starts_with("cannot be talked to") => "unreachable",
            Self::Broken(_) => "broken",
            Self::NoAnswer => "no_answer",
            Self::Slow => "slow",
            Self::Stranger(_) => "stranger",
            Self::Expired(_) => "expired",
            Self::Closed => "closed",
            Self::Malformed(_) => "malformed",
            Self::Itself => "self",
            Self::SameName(_) => "name_taken",
            Self::CalledOff => "called_off",
            Self::Refused(refusal) | Self::Refusing(refusal) => match refusal.code.as_str() {
                "mesh" => "mesh",
                "protocol" => "protocol",
                "certificate" => "certificate",
                "name_taken" => "name_taken",
                "duplicate" => "duplicate",
                "leaving" => "leaving",
                "parted" => "parted",
                "self" => "self",
                _ => "turned_away",
            },
        }
    }

    /// Whether another try soon makes sense.
    pub(crate) fn failure(&self) -> Failure {
        match self {
            Self::Stranger(_) | Self::Expired(_) | Self::SameName(_) => Failure::Cause,
            Self::Refused(refusal) | Self::Refusing(refusal) => match refusal.code.as_str() {
                "mesh" | "protocol" | "certificate" | "name_taken" => Failure::Cause,
                _ => Failure::Passing,
            },
            _ => Failure::Passing,
        }
    }

    /// The frame that tells the other side, empty where there is nothing to tell.
    pub(super) fn refusal_frame(&self) -> Vec<u8> {
        let refusal = match self {
            Self::Refusing(refusal) => refusal.clone(),
            Self::Itself => super::refusal("self", "that is this node itself"),
            Self::SameName(node) => super::refusal(
                "name_taken",
                format!(
                    "the name {} belongs to a node that started earlier and is alive: start this one with another --name",
                    node.name
                ),
            ),
            Self::Malformed(error) => super::refusal("malformed", error.to_string()),
            _ => return Vec::new(),
        };
        cbor_frame(Kind::Refuse, 0, &refusal)
    }
}

/// A peer's text as it may be printed: bounded, one line.
pub(crate) fn words(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(WORDS_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_words_cannot_fill_or_break_the_log() {
        assert_eq!(words("a\nb\u{1b}[31m"), "ab[31m");
        assert_eq!(words(&"x".repeat(100_000)).len(), WORDS_BYTES_MAX);
    }

    #[test]
    fn only_what_a_person_must_heal_waits_long() {
        let refused = |code: &str| Problem::Refused(super::super::refusal(code, "because"));
        assert_eq!(refused("mesh").failure(), Failure::Cause);
        assert_eq!(refused("name_taken").failure(), Failure::Cause);
        assert_eq!(refused("duplicate").failure(), Failure::Passing);
        assert_eq!(refused("leaving").failure(), Failure::Passing);
        assert_eq!(Problem::NoAnswer.failure(), Failure::Passing);
        let tls = rustls::Error::AlertReceived(rustls::AlertDescription::UnknownCA);
        let error = Problem::from_io(&io::Error::new(io::ErrorKind::InvalidData, tls), "default");
        assert!(error.to_string().contains("does not share our cookie"), "{error}");
        assert_eq!(error.failure(), Failure::Cause);
    }
}
