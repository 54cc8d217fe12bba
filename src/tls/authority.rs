//! From a cookie to certificates: the same cookie and mesh give the same authority on every node, and each node issues
//! its own leaf from it.
//!
//! Nothing here expires. Whoever holds the cookie can issue a new leaf at any time, so an end date would stop no one, and
//! a machine with a wrong clock would drop out of its mesh. A leaf's key lives in the memory of one process only.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::cookie::{Cookie, hex};
use super::identity::PeerIdentity;
use super::{Credentials, DNS_NAME, TlsError};

/// An Ed25519 private key as PKCS #8 (RFC 8410 section 7), up to the 32 bytes of the seed.
const PKCS8_ED25519: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The roots of all cookies, and a fresh leaf of the first.
pub(super) fn credentials(
    cookies: &[Cookie],
    identity: &PeerIdentity,
) -> Result<Credentials, TlsError> {
    let first = cookies.first().ok_or(TlsError::NoRoots)?;
    let mut roots = RootCertStore::empty();
    for cookie in cookies {
        let (params, key) = authority(cookie, &identity.mesh)?;
        roots.add(params.self_signed(&key)?.into())?;
    }
    let (params, key) = authority(first, &identity.mesh)?;
    let leaf_key = KeyPair::generate_for(&PKCS_ED25519)?;
    let leaf = leaf(identity)?.signed_by(&leaf_key, &Issuer::from_params(&params, key))?;
    Ok(Credentials {
        roots,
        chain: vec![leaf.into()],
        key: PrivateKeyDer::Pkcs8(leaf_key.serialize_der().into()),
        ids: cookies.iter().map(|cookie| cookie.id(&identity.mesh)).collect(),
        certificates: Vec::new(),
    })
}

fn authority(cookie: &Cookie, mesh: &str) -> Result<(CertificateParams, KeyPair), TlsError> {
    let mut pkcs8 = PKCS8_ED25519.to_vec();
    pkcs8.extend_from_slice(&cookie.derive("authority", mesh));
    let key =
        KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8), &PKCS_ED25519)?;
    // The id in the name makes certificates of another cookie fail as of an unknown issuer, not as forgeries.
    let mut params = for_ever(&format!("pillion {mesh} {}", hex(&cookie.id(mesh))));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok((params, key))
}

fn leaf(identity: &PeerIdentity) -> Result<CertificateParams, TlsError> {
    let mut params = for_ever("pillion");
    params.subject_alt_names =
        vec![SanType::URI(identity.uri().try_into()?), SanType::DnsName(DNS_NAME.try_into()?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn for_ever(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(1970, 1, 1);
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
