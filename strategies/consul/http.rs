//! One request over a connection of its own: the next one may be minutes away.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HeaderMap;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::options::wrong;
use crate::{StrategyError, tls};

/// Largest body that is read, in bytes.
const BODY_BYTES_MAX: usize = 8 << 20;
/// Largest token file that is read, in bytes.
const TOKEN_BYTES_MAX: usize = 4096;
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Where the API is, and who asks.
pub(super) struct Client {
    host: String,
    port: u16,
    /// Before every path.
    prefix: String,
    is_tls: bool,
    ca: Option<PathBuf>,
    token: Option<String>,
    token_file: Option<PathBuf>,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) index: u64,
    pub(super) is_filtered: bool,
    pub(super) body: Vec<u8>,
}

impl Client {
    pub(super) fn new(
        url: &str,
        ca: Option<PathBuf>,
        token: Option<String>,
        token_file: Option<PathBuf>,
    ) -> Result<Self, StrategyError> {
        let bad = || {
            wrong(format!(
                "`url={url}` is no address of Consul's API: write http://127.0.0.1:8500 or https://consul.example.org:8501"
            ))
        };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad()),
        };
        let authority = uri.authority().ok_or_else(bad)?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(bad());
        }
        if ca.is_some() && !is_tls {
            return Err(wrong("`ca` of consul counts with an https:// `url` only: write that"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { host, port, prefix, is_tls, ca, token, token_file })
    }

    /// Asks for `path`; the error says what happened and what to do.
    pub(super) async fn get(&self, path: &str) -> Result<Response, String> {
        let token = match &self.token_file {
            Some(file) => Some(read_token(file)?),
            None => self.token.clone(),
        };
        let shown = format!("{}:{}", self.host, self.port);
        let unreachable = |error: io::Error| {
            format!(
                "Consul at {shown} cannot be reached: {error}. Check `url` and that its agent runs"
            )
        };
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let stream = timeout(CONNECT, connecting)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(unreachable)?;
        if !self.is_tls {
            return self.exchange(stream, path, token).await;
        }
        let config = tls::client(self.ca.as_deref())?;
        let name = ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?;
        let handshake = TlsConnector::from(config).connect(name, stream);
        let stream = timeout(CONNECT, handshake)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|error| {
                format!("no TLS with Consul at {shown}: {error}. Check `ca` and `url`")
            })?;
        self.exchange(stream, path, token).await
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        path: &str,
        token: Option<String>,
    ) -> Result<Response, String> {
        let broken = |error: hyper::Error| format!("the connection to Consul broke: {error}");
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // It moves the bytes, and ends with this question.
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) });
        let host = if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        };
        let mut request = Request::get(format!("{}{path}", self.prefix))
            .header("host", host)
            .header("accept", "application/json")
            .header("user-agent", "pillion");
        if let Some(token) = token {
            request = request.header("x-consul-token", token);
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|_| "the token has characters that no token has".to_owned())?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|error| {
            format!("the answer of Consul broke off or is larger than 8 MiB: {error}")
        })?;
        Ok(Response {
            status: head.status.as_u16(),
            index: text(&head.headers, "x-consul-index").and_then(|t| t.parse().ok()).unwrap_or(0),
            is_filtered: text(&head.headers, "x-consul-results-filtered-by-acls") == Some("true"),
            body: body.to_bytes().to_vec(),
        })
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn read_token(file: &Path) -> Result<String, String> {
    let bad = |why: String| format!("the token file {}: {why}", file.display());
    let token = std::fs::read_to_string(file).map_err(|error| bad(error.to_string()))?;
    if token.len() > TOKEN_BYTES_MAX {
        return Err(bad("it is larger than 4 KiB, so it is no token".into()));
    }
    Ok(token.trim().to_owned())
}
