//! Who may join: mutual TLS 1.3, always. There is no plain mode.
//!
//! One code path, three sources of the root: a *cookie*, from which every node derives the same authority and issues a
//! leaf of its own; *certificates* from files; or certificates that are *issued* while the node runs, by the injector in a
//! Kubernetes cluster. In each case both ends show a certificate with the URI SAN `pillion://<mesh>/<host>`, and a
//! connection exists only once both have checked the other's.
//!
//! The dialler finishes first: TLS 1.3 lets a client send before the server has judged its certificate, so a refused
//! dialler learns of it from its first read.
//!
//! ring is the only provider and it is handed over explicitly, so nothing process-wide is installed. There are no session
//! tickets and no early data: connections last, and both would cost memory for every peer.

mod authority;
pub mod cookie;
mod explain;
mod files;
mod identity;
mod issued;
mod validity;
mod verify;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{cipher_suite, default_provider, kx_group};
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x509_parser::prelude::ASN1Time;

pub use cookie::{Cookie, CookieError};
pub use explain::{explain, is_about_time};
pub use identity::{IdentityError, MESH_BYTES_MAX, PeerIdentity, is_host, is_mesh};
pub use issued::{ANCHORS_MAX, Issuance, IssuedError, Life, Request, anchors, pem};
pub use validity::Validity;
use verify::MeshVerifier;

/// What both ends say they speak (ALPN).
pub const ALPN: &[u8] = b"pillion/1";
/// The DNS SAN of every leaf that we issue, and the name that diallers ask for. Never sent, never checked.
const DNS_NAME: &str = "pillion";

/// Where the root of a mesh comes from.
#[derive(Clone, Debug)]
pub enum Trust {
    /// A shared secret. The first cookie signs, all verify.
    Cookie {
        /// As they were read at start.
        lines: Vec<Cookie>,
        /// Read again by [`Tls::reload`]; without it the cookies stay as they are.
        file: Option<PathBuf>,
    },
    /// PEM files, read now and again by [`Tls::reload`].
    Certificates {
        /// One or more authorities.
        ca: PathBuf,
        /// Our certificate, then its intermediates.
        cert: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
    /// A certificate that is issued while the node runs: [`Tls::request`], [`Tls::issued`].
    Issued {
        /// By which the issuer is known, and the mesh until the issuer says more: one to [`ANCHORS_MAX`].
        anchors: Vec<CertificateDer<'static>>,
        /// Whom it is asked of, for people.
        issuer: String,
    },
}

impl Trust {
    /// The cookies of a file, which must be there.
    ///
    /// # Errors
    /// [`CookieError`].
    pub fn cookie_file(path: PathBuf) -> Result<Self, CookieError> {
        Ok(Self::Cookie { lines: cookie::read(&path)?, file: Some(path) })
    }

    /// The cookies of a file that this user's first start makes.
    ///
    /// # Errors
    /// [`CookieError`].
    pub fn cookie_file_or_new(path: PathBuf) -> Result<Self, CookieError> {
        Ok(Self::Cookie { lines: cookie::read_or_create(&path)?, file: Some(path) })
    }
}

/// Why there is no TLS to be had from a configuration. Nothing has changed: what was loaded before stays in use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The cookies.
    #[error(transparent)]
    Cookie(#[from] CookieError),
    /// The mesh's name cannot stand in a certificate.
    #[error("`{0}` is not the name of a mesh: 1 to 64 letters, digits, `_`, `-` and `.`")]
    Mesh(String),
    /// The host cannot stand in a certificate.
    #[error("`{0}` is not the host of a node: 1 to 255 letters, digits, `_`, `-`, `.` and `:`")]
    Host(String),
    /// Neither a cookie nor an authority.
    #[error("there is no cookie and no CA, so nobody could join")]
    NoRoots,
    /// A file cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file holds no such thing in PEM.
    #[error("`{}` holds no {what} in PEM: {source}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// Why not.
        source: rustls::pki_types::pem::Error,
    },
    /// PEM around something that is no certificate.
    #[error("a certificate in `{}` cannot be read as X.509", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
    },
    /// A CA file is somebody's whole collection.
    #[error(
        "`{}` holds more than 64 authorities: each can let anybody in, so keep those of this mesh",
        path.display()
    )]
    ManyAuthorities {
        /// Which.
        path: PathBuf,
    },
    /// Our own certificate is over.
    #[error("the certificate in `{}` expired on {when}: renew it, or set the clock", path.display())]
    Expired {
        /// Which.
        path: PathBuf,
        /// Its end.
        when: String,
    },
    /// Our own certificate has not begun.
    #[error("the certificate in `{}` is not valid before {when}: set the clock", path.display())]
    NotYet {
        /// Which.
        path: PathBuf,
        /// Its beginning.
        when: String,
    },
    /// Our own certificate is nobody's, or of another mesh.
    #[error("the certificate in `{}` {source}", path.display())]
    Identity {
        /// Which.
        path: PathBuf,
        /// Why.
        source: IdentityError,
    },
    /// Our own certificate is another host's: every peer would refuse our hello.
    #[error(
        "the certificate in `{}` is for `{found}`, and this node needs `{needed}`: issue one, or set the host with --name base@host",
        path.display()
    )]
    OtherHost {
        /// Which.
        path: PathBuf,
        /// Its URI.
        found: String,
        /// The URI of this node.
        needed: String,
    },
    /// Our own certificate does not chain to our own authorities.
    #[error(
        "the certificate in `{}` was not issued by an authority in `{}`, or an intermediate is missing after it",
        cert.display(),
        ca.display()
    )]
    Untrusted {
        /// The certificate's file.
        cert: PathBuf,
        /// The authorities' file.
        ca: PathBuf,
    },
    /// Our own certificate is for only one of the two ends.
    #[error(
        "the certificate in `{}` must be for both ends: extendedKeyUsage serverAuth and clientAuth, or none",
        path.display()
    )]
    Purpose {
        /// Which.
        path: PathBuf,
    },
    /// Certificate and key do not belong together.
    #[error("the key in `{}` is not the key of the certificate in `{}`", key.display(), cert.display())]
    KeyMismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// What the issuer answered.
    #[error(transparent)]
    Issued(#[from] IssuedError),
    /// The anchor by which the issuer would be known.
    #[error("`{}` holds no anchor that the issuer could be known by: {source}", path.display())]
    Anchor {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: IssuedError,
    },
    /// A peer's certificate names nobody.
    #[error("the peer's certificate {0}")]
    Peer(#[from] IdentityError),
    /// A certificate could not be issued from a cookie.
    #[error("cannot issue a certificate: {0}")]
    Issue(#[from] rcgen::Error),
    /// Anything else that rustls does not like.
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Both ends of TLS for one node. Cheap to clone; all clones see a reload.
#[derive(Clone)]
pub struct Tls {
    shared: Arc<Shared>,
}

struct Shared {
    trust: Trust,
    identity: PeerIdentity,
    provider: Arc<CryptoProvider>,
    current: Mutex<Current>,
    /// Where the certificate stands that is issued; none where nobody issues one.
    issuance: Option<watch::Sender<Issuance>>,
}

/// What connections are made with from now on. Those that exist keep what they were made with.
struct Current {
    source: Source,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    ids: Vec<[u8; 8]>,
    certificates: Vec<Validity>,
    /// Why the files are not taken as they are now.
    problem: Option<String>,
}

/// What a configuration was made from: equal sources need no reload.
#[derive(PartialEq, Eq)]
enum Source {
    Cookies(Vec<Cookie>),
    Files([u8; 32]),
    /// The anchors that are believed.
    Issued(Vec<CertificateDer<'static>>),
}

/// What each source of the root comes down to.
struct Credentials {
    roots: RootCertStore,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    ids: Vec<[u8; 8]>,
    /// Those that end one day.
    certificates: Vec<Validity>,
}

impl Tls {
    /// Sets TLS up for a node of `mesh` on `host` (the part after the `@` of its name).
    ///
    /// # Errors
    /// [`TlsError`]: what the operator has to change.
    pub fn new(trust: &Trust, mesh: &str, host: &str) -> Result<Self, TlsError> {
        if !is_mesh(mesh) {
            return Err(TlsError::Mesh(mesh.chars().take(80).collect()));
        }
        if !is_host(host) {
            return Err(TlsError::Host(host.chars().take(80).collect()));
        }
        let identity = PeerIdentity { mesh: mesh.to_owned(), host: host.to_owned() };
        let provider = Arc::new(provider());
        let current = match trust {
            Trust::Cookie { lines, .. } => from_cookies(lines.clone(), &identity, &provider)?,
            Trust::Certificates { ca, cert, key } => {
                from_files(&files::Files::read(ca, cert, key)?, &identity, &provider)?
            }
            Trust::Issued { anchors, .. } => {
                // Nobody signed it, so nobody takes it: it is there to be replaced.
                let nothing = issued::unsigned(anchors, &identity)?;
                let verifier = Arc::new(MeshVerifier::new(nothing.roots, &provider, mesh)?);
                let (server, client) = configs(verifier, nothing.chain, nothing.key, &provider)?;
                let source = Source::Issued(anchors.clone());
                let (ids, certificates) = (nothing.ids, nothing.certificates);
                Current { source, server, client, ids, certificates, problem: None }
            }
        };
        let issuance = match trust {
            Trust::Issued { issuer, .. } => {
                let nothing = Issuance { issuer: issuer.clone(), ..Issuance::default() };
                Some(watch::Sender::new(nothing))
            }
            Trust::Cookie { .. } | Trust::Certificates { .. } => None,
        };
        let (trust, current) = (trust.clone(), Mutex::new(current));
        Ok(Self { shared: Arc::new(Shared { trust, identity, provider, current, issuance }) })
    }

    /// Reads the files again; true when they have changed and are in use from now on. Connections that exist stay.
    ///
    /// It reads a few small files, so it may run on the runtime's thread.
    ///
    /// # Errors
    /// [`TlsError`], each time until the files are mended; what was loaded before stays in use.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let reloaded = self.read_again();
        let problem = reloaded.as_ref().err().map(ToString::to_string);
        self.with(|current| current.problem = problem);
        reloaded
    }

    fn read_again(&self) -> Result<bool, TlsError> {
        let Shared { trust, identity, provider, .. } = &*self.shared;
        let fresh = match trust {
            // What is issued comes through `issued`.
            Trust::Cookie { file: None, .. } | Trust::Issued { .. } => return Ok(false),
            Trust::Cookie { file: Some(path), .. } => {
                let cookies = cookie::read(path)?;
                if self
                    .with(|current| matches!(&current.source, Source::Cookies(c) if *c == cookies))
                {
                    return Ok(false);
                }
                from_cookies(cookies, identity, provider)?
            }
            Trust::Certificates { ca, cert, key } => {
                let files = files::Files::read(ca, cert, key)?;
                let source = Source::Files(files.fingerprint());
                if self.with(|current| current.source == source) {
                    return Ok(false);
                }
                from_files(&files, identity, provider)?
            }
        };
        self.with(|current| *current = fresh);
        Ok(true)
    }

    /// Whether there is any point in connecting: not while an issued certificate is still to come, or has ended.
    #[must_use]
    pub fn joins(&self) -> bool {
        self.shared.issuance.as_ref().is_none_or(|issuance| issuance.borrow().until.is_some())
    }

    /// Whether there is an issued certificate, or was one: true where nobody issues one. One that has ended takes nothing
    /// from the connections that were made with it.
    #[must_use]
    pub fn ever_issued(&self) -> bool {
        self.shared.issuance.as_ref().is_none_or(|issuance| {
            let issuance = issuance.borrow();
            issuance.until.is_some() || issuance.ended.is_some()
        })
    }

    /// Where the certificate stands that is issued, now and whenever that changes; none where nobody issues one.
    #[must_use]
    pub fn issuance(&self) -> Option<watch::Receiver<Issuance>> {
        self.shared.issuance.as_ref().map(watch::Sender::subscribe)
    }

    /// By whom an issued certificate, and the issuer, is believed at the moment; nothing for the other sources.
    #[must_use]
    pub fn anchors(&self) -> Vec<CertificateDer<'static>> {
        self.with(|current| match &current.source {
            Source::Issued(anchors) => anchors.clone(),
            Source::Cookies(_) | Source::Files(_) => Vec::new(),
        })
    }

    /// A request for a certificate of this node, with a key of its own.
    ///
    /// # Errors
    /// [`TlsError::Issue`] when the system has no randomness.
    pub fn request(&self) -> Result<Request, TlsError> {
        Request::new(&self.shared.identity)
    }

    /// Takes what the issuer answered to a request: the certificate with its intermediates, and the anchors, which replace
    /// those of before. Both are used from now on; connections that exist stay.
    ///
    /// # Errors
    /// [`TlsError::Issued`] when it is not for this node, this key or this time, or not signed by one of the anchors. What
    /// was used before stays in use.
    pub fn issued(
        &self,
        request: &Request,
        certificate: &str,
        anchors: &str,
        now: SystemTime,
    ) -> Result<Life, TlsError> {
        let Shared { identity, provider, issuance, .. } = &*self.shared;
        let answer = issued::read(request, certificate, anchors, identity, now)?;
        let Credentials { roots, chain, key, ids, certificates } = answer.credentials;
        let verifier = Arc::new(MeshVerifier::new(roots, provider, &identity.mesh)?);
        check_own(&verifier, &chain).map_err(IssuedError::from)?;
        let (server, client) =
            configs(verifier, chain, key, provider).map_err(IssuedError::from)?;
        let source = Source::Issued(answer.anchors);
        let fresh = Current { source, server, client, ids, certificates, problem: None };
        self.with(|current| *current = fresh);
        if let Some(issuance) = issuance {
            issuance.send_modify(|issuance| {
                issuance.until = Some(answer.life.until);
                (issuance.ended, issuance.trouble) = (None, None);
            });
        }
        Ok(answer.life)
    }

    /// Notes for people why there is no new certificate.
    pub fn not_issued(&self, trouble: String) {
        if let Some(issuance) = &self.shared.issuance {
            issuance.send_if_modified(|issuance| {
                let news = issuance.trouble.as_ref() != Some(&trouble);
                issuance.trouble = Some(trouble);
                news
            });
        }
    }

    /// The certificate that was issued has ended: there is nothing to connect with until there is another one.
    pub fn lapsed(&self) {
        if let Some(issuance) = &self.shared.issuance {
            issuance.send_modify(|issuance| {
                issuance.ended = issuance.until.take().or(issuance.ended);
            });
        }
    }

    /// The accepting end. Asked for at each connection, so that a reload is seen.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.with(|current| Arc::clone(&current.server)))
    }

    /// The dialling end. Asked for at each connection, so that a reload is seen.
    #[must_use]
    pub fn connector(&self) -> TlsConnector {
        TlsConnector::from(self.with(|current| Arc::clone(&current.client)))
    }

    /// What to connect to: rustls wants a name, we check the URI SAN instead.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "the constant is a DNS name")]
    pub fn server_name() -> ServerName<'static> {
        ServerName::DnsName(DnsName::try_from(DNS_NAME).expect("the constant is a DNS name"))
    }

    /// What discovery announces and compares: nodes that share none of these cannot join each other. One per cookie, in
    /// the file's order, or one per authority.
    #[must_use]
    pub fn ids(&self) -> Vec<[u8; 8]> {
        self.with(|current| current.ids.clone())
    }

    /// The certificates in use that end one day: our own, what stands between it and its authority, and all authorities.
    /// None with a cookie.
    #[must_use]
    pub fn certificates(&self) -> Vec<Validity> {
        self.with(|current| current.certificates.clone())
    }

    /// Why the last [`Tls::reload`] took nothing, in words; nothing when there was nothing wrong.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.with(|current| current.problem.clone())
    }

    /// What the nodes of the mesh seal with where there is no connection: one per cookie, in the file's order. None with
    /// certificates, issued or not, whose holders share no secret.
    #[must_use]
    pub fn gossip_keys(&self) -> Vec<[u8; 32]> {
        let mesh = &self.shared.identity.mesh;
        self.with(|current| match &current.source {
            Source::Cookies(cookies) => cookies.iter().map(|c| c.gossip_key(mesh)).collect(),
            Source::Files(_) | Source::Issued(_) => Vec::new(),
        })
    }

    /// Who the other end of a finished handshake is, from `peer_certificates()`. Its mesh is ours; its host must be that
    /// of the hello.
    ///
    /// # Errors
    /// [`TlsError::Peer`]; not for certificates that came through a handshake of ours.
    pub fn peer_identity(chain: &[CertificateDer<'_>]) -> Result<PeerIdentity, TlsError> {
        Ok(PeerIdentity::of(chain)?)
    }

    /// The mesh and the host that our own certificate is for.
    #[must_use]
    pub fn identity(&self) -> &PeerIdentity {
        &self.shared.identity
    }

    fn with<T>(&self, look: impl FnOnce(&mut Current) -> T) -> T {
        // A value is replaced whole or not at all, so a panic elsewhere leaves nothing half done.
        look(&mut self.shared.current.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("identity", &self.shared.identity).finish_non_exhaustive()
    }
}

fn from_cookies(
    cookies: Vec<Cookie>,
    identity: &PeerIdentity,
    provider: &Arc<CryptoProvider>,
) -> Result<Current, TlsError> {
    let Credentials { roots, chain, key, ids, certificates } =
        authority::credentials(&cookies, identity)?;
    let verifier = Arc::new(MeshVerifier::new(roots, provider, &identity.mesh)?);
    let (server, client) = configs(verifier, chain, key, provider)?;
    let source = Source::Cookies(cookies);
    Ok(Current { source, server, client, ids, certificates, problem: None })
}

fn from_files(
    files: &files::Files<'_>,
    identity: &PeerIdentity,
    provider: &Arc<CryptoProvider>,
) -> Result<Current, TlsError> {
    let Credentials { roots, chain, key, ids, certificates } =
        files.credentials(identity, ASN1Time::now())?;
    let verifier = Arc::new(MeshVerifier::new(roots, provider, &identity.mesh)?);
    check_own(&verifier, &chain).map_err(|error| files.own_refused(error))?;
    let (server, client) =
        configs(verifier, chain, key, provider).map_err(|error| files.own_refused(error))?;
    let source = Source::Files(files.fingerprint());
    Ok(Current { source, server, client, ids, certificates, problem: None })
}

/// Looks at our own certificate as a peer with our authorities will.
fn check_own(verifier: &MeshVerifier, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
    let Some((leaf, intermediates)) = chain.split_first() else {
        return Err(rustls::Error::NoCertificatesPresented);
    };
    let now = UnixTime::now();
    verifier.verify_server_cert(leaf, intermediates, &Tls::server_name(), &[], now)?;
    verifier.verify_client_cert(leaf, intermediates, now)?;
    Ok(())
}

fn configs(
    verifier: Arc<MeshVerifier>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &Arc<CryptoProvider>,
) -> Result<(Arc<ServerConfig>, Arc<ClientConfig>), rustls::Error> {
    let versions = &[&rustls::version::TLS13];
    let servers: Arc<dyn ServerCertVerifier> = Arc::clone(&verifier) as _;
    let clients: Arc<dyn ClientCertVerifier> = verifier;

    let mut server = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain.clone(), key.clone_key())?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.max_early_data_size = 0;
    // A machine that has to compute AES in software is the one to choose, at whichever end it is.
    server.ignore_client_order = !aes_in_hardware();

    let mut client = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(servers)
        .with_client_auth_cert(chain, key)?;
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.resumption = Resumption::disabled();
    client.enable_early_data = false;
    client.enable_sni = false;
    Ok((Arc::new(server), Arc::new(client)))
}

/// ring, with the suites in the order in which they are cheap here. Every node has X25519, so nobody offers another group.
fn provider() -> CryptoProvider {
    let (aes128, aes256, chacha) = (
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    );
    let cipher_suites =
        if aes_in_hardware() { vec![aes128, aes256, chacha] } else { vec![chacha, aes128, aes256] };
    CryptoProvider { cipher_suites, kx_groups: vec![kx_group::X25519], ..default_provider() }
}

fn aes_in_hardware() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

#[cfg(test)]
pub(crate) mod issuing;
#[cfg(test)]
mod scratch;
#[cfg(test)]
mod tests;
