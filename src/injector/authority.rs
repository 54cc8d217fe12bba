//! The authority of the mesh: kept in a Secret, the same for every replica, replaced in time.
//!
//! The Secret is shipped empty by the chart, so that an upgrade keeps what is in it and an uninstall removes it. Every
//! replica reads it, works out what is due by its own clock, and writes under the version that it has read: of two that
//! begin at once one is refused and takes what the other wrote. A new authority is an anchor long before it signs, and the
//! old one an anchor until the last certificate that it signed has ended: so nobody is ever shown a certificate of an
//! authority that he has not heard of.
//!
//! `authorities.json` holds the keys. `ca.crt` is for people and for other tools: the anchors as PEM, the one that signs
//! first. A Secret that comes with `ca.crt` and `ca.key` and nothing else is taken as it is.

mod state;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt as _};
use rcgen::{Certificate, CertificateParams, Issuer, KeyPair, PublicKeyData};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use self::state::State;
use super::told::Told;
use super::{Injector, chain, since_1970, store};
use crate::backoff::{Backoff, Rng};
use crate::shutdown::Shutdown;
use crate::tls;

/// The anchors as PEM.
const CERTIFICATES: &str = "ca.crt";
/// The key of the first of them, where somebody brought both.
const KEY: &str = "ca.key";
/// All that is known of the authorities, their keys included.
const STATE: &str = "authorities.json";
/// A new value of this annotation on the Secret asks for a new authority.
pub(super) const ROTATE: &str = "pillion.dev/rotate";
/// The longest wait for something that is due: clocks are set, and machines sleep.
const LOOK: Duration = Duration::from_secs(60);

/// How long things last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// An authority. It is replaced when a third of this is left.
    pub authority: Duration,
    /// From the day a new authority is an anchor until it signs.
    pub publish: Duration,
    /// A node's certificate.
    pub leaf: Duration,
}

impl Times {
    /// Whether everybody hears of a new authority before it signs, and of the last one until all it signed has ended.
    ///
    /// # Errors
    /// What does not fit, in words.
    pub(super) fn check(self) -> Result<(), String> {
        if self.publish < self.leaf / 3 * 2 {
            return Err(format!(
                "a new authority signs after {:?}, and sidecars hear of it within two thirds of {:?}: make --ca-publish longer or --leaf-lifetime shorter",
                self.publish, self.leaf
            ));
        }
        if self.authority / 3 < self.publish + self.leaf {
            return Err(format!(
                "an authority of {:?} has less left when it is replaced than that takes: make --ca-lifetime three times as long as --ca-publish and --leaf-lifetime together",
                self.authority
            ));
        }
        Ok(())
    }
}

impl Default for Times {
    /// Ten years, a day, a day: nodes ask anew after two thirds of the last, so each has heard of a new anchor in time.
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self { authority: 3650 * DAY, publish: DAY, leaf: DAY }
    }
}

/// What signs at the moment, and whom to believe. Replaced whole whenever that changes.
pub(crate) struct Authority {
    anchors: Vec<CertificateDer<'static>>,
    anchors_pem: String,
    retiring: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
    until: SystemTime,
    leaf: Duration,
}

impl Authority {
    /// All anchors as PEM, the one that signs first.
    pub(crate) fn anchors_pem(&self) -> &str {
        &self.anchors_pem
    }

    /// The same, DER.
    pub(crate) fn anchors(&self) -> &[CertificateDer<'static>] {
        &self.anchors
    }

    /// Those of them that sign no more. What they signed should be made anew before they are gone.
    pub(crate) fn retiring(&self) -> &[CertificateDer<'static>] {
        &self.retiring
    }

    /// Signs a certificate. Whoever calls this has decided who may have it.
    ///
    /// # Errors
    /// Those of rcgen: what is asked for cannot be written down.
    pub(crate) fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<Certificate, rcgen::Error> {
        params.signed_by(key, &self.issuer)
    }

    /// When what signs now ends: nothing that it signs may last longer.
    pub(crate) fn until(&self) -> SystemTime {
        self.until
    }

    /// How long a node's certificate lasts.
    pub(crate) fn leaf(&self) -> Duration {
        self.leaf
    }

    /// What signs at this time, by what is kept.
    fn of(state: &State, now: u64, times: Times) -> Result<Self, String> {
        let words = |error: &dyn std::error::Error| error.to_string();
        let (issuer, until) = state.signing(now).map_err(|error| words(&error))?;
        let anchors_pem = state.anchors(now);
        let anchors = tls::anchors(&anchors_pem).map_err(|error| words(&error))?;
        let retiring = match state.retiring(now) {
            pem if pem.is_empty() => Vec::new(),
            pem => tls::anchors(&pem).map_err(|error| words(&error))?,
        };
        let until = SystemTime::UNIX_EPOCH + Duration::from_secs(until);
        Ok(Self { anchors, anchors_pem, retiring, issuer, until, leaf: times.leaf })
    }

    /// One of its own, for a test.
    #[cfg(test)]
    pub(crate) fn new(_: &str) -> Result<Self, String> {
        let (mut state, now) = (State::default(), since_1970().as_secs());
        state.advance(now, Times::default(), None).map_err(|error| error.to_string())?;
        Self::of(&state, now, Times::default())
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("until", &self.until).finish_non_exhaustive()
    }
}

/// Keeps the authority until shutdown: fills the Secret, replaces what is old, and tells each change.
pub(crate) async fn keep(
    injector: Injector,
    tell: watch::Sender<Option<Arc<Authority>>>,
    mut shutdown: Shutdown,
) {
    let api: Api<Secret> = Api::namespaced(injector.client.clone(), &injector.settings.namespace);
    let mut secrets = pin!(store::follow(&api, &injector.settings.ca_secret));
    let mut keeper = Keeper {
        injector: &injector,
        api: &api,
        known: None,
        told: Told::default(),
        backoff: Backoff::default(),
        rng: Rng::new(u64::from(std::process::id())),
        tell,
    };
    let mut found: Option<Option<Secret>> = None;
    let mut due = None;
    loop {
        tokio::select! {
            biased;
            () = shutdown.asked() => return,
            event = secrets.next() => match event {
                Some(Ok(secret)) => found = Some(secret),
                Some(Err(error)) => {
                    let name = &injector.settings.ca_secret;
                    keeper.trouble(format!("the Secret {name} cannot be read: {}", chain(&error)));
                }
                None => return,
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        let Some(found) = &found else { continue };
        let wait = tokio::select! {
            biased;
            () = shutdown.asked() => return,
            wait = keeper.look(found.as_ref()) => wait,
        };
        due = Some(Instant::now() + wait);
    }
}

struct Keeper<'a> {
    injector: &'a Injector,
    api: &'a Api<Secret>,
    known: Option<State>,
    told: Told,
    backoff: Backoff,
    rng: Rng,
    tell: watch::Sender<Option<Arc<Authority>>>,
}

impl Keeper<'_> {
    /// Does with the Secret what is due. For how long it is well then.
    async fn look(&mut self, found: Option<&Secret>) -> Duration {
        let (name, times) = (&self.injector.settings.ca_secret, self.injector.settings.times);
        let now = since_1970().as_secs();
        let worked = match self.state(found, now) {
            Ok(worked) => worked,
            Err(why) => {
                self.trouble(why);
                return LOOK;
            }
        };
        let (state, steps) = worked;
        let written = match state.written() {
            Ok(written) => written,
            Err(error) => {
                self.trouble(error.to_string());
                return LOOK;
            }
        };
        if store::text(found, STATE) != Some(written.as_str()) {
            let texts = [(STATE, written), (CERTIFICATES, state.all())];
            match store::write(self.api, name, found, &texts).await {
                Ok(store::Written::Done) => {
                    for step in steps {
                        tracing::info!("the Secret {name}: {step}");
                    }
                }
                // What somebody else has written comes by itself; until then it is what it was.
                Ok(store::Written::Outrun) => {
                    return self.backoff.next(store::WAITS, &mut self.rng);
                }
                Err(why) => {
                    self.trouble(why);
                    return self.backoff.next(store::WAITS, &mut self.rng);
                }
            }
        }
        self.backoff.reset();
        let next = state.next(now, times).map_or(LOOK, |at| {
            Duration::from_secs(at.saturating_sub(now)).clamp(Duration::from_millis(100), LOOK)
        });
        self.known = Some(state);
        self.publish(now);
        next
    }

    /// What is to be kept: what is there, or what was, and what is due with it.
    fn state(
        &self,
        found: Option<&Secret>,
        now: u64,
    ) -> Result<(State, Vec<&'static str>), String> {
        let name = &self.injector.settings.ca_secret;
        let said = |error: state::StateError| format!("the Secret {name}: {error}");
        let text = |key| store::text(found, key);
        let there = State::read(text(STATE), text(CERTIFICATES), text(KEY)).map_err(said)?;
        let asked = found.and_then(|secret| secret.annotations().get(ROTATE)).map(String::as_str);
        let mut steps = Vec::new();
        let mut state = match (there, &self.known) {
            (Some(there), _) => there,
            // Nobody is to lose what was issued before because somebody has emptied a Secret.
            (None, Some(known)) => {
                steps.push("it was empty, and holds what it held before again");
                known.clone()
            }
            (None, None) => State::default(),
        };
        steps.extend(state.advance(now, self.injector.settings.times, asked).map_err(said)?);
        Ok((state, steps))
    }

    /// Says what is wrong. What is known goes on being used, and what is due of it is done.
    fn trouble(&mut self, why: String) {
        if self.known.is_none() {
            return self.injector.health.unwell("authority", why);
        }
        self.told.warn(&format!("{why}; the authority that is known is used meanwhile"));
        self.publish(since_1970().as_secs());
    }

    /// Tells what signs now, if that is another than before, or if there are other anchors.
    fn publish(&self, now: u64) {
        let Some(known) = &self.known else { return };
        match Authority::of(known, now, self.injector.settings.times) {
            Ok(authority) => {
                self.tell.send_if_modified(|told| {
                    let news =
                        told.as_ref().is_none_or(|told| told.anchors_pem != authority.anchors_pem);
                    if news {
                        *told = Some(Arc::new(authority));
                    }
                    news
                });
                self.injector.health.well("authority");
            }
            Err(why) => self.injector.health.unwell("authority", why),
        }
    }
}
