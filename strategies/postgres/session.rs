//! A connection to the database that listens and notifies.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Error, Socket};
use tokio_rustls::TlsConnector;

use super::passfile::{self, For};
use crate::options::{Url, unknown, wrong};
use crate::problems::chain;
use crate::{StrategyError, tls};

/// What comes of a session.
#[derive(Debug)]
pub(super) enum Event {
    /// A notification on our channel.
    Heard(String),
    /// The database took what was sent last.
    Sent,
}

/// A connection that listens.
pub(super) trait Session: Send {
    /// What comes next; the error says why there is nothing any more.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, String>>;
    /// Notifies the channel. [`Event::Sent`] says when it was taken; one that is sent before that takes its place.
    fn send(&mut self, payload: &str) -> Result<(), String>;
}

/// A connection, and how it was reached.
pub(super) struct Connected {
    pub(super) session: Box<dyn Session>,
    /// The address from which the database is reached; none over a Unix socket.
    pub(super) from: Option<IpAddr>,
}

impl Connected {
    /// Whether the database is on this machine, as far as addresses tell.
    pub(super) fn is_local(&self) -> bool {
        self.from.is_none_or(|ip| ip.to_canonical().is_loopback())
    }
}

pub(super) type Connecting = Pin<Box<dyn Future<Output = Result<Connected, String>> + Send>>;
/// Makes a connection that listens on a channel.
pub(super) type Connect = Arc<dyn Fn(String) -> Connecting + Send + Sync>;

/// Which database, and how it is spoken to.
pub(super) struct Database {
    config: Config,
    passfile: Option<PathBuf>,
    /// What `PGPASSWORD` said when the strategy was made.
    password: Option<Vec<u8>>,
    tls: Tls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Disable,
    Require,
    VerifyFull,
}

struct Tls {
    mode: Mode,
    roots: Option<PathBuf>,
}

impl Database {
    pub(super) fn from_url(url: &Url) -> Result<Self, StrategyError> {
        let bad = |why: String| {
            wrong(format!(
                "{why}: write postgres://user@host/database, or several hosts with commas"
            ))
        };
        // The library reads what people know from other clients of PostgreSQL; what it says has no secret in it.
        let mut config = Config::from_str(&format!("postgresql://{}", url.place))
            .map_err(|error| bad(format!("postgres has no good address ({})", chain(&error))))?;
        if let Some(host) = url.option("host") {
            config.host(host);
        }
        if config.get_hosts().is_empty() {
            return Err(bad("postgres has no host".into()));
        }
        config.application_name("pillion");
        if config.get_hosts().len() > 1 {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let mode = match url.option("sslmode").unwrap_or("disable") {
            "disable" => Mode::Disable,
            "require" => Mode::Require,
            "verify-full" => Mode::VerifyFull,
            other => {
                return Err(unknown("sslmode", other, &["disable", "require", "verify-full"]));
            }
        };
        config.ssl_mode(if mode == Mode::Disable { SslMode::Disable } else { SslMode::Require });
        let roots = url.option("sslrootcert").map(PathBuf::from);
        if roots.is_some() && mode != Mode::VerifyFull {
            return Err(wrong("`sslrootcert` counts with sslmode=verify-full only: add that"));
        }
        let home = || {
            let file = PathBuf::from(std::env::var_os("HOME")?).join(".pgpass");
            file.exists().then_some(file)
        };
        Ok(Self {
            config,
            passfile: url.option("passfile").map(PathBuf::from).or_else(home),
            password: std::env::var_os("PGPASSWORD")
                .filter(|password| !password.is_empty())
                .map(std::os::unix::ffi::OsStringExt::into_vec),
            tls: Tls { mode, roots },
        })
    }

    /// Connects and listens.
    pub(super) async fn connect(&self, channel: &str) -> Result<Connected, String> {
        let mut config = self.config.clone();
        if config.get_password().is_none()
            && let Some(password) = self.password()?
        {
            config.password(password);
        }
        let connector = Connector(match self.tls.mode {
            Mode::Disable => None,
            Mode::Require => Some(tls::believing_client()?),
            Mode::VerifyFull => Some(tls::client(self.tls.roots.as_deref())?),
        });
        let (client, connection) = config.connect(connector).await.map_err(|e| why(&e))?;
        let mut session = Listening {
            client: Arc::new(client),
            connection,
            channel: channel.to_owned(),
            sending: None,
        };
        session.execute(format!("LISTEN \"{channel}\""));
        while !matches!(poll_fn(|cx| session.poll_next(cx)).await?, Event::Sent) {}
        Ok(Connected { session: Box::new(session), from: self.reached_from().await })
    }

    fn password(&self) -> Result<Option<Vec<u8>>, String> {
        let user = self.config.get_user().unwrap_or_default();
        let wanted = For {
            host: &match self.config.get_hosts().first() {
                Some(Host::Tcp(host)) => host.clone(),
                _ => "localhost".to_owned(),
            },
            port: self.config.get_ports().first().copied().unwrap_or(5432),
            database: self.config.get_dbname().unwrap_or(user),
            user,
        };
        let found = match &self.passfile {
            Some(file) => passfile::password(file, &wanted)?,
            None => None,
        };
        Ok(found.map(String::into_bytes).or_else(|| self.password.clone()))
    }

    /// From which address of this machine the system would go to the database.
    async fn reached_from(&self) -> Option<IpAddr> {
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        for host in self.config.get_hosts() {
            let Host::Tcp(host) = host else { continue };
            for to in tokio::net::lookup_host((host.as_str(), port)).await.ok()?.take(8) {
                if let Some(ip) = route(to).await {
                    return Some(ip);
                }
            }
        }
        None
    }
}

/// Nothing is sent: a UDP socket that is connected has looked up its route.
async fn route(to: SocketAddr) -> Option<IpAddr> {
    let any = if to.is_ipv4() { IpAddr::from([0_u8; 4]) } else { IpAddr::from([0_u16; 8]) };
    let socket = tokio::net::UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(to).await.ok()?;
    Some(socket.local_addr().ok()?.ip())
}

type Sending = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// A session of the real thing.
struct Listening {
    client: Arc<Client>,
    connection: Connection<Socket, Encrypted>,
    channel: String,
    sending: Option<Sending>,
}

impl Listening {
    fn execute(&mut self, sql: String) {
        let client = Arc::clone(&self.client);
        self.sending = Some(Box::pin(async move { client.batch_execute(&sql).await }));
    }
}

impl Session for Listening {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, String>> {
        loop {
            // First, so that what is to be sent is with the connection before that is driven.
            if let Some(sending) = &mut self.sending
                && let Poll::Ready(sent) = sending.as_mut().poll(cx)
            {
                self.sending = None;
                return Poll::Ready(sent.map(|()| Event::Sent).map_err(|error| why(&error)));
            }
            match self.connection.poll_message(cx) {
                Poll::Ready(Some(Ok(AsyncMessage::Notification(heard)))) => {
                    if heard.channel() == self.channel {
                        return Poll::Ready(Ok(Event::Heard(heard.payload().to_owned())));
                    }
                }
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(why(&error))),
                Poll::Ready(None) => {
                    return Poll::Ready(Err("it closed the connection".to_owned()));
                }
                // What came for the query was handed on just now.
                Poll::Pending => match &mut self.sending {
                    Some(sending) => {
                        return sending.as_mut().poll(cx).map(|sent| {
                            self.sending = None;
                            sent.map(|()| Event::Sent).map_err(|error| why(&error))
                        });
                    }
                    None => return Poll::Pending,
                },
            }
        }
    }

    fn send(&mut self, payload: &str) -> Result<(), String> {
        // Good whatever the server thinks of backslashes.
        let quoted = payload.replace('\\', "\\\\").replace('\'', "''");
        self.execute(format!("NOTIFY \"{}\", E'{quoted}'", self.channel));
        Ok(())
    }
}

/// What went wrong, with what to do about it.
fn why(error: &Error) -> String {
    let hint = match error.code() {
        Some(code) if *code == SqlState::INVALID_PASSWORD => {
            ". Check the user and the password (in the URL, in passfile, in PGPASSWORD)"
        }
        Some(code) if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            ". Check the user, sslmode and the server's pg_hba.conf"
        }
        Some(code) if *code == SqlState::INVALID_CATALOG_NAME => ". Check the database's name",
        Some(code) if *code == SqlState::TOO_MANY_CONNECTIONS => {
            ". Every node takes one connection: raise max_connections"
        }
        Some(code) if *code == SqlState::READ_ONLY_SQL_TRANSACTION => {
            ". It is a replica: name the primary server"
        }
        Some(_) => "",
        None => ". Check that it runs and can be reached from here",
    };
    chain(error) + hint
}

/// Makes TLS connections, or refuses to.
struct Connector(Option<Arc<ClientConfig>>);

impl MakeTlsConnect<Socket> for Connector {
    type Stream = Encrypted;
    type TlsConnect = ToHost;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<ToHost> {
        Ok(ToHost { config: self.0.clone(), host: host.to_owned() })
    }
}

struct ToHost {
    config: Option<Arc<ClientConfig>>,
    host: String,
}

impl TlsConnect<Socket> for ToHost {
    type Stream = Encrypted;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted>> + Send>>;

    fn connect(self, stream: Socket) -> Self::Future {
        Box::pin(async move {
            let config = self.config.ok_or_else(|| io::Error::other("sslmode is disable"))?;
            let name = ServerName::try_from(self.host).map_err(io::Error::other)?;
            Ok(Encrypted(TlsConnector::from(config).connect(name, stream).await?))
        })
    }
}

/// A TLS connection to the database.
struct Encrypted(tokio_rustls::client::TlsStream<Socket>);

impl TlsStream for Encrypted {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
