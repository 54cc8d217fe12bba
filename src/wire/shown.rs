//! What a node shows of its mesh to people who look for a reason: `peers`, `explain` and `doctor`.
//!
//! Times are milliseconds before the answer was made (`..._ms` in the past) or after it (`next_ms`), so that the clocks
//! of two machines need not agree.

use std::collections::BTreeMap;

use serde::Serialize;

/// Who says that a node exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceShown {
    /// `mdns on eth0`, `peer b@hal`, `remembered`, `asked`, `lost`.
    pub source: String,
    /// How long ago it first said so.
    pub since_ms: u64,
    /// How long ago it last said so; 0 while it does.
    pub seen_ms: u64,
}

/// One try, or several in a row that went the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttemptShown {
    /// Where; none where the other side dialled and is known by its name only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// This node dialled.
    pub dialled: bool,
    /// `refused`, `no_answer`, `stranger`, `mesh`, `name_taken`, `joined`, `left` and others.
    pub result: String,
    /// In words. Reads after the address.
    pub reason: String,
    /// How often in a row.
    pub times: u64,
    /// How long ago the last one was.
    pub ago_ms: u64,
}

/// One row of `peers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerShown {
    /// Its name, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its run, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
    /// `connected`, `wanted` (it is dialled until it is) or `known` (it is not dialled).
    pub state: String,
    /// For how long.
    pub since_ms: u64,
    /// Where it may be, the nearest first.
    pub addresses: Vec<String>,
    /// The far end of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What it says of itself, and what sources know of it.
    pub labels: BTreeMap<String, String>,
    /// Who says that it exists.
    pub sources: Vec<SourceShown>,
    /// Why it is not connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What was tried last and did not work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<AttemptShown>,
    /// When it is dialled next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_ms: Option<u64>,
    /// How far its clock was ahead of ours when it said hello.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skew_ms: Option<i64>,
}

/// The answer to `explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// Whom it was asked about, the name completed.
    pub node: String,
    /// `self`, `connected`, `wanted`, `known` or `unknown`.
    pub state: String,
    /// What is so, why, and what happens next: one sentence each.
    pub because: Vec<String>,
    /// What to do about it: one sentence each.
    pub advice: Vec<String>,
    /// Its rows of `peers`: one for each run and for each set of addresses that may be it.
    pub peers: Vec<PeerShown>,
    /// What was tried, the latest first.
    pub attempts: Vec<AttemptShown>,
}

/// A strategy of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StrategyShown {
    /// `list`, `mdns`; a second one of a kind is `list 2`.
    pub strategy: String,
    /// As it was written, without what may be a secret.
    pub url: String,
    /// `starting`, `well` or `unwell`.
    pub health: String,
    /// Why it is unwell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long it has been like that.
    pub since_ms: u64,
    /// How long ago its source last answered well; none when it never did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub well_ms: Option<u64>,
    /// How many nodes it sees.
    pub count: u64,
    /// Some of them, by name or address.
    pub sees: Vec<String>,
    /// What it heard and did not believe, by its reason.
    pub ignored: Vec<IgnoredShown>,
}

/// What a strategy heard and did not believe, of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IgnoredShown {
    /// `malformed`, `foreign` (sealed with another secret), `replayed` or `skewed` (sealed at quite another time).
    pub why: String,
    /// How often.
    pub count: u64,
    /// From where it came last.
    pub from: String,
    /// How long ago that was.
    pub ago_ms: u64,
}

/// A certificate that the node uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateShown {
    /// `node` is its own, `authority` one of those that it trusts, `intermediate` what stands between them.
    pub role: String,
    /// Whose it is, as it says.
    pub subject: String,
    /// The file it was read from, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// From when it counts: milliseconds since 1970.
    pub not_before_ms: i64,
    /// Until when: milliseconds since 1970.
    pub not_after_ms: i64,
}

/// The certificate of a node that is issued one while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IssuedShown {
    /// Whom it is asked of.
    pub issuer: String,
    /// When it ends; none where there is none, and the node joins nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends_ms: Option<u64>,
    /// How long ago the last one ended, while there is no other: the node keeps the connections that it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// Why the last request brought none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// The answer to `doctor`: what only the node knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// What the node is called.
    pub node: String,
    /// The mesh that it is in.
    pub mesh: String,
    /// What was built.
    pub version: String,
    /// The process.
    pub os_pid: u32,
    /// How long it has run.
    pub up_ms: u64,
    /// Its clock: milliseconds since 1970.
    pub clock_ms: u64,
    /// `cookie`, `certificates` or `issued`.
    pub trust: String,
    /// Where the certificate stands that is issued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issued: Option<IssuedShown>,
    /// By what a node that shares its cookies or authority can be told, in hex.
    pub ids: Vec<String>,
    /// The file of the cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie_file: Option<String>,
    /// The certificates that it uses; none with a cookie, whose certificates count for ever.
    pub certificates: Vec<CertificateShown>,
    /// Why the files of cookies or certificates are not taken as they are now; none while they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_problem: Option<String>,
    /// Its local directory.
    pub dir: String,
    /// Its app socket.
    pub socket: String,
    /// Where last known peers are kept; none where they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_file: Option<String>,
    /// Where it listens for other nodes.
    pub listens: Vec<String>,
    /// What it was told to advertise beside that.
    pub advertised: Vec<String>,
    /// Open files, and how many there may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// How many files it may have open; none where there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files_max: Option<u64>,
    /// Its strategies.
    pub strategies: Vec<StrategyShown>,
    /// How many nodes are connected, wanted and known.
    pub connected: u64,
    /// Those that are dialled.
    pub wanted: u64,
    /// Those that are not.
    pub known: u64,
    /// Connected nodes whose clocks are known: how far each was ahead of ours.
    pub skews_ms: BTreeMap<String, i64>,
    /// How many peers make it ready, and whether it is.
    pub min_peers: u64,
    /// It is ready for work.
    pub ready: bool,
    /// Why it is not, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unready: Option<String>,
}

/// It as one item of CBOR.
#[must_use]
pub fn item(shown: &impl Serialize) -> Vec<u8> {
    let mut item = Vec::new();
    // Writing to memory does not fail, and nothing here has a form that CBOR lacks.
    ciborium::into_writer(shown, &mut item).expect("plain values become CBOR");
    item
}
