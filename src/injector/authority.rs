//! The certificate authority: kept in a Secret that all replicas share, made by whoever finds it empty.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::watch;

use super::store;
use super::{Injector, chain, lasts};
use crate::shutdown::Shutdown;

const CERTIFICATES: &str = "ca.crt";
const KEY: &str = "ca.key";
/// Ten years.
const LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Who signs, and whom to believe. It does not change; a new one takes its place.
pub(crate) struct Authority {
    anchors: Vec<CertificateDer<'static>>,
    anchors_pem: String,
    key_pem: String,
}

impl Authority {
    /// Every certificate that is believed, PEM, the one that signs first.
    pub(crate) fn anchors_pem(&self) -> &str {
        &self.anchors_pem
    }

    /// The same, DER.
    pub(crate) fn anchors(&self) -> &[CertificateDer<'static>] {
        &self.anchors
    }

    /// Signs a certificate for this key.
    pub(crate) fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<rcgen::Certificate, rcgen::Error> {
        let own = KeyPair::from_pem(&self.key_pem)?;
        let first = self.anchors.first().ok_or(rcgen::Error::CouldNotParseCertificate)?;
        params.signed_by(key, &Issuer::from_ca_cert_der(first, own)?)
    }

    pub(crate) fn new(name: &str) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        lasts(&mut params, LIFETIME);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self::read(&params.self_signed(&key)?.pem(), &key.serialize_pem())
    }

    fn read(anchors_pem: &str, key_pem: &str) -> Result<Self, rcgen::Error> {
        let anchors: Vec<_> = CertificateDer::pem_slice_iter(anchors_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        let first = anchors.first().ok_or(rcgen::Error::CouldNotParseCertificate)?;
        Issuer::from_ca_cert_der(first, KeyPair::from_pem(key_pem)?)?;
        Ok(Self { anchors, anchors_pem: anchors_pem.to_owned(), key_pem: key_pem.to_owned() })
    }
}

/// Reads the authority from its Secret again after each change, and makes one when there is none.
pub(crate) async fn keep(
    injector: Injector,
    authority: watch::Sender<Option<Arc<Authority>>>,
    mut shutdown: Shutdown,
) {
    let name = &injector.settings.ca_secret;
    let api: Api<Secret> = Api::namespaced(injector.client.clone(), &injector.settings.namespace);
    let mut secrets = pin!(store::follow(&api, name));
    let told = |why: String| injector.health.unwell("authority", why);
    loop {
        let found = tokio::select! {
            biased;
            () = shutdown.asked() => return,
            Some(found) = secrets.next() => found,
            else => return,
        };
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                told(format!("the Secret {name} cannot be read: {}", chain(&error)));
                continue;
            }
        };
        match (store::text(found.as_ref(), CERTIFICATES), store::text(found.as_ref(), KEY)) {
            (Some(certificates), Some(key)) => match Authority::read(certificates, key) {
                Ok(read) => {
                    authority.send_if_modified(|now| {
                        let news =
                            now.as_ref().is_none_or(|now| now.anchors_pem != read.anchors_pem);
                        if news {
                            *now = Some(Arc::new(read));
                        }
                        news
                    });
                    injector.health.well("authority");
                }
                Err(error) => told(format!(
                    "the Secret {name} has a {CERTIFICATES} and a {KEY} that cannot be used: {error}. Empty it, so that new ones are made"
                )),
            },
            _ => {
                let made = match Authority::new(&format!("pillion {}", injector.settings.namespace))
                {
                    Ok(made) => made,
                    Err(error) => {
                        told(format!("no key can be made: {error}"));
                        continue;
                    }
                };
                let texts = [(CERTIFICATES, made.anchors_pem), (KEY, made.key_pem)];
                while let Err(why) = store::write(&api, name, found.as_ref(), &texts).await {
                    told(why);
                    if shutdown.asked_within(store::AGAIN).await {
                        return;
                    }
                }
            }
        }
    }
}
