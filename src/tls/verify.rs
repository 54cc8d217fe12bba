//! Which certificates are taken: those that chain to our roots and name our mesh.
//!
//! Both ends check the same: the chain (signatures, validity, extended key usage) as webpki does, then the URI SAN. DNS names
//! are not looked at: a node is dialled at whatever address it was found, and who it is it says in its URI.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};

use super::TlsError;
use super::identity::{IdentityError, PeerIdentity};

/// Takes the certificates of one mesh, from clients and from servers.
pub(super) struct MeshVerifier {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    clients: Arc<dyn ClientCertVerifier>,
    mesh: String,
}

impl MeshVerifier {
    pub(super) fn new(
        roots: RootCertStore,
        provider: &Arc<CryptoProvider>,
        mesh: &str,
    ) -> Result<Self, TlsError> {
        let roots = Arc::new(roots);
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider))
                .build()
                .map_err(|_| TlsError::NoRoots)?;
        Ok(Self {
            roots,
            algorithms: provider.signature_verification_algorithms,
            clients,
            mesh: mesh.to_owned(),
        })
    }

    fn check_identity(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        PeerIdentity::of(std::slice::from_ref(leaf))
            .and_then(|identity| identity.in_mesh(&self.mesh))
            .map(drop)
            .map_err(refused)
    }
}

/// Carries the reason through rustls to the log; the other end hears `certificate_unknown`.
fn refused(reason: IdentityError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(reason))))
}

impl fmt::Debug for MeshVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshVerifier").field("mesh", &self.mesh).finish_non_exhaustive()
    }
}

/// What both traits ask of signatures, in the same words.
macro_rules! signatures_as_webpki_does {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            leaf: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.clients.verify_tls12_signature(message, leaf, signed)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            leaf: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.clients.verify_tls13_signature(message, leaf, signed)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.clients.supported_verify_schemes()
        }
    };
}

impl ServerCertVerifier for MeshVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(leaf)?,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        self.check_identity(leaf)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures_as_webpki_does!();
}

impl ClientCertVerifier for MeshVerifier {
    /// Nothing: the hints would tell every stranger the names of our roots, and our clients have one certificate anyway.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.clients.verify_client_cert(leaf, intermediates, now)?;
        self.check_identity(leaf)?;
        Ok(verified)
    }

    signatures_as_webpki_does!();
}
