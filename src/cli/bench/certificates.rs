//! The floor's own trust: one throw-away authority and one certificate, TLS 1.3 on both sides.
//!
//! The floor does not borrow the daemon's, so that it stays what it is when that changes.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{cipher_suite, default_provider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::process::Trouble;

/// The name on the certificate.
pub(super) const NAME: &str = "floor";

const CA: &str = "ca.der";
const LEAF: &str = "leaf.der";
const KEY: &str = "key.der";

/// Makes them in a directory.
///
/// # Errors
/// When they cannot be made or written.
pub(super) fn make(directory: &Path) -> Result<(), Trouble> {
    let mut params = CertificateParams::new(Vec::new()).map_err(wrong)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().map_err(wrong)?;
    let ca = CertifiedIssuer::self_signed(params, key).map_err(wrong)?;
    let key = KeyPair::generate().map_err(wrong)?;
    let params = CertificateParams::new(vec![NAME.to_owned()]).map_err(wrong)?;
    let leaf = params.signed_by(&key, &ca).map_err(wrong)?;
    for (name, bytes) in [(CA, ca.der().as_ref()), (LEAF, leaf.der()), (KEY, &key.serialize_der())]
    {
        fs::write(directory.join(name), bytes).map_err(Trouble::io("writing certificates"))?;
    }
    Ok(())
}

/// For the relay that listens.
///
/// # Errors
/// When the files are not what [`make`] wrote.
pub(super) fn acceptor(directory: &Path) -> Result<TlsAcceptor, Trouble> {
    let (roots, leaf, key) = read(directory)?;
    let provider = Arc::new(provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(wrong)?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|b| b.with_client_cert_verifier(verifier).with_single_cert(vec![leaf], key))
        .map_err(wrong)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// For the relay that dials.
///
/// # Errors
/// When the files are not what [`make`] wrote.
pub(super) fn connector(directory: &Path) -> Result<TlsConnector, Trouble> {
    let (roots, leaf, key) = read(directory)?;
    let provider = Arc::new(provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|b| b.with_root_certificates(roots).with_client_auth_cert(vec![leaf], key))
        .map_err(wrong)?;
    Ok(TlsConnector::from(Arc::new(config)))
}

/// AES with 128 bits, the cheapest suite where the processor knows AES.
fn provider() -> CryptoProvider {
    let cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
    CryptoProvider { cipher_suites, ..default_provider() }
}

type Files = (Arc<RootCertStore>, CertificateDer<'static>, PrivateKeyDer<'static>);

fn read(directory: &Path) -> Result<Files, Trouble> {
    let file =
        |name: &str| fs::read(directory.join(name)).map_err(Trouble::io("reading certificates"));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(file(CA)?)).map_err(wrong)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(file(KEY)?));
    Ok((Arc::new(roots), CertificateDer::from(file(LEAF)?), key))
}

fn wrong(error: impl std::fmt::Display) -> Trouble {
    Trouble::Unexpected(format!("the floor's certificates: {error}"))
}
