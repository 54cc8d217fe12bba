//! Who is who: node names, nodes, pids and the addresses that messages are sent to.
//!
//! A name never identifies a node for ever: a node is its name *and* its incarnation, so that a pid of
//! yesterday's `stock@hal` never hits a process of today's.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest base of a node name, in bytes.
pub const BASE_BYTES_MAX: usize = 64;
/// Longest host of a node name, in bytes (a DNS name's bound, RFC 1035 section 2.3.4).
pub const HOST_BYTES_MAX: usize = 255;
/// Longest name of a process, group, module or topic, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// Why a text is not the identifier it was meant to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// The text is not `base@host`.
    #[error(
        "`{0}` is not a node name: write base@host, base of letters, digits, `_` and `-` (at most 64), host also with `.` and `:`"
    )]
    NodeName(String),
    /// The text is not `<base@host.incarnation.serial>`.
    #[error(
        "`{0}` is not a pid: a pid is <base@host.incarnation.serial>, copied whole as it was printed"
    )]
    Pid(String),
    /// The text is not usable as the name of a process.
    #[error(
        "`{0}` is not a name: 1 to 255 bytes without spaces, control characters, `@`, `<` and `>`, and not starting with `global:` or `group:`"
    )]
    Name(String),
}

/// `base@host`, checked. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// Joins a base and a host.
    ///
    /// # Errors
    /// [`IdError::NodeName`] when either has a character or a length that names do not have.
    pub fn new(base: &str, host: &str) -> Result<Self, IdError> {
        format!("{base}@{host}").parse()
    }

    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the `@`.
    #[must_use]
    pub fn base(&self) -> &str {
        self.0.split_once('@').map_or("", |(base, _)| base)
    }

    /// The part after the `@`.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.split_once('@').map_or("", |(_, host)| host)
    }

    /// Replaces what a base may not contain by `-` and cuts it to its bound; never empty.
    #[must_use]
    pub fn clean_base(text: &str) -> String {
        clean(text, BASE_BYTES_MAX, |c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
    }

    /// Replaces what a host may not contain by `-` and cuts it to its bound; never empty.
    #[must_use]
    pub fn clean_host(text: &str) -> String {
        clean(text, HOST_BYTES_MAX, is_host_char)
    }
}

fn is_host_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':')
}

fn clean(text: &str, bytes_max: usize, good: impl Fn(char) -> bool) -> String {
    let cleaned: String =
        text.chars().take(bytes_max).map(|c| if good(c) { c } else { '-' }).collect();
    if cleaned.is_empty() { "node".to_owned() } else { cleaned }
}

impl std::borrow::Borrow<str> for NodeName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if is_node_name(text) {
            Ok(Self(text.into()))
        } else {
            Err(IdError::NodeName(text.chars().take(80).collect()))
        }
    }
}

fn is_node_name(text: &str) -> bool {
    text.split_once('@').is_some_and(|(base, host)| is_base(base) && is_host(host))
}

fn is_base(text: &str) -> bool {
    (1..=BASE_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn is_host(text: &str) -> bool {
    (1..=HOST_BYTES_MAX).contains(&text.len()) && text.chars().all(is_host_char)
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One run of a node: unix milliseconds << 20 with 20 random bits. Printed as 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// The incarnation that starts at `unix_ms` with `random` as its low 20 bits.
    #[must_use]
    pub const fn new(unix_ms: u64, random: u32) -> Self {
        Self((unix_ms << 20) | (random as u64 & 0xf_ffff))
    }

    /// Reads the 16 hex digits that [`fmt::Display`] prints.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let good = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        good.then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One running node. Ordered by (name, incarnation): the smaller of two is *senior*.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    /// What it is called.
    pub name: NodeName,
    /// Which run of that name it is.
    pub incarnation: Incarnation,
}

/// One process of one run of a node. Never means a second process.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pid {
    /// Where it lives.
    pub node: Node,
    /// Its number there.
    pub serial: u64,
}

impl FromStr for Pid {
    type Err = IdError;

    /// Parses from the right, because a host may hold dots.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let (name, incarnation, serial) = PidText::parse(text)
            .map(|p| (p.node, p.incarnation, p.serial))
            .ok_or_else(|| IdError::Pid(text.chars().take(80).collect()))?;
        let name = name.parse().map_err(|_| IdError::Pid(text.chars().take(80).collect()))?;
        Ok(Self { node: Node { name, incarnation }, serial })
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}.{}.{}>", self.node.name, self.node.incarnation, self.serial)
    }
}

impl fmt::Debug for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Longest pid, in bytes: `<`, a base of 64, `@`, a host of 255, `.`, 16 digits, `.`, 20 digits, `>`.
const PID_BYTES_MAX: usize = 360;

/// A pid taken apart without allocating: what the data path reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PidText<'a> {
    /// The node's name, not yet checked.
    pub node: &'a str,
    /// The node's incarnation.
    pub incarnation: Incarnation,
    /// The process's number.
    pub serial: u64,
}

impl<'a> PidText<'a> {
    /// Takes `<name.incarnation.serial>` apart from the right; `None` when it is not that.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        if text.len() > PID_BYTES_MAX {
            return None;
        }
        let inner = text.strip_prefix('<')?.strip_suffix('>')?;
        let (rest, serial) = inner.rsplit_once('.')?;
        let (node, incarnation) = rest.rsplit_once('.')?;
        let plain = serial == "0" || !serial.starts_with('0');
        if !plain || serial.is_empty() || !serial.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(Self {
            node,
            incarnation: Incarnation::parse(incarnation)?,
            serial: serial.parse().ok()?,
        })
    }
}

/// Checks the name of a process (also of a group): bounds, characters and reserved beginnings.
///
/// # Errors
/// [`IdError::Name`] when it cannot be a name.
pub fn check_name(text: &str) -> Result<&str, IdError> {
    let good = (1..=NAME_BYTES_MAX).contains(&text.len())
        && !text
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || matches!(c, '@' | '<' | '>'))
        && !text.starts_with("global:")
        && !text.starts_with("group:");
    if good { Ok(text) } else { Err(IdError::Name(text.chars().take(80).collect())) }
}

/// Where a message goes, as written in `to`. Borrowed and cheap: parsed once per message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address<'a> {
    /// `<...>`: one process.
    Pid(PidText<'a>),
    /// `stock`: a name on this node.
    Local(&'a str),
    /// `stock@b@hal`: a name on another node. A node without a host (`stock@b`) means this host.
    Remote {
        /// The process's name there.
        name: &'a str,
        /// The node, `base@host` or a bare base.
        node: &'a str,
    },
    /// `global:stock`: a name of the mesh.
    Global(&'a str),
    /// `group:stock`: every member.
    Group(&'a str),
}

impl<'a> Address<'a> {
    /// Reads an address.
    ///
    /// # Errors
    /// [`IdError`] saying which kind of identifier it looked like and what that needs.
    pub fn parse(text: &'a str) -> Result<Self, IdError> {
        if text.starts_with('<') {
            return PidText::parse(text)
                .map(Address::Pid)
                .ok_or_else(|| IdError::Pid(text.chars().take(80).collect()));
        }
        if let Some(name) = text.strip_prefix("global:") {
            return check_name(name).map(Address::Global);
        }
        if let Some(name) = text.strip_prefix("group:") {
            return check_name(name).map(Address::Group);
        }
        match text.split_once('@') {
            None => check_name(text).map(Address::Local),
            Some((name, node)) => {
                check_name(name)?;
                let good = if node.contains('@') { is_node_name(node) } else { is_base(node) };
                if good {
                    Ok(Address::Remote { name, node })
                } else {
                    Err(IdError::NodeName(node.chars().take(80).collect()))
                }
            }
        }
    }
}
