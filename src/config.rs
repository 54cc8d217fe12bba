//! What this node is told to be, in two steps: what was typed, then what it means.
//!
//! ```text
//! flags, PILLION_* variables, a TOML file  --typed-->  texts, each with its place
//!                                          --meaning->  Config, plain, or every Problem at once
//! ```
//!
//! Flags beat the environment, the environment beats the file, the file beats the defaults; for each key the
//! highest source counts whole. The three spell a key alike: `--body-max 2MiB`, `PILLION_BODY_MAX=2MiB`,
//! `body-max = "2MiB"`. In the environment the items of `PILLION_JOIN` and `PILLION_LABELS` are separated by
//! commas, those of `PILLION_STRATEGY` by spaces, and an empty variable is one that was not set. A relative path
//! starts at the working directory, one in a file at the file's.
//!
//! ```toml
//! name = "stock"                 # base or base@host
//! join = ["10.0.0.5", "hal.local:4472"]
//! body-max = "2MiB"
//! grace = "15s"
//!
//! [labels]
//! zone = "eu-west-1a"
//! ```
//!
//! What is not known is refused, a misspelled key above all: a setting that silently does nothing is worse than
//! a daemon that does not start. Nothing here looks at the network, and only [`local_dir`] touches the disk.

mod hosting;
pub mod key;
pub mod local_dir;
pub mod machine;
pub mod pods;
pub mod problem;
pub mod value;

mod meaning;
mod strategies;
mod typed;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::wire::host::Hosting;
use crate::wire::id::NodeName;
pub use key::Key;
pub use local_dir::{Claim, LocalDir, LocalDirError, SOCKET_PATH_BYTES_MAX, claim_base};
pub use machine::Machine;
use meaning::Named;
pub use pods::{PodRule, PodsServed};
pub use problem::{Origin, Problem, Problems};
pub use value::{Advertise, Host, IssuerUrl, Listen, MeshName};

/// What a node is told to be. Plain: every default is filled in, nothing is checked again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What the node would like to be called, before the `@`; [`claim_base`] makes it so.
    pub base: WantedBase,
    /// What follows the `@`.
    pub host: String,
    /// The mesh it joins.
    pub mesh: MeshName,
    /// Where other nodes reach it.
    pub listen: Listen,
    /// Where other nodes reach it beside that, through somebody who forwards.
    pub advertise: Vec<Advertise>,
    /// The local directory, as a path; [`LocalDir::open`] checks it.
    pub dir: PathBuf,
    /// The app socket when it was asked for; else [`LocalDir::socket`] of the claimed base.
    pub socket: Option<PathBuf>,
    /// The app socket's mode. 0600 makes its apps operators; wider ones have none.
    pub socket_mode: u32,
    /// The operators' socket, where it is not to be beside the app socket.
    pub operator_socket: Option<PathBuf>,
    /// The pods of this machine whose apps it serves; none where apps are not told apart.
    pub pods: Option<PodsServed>,
    /// URLs of the strategies, `list://` of the addresses to join last.
    pub strategies: Vec<String>,
    /// The node is ready once so many others were up at the same time.
    pub min_peers: usize,
    /// How long a peer is remembered that is neither connected nor reported; zero for not at all.
    pub remember: Duration,
    /// After how long a peer is forgotten that nobody reports and that is not connected.
    pub prune: Option<Duration>,
    /// Where what is remembered is kept; the local directory when nobody named another.
    pub state_dir: Option<PathBuf>,
    /// What the node tells others of itself, `role` included.
    pub labels: BTreeMap<String, String>,
    /// Stays out of what nodes tell each other, as in Erlang.
    pub hidden: bool,
    /// What holds the mesh together.
    pub trust: Trust,
    /// How patient the failure detector is.
    pub profile: Profile,
    /// How long a shutdown waits for sessions.
    pub grace: Duration,
    /// Where probes and metrics are served; nowhere unless it was asked for.
    pub health: Option<Listen>,
    /// How many topics are counted one by one.
    pub metrics_topics: usize,
    /// Largest body of a message.
    pub body_bytes_max: usize,
    /// Most entries of one mailbox.
    pub mailbox_entries_max: usize,
    /// Most bytes of one mailbox.
    pub mailbox_bytes_max: usize,
    /// Most bytes of every queue of this node together.
    pub queue_bytes_max: usize,
    /// How long a full mailbox or peer may hold a sender.
    pub send_timeout: Duration,
    /// What other nodes may ask of this one.
    pub remote: Remote,
    /// The nodes that what this node hosts waits for.
    pub sync: SyncNodes,
    /// How much is logged.
    pub log_level: LogLevel,
    /// How it is logged.
    pub log_format: LogFormat,
    /// What the node hosts from its start.
    pub hosting: Hosting,
    /// [`Config::hosting`] as TOML, for [`print()`].
    pub hosting_shown: String,
    /// Each key as TOML, and where it comes from; for [`print()`].
    pub shown: BTreeMap<Key, Shown>,
}

/// The base of the node's name as it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedBase {
    /// A good base.
    pub text: String,
    /// Somebody asked for it: then it is this or nothing, else `-2`, `-3` may be put behind it.
    pub explicit: bool,
}

/// The nodes that what a node hosts waits for, as in Erlang's `kernel` application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncNodes {
    /// Nothing starts without these.
    pub mandatory: Vec<NodeName>,
    /// Those are waited for as long as [`SyncNodes::timeout`] allows.
    pub optional: Vec<NodeName>,
    /// How long; also how often it is told who is missing.
    pub timeout: Duration,
}

/// What holds a mesh together. The files are read by `tls`, not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// A shared secret; the file is made when it is not there and nobody named it.
    Cookie {
        /// Where it lies.
        file: PathBuf,
        /// Somebody named it: then it must be there.
        explicit: bool,
    },
    /// Certificates that somebody else issues.
    Certificates {
        /// Whom to believe, PEM.
        ca: PathBuf,
        /// Who we are, PEM.
        cert: PathBuf,
        /// The key to it, PEM.
        key: PathBuf,
    },
    /// A certificate that is issued while the node runs, as in a pod of Kubernetes.
    Issued {
        /// Who issues it.
        issuer: IssuerUrl,
        /// By which the issuer is known.
        ca: Anchor,
        /// The file of the token that says who we are.
        token: PathBuf,
    },
}

/// By which an issuer is known at first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// PEM.
    Text(String),
    /// A file of it.
    File(PathBuf),
}

/// How patient the failure detector is.
///
/// Nodes of different profiles may meet: each judges by its own patience, and everybody beats at least once a
/// second whatever the profile, because the most impatient of them all waits 2 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// One machine: nothing is ever late but a stopped process.
    Local,
    /// One building or one cloud region; the default.
    Lan,
    /// Between regions, where a lost route takes seconds to be replaced.
    Wan,
}

impl Profile {
    /// How long a peer may be silent before it is down.
    #[must_use]
    pub const fn silence(self) -> Duration {
        Duration::from_secs(match self {
            Self::Local => 2,
            Self::Lan => 5,
            Self::Wan => 15,
        })
    }

    /// After how much silence of our own a beat is sent.
    #[must_use]
    pub const fn beat(self) -> Duration {
        match self {
            // Four beats within the patience of the profile itself.
            Self::Local => Duration::from_millis(500),
            Self::Lan | Self::Wan => Duration::from_secs(1),
        }
    }
}

impl Named for Profile {
    const ALL: &'static [Self] = &[Self::Local, Self::Lan, Self::Wan];

    fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Lan => "lan",
            Self::Wan => "wan",
        }
    }
}

/// What other nodes may ask of this one, beyond messages, links and monitors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remote {
    /// Nothing.
    None,
    /// To look at its processes and names; the default.
    Read,
    /// Also to read messages, and to kill without appeal.
    Full,
}

impl Named for Remote {
    const ALL: &'static [Self] = &[Self::None, Self::Read, Self::Full];

    fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Read => "read",
            Self::Full => "full",
        }
    }
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// What needs somebody.
    Error,
    /// What may need somebody.
    Warn,
    /// What happens once in a while: the default.
    Info,
    /// What happens often.
    Debug,
    /// What happens all the time.
    Trace,
}

impl LogLevel {
    /// Reads its word.
    ///
    /// # Errors
    /// The words that there are.
    pub fn read(text: &str) -> Result<Self, String> {
        meaning::named(text)
    }
}

impl From<LogLevel> for tracing::Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

impl Named for LogLevel {
    const ALL: &'static [Self] = &[Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object per line, for machines.
    Json,
}

impl LogFormat {
    /// Reads its word.
    ///
    /// # Errors
    /// The words that there are.
    pub fn read(text: &str) -> Result<Self, String> {
        meaning::named(text)
    }
}

impl Named for LogFormat {
    const ALL: &'static [Self] = &[Self::Text, Self::Json];

    fn word(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// One key as [`print()`] shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The value as TOML; of `labels` the lines of the table.
    pub toml: String,
    /// Where it comes from.
    pub origin: Origin,
}

impl Config {
    /// Reads flags, environment and file, and says what they mean together.
    ///
    /// `flags` holds the keys that were given on the command line, in any order; `file` is `--config`.
    ///
    /// # Errors
    /// [`Problems`]: everything that is wrong, at once.
    pub fn load(
        flags: &[(Key, Vec<String>)],
        file: Option<&Path>,
        machine: &Machine,
    ) -> Result<Self, Problems> {
        meaning::meaning(typed::Typed::read(flags, file, machine), machine)
    }
}

/// Says what a file alone would mean: `pillion config check FILE`.
///
/// # Errors
/// [`Problems`]: everything that is wrong with it, at once.
pub fn check(file: &Path, machine: &Machine) -> Result<Config, Problems> {
    let mut typed = typed::Typed::default();
    typed.read_file(file, &Origin::Flag("config check".to_owned()), machine);
    meaning::meaning(typed, machine)
}

/// Prints a configuration as TOML, each value with the place it comes from: `pillion config print`.
///
/// Defaults are commented out, so that what is printed is a file that means the same, here and elsewhere.
#[must_use]
pub fn print(config: &Config) -> String {
    /// Where the comments start, when the value is shorter.
    const COLUMN: usize = 40;
    let mut text = String::new();
    for (key, Shown { toml, origin }) in
        Key::ALL.into_iter().filter_map(|key| config.shown.get(&key).map(|shown| (key, shown)))
    {
        let _ = if key == Key::Labels {
            write!(text, "\n[labels] # {origin}\n{toml}")
        } else {
            let silent = if matches!(origin, Origin::Default(_)) { "# " } else { "" };
            let line = format!("{silent}{key} = {toml}");
            writeln!(text, "{line:COLUMN$} # {origin}")
        };
    }
    text.push_str(&config.hosting_shown);
    text
}
