//! `pillion up`: the flags, as they are typed.
//!
//! Every value is text here. [`config`](crate::config) reads it, because it has to tell all that is wrong in flags,
//! environment and file at once, where clap stops at the first.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::cookie::here;
use super::exit::{Exit, Failure};
use super::later::AppSocket;
use crate::config::{Config, Key, LocalDirError, Machine, Problems};
use crate::logging;
use crate::node::{self, NodeError};
use crate::socket::SocketError;
use crate::tls::TlsError;

const EXAMPLES: &str = "\
Examples:
  pillion up                                    named after this directory
  pillion up --name stock --role backend
  pillion up --name b --join 10.0.0.5
  PILLION_LOG_LEVEL=debug pillion up

It stays until ctrl-c, SIGTERM or the end of its terminal; a second one ends it at
once. `pillion config print` shows what it would use.";

/// Starts a node beside an app.
///
/// Each flag may also be an environment variable (PILLION_BODY_MAX) or a key of the file (body-max). Flags beat the
/// environment, which beats the file.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[command(after_help = EXAMPLES)]
#[allow(clippy::doc_markdown)] // clap prints this as it stands: no backticks for people at a terminal.
pub struct UpArgs {
    /// What the node is called [default: the working directory's name, at the machine's]
    #[arg(long, value_name = "BASE[@HOST]")]
    pub name: Option<String>,

    /// The mesh it joins; meshes never mix [default: default]
    #[arg(long, value_name = "MESH")]
    pub mesh: Option<String>,

    /// Where other nodes reach it: :PORT, HOST:PORT or HOST [default: port 4470, or the next free one from 4472]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,

    /// An address at which others reach it through a forwarded port, told to them as well; may be repeated
    #[arg(long, value_name = "IP[:PORT]")]
    pub advertise: Vec<String>,

    /// The app socket
    #[command(flatten)]
    pub socket: AppSocket,

    /// Who may open the app socket; wider than 0600 has no operators [default: 0600]
    #[arg(long, value_name = "MODE")]
    pub socket_mode: Option<String>,

    /// Serves pods of this machine and tells them apart, as an agent of Kubernetes: every pod (*), those of a NAMESPACE, or of a
    /// NAMESPACE/ACCOUNT; may be repeated [default: apps are not told apart]
    #[arg(long, value_name = "WHICH")]
    pub pods: Vec<String>,

    /// The operators' socket, always 0600 [default: NAME.operator.sock beside NAME.sock where that is wider than 0600]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub operator_socket: Option<String>,

    /// The local directory, for sockets and for finding nodes on this machine [default: /tmp/pillion-UID]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: Option<String>,

    /// A node to join, by address; may be repeated
    #[arg(long, value_name = "HOST[:PORT]")]
    pub join: Vec<String>,

    /// A way of finding nodes, as a URL; may be repeated; `none` for none [default: local:// and mdns://]
    #[arg(long, value_name = "URL")]
    pub strategy: Vec<String>,

    /// It is ready once so many other nodes were connected at the same time [default: 0]
    #[arg(long, value_name = "COUNT")]
    pub min_peers: Option<String>,

    /// How long it tries to reach a node again that is gone and that nobody reports, also after a restart; or off [default: 24h]
    #[arg(long, value_name = "DURATION")]
    pub remember: Option<String>,

    /// Forgets a node that nobody has reported for so long and that cannot be reached; or off [default: off]
    #[arg(long, value_name = "DURATION")]
    pub prune: Option<String>,

    /// Where it keeps whom it was connected to [default: the local directory]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state_dir: Option<String>,

    /// What the node does, told to others as the label `role`
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,

    /// What the node tells others of itself; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,

    /// Connects to those it is told of and stays out of what nodes tell each other
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub hidden: Option<String>,

    /// The secret that holds the mesh together [default: ~/.config/pillion/cookie, made by the first start]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub cookie_file: Option<String>,

    /// Certificates instead of a cookie: whom to believe
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub tls_ca: Option<String>,

    /// Certificates instead of a cookie: who this node is
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub tls_cert: Option<String>,

    /// Certificates instead of a cookie: the key of this node's
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub tls_key: Option<String>,

    /// A certificate that is issued while the node runs, as in pods of Kubernetes: who issues it
    #[arg(long, value_name = "URL")]
    pub issuer: Option<String>,

    /// By which the issuer is known: a file, or PEM
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, allow_hyphen_values = true)]
    pub issuer_ca: Option<String>,

    /// The token that says to the issuer who this node is [default: /var/run/secrets/pillion.dev/token]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub issuer_token: Option<String>,

    /// How long a silent node is believed to live: local 2 s, lan 5 s, wan 15 s [default: lan]
    #[arg(long, value_name = "PROFILE")]
    pub profile: Option<String>,

    /// How long a shutdown waits for apps [default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub grace: Option<String>,

    /// Where probes and metrics are served over HTTP, such as [::]:4471; whoever reaches it may read them [default: off]
    #[arg(long, value_name = "ADDR")]
    pub health: Option<String>,

    /// How many topics are counted one by one, up to 1000; the others count together [default: 0]
    #[arg(long, value_name = "N")]
    pub metrics_topics: Option<String>,

    /// Largest body of a message, up to 63MiB [default: 1MiB]
    #[arg(long, value_name = "SIZE")]
    pub body_max: Option<String>,

    /// Most entries of one mailbox [default: 65536]
    #[arg(long, value_name = "COUNT")]
    pub mailbox_entries: Option<String>,

    /// Most bytes of one mailbox [default: 8MiB]
    #[arg(long, value_name = "SIZE")]
    pub mailbox_bytes: Option<String>,

    /// Most bytes of everything that waits in this node [default: 32MiB]
    #[arg(long, value_name = "SIZE")]
    pub queue_bytes: Option<String>,

    /// How long a full mailbox or connection may hold a sender [default: 1s]
    #[arg(long, value_name = "DURATION")]
    pub send_timeout: Option<String>,

    /// What other nodes may ask of this one: none, read, full [default: read]
    #[arg(long, value_name = "WHAT")]
    pub remote: Option<String>,

    /// A node that must be up before what this node hosts starts; may be repeated
    #[arg(long, value_name = "NODE")]
    pub sync_nodes_mandatory: Vec<String>,

    /// A node that what this node hosts waits for a while; may be repeated
    #[arg(long, value_name = "NODE")]
    pub sync_nodes_optional: Vec<String>,

    /// How long it waits for optional nodes, and how often it tells who is missing [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub sync_nodes_timeout: Option<String>,

    /// How much is logged: error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// How it is logged: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,

    /// A TOML file with the same keys [default: PILLION_CONFIG, else none]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
}

impl UpArgs {
    /// What was typed, by key.
    #[must_use]
    pub fn flags(&self) -> Vec<(Key, Vec<String>)> {
        let one = |value: &Option<String>| value.iter().cloned().collect();
        let given = |key: Key| -> Vec<String> {
            match key {
                Key::Name => one(&self.name),
                Key::Mesh => one(&self.mesh),
                Key::Listen => one(&self.listen),
                Key::Advertise => self.advertise.clone(),
                Key::Socket => one(&self.socket.0),
                Key::SocketMode => one(&self.socket_mode),
                Key::OperatorSocket => one(&self.operator_socket),
                Key::Pods => self.pods.clone(),
                Key::Dir => one(&self.dir),
                Key::Join => self.join.clone(),
                Key::Strategy => self.strategy.clone(),
                Key::MinPeers => one(&self.min_peers),
                Key::Remember => one(&self.remember),
                Key::Prune => one(&self.prune),
                Key::StateDir => one(&self.state_dir),
                Key::Role => one(&self.role),
                Key::Labels => self.label.clone(),
                Key::Hidden => one(&self.hidden),
                Key::CookieFile => one(&self.cookie_file),
                Key::TlsCa => one(&self.tls_ca),
                Key::TlsCert => one(&self.tls_cert),
                Key::TlsKey => one(&self.tls_key),
                Key::Issuer => one(&self.issuer),
                Key::IssuerCa => one(&self.issuer_ca),
                Key::IssuerToken => one(&self.issuer_token),
                Key::Profile => one(&self.profile),
                Key::Grace => one(&self.grace),
                Key::Health => one(&self.health),
                Key::MetricsTopics => one(&self.metrics_topics),
                Key::BodyMax => one(&self.body_max),
                Key::MailboxEntries => one(&self.mailbox_entries),
                Key::MailboxBytes => one(&self.mailbox_bytes),
                Key::QueueBytes => one(&self.queue_bytes),
                Key::SendTimeout => one(&self.send_timeout),
                Key::Remote => one(&self.remote),
                Key::SyncNodesMandatory => self.sync_nodes_mandatory.clone(),
                Key::SyncNodesOptional => self.sync_nodes_optional.clone(),
                Key::SyncNodesTimeout => one(&self.sync_nodes_timeout),
                Key::LogLevel => one(&self.log_level),
                Key::LogFormat => one(&self.log_format),
            }
        };
        Key::ALL.into_iter().map(|key| (key, given(key))).filter(|(_, v)| !v.is_empty()).collect()
    }

    /// What was typed, with the environment and the file, as it is meant.
    ///
    /// # Errors
    /// [`Problems`]: everything that is wrong, at once.
    pub fn meant(&self, machine: &Machine) -> Result<Config, Problems> {
        Config::load(&self.flags(), self.config.as_deref(), machine)
    }
}

/// Runs a node until it is told to stop.
pub(super) fn run(args: &UpArgs) -> Result<(), Failure> {
    let machine = here()?;
    let config = args.meant(&machine)?;
    logging::start(config.log_level, config.log_format);
    super::wait(async { Ok(node::run(config, &machine).await?) })
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        let exit = match error {
            NodeError::Cookie(error) | NodeError::Tls(TlsError::Cookie(error)) => {
                return error.into();
            }
            NodeError::LocalDir(LocalDirError::NotOurs { .. }) => Exit::Denied,
            NodeError::LocalDir(LocalDirError::SocketPath(_))
            | NodeError::Socket(SocketError::PathTooLong { .. })
            | NodeError::Strategy { .. } => Exit::Usage,
            NodeError::LocalDir(_)
            | NodeError::Socket(_)
            | NodeError::Inherited { .. }
            | NodeError::Listen { .. }
            | NodeError::Health { .. } => Exit::CannotCreate,
            NodeError::Tls(_) => Exit::Data,
            NodeError::Io { .. } => Exit::Internal,
        };
        Self::new(exit, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        up: UpArgs,
    }

    #[test]
    fn every_key_of_the_configuration_has_its_flag_and_no_flag_is_without_a_key() {
        let command = Line::command();
        let mut flags: Vec<String> = command
            .get_arguments()
            .filter_map(|a| a.get_long())
            .map(|l| format!("--{l}"))
            .collect();
        let mut keys: Vec<String> = Key::ALL.into_iter().map(Key::flag).collect();
        keys.push("--config".to_owned());
        flags.sort();
        keys.sort();
        assert_eq!(flags, keys);
        command.debug_assert();
    }

    #[test]
    fn what_is_typed_arrives_under_its_key() {
        let line = "up --name a@hal --join b --join c:1 --label zone=x --hidden --config f.toml";
        let up = Line::parse_from(line.split(' ')).up;
        assert_eq!(
            up.flags(),
            [
                (Key::Name, vec!["a@hal".to_owned()]),
                (Key::Join, vec!["b".to_owned(), "c:1".to_owned()]),
                (Key::Hidden, vec!["true".to_owned()]),
                (Key::Labels, vec!["zone=x".to_owned()]),
            ]
        );
        assert_eq!(up.config, Some("f.toml".into()));
        let up = Line::parse_from(["up", "--hidden=false"]).up;
        assert_eq!(up.flags(), [(Key::Hidden, vec!["false".to_owned()])]);
    }
}
