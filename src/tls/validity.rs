//! When the certificates in use begin and end, for people who want to know before they do.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Longest subject that is kept.
const SUBJECT_CHARS_MAX: usize = 120;

/// One certificate and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validity {
    /// `node`, `intermediate` or `authority`.
    pub role: &'static str,
    /// Whose it is, as it says; printable.
    pub subject: String,
    /// The file it was read from, where there is one.
    pub file: Option<PathBuf>,
    /// From when it counts: seconds since 1970.
    pub not_before: i64,
    /// Until when: seconds since 1970.
    pub not_after: i64,
}

impl Validity {
    fn of(role: &'static str, der: &CertificateDer<'_>, file: Option<&Path>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject().to_string();
        let validity = certificate.validity();
        Some(Self {
            role,
            subject: subject.chars().filter(|c| !c.is_control()).take(SUBJECT_CHARS_MAX).collect(),
            file: file.map(Path::to_owned),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }

    /// Those of our own chain, the leaf first.
    pub(super) fn of_chain(chain: &[CertificateDer<'_>], file: Option<&Path>) -> Vec<Self> {
        let roles = std::iter::once("node").chain(std::iter::repeat("intermediate"));
        chain.iter().zip(roles).filter_map(|(der, role)| Self::of(role, der, file)).collect()
    }

    /// Those that are trusted.
    pub(super) fn of_authorities(all: &[CertificateDer<'_>], file: Option<&Path>) -> Vec<Self> {
        all.iter().filter_map(|der| Self::of("authority", der, file)).collect()
    }
}
