//! The certificate that the API server sees, and the `caBundle` by which it believes it.
//!
//! The certificate lies in a Secret that all replicas share; whoever finds it missing or two thirds through its life makes
//! a new one, and who writes second takes what the first one wrote. Ready is who shows a certificate that the webhook's
//! configuration, as it is, lets the API server believe.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation, TestOperation};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watch_object};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::authority::Authority;
use super::server::Shown;
use super::told::Told;
use super::{ANSWER, Injector, chain, lasts, since_1970, store};
use crate::backoff::{Backoff, Rng};
use crate::shutdown::Shutdown;

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// The clock is looked at no more seldom than this: a machine's may be set, and machines sleep.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Nor oftener, where all is well.
const LOOK_MIN: Duration = Duration::from_secs(1);

/// A certificate with its key.
struct Leaf {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<CertifiedKey>,
    /// From when to when it is good, since 1970.
    from: Duration,
    until: Duration,
}

impl Leaf {
    fn read(chain_pem: &str, key_pem: &str) -> Result<Self, String> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| format!("its {CERTIFICATE} is no PEM: {error}"))?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|error| format!("its {KEY} is no PEM: {error}"))?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key)
            .map_err(|error| format!("its {KEY} cannot be used: {error}"))?;
        let first = chain.first().ok_or_else(|| format!("its {CERTIFICATE} has no certificate"))?;
        let (_, parsed) = X509Certificate::from_der(first)
            .map_err(|error| format!("its {CERTIFICATE}: {error}"))?;
        let seconds = |time: i64| Duration::from_secs(u64::try_from(time).unwrap_or_default());
        let validity = parsed.validity();
        let (from, until) =
            (seconds(validity.not_before.timestamp()), seconds(validity.not_after.timestamp()));
        let certified = CertifiedKey::new(chain.clone(), key);
        certified.keys_match().map_err(|_| format!("its {KEY} does not fit its {CERTIFICATE}"))?;
        Ok(Self { chain, key: Arc::new(certified), from, until })
    }

    /// When a new one has to be made: two thirds through its life.
    fn due(&self) -> Duration {
        self.from + self.until.saturating_sub(self.from) * 2 / 3
    }

    /// Whether who believes these anchors takes it for these names now.
    fn believed(
        &self,
        anchors: &[CertificateDer<'static>],
        names: &[String],
        now: Duration,
    ) -> Result<(), String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(anchors.iter().cloned());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| error.to_string())?;
        let (first, others) = self.chain.split_first().ok_or("there is no certificate")?;
        let now = UnixTime::since_unix_epoch(now);
        for name in names {
            let name =
                ServerName::try_from(name.as_str()).map_err(|_| format!("{name} is no name"))?;
            verifier
                .verify_server_cert(first, others, &name, &[], now)
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

/// Makes a certificate for these names: P-256, because API servers of some clouds refuse Ed25519.
fn make(
    authority: &Authority,
    names: &[String],
    lifetime: Duration,
) -> Result<[String; 2], rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(names)?;
    lasts(&mut params, lifetime);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "pillion injector");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok([authority.sign(&params, &key)?.pem(), key.serialize_pem()])
}

fn pem(bundle: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(bundle).filter_map(Result::ok).collect()
}

/// An object of the API server's, as far as it is known.
#[derive(Clone)]
enum Seen<T> {
    NotYet,
    Absent,
    There(T),
}

impl<T> From<Option<T>> for Seen<T> {
    fn from(found: Option<T>) -> Self {
        found.map_or(Self::Absent, Self::There)
    }
}

/// What the keeper knows.
struct Keeper {
    injector: Injector,
    shown: Arc<Shown>,
    secrets: Api<Secret>,
    webhooks: Api<MutatingWebhookConfiguration>,
    /// What the certificate has to be good for.
    names: Vec<String>,
    /// As it was last seen; nothing until then.
    secret: Seen<Secret>,
    webhook: Seen<MutatingWebhookConfiguration>,
    leaf: Option<Leaf>,
    /// Somebody else wrote the Secret or the configuration first: what they wrote is looked at again soon.
    outrun: bool,
    told: Told,
    /// The anchors have changed: bundles are written even when they only have too many.
    exact: bool,
}

/// Keeps the certificate and the `caBundle` good until it is asked to stop. It does something when one of them, or the
/// authority, changes, and when the certificate is due.
pub(crate) async fn keep(injector: Injector, shown: Arc<Shown>, mut shutdown: Shutdown) {
    let settings = Arc::clone(&injector.settings);
    let secrets: Api<Secret> = Api::namespaced(injector.client.clone(), &settings.namespace);
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(injector.client.clone());
    let mut secret_is = pin!(store::follow(&secrets, &settings.tls_secret));
    let mut webhook_is = pin!(follow(&webhooks, &settings.webhook));
    let mut authority = injector.authority.clone();
    let mut names = vec![format!("{}.{}.svc", settings.service, settings.namespace)];
    names.extend(settings.hosts.iter().cloned());
    let mut keeper = Keeper {
        injector,
        shown,
        secrets,
        webhooks,
        names,
        secret: Seen::NotYet,
        webhook: Seen::NotYet,
        leaf: None,
        outrun: false,
        told: Told::default(),
        exact: true,
    };
    let (mut backoff, mut rng) = (Backoff::default(), Rng::new(u64::from(std::process::id())));
    let mut look = Instant::now() + LOOK_EVERY;
    loop {
        tokio::select! {
            biased;
            () = shutdown.asked() => return,
            Ok(()) = authority.changed() => keeper.exact = true,
            Some(found) = secret_is.next() => match found {
                Ok(secret) => keeper.secret = secret.into(),
                Err(error) => {
                    let name = &settings.tls_secret;
                    let said = format!("the Secret {name} cannot be read: {}", chain(&error));
                    let known = !matches!(keeper.secret, Seen::NotYet);
                    keeper.unseen("certificate", known, said);
                    continue;
                }
            },
            Some(found) = webhook_is.next() => match found {
                Ok(webhook) => keeper.webhook = webhook.into(),
                Err(error) => {
                    let name = &settings.webhook;
                    let said = format!("the MutatingWebhookConfiguration {name} cannot be read: {}", chain(&error));
                    let known = !matches!(keeper.webhook, Seen::NotYet);
                    keeper.unseen("webhook", known, said);
                    continue;
                }
            },
            () = sleep_until(look) => {}
        }
        let now = since_1970();
        keeper.outrun = false;
        let certificate = keeper.settle_certificate(now).await;
        let webhook = keeper.settle_webhook(now).await;
        let failed = certificate.is_err() || webhook.is_err() || keeper.outrun;
        for (part, result) in [("certificate", certificate), ("webhook", webhook)] {
            match result {
                Ok(true) => keeper.injector.health.well(part),
                // It goes on when something comes.
                Ok(false) => {}
                Err(why) => keeper.injector.health.unwell(part, why),
            }
        }
        let due =
            keeper.leaf.as_ref().map_or(LOOK_EVERY, |leaf| leaf.due().saturating_sub(since_1970()));
        // What is due and was not mended yet is on its way through the API server, or failed.
        let wait = if failed {
            backoff.next(store::WAITS, &mut rng)
        } else {
            backoff.reset();
            due.clamp(LOOK_MIN, LOOK_EVERY)
        };
        look = Instant::now() + wait;
    }
}

fn follow(
    api: &Api<MutatingWebhookConfiguration>,
    name: &str,
) -> impl Stream<Item = watcher::Result<Option<MutatingWebhookConfiguration>>> + Send + use<> {
    watch_object(api.clone(), name).default_backoff()
}

impl Keeper {
    /// Something cannot be watched. What was seen of it is used: a watch that goes on tells nothing until there is news, so
    /// nobody would say that all is well again.
    fn unseen(&mut self, part: &'static str, known: bool, why: String) {
        if known {
            self.told.warn(&format!("{why}; what is known of it is used meanwhile"));
        } else {
            self.injector.health.unwell(part, why);
        }
    }

    /// Shows the Secret's certificate, or makes a better one; whether a good one is shown.
    async fn settle_certificate(&mut self, now: Duration) -> Result<bool, String> {
        let settings = Arc::clone(&self.injector.settings);
        let name = &settings.tls_secret;
        let secret = match self.secret.clone() {
            Seen::NotYet => return Ok(false),
            Seen::Absent => None,
            Seen::There(secret) => Some(secret),
        };
        let texts = (store::text(secret.as_ref(), CERTIFICATE), store::text(secret.as_ref(), KEY));
        let read = match texts {
            (Some(chain), Some(key)) => Leaf::read(chain, key),
            _ => Err("it is empty".to_owned()),
        };
        let Some(authority) = self.injector.authority.borrow().clone() else { return Ok(false) };
        let why = match read {
            Ok(leaf) => match leaf.believed(authority.anchors(), &self.names, now) {
                Ok(()) => {
                    let due = leaf.due() <= now;
                    // While everybody still believes it: an anchor goes at different times in different places.
                    let retiring = authority.retiring();
                    let retires =
                        !retiring.is_empty() && leaf.believed(retiring, &self.names, now).is_ok();
                    self.show(leaf);
                    if retires {
                        "the authority that signed it signs no more".to_owned()
                    } else if due {
                        "two thirds of its life are over".to_owned()
                    } else {
                        return Ok(true);
                    }
                }
                Err(why) => why,
            },
            Err(why) => why,
        };
        let [chain, key] = make(&authority, &self.names, settings.tls_lifetime)
            .map_err(|error| format!("no certificate can be made: {error}"))?;
        let texts = [(CERTIFICATE, chain), (KEY, key)];
        match store::write(&self.secrets, name, secret.as_ref(), &texts).await? {
            store::Written::Outrun => self.outrun = true,
            store::Written::Done => {
                self.injector.health.certificates.inc();
                let names = self.names.join(", ");
                tracing::info!(
                    "a new certificate for {names}: the one in the Secret {name}: {why}"
                );
            }
        }
        // Whoever wrote it: it comes as a change of the Secret.
        Ok(self.leaf.is_some())
    }

    fn show(&mut self, leaf: Leaf) {
        let news = self.leaf.as_ref().is_none_or(|shown| shown.chain != leaf.chain);
        if news {
            self.shown.show(Arc::clone(&leaf.key));
            self.injector
                .health
                .certificate_ends
                .set(i64::try_from(leaf.until.as_secs()).unwrap_or(i64::MAX));
        }
        self.leaf = Some(leaf);
    }

    /// Writes the `caBundle` where it lacks an anchor; whether the certificate is believed everywhere.
    async fn settle_webhook(&mut self, now: Duration) -> Result<bool, String> {
        let name = &self.injector.settings.webhook;
        let found = match &self.webhook {
            Seen::NotYet => return Ok(false),
            Seen::Absent => {
                return Err(format!(
                    "there is no MutatingWebhookConfiguration {name}: is the chart installed?"
                ));
            }
            Seen::There(found) => found,
        };
        let hooks = found.webhooks.as_deref().unwrap_or_default();
        if hooks.is_empty() {
            return Err(format!("the MutatingWebhookConfiguration {name} has no webhook"));
        }
        let Some(authority) = self.injector.authority.borrow().clone() else {
            return Ok(false);
        };
        let mut operations = Vec::new();
        for (at, hook) in hooks.iter().enumerate() {
            let bundle = hook.client_config.ca_bundle.as_ref().map_or(&[][..], |bundle| &bundle.0);
            let there = pem(bundle);
            let lacks = authority.anchors().iter().any(|anchor| !there.contains(anchor));
            if lacks || self.exact && bundle != authority.anchors_pem().as_bytes() {
                operations.push(at);
            }
        }
        if !operations.is_empty() {
            let patch = bundles(found, &operations, authority.anchors_pem());
            let written = self.write(&patch).await?;
            if written {
                tracing::info!(
                    "the caBundle of the MutatingWebhookConfiguration {name} is written"
                );
            }
            self.outrun |= !written;
            // What became of it comes as a change.
            return Ok(false);
        }
        self.exact = false;
        let Some(leaf) = &self.leaf else { return Ok(false) };
        for hook in hooks {
            let bundle = hook.client_config.ca_bundle.as_ref().map_or(&[][..], |bundle| &bundle.0);
            let names = &self.names[..1];
            leaf.believed(&pem(bundle), names, now).map_err(|why| {
                format!(
                    "the API server does not believe this injector, by the caBundle of {}: {why}",
                    hook.name
                )
            })?;
        }
        Ok(true)
    }

    /// Whether it was written; not when somebody else has written since it was read.
    async fn write(&self, patch: &json_patch::Patch) -> Result<bool, String> {
        let name = &self.injector.settings.webhook;
        let patch = Patch::<MutatingWebhookConfiguration>::Json(patch.clone());
        match timeout(ANSWER, self.webhooks.patch(name, &PatchParams::default(), &patch)).await {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 || status.code == 422 => {
                Ok(false)
            }
            Ok(Err(error)) => Err(format!("its caBundle cannot be written: {}", chain(&error))),
            Err(_) => {
                Err("its caBundle cannot be written: the API server does not answer".to_owned())
            }
        }
    }
}

/// Writes the bundle into these webhooks, if nobody has changed the configuration since.
fn bundles(
    found: &MutatingWebhookConfiguration,
    hooks: &[usize],
    bundle: &str,
) -> json_patch::Patch {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(bundle);
    let mut operations = vec![PatchOperation::Test(TestOperation {
        path: PointerBuf::from_tokens(["metadata", "resourceVersion"]),
        value: json!(found.metadata.resource_version),
    })];
    operations.extend(hooks.iter().map(|at| {
        let at = at.to_string();
        let path = PointerBuf::from_tokens(["webhooks", at.as_str(), "clientConfig", "caBundle"]);
        PatchOperation::Add(AddOperation { path, value: json!(encoded) })
    }));
    json_patch::Patch(operations)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn leaf(authority: &Authority, names: &[&str], lifetime: Duration) -> Leaf {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let [chain, key] = make(authority, &names, lifetime).expect("a certificate");
        Leaf::read(&chain, &key).expect("it is read again")
    }

    #[test]
    fn a_certificate_is_believed_for_its_names_and_its_time_by_who_has_its_authority() {
        let (ours, other) = (Authority::new("a").expect("one"), Authority::new("b").expect("one"));
        let leaf = leaf(&ours, &["pillion-injector.pillion.svc", "127.0.0.1"], HOUR);
        let now = since_1970();
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let good = names(&["pillion-injector.pillion.svc", "127.0.0.1"]);
        assert_eq!(leaf.believed(ours.anchors(), &good, now), Ok(()));
        let both: Vec<_> = [other.anchors(), ours.anchors()].concat();
        assert_eq!(leaf.believed(&both, &good, now), Ok(()), "while an authority is exchanged");
        assert!(leaf.believed(other.anchors(), &good, now).is_err(), "another authority");
        assert!(
            leaf.believed(ours.anchors(), &names(&["example.org"]), now).is_err(),
            "another name"
        );
        assert!(leaf.believed(ours.anchors(), &good, now + 2 * HOUR).is_err(), "expired");
        assert!(leaf.believed(ours.anchors(), &good, now.saturating_sub(HOUR)).is_err(), "not yet");
        assert!(leaf.believed(&[], &good, now).is_err(), "nobody");
    }

    #[test]
    fn a_certificate_is_due_two_thirds_through_its_life() {
        let authority = Authority::new("a").expect("one");
        let leaf = leaf(&authority, &["a.b.svc"], 90 * 24 * HOUR);
        let life = leaf.until.saturating_sub(leaf.from);
        assert_eq!(leaf.due().saturating_sub(leaf.from), life * 2 / 3);
        assert!(leaf.from < since_1970(), "clocks differ");
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let authority = Authority::new("a").expect("one");
        let names = ["a.b.svc".to_owned()];
        let [chain, key] = make(&authority, &names, HOUR).expect("one");
        let [_, other] = make(&authority, &names, HOUR).expect("another");
        assert!(Leaf::read(&chain, &key).is_ok());
        for (chain, key, words) in [
            (chain.as_str(), other.as_str(), "does not fit"),
            ("", key.as_str(), "has no certificate"),
            (chain.as_str(), "nonsense", "is no PEM"),
        ] {
            let said = Leaf::read(chain, key).err().expect(words);
            assert!(said.contains(words), "{said}");
        }
    }
}
