//! One of several replicas: the one that holds the Lease.
//!
//! As client-go does it. Whoever holds the Lease renews it every 2 s; who could not for 10 s holds it no more. The others
//! watch it change, by their own clock: one that has not changed for 15 s is free. So two clocks need not agree, and there
//! are 5 s between the end of one holder and the beginning of the next. A holder that stops gives it back at once.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::Settings;
use super::told::Told;
use crate::backoff::Rng;
use crate::shutdown::Shutdown;

/// How long a Lease that does not change belongs to who holds it.
const LASTS: Duration = Duration::from_secs(15);
/// How long a holder may fail to renew it.
const RENEW_WITHIN: Duration = Duration::from_secs(10);
/// How often it is renewed, or looked at.
const EVERY: Duration = Duration::from_secs(2);
/// How long the API server may take.
const WITHIN: Duration = Duration::from_secs(5);

/// Which Lease, and who wants it.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// Its namespace.
    pub(super) namespace: String,
    /// Its name.
    pub(super) lease: String,
    /// Who we are: different for each replica.
    pub(super) identity: String,
}

impl Candidate {
    /// This replica: the name of its pod, and some chance, for a container that is started again.
    pub(super) fn of(settings: &Settings) -> Self {
        let host = std::env::var("POD_NAME")
            .ok()
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
        let mut random = [0; 4];
        // Without randomness the process tells replicas apart that share a machine.
        if getrandom::fill(&mut random).is_err() {
            random = std::process::id().to_ne_bytes();
        }
        Self {
            namespace: settings.namespace.clone(),
            lease: settings.lease.clone(),
            identity: format!("{host}_{:08x}", u32::from_ne_bytes(random)),
        }
    }
}

/// What was seen of a Lease, and since when it has been like that.
#[derive(Clone, Debug)]
struct Seen {
    version: Option<String>,
    since: Instant,
}

/// What a Lease that was read means for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Ours.
    Mine,
    /// Nobody's, or of somebody who has not been heard of for too long.
    Free,
    /// Somebody else's.
    Taken,
}

fn standing(spec: &LeaseSpec, identity: &str, seen: &Seen, now: Instant) -> Standing {
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    if holder == identity {
        return Standing::Mine;
    }
    let lasts = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let lasts = lasts.map_or(LASTS, Duration::from_secs);
    let old = now.saturating_duration_since(seen.since) >= lasts;
    if holder.is_empty() || old { Standing::Free } else { Standing::Taken }
}

/// Stands for the Lease until shutdown, and tells whether we hold it. Gives it back at the end.
pub(super) async fn stand(
    client: Client,
    candidate: Candidate,
    holds: watch::Sender<bool>,
    mut shutdown: Shutdown,
) {
    let api: Api<Lease> = Api::namespaced(client, &candidate.namespace);
    let mut rng =
        Rng::new(u64::from(std::process::id()) ^ Timestamp::now().as_millisecond().cast_unsigned());
    let mut seen = Seen { version: None, since: Instant::now() };
    let mut renewed: Option<Instant> = None;
    let mut told = Told::default();
    loop {
        let began = Instant::now();
        // Whoever holds it asks no longer than he may hold it without an answer.
        let within = renewed
            .map_or(WITHIN, |at| (at + RENEW_WITHIN).saturating_duration_since(began).min(WITHIN));
        let tried = tokio::select! {
            biased;
            () = shutdown.asked() => break,
            tried = timeout(within, attempt(&api, &candidate, &mut seen)) => tried,
        };
        match tried.unwrap_or_else(|_| Err("the API server does not answer".to_owned())) {
            Ok(true) => {
                told.well();
                renewed = Some(began);
                if !*holds.borrow() {
                    tracing::info!("holds the Lease {}/{}", candidate.namespace, candidate.lease);
                    holds.send_replace(true);
                }
            }
            Ok(false) => {
                told.well();
                lose(&candidate, &holds, &mut renewed);
            }
            Err(why) => {
                let Candidate { namespace, lease, .. } = &candidate;
                told.warn(&format!("the Lease {namespace}/{lease}: {why}; it is tried again"));
                if renewed.is_some_and(|at| at.elapsed() >= RENEW_WITHIN) {
                    lose(&candidate, &holds, &mut renewed);
                }
            }
        }
        // Those who look come apart; who holds it is punctual.
        let jitter = Duration::from_millis(rng.next() % 400);
        let wait = if renewed.is_some() { EVERY } else { EVERY + jitter };
        if shutdown.asked_within(wait.saturating_sub(began.elapsed())).await {
            break;
        }
    }
    // The work ends before the Lease is given back.
    holds.send_replace(false);
    if renewed.is_some() {
        give_back(&api, &candidate).await;
    }
}

fn lose(candidate: &Candidate, holds: &watch::Sender<bool>, renewed: &mut Option<Instant>) {
    *renewed = None;
    if *holds.borrow() {
        tracing::warn!(
            "does not hold the Lease {}/{} any more",
            candidate.namespace,
            candidate.lease
        );
        holds.send_replace(false);
    }
}

/// Reads the Lease and renews or takes it. True when it is ours then.
async fn attempt(api: &Api<Lease>, candidate: &Candidate, seen: &mut Seen) -> Result<bool, String> {
    let found = api.get_opt(&candidate.lease).await.map_err(|error| error.to_string())?;
    let now = MicroTime(Timestamp::now());
    let Some(mut lease) = found else {
        let metadata = ObjectMeta { name: Some(candidate.lease.clone()), ..ObjectMeta::default() };
        let spec = Some(ours(&LeaseSpec::default(), candidate, now, true));
        let lease = Lease { metadata, spec };
        return match api.create(&PostParams::default(), &lease).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error.to_string()),
        };
    };
    if seen.version != lease.metadata.resource_version {
        *seen = Seen { version: lease.metadata.resource_version.clone(), since: Instant::now() };
    }
    let spec = lease.spec.take().unwrap_or_default();
    let taken = match standing(&spec, &candidate.identity, seen, Instant::now()) {
        Standing::Taken => return Ok(false),
        Standing::Mine => false,
        Standing::Free => true,
    };
    lease.spec = Some(ours(&spec, candidate, now, taken));
    match api.replace(&candidate.lease, &PostParams::default(), &lease).await {
        Ok(_) => Ok(true),
        // Somebody was faster; who it is the next look shows.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            if taken {
                Ok(false)
            } else {
                Err("somebody else has written it".to_owned())
            }
        }
        Err(error) => Err(error.to_string()),
    }
}

fn ours(before: &LeaseSpec, candidate: &Candidate, now: MicroTime, taken: bool) -> LeaseSpec {
    let transitions = before.lease_transitions.unwrap_or(0);
    LeaseSpec {
        holder_identity: Some(candidate.identity.clone()),
        lease_duration_seconds: i32::try_from(LASTS.as_secs()).ok(),
        acquire_time: if taken { Some(now.clone()) } else { before.acquire_time.clone() },
        renew_time: Some(now),
        lease_transitions: Some(if taken { transitions.saturating_add(1) } else { transitions }),
        ..before.clone()
    }
}

/// So that the next holder need not wait for it to lapse. A failure costs 15 s and nothing else.
async fn give_back(api: &Api<Lease>, candidate: &Candidate) {
    let given = async {
        let mut lease = api.get(&candidate.lease).await?;
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&candidate.identity) {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            api.replace(&candidate.lease, &PostParams::default(), &lease).await?;
        }
        Ok::<_, kube::Error>(())
    };
    match timeout(WITHIN, given).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::info!("the Lease was not given back ({error}); it lapses"),
        Err(_) => tracing::info!("the Lease was not given back in time; it lapses"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(holder: &str, seconds: Option<i32>) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: seconds,
            ..LeaseSpec::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_free_when_nobody_holds_it_or_it_has_not_changed_for_as_long_as_it_says() {
        let began = Instant::now();
        let seen = Seen { version: Some("1".to_owned()), since: began };
        let at = |seconds| began + Duration::from_secs(seconds);
        let stands = |spec: &LeaseSpec, now| standing(spec, "me", &seen, now);
        assert_eq!(stands(&LeaseSpec::default(), began), Standing::Free);
        assert_eq!(stands(&spec("", Some(15)), began), Standing::Free);
        assert_eq!(stands(&spec("me", Some(15)), at(100)), Standing::Mine);
        assert_eq!(stands(&spec("you", Some(15)), at(14)), Standing::Taken);
        assert_eq!(stands(&spec("you", Some(15)), at(15)), Standing::Free);
        assert_eq!(stands(&spec("you", Some(40)), at(39)), Standing::Taken);
        assert_eq!(stands(&spec("you", None), at(15)), Standing::Free);
        assert_eq!(stands(&spec("you", Some(-1)), at(14)), Standing::Taken);
    }

    #[tokio::test]
    async fn whoever_takes_a_lease_counts_it_and_whoever_renews_it_does_not() {
        let candidate = Candidate {
            namespace: "n".to_owned(),
            lease: "l".to_owned(),
            identity: "me".to_owned(),
        };
        let now = || MicroTime(Timestamp::now());
        let first = ours(&spec("you", Some(15)), &candidate, now(), true);
        assert_eq!(first.lease_transitions, Some(1));
        assert_eq!(first.holder_identity.as_deref(), Some("me"));
        let again = ours(&first, &candidate, now(), false);
        assert_eq!((again.lease_transitions, again.acquire_time), (Some(1), first.acquire_time));
    }
}
