//! Asks the injector for a certificate: one request over TLS, made anew each time, because it is made once in sixteen hours.
//!
//! The issuer is believed when the anchors say so that the node has at that time. The token is read from its file for each
//! request, because the kubelet replaces it. Nothing of the answer is looked at here but its form: [`crate::tls`] judges it.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use pillion_strategies::problems::{chain, line};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config::IssuerUrl;

/// How long a whole request may take.
const WITHIN: Duration = Duration::from_secs(15);
/// How long one address may take to answer.
const CONNECT: Duration = Duration::from_secs(5);
/// Largest token: those of Kubernetes have about 1 KiB.
const TOKEN_BYTES_MAX: u64 = 16 * 1024;
/// Largest answer: a certificate and sixteen anchors are 20 KiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Longest text of the issuer's that is told.
const TOLD_MAX: usize = 300;

/// Whom to ask, and who asks.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// Where the injector answers.
    pub url: IssuerUrl,
    /// The file of the projected token.
    pub token: PathBuf,
    /// The mesh to be in.
    pub mesh: String,
}

/// What the injector answered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Answer {
    /// The certificate, then its intermediates, PEM.
    pub certificate: String,
    /// The anchors that are believed from now on, PEM.
    pub anchors: String,
}

/// Why there is no answer. Each is a sentence for people; the next request may fare better.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssuerError {
    /// The token cannot be read.
    #[error(
        "the token `{}` cannot be read: {source}. It comes from a projected volume: serviceAccountToken with the audience pillion.dev",
        path.display()
    )]
    Token {
        /// Its file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Its name leads nowhere.
    #[error(
        "the issuer's host {host} is not found: {source}. Is its Service there, and does DNS answer?"
    )]
    Name {
        /// As in the URL.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// Nobody answers.
    #[error(
        "the issuer {url} cannot be reached: {source}. Is the injector up, and does a network policy let this pod go there?"
    )]
    Unreachable {
        /// Where.
        url: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is not the issuer that we were told to believe.
    #[error(
        "the issuer {url} shows a certificate that none of this node's anchors signed ({why}). When the injector was installed anew, start the pod again: it gets the anchor of today with it"
    )]
    Stranger {
        /// Where.
        url: String,
        /// What rustls said.
        why: String,
    },
    /// It does not answer in time.
    #[error("the issuer {url} does not answer within {} s", WITHIN.as_secs())]
    Silent {
        /// Where.
        url: String,
    },
    /// It says no, and why.
    #[error("the issuer {url} refuses: {message} [{code}]")]
    Refused {
        /// Where.
        url: String,
        /// Its code.
        code: String,
        /// Its sentence.
        message: String,
    },
    /// It is not an issuer, or something stands in between.
    #[error("what the issuer {url} answers cannot be read: {why}. Is a proxy in between?")]
    Garbage {
        /// Where.
        url: String,
        /// What is wrong with it.
        why: String,
    },
}

#[derive(Serialize)]
struct Asked<'a> {
    csr: &'a str,
    mesh: &'a str,
}

#[derive(Deserialize)]
struct Refusal {
    code: String,
    message: String,
}

impl Issuer {
    /// Asks once for a certificate. It ends within 15 s. Dropping the future gives the request up; whether the issuer has
    /// answered it then does not matter, for the next one is for another key.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub async fn ask(
        &self,
        csr: &str,
        anchors: &[CertificateDer<'static>],
    ) -> Result<Answer, IssuerError> {
        let silent = || IssuerError::Silent { url: self.url.to_string() };
        timeout(WITHIN, self.exchange(csr, anchors)).await.map_err(|_| silent())?
    }

    async fn exchange(
        &self,
        csr: &str,
        anchors: &[CertificateDer<'static>],
    ) -> Result<Answer, IssuerError> {
        let url = || self.url.to_string();
        let garbage = |why: String| IssuerError::Garbage { url: url(), why: line(&why, TOLD_MAX) };
        let token = token(&self.token)
            .map_err(|source| IssuerError::Token { path: self.token.clone(), source })?;
        let asked = Asked { csr, mesh: &self.mesh };
        let body = serde_json::to_vec(&asked).map_err(|error| garbage(error.to_string()))?;
        let mut bearer = header::HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| io::Error::other("it has characters that no token has"))
            .map_err(|source| IssuerError::Token { path: self.token.clone(), source })?;
        bearer.set_sensitive(true);
        let request = Request::post(&self.url.path)
            .header(header::HOST, self.url.authority())
            .header(header::AUTHORIZATION, bearer)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("pillion/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| garbage(error.to_string()))?;

        let stream = TokioIo::new(self.connect(anchors).await?);
        let (mut sender, connection) =
            http1::handshake(stream).await.map_err(|error| garbage(chain(&error)))?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|e| garbage(chain(&e)))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| garbage(chain(&*error)))?;
            Ok((head.status, body.to_bytes()))
        };
        let (mut exchange, mut connection) = (pin!(exchange), pin!(connection));
        let (status, body) = tokio::select! {
            biased;
            answered = &mut exchange => answered?,
            // What it has still sent is read.
            _ = &mut connection => exchange.await?,
        };
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|error| garbage(error.to_string()));
        }
        Err(match serde_json::from_slice::<Refusal>(&body) {
            Ok(Refusal { code, message }) => {
                let (code, message) = (line(&code, TOLD_MAX), line(&message, TOLD_MAX));
                IssuerError::Refused { url: url(), code, message }
            }
            Err(_) => garbage(format!("it answers {status}")),
        })
    }

    /// TLS to the first of its addresses that takes us.
    async fn connect(
        &self,
        anchors: &[CertificateDer<'static>],
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, IssuerError> {
        let url = || self.url.to_string();
        let host = &self.url.host;
        let stranger = |why: String| IssuerError::Stranger { url: url(), why };
        let name = ServerName::try_from(host.clone()).map_err(|e| stranger(e.to_string()))?;
        let config = client(anchors).map_err(|error| stranger(error.to_string()))?;
        let found = pillion_strategies::hosts::lookup(host, self.url.port)
            .await
            .map_err(|source| IssuerError::Name { host: host.clone(), source })?;
        let mut last = io::Error::other("its name has no address");
        for address in found {
            let connected = match timeout(CONNECT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    last = error;
                    continue;
                }
                Err(_) => {
                    last = io::Error::from(io::ErrorKind::TimedOut);
                    continue;
                }
            };
            return TlsConnector::from(config).connect(name, connected).await.map_err(|error| {
                match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                    Some(rustls::Error::InvalidCertificate(why)) => stranger(why.to_string()),
                    _ => IssuerError::Unreachable { url: url(), source: error },
                }
            });
        }
        Err(IssuerError::Unreachable { url: url(), source: last })
    }
}

/// One connection, then nothing is kept.
fn client(anchors: &[CertificateDer<'static>]) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for anchor in anchors {
        roots.add(anchor.clone())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn token(path: &Path) -> io::Result<String> {
    use std::io::Read as _;
    // Opening a fifo for reading would wait for a writer, and the node with it.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    std::fs::File::open(path)?.take(TOKEN_BYTES_MAX).read_to_string(&mut text)?;
    let token = text.trim();
    if token.is_empty() { Err(io::Error::other("it is empty")) } else { Ok(token.to_owned()) }
}

#[cfg(test)]
mod tests;
