//! Certificates that somebody issues while the node runs, as the injector of Kubernetes does: a key of our own, a request
//! for a certificate, and what was answered.
//!
//! Nothing here asks anybody: [`crate::node`] carries the request there and the answer back. Until the first answer, and
//! after the certificate has ended, there is nothing that others would take: [`super::Tls::joins`] is false then, and both
//! ends are set up with a certificate that nobody signed, so that whoever dials all the same is refused.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, SanType,
};
use ring::digest;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{CertificateError, Error, RootCertStore};
use x509_parser::prelude::{ASN1Time, FromDer as _, X509Certificate};

use super::identity::{IdentityError, PeerIdentity};
use super::{Credentials, TlsError, Validity};

/// Most anchors that are believed at a time: the one that signs, the one before it and the one after it are three.
pub const ANCHORS_MAX: usize = 16;
/// Most certificates between ours and an anchor, ours included.
const CHAIN_MAX: usize = 8;

/// Where a node's issued certificate stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Issuance {
    /// Whom it is asked of, for people.
    pub issuer: String,
    /// When it ends; none before there is one, and after it has ended.
    pub until: Option<SystemTime>,
    /// When the last one has ended, while there is no other.
    pub ended: Option<SystemTime>,
    /// Why the last attempt brought none; none when it did, or while the first is under way.
    pub trouble: Option<String>,
}

/// Why an answer of the issuer is not taken. What was used before stays in use. Reads as a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssuedError {
    /// There are none, or too many, or they are no certificates.
    #[error("{what} in PEM cannot be read, or there are none or more than {max}")]
    Pem {
        /// What it should be.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
    /// The certificate names nobody, or nobody of this mesh.
    #[error("the certificate that was issued {0}")]
    Identity(IdentityError),
    /// It is another host's.
    #[error(
        "the certificate that was issued is for `{found}`, and this node needs `{needed}`: name the node base@pod.namespace (PILLION_NAME)"
    )]
    OtherHost {
        /// Its URI.
        found: String,
        /// The URI of this node.
        needed: String,
    },
    /// It has ended, or has not begun: one of the two clocks is wrong.
    #[error(
        "the certificate that was issued is good from {from} to {to}, which is not now: compare this machine's clock with that of the issuer"
    )]
    Clock {
        /// Its beginning.
        from: String,
        /// Its end.
        to: String,
    },
    /// None of the anchors of the same answer signed it.
    #[error(
        "the certificate that was issued is not signed by any of the anchors that came with it"
    )]
    Untrusted,
    /// It is for another key than that of the request.
    #[error("the certificate that was issued is for another key than the one that was asked for")]
    OtherKey,
    /// It cannot be used at both ends of a connection.
    #[error("the certificate that was issued must be for both ends, serverAuth and clientAuth")]
    Purpose,
    /// Anything else that rustls does not like.
    #[error("the certificate that was issued cannot be used: {0}")]
    Unusable(String),
}

impl From<Error> for IssuedError {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            ) => Self::Untrusted,
            Error::InvalidCertificate(
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
            ) => Self::Purpose,
            Error::InconsistentKeys(_) => Self::OtherKey,
            other => Self::Unusable(other.to_string()),
        }
    }
}

/// A request for a certificate, with the key that it is for. The key stays in memory, and is another one each time.
pub struct Request {
    key: KeyPair,
    csr: String,
}

impl Request {
    /// Makes a P-256 key and a request for it. What the request says of the node is a courtesy to who reads it: the issuer
    /// decides.
    pub(super) fn new(identity: &PeerIdentity) -> Result<Self, TlsError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let csr = params(identity)?.serialize_request(&key)?.pem()?;
        Ok(Self { key, csr })
    }

    /// The request as PEM.
    #[must_use]
    pub fn csr(&self) -> &str {
        &self.csr
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").finish_non_exhaustive()
    }
}

fn params(identity: &PeerIdentity) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "pillion");
    params.subject_alt_names = vec![SanType::URI(identity.uri().try_into()?)];
    Ok(params)
}

/// Reads the anchors of a file, a variable or an answer.
///
/// # Errors
/// [`IssuedError::Pem`].
pub fn anchors(pem: &str) -> Result<Vec<CertificateDer<'static>>, IssuedError> {
    certificates(pem, "anchors", ANCHORS_MAX)
}

/// Certificates as one text.
#[must_use]
pub fn pem(certificates: &[CertificateDer<'_>]) -> String {
    const LINE: usize = 64;
    let mut text = String::new();
    for certificate in certificates {
        let base64 = STANDARD.encode(certificate);
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        for at in (0..base64.len()).step_by(LINE) {
            text.push_str(&base64[at..base64.len().min(at + LINE)]);
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

fn certificates(
    pem: &str,
    what: &'static str,
    max: usize,
) -> Result<Vec<CertificateDer<'static>>, IssuedError> {
    let wrong = || IssuedError::Pem { what, max };
    let found: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .take(max + 1)
        .collect::<Result<_, _>>()
        .map_err(|_| wrong())?;
    let readable = found.iter().all(|der| X509Certificate::from_der(der).is_ok());
    if (1..=max).contains(&found.len()) && readable { Ok(found) } else { Err(wrong()) }
}

/// The anchors as roots, and by what others are told that have the same.
pub(super) fn roots(
    anchors: &[CertificateDer<'static>],
) -> Result<(RootCertStore, Vec<[u8; 8]>), TlsError> {
    let (mut roots, mut ids) = (RootCertStore::empty(), Vec::new());
    for anchor in anchors {
        roots.add(anchor.clone())?;
        if let Ok((_, parsed)) = X509Certificate::from_der(anchor) {
            let hash = digest::digest(&digest::SHA256, parsed.tbs_certificate.subject_pki.raw);
            ids.push(std::array::from_fn(|i| hash.as_ref()[i]));
        }
    }
    Ok((roots, ids))
}

/// What there is before the first answer: the anchors, and a certificate that nobody signed.
pub(super) fn unsigned(
    anchors: &[CertificateDer<'static>],
    identity: &PeerIdentity,
) -> Result<Credentials, TlsError> {
    let (roots, ids) = roots(anchors)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let leaf = params(identity)?.self_signed(&key)?;
    let (chain, certificates) = (vec![leaf.into()], Vec::new());
    Ok(Credentials { roots, chain, key: secret(&key), ids, certificates })
}

fn secret(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(key.serialize_der().into())
}

/// What the issuer answered, read and found to be for this node, now.
pub(super) struct Answer {
    pub(super) credentials: Credentials,
    pub(super) anchors: Vec<CertificateDer<'static>>,
    pub(super) life: Life,
}

/// From when to when a certificate is good, by its own dates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Its end.
    pub until: SystemTime,
    /// How much of it is left now, by this machine's clock.
    pub left: Duration,
}

/// Reads an answer: our certificate with its intermediates, and the anchors that are believed from now on, both PEM.
pub(super) fn read(
    request: &Request,
    chain: &str,
    anchors_pem: &str,
    identity: &PeerIdentity,
    now: SystemTime,
) -> Result<Answer, TlsError> {
    let chain = certificates(chain, "the certificate that was issued", CHAIN_MAX)?;
    let anchors = anchors(anchors_pem)?;
    let (_, leaf) = X509Certificate::from_der(&chain[0])
        .map_err(|_| IssuedError::Identity(IdentityError::Unreadable))?;
    let found = PeerIdentity::of_leaf(&leaf)
        .and_then(|found| found.in_mesh(&identity.mesh))
        .map_err(IssuedError::Identity)?;
    if found.host != identity.host {
        let (found, needed) = (found.uri(), identity.uri());
        return Err(IssuedError::OtherHost { found, needed }.into());
    }
    let validity = leaf.validity();
    let life = of_asn1(validity.not_before)
        .zip(of_asn1(validity.not_after))
        .filter(|(from, until)| *from <= now && now < *until)
        .and_then(|(_, until)| Some(Life { until, left: until.duration_since(now).ok()? }))
        .ok_or_else(|| IssuedError::Clock {
            from: validity.not_before.to_string(),
            to: validity.not_after.to_string(),
        })?;
    let (roots, ids) = roots(&anchors)?;
    let mut certificates = Validity::of_chain(&chain, None);
    certificates.extend(Validity::of_authorities(&anchors, None));
    let credentials = Credentials { roots, chain, key: secret(&request.key), ids, certificates };
    Ok(Answer { credentials, anchors, life })
}

fn of_asn1(time: ASN1Time) -> Option<SystemTime> {
    let seconds = u64::try_from(time.timestamp()).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}
