//! An authority of a test: it signs what it is told to, also what no injector would.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A day, as the injector gives it.
pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    certificate: rcgen::Certificate,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).expect("a certificate");
        Self { params, key, certificate }
    }

    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    /// What the injector would sign for this request, for this identity.
    pub(crate) fn issue(&self, csr: &str, uri: &str) -> String {
        let now = SystemTime::now();
        self.sign(csr, uri, now - Duration::from_secs(300), now + DAY)
    }

    pub(crate) fn sign(&self, csr: &str, uri: &str, from: SystemTime, to: SystemTime) -> String {
        let request = CertificateSigningRequestParams::from_pem(csr).expect("a request");
        let uri = SanType::URI(uri.to_owned().try_into().expect("a URI"));
        self.leaf(uri, from, to, &request.public_key)
    }

    /// A certificate for a server of this name, and its key.
    pub(crate) fn serving(&self, name: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        (certificate.der().clone(), PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    }

    fn leaf(
        &self,
        uri: SanType,
        from: SystemTime,
        to: SystemTime,
        key: &impl PublicKeyData,
    ) -> String {
        let at = |time: SystemTime| {
            rcgen::date_time_ymd(1970, 1, 1) + time.duration_since(UNIX_EPOCH).expect("after 1970")
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (at(from), at(to));
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(key, &issuer).expect("a certificate").pem()
    }
}
