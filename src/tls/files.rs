//! Certificates from files: what an operator, cert-manager or the Kubernetes injector issued.
//!
//! What every peer would refuse is refused at start, with the file's name and what to change in it, instead of as one
//! TLS alert per peer.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use ring::digest;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{CertificateError, Error, RootCertStore};
use x509_parser::prelude::{ASN1Time, FromDer as _, X509Certificate};

use super::identity::PeerIdentity;
use super::{Credentials, TlsError, Validity};

/// Largest PEM file.
pub(super) const PEM_BYTES_MAX: u64 = 1024 * 1024;
/// Most authorities in the CA file.
pub(super) const AUTHORITIES_MAX: usize = 64;

/// The authorities, by what each can be told, and until when each counts.
type Roots = (RootCertStore, Vec<[u8; 8]>, Vec<Validity>);

/// The three files, as they were at one moment.
pub(super) struct Files<'a> {
    ca: (&'a Path, Vec<u8>),
    cert: (&'a Path, Vec<u8>),
    key: (&'a Path, Vec<u8>),
}

impl<'a> Files<'a> {
    pub(super) fn read(ca: &'a Path, cert: &'a Path, key: &'a Path) -> Result<Self, TlsError> {
        Ok(Self { ca: (ca, read(ca)?), cert: (cert, read(cert)?), key: (key, read(key)?) })
    }

    /// Differs when any of them does.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        for (_, bytes) in [&self.ca, &self.cert, &self.key] {
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        }
        let digest = context.finish();
        std::array::from_fn(|i| digest.as_ref()[i])
    }

    pub(super) fn credentials(
        &self,
        identity: &PeerIdentity,
        now: ASN1Time,
    ) -> Result<Credentials, TlsError> {
        let (roots, ids, authorities) = self.roots(now)?;
        let (path, pem) = &self.cert;
        let chain: Vec<CertificateDer<'static>> = certificates(path, pem)?;
        check_leaf(path, &chain, identity, now)?;
        let mut certificates = Validity::of_chain(&chain, Some(path));
        certificates.extend(authorities);
        let (path, pem) = &self.key;
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|source| TlsError::Pem {
            path: owned(path),
            what: "private key",
            source,
        })?;
        Ok(Credentials { roots, chain, key, ids, certificates })
    }

    /// What is wrong with our own certificate, in terms of files.
    pub(super) fn own_refused(&self, error: rustls::Error) -> TlsError {
        let (ca, cert, key) = (owned(self.ca.0), owned(self.cert.0), owned(self.key.0));
        match error {
            Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            ) => TlsError::Untrusted { cert, ca },
            Error::InvalidCertificate(
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
            ) => TlsError::Purpose { path: cert },
            Error::InconsistentKeys(_) => TlsError::KeyMismatch { cert, key },
            other => TlsError::Rustls(other),
        }
    }

    fn roots(&self, now: ASN1Time) -> Result<Roots, TlsError> {
        let (path, pem) = &self.ca;
        let mut roots = RootCertStore::empty();
        let mut ids = Vec::new();
        let authorities = certificates(path, pem)?;
        if authorities.len() > AUTHORITIES_MAX {
            return Err(TlsError::ManyAuthorities { path: owned(path) });
        }
        let certificates = Validity::of_authorities(&authorities, Some(path));
        for authority in authorities {
            let unreadable = || TlsError::Unreadable { path: owned(path) };
            let (_, parsed) = X509Certificate::from_der(&authority).map_err(|_| unreadable())?;
            // Nothing else looks at the dates of an authority, nor must it: but its owner would want to know.
            if parsed.validity().not_after < now {
                tracing::warn!(
                    "the authority `{}` in `{}` expired on {}",
                    parsed.subject(),
                    path.display(),
                    parsed.validity().not_after
                );
            }
            let hash = digest::digest(&digest::SHA256, parsed.tbs_certificate.subject_pki.raw);
            ids.push(std::array::from_fn(|i| hash.as_ref()[i]));
            roots.add(authority).map_err(|_| unreadable())?;
        }
        Ok((roots, ids, certificates))
    }
}

fn check_leaf(
    path: &Path,
    chain: &[CertificateDer<'_>],
    identity: &PeerIdentity,
    now: ASN1Time,
) -> Result<(), TlsError> {
    let leaf = chain.first().and_then(|leaf| X509Certificate::from_der(leaf).ok());
    let Some((_, leaf)) = leaf else { return Err(TlsError::Unreadable { path: owned(path) }) };
    let validity = leaf.validity();
    if validity.not_after < now {
        return Err(TlsError::Expired { path: owned(path), when: validity.not_after.to_string() });
    }
    if now < validity.not_before {
        return Err(TlsError::NotYet { path: owned(path), when: validity.not_before.to_string() });
    }
    let found = PeerIdentity::of_leaf(&leaf)
        .and_then(|found| found.in_mesh(&identity.mesh))
        .map_err(|source| TlsError::Identity { path: owned(path), source })?;
    if found.host == identity.host {
        Ok(())
    } else {
        Err(TlsError::OtherHost { path: owned(path), found: found.uri(), needed: identity.uri() })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::File { path: owned(path), source };
    // Opening a fifo for reading would wait for a writer, and the node with it.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(failed(std::io::Error::other("it is not a regular file")));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(failed)?
        .take(PEM_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let failed = |source| TlsError::Pem { path: owned(path), what: "certificate", source };
    match found {
        Ok(none) if none.is_empty() => Err(failed(rustls::pki_types::pem::Error::NoItemsFound)),
        found => found.map_err(failed),
    }
}

fn owned(path: &Path) -> PathBuf {
    path.to_owned()
}
