//! The one list of configuration keys, and how each is spelled as a flag, in the environment and in a file.

use std::fmt;

/// One thing that can be configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// What the node is called.
    Name,
    /// The mesh it joins.
    Mesh,
    /// Where other nodes reach it.
    Listen,
    /// Where else other nodes reach it.
    Advertise,
    /// The app socket.
    Socket,
    /// Who may open the app socket.
    SocketMode,
    /// The operators' socket.
    OperatorSocket,
    /// Which pods of this machine it serves.
    Pods,
    /// The directory of sockets and of the local registry.
    Dir,
    /// Addresses of nodes to join.
    Join,
    /// Ways of finding nodes.
    Strategy,
    /// How many peers make it ready.
    MinPeers,
    /// How long a peer is remembered that is away.
    Remember,
    /// When a peer is forgotten that nobody reports.
    Prune,
    /// Where what is remembered is kept.
    StateDir,
    /// The label `role`.
    Role,
    /// What the node tells others of itself.
    Labels,
    /// Stays out of what nodes tell each other.
    Hidden,
    /// The shared secret.
    CookieFile,
    /// The mesh's authority, when certificates are brought along.
    TlsCa,
    /// This node's certificate.
    TlsCert,
    /// This node's key.
    TlsKey,
    /// Who issues this node's certificate while it runs.
    Issuer,
    /// By which the issuer is known.
    IssuerCa,
    /// What this node shows to the issuer.
    IssuerToken,
    /// How patient the failure detector is.
    Profile,
    /// How long a shutdown waits for the apps.
    Grace,
    /// Where probes and metrics are served.
    Health,
    /// How many topics are counted one by one.
    MetricsTopics,
    /// Largest body.
    BodyMax,
    /// Most entries of one mailbox.
    MailboxEntries,
    /// Most bytes of one mailbox.
    MailboxBytes,
    /// Most bytes of all queues together.
    QueueBytes,
    /// How long a full queue may hold a sender.
    SendTimeout,
    /// What other nodes may ask of this one.
    Remote,
    /// Nodes without which hosted programs do not start.
    SyncNodesMandatory,
    /// Nodes that hosted programs wait for a while.
    SyncNodesOptional,
    /// How long.
    SyncNodesTimeout,
    /// How much is logged.
    LogLevel,
    /// How it is logged.
    LogFormat,
}

/// What a value looks like before anybody asks what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One text.
    Text,
    /// One text, which a file may also give as a bare number.
    Number,
    /// `true` or `false`.
    Switch,
    /// Several texts, separated by commas in the environment.
    List,
    /// Several texts, separated by spaces in the environment: URLs may have commas of their own. A file may also give
    /// tables, with `kind`, `place` and the options as keys.
    Urls,
    /// `key=value` pairs; a table in a file.
    Pairs,
}

impl Key {
    /// Every key, in the order in which `pillion config print` shows them.
    pub const ALL: [Self; 40] = [
        Self::Name,
        Self::Mesh,
        Self::Listen,
        Self::Advertise,
        Self::Socket,
        Self::SocketMode,
        Self::OperatorSocket,
        Self::Pods,
        Self::Dir,
        Self::Join,
        Self::Strategy,
        Self::MinPeers,
        Self::Remember,
        Self::Prune,
        Self::StateDir,
        Self::Role,
        Self::Hidden,
        Self::CookieFile,
        Self::TlsCa,
        Self::TlsCert,
        Self::TlsKey,
        Self::Issuer,
        Self::IssuerCa,
        Self::IssuerToken,
        Self::Profile,
        Self::Grace,
        Self::Health,
        Self::MetricsTopics,
        Self::BodyMax,
        Self::MailboxEntries,
        Self::MailboxBytes,
        Self::QueueBytes,
        Self::SendTimeout,
        Self::Remote,
        Self::SyncNodesMandatory,
        Self::SyncNodesOptional,
        Self::SyncNodesTimeout,
        Self::LogLevel,
        Self::LogFormat,
        // A table, and TOML wants tables last.
        Self::Labels,
    ];

    /// As a file spells it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Mesh => "mesh",
            Self::Listen => "listen",
            Self::Advertise => "advertise",
            Self::Socket => "socket",
            Self::SocketMode => "socket-mode",
            Self::OperatorSocket => "operator-socket",
            Self::Pods => "pods",
            Self::Dir => "dir",
            Self::Join => "join",
            Self::Strategy => "strategy",
            Self::MinPeers => "min-peers",
            Self::Remember => "remember",
            Self::Prune => "prune",
            Self::StateDir => "state-dir",
            Self::Role => "role",
            Self::Labels => "labels",
            Self::Hidden => "hidden",
            Self::CookieFile => "cookie-file",
            Self::TlsCa => "tls-ca",
            Self::TlsCert => "tls-cert",
            Self::TlsKey => "tls-key",
            Self::Issuer => "issuer",
            Self::IssuerCa => "issuer-ca",
            Self::IssuerToken => "issuer-token",
            Self::Profile => "profile",
            Self::Grace => "grace",
            Self::Health => "health",
            Self::MetricsTopics => "metrics-topics",
            Self::BodyMax => "body-max",
            Self::MailboxEntries => "mailbox-entries",
            Self::MailboxBytes => "mailbox-bytes",
            Self::QueueBytes => "queue-bytes",
            Self::SendTimeout => "send-timeout",
            Self::Remote => "remote",
            Self::SyncNodesMandatory => "sync-nodes-mandatory",
            Self::SyncNodesOptional => "sync-nodes-optional",
            Self::SyncNodesTimeout => "sync-nodes-timeout",
            Self::LogLevel => "log-level",
            Self::LogFormat => "log-format",
        }
    }

    /// As a flag. A label is given one at a time, hence `--label`.
    #[must_use]
    pub fn flag(self) -> String {
        match self {
            Self::Labels => "--label".to_owned(),
            _ => format!("--{}", self.word()),
        }
    }

    /// As an environment variable.
    #[must_use]
    pub fn variable(self) -> String {
        format!("PILLION_{}", self.word().to_ascii_uppercase().replace('-', "_"))
    }

    /// What its values look like.
    #[must_use]
    pub const fn shape(self) -> Shape {
        match self {
            Self::Join
            | Self::Advertise
            | Self::Pods
            | Self::SyncNodesMandatory
            | Self::SyncNodesOptional => Shape::List,
            Self::Strategy => Shape::Urls,
            Self::Labels => Shape::Pairs,
            Self::Hidden => Shape::Switch,
            Self::MinPeers
            | Self::MetricsTopics
            | Self::BodyMax
            | Self::MailboxEntries
            | Self::MailboxBytes
            | Self::QueueBytes => Shape::Number,
            Self::Name
            | Self::Mesh
            | Self::Listen
            | Self::Socket
            | Self::SocketMode
            | Self::OperatorSocket
            | Self::Dir
            | Self::Remember
            | Self::Prune
            | Self::StateDir
            | Self::Role
            | Self::CookieFile
            | Self::TlsCa
            | Self::TlsCert
            | Self::TlsKey
            | Self::Issuer
            | Self::IssuerCa
            | Self::IssuerToken
            | Self::Profile
            | Self::Grace
            | Self::Health
            | Self::SendTimeout
            | Self::Remote
            | Self::SyncNodesTimeout
            | Self::LogLevel
            | Self::LogFormat => Shape::Text,
        }
    }

    /// Whether the value is a path, which a file gives relative to itself.
    #[must_use]
    pub const fn is_path(self) -> bool {
        matches!(
            self,
            Self::Socket
                | Self::OperatorSocket
                | Self::Dir
                | Self::StateDir
                | Self::CookieFile
                | Self::TlsCa
                | Self::TlsCert
                | Self::TlsKey
                | Self::IssuerToken
        )
    }

    /// The key that a file calls `word`.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.word() == word)
    }

    /// The key that the environment calls `variable`.
    #[must_use]
    pub fn of_variable(variable: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.variable() == variable)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_by_each_of_its_spellings() {
        for key in Key::ALL {
            assert_eq!(Key::of_word(key.word()), Some(key));
            assert_eq!(Key::of_variable(&key.variable()), Some(key));
        }
        assert_eq!(Key::BodyMax.variable(), "PILLION_BODY_MAX");
    }
}
