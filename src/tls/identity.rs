//! Who a certificate says its holder is: the URI SAN `pillion://<mesh>/<host>`.
//!
//! It names the mesh and the host, not the node: every node of a host (a pod, a machine) may have the same certificate.
//! That the rest of a hello agrees with it is checked where the hello is read.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::wire::id::NodeName;

/// Longest name of a mesh, in bytes.
pub const MESH_BYTES_MAX: usize = 64;

const SCHEME: &str = "pillion://";

/// The mesh and the host that a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The mesh's name.
    pub mesh: String,
    /// The host part of the node's name.
    pub host: String,
}

/// Why a certificate names nobody, or nobody of ours. Reads after "the certificate".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// There is no certificate at all.
    #[error("is missing")]
    Absent,
    /// Not X.509, or a SAN that is broken or there twice.
    #[error("cannot be read as X.509")]
    Unreadable,
    /// No SAN of ours.
    #[error(
        "names no Pillion: its subjectAltName needs `URI:pillion://<mesh>/<host>`, such as `URI:pillion://default/hal`, where the host is the part after the @ of the node's name"
    )]
    NoUri,
    /// More than one, so that it is nobody in particular.
    #[error("has more than one URI `pillion://...` in its subjectAltName: leave one")]
    ManyUris,
    /// A SAN that starts as ours and is not.
    #[error("has the URI `{0}` in its subjectAltName: that is not `pillion://<mesh>/<host>`")]
    BadUri(String),
    /// It is good, elsewhere.
    #[error("is for mesh `{theirs}`, and this is mesh `{ours}`")]
    OtherMesh {
        /// What it says.
        theirs: String,
        /// Where it was shown.
        ours: String,
    },
}

impl PeerIdentity {
    /// The URI of a certificate for this identity.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("{SCHEME}{}/{}", self.mesh, self.host)
    }

    /// Reads the identity off the first certificate of a chain.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn of(chain: &[CertificateDer<'_>]) -> Result<Self, IdentityError> {
        let leaf = chain.first().ok_or(IdentityError::Absent)?;
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| IdentityError::Unreadable)?;
        Self::of_leaf(&leaf)
    }

    pub(super) fn of_leaf(leaf: &X509Certificate<'_>) -> Result<Self, IdentityError> {
        let names = leaf.subject_alternative_name().map_err(|_| IdentityError::Unreadable)?;
        let mut ours = names.iter().flat_map(|n| &n.value.general_names).filter_map(|name| {
            if let GeneralName::URI(uri) = name { uri.strip_prefix(SCHEME) } else { None }
        });
        let path = ours.next().ok_or(IdentityError::NoUri)?;
        if ours.next().is_some() {
            return Err(IdentityError::ManyUris);
        }
        path.split_once('/')
            .filter(|(mesh, host)| is_mesh(mesh) && is_host(host))
            .map(|(mesh, host)| Self { mesh: mesh.to_owned(), host: host.to_owned() })
            .ok_or_else(|| {
                IdentityError::BadUri(SCHEME.chars().chain(path.chars().take(80)).collect())
            })
    }

    /// Checks that the certificate is for this mesh.
    pub(super) fn in_mesh(self, ours: &str) -> Result<Self, IdentityError> {
        if self.mesh == ours {
            Ok(self)
        } else {
            Err(IdentityError::OtherMesh { theirs: self.mesh, ours: ours.to_owned() })
        }
    }
}

/// Whether a text can be the name of a mesh: what the authority of a URI holds without escapes.
#[must_use]
pub fn is_mesh(text: &str) -> bool {
    (1..=MESH_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// Whether a text can be the host of a node's name.
#[must_use]
pub fn is_host(text: &str) -> bool {
    NodeName::new("n", text).is_ok()
}
