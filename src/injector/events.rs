//! Events of Kubernetes: what users see with `kubectl describe` and `kubectl get events`.
//!
//! They are told by the way, one after the other: nobody waits for them, and when too many are waiting, more are left out. The
//! API server keeps each for an hour, and whoever reaches the webhook can have them told: so there are never many.
//! An event has a name that follows from what it says about whom, so that replicas and repetitions make one.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use ring::digest::{SHA256, digest};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::{ANSWER, chain};
use crate::shutdown::Shutdown;
use crate::tls::cookie::hex;

/// Most events that wait to be told.
const WAITING_MAX: usize = 256;
/// Most that are told at once, and when one more may be.
const AT_ONCE: u64 = 64;
const ONE_MORE: Duration = Duration::from_secs(1);
/// Longest text, in bytes: the API server takes 1024.
const NOTE_BYTES_MAX: usize = 1000;
const CONTROLLER: &str = "pillion.dev/injector";

/// A warning about an object.
#[derive(Clone, Debug)]
pub(crate) struct Warning {
    /// Whom it is about; its namespace is the event's.
    pub about: ObjectReference,
    /// One word in CamelCase, for machines.
    pub reason: &'static str,
    /// What was done or left, as a verb: `Injecting`.
    pub action: &'static str,
    /// For people.
    pub note: String,
}

/// Where warnings are left. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Events(mpsc::Sender<Warning>);

/// Tells them.
pub(crate) struct Told {
    client: Client,
    warnings: mpsc::Receiver<Warning>,
}

/// Where warnings are left, and who tells them.
pub(crate) fn channel(client: Client) -> (Events, Told) {
    let (sender, warnings) = mpsc::channel(WAITING_MAX);
    (Events(sender), Told { client, warnings })
}

impl Events {
    /// Leaves a warning to be told; when too many are waiting it is left out, and logged.
    pub(crate) fn warn(&self, warning: Warning) {
        if let Err(error) = self.0.try_send(warning) {
            tracing::debug!("an event is left out: {error}");
        }
    }
}

impl Told {
    /// How many are waiting.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.warnings.len()
    }

    /// Tells what is left, until it is asked to stop.
    pub(crate) async fn run(mut self, mut shutdown: Shutdown) {
        let (mut left, mut since) = (AT_ONCE, Instant::now());
        loop {
            let warning = tokio::select! {
                biased;
                () = shutdown.asked() => return,
                warning = self.warnings.recv() => warning,
            };
            let Some(warning) = warning else { return };
            if left == 0 && shutdown.asked_within(ONE_MORE.saturating_sub(since.elapsed())).await {
                return;
            }
            let more = since.elapsed().as_secs() / ONE_MORE.as_secs();
            since += ONE_MORE * u32::try_from(more).unwrap_or(u32::MAX);
            left = left.saturating_add(more).min(AT_ONCE).saturating_sub(1);
            let event = event(&warning, Timestamp::now());
            let namespace = event.metadata.namespace.clone().unwrap_or_default();
            let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
            match timeout(ANSWER, api.create(&PostParams::default(), &event)).await {
                Ok(Ok(_)) => {}
                // It was told already, perhaps by another replica.
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
                Ok(Err(error)) => tracing::debug!("an event is left out: {}", chain(&error)),
                Err(_) => tracing::debug!("an event is left out: the API server does not answer"),
            }
        }
    }
}

fn event(warning: &Warning, now: Timestamp) -> Event {
    let Warning { about, reason, action, note } = warning;
    let name = about.name.clone().unwrap_or_default();
    let said = [about.uid.as_deref().unwrap_or_default(), reason, note].join("\n");
    let hash = digest(&SHA256, said.as_bytes());
    let hash = hex(&hash.as_ref()[..8]);
    let mut end = note.len().min(NOTE_BYTES_MAX);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    Event {
        metadata: ObjectMeta {
            // A name is at most 253 bytes long.
            name: Some(format!("{}.{hash}", name.chars().take(200).collect::<String>())),
            namespace: about.namespace.clone(),
            ..ObjectMeta::default()
        },
        regarding: Some(about.clone()),
        type_: Some("Warning".to_owned()),
        reason: Some((*reason).to_owned()),
        action: Some((*action).to_owned()),
        note: Some(note[..end].to_owned()),
        event_time: Some(MicroTime(now)),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(CONTROLLER.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{Ready, ready};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll};

    use axum::http;
    use kube::client::Body;

    use super::*;
    use crate::shutdown;

    /// Is told events, and has them already.
    #[derive(Clone)]
    struct Server(Arc<AtomicUsize>);

    impl tower_service::Service<http::Request<Body>> for Server {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: http::Request<Body>) -> Self::Future {
            self.0.fetch_add(1, Ordering::Relaxed);
            let said = br#"{"status": "Failure", "reason": "AlreadyExists", "code": 409}"#;
            let mut answer = http::Response::new(Body::from(said.to_vec()));
            *answer.status_mut() = http::StatusCode::CONFLICT;
            ready(Ok(answer))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_warnings_told_cannot_fill_the_api_server_with_events() {
        let asked = Arc::new(AtomicUsize::new(0));
        let (events, told) = channel(Client::new(Server(Arc::clone(&asked)), "default"));
        for number in 0..2 * WAITING_MAX {
            events.warn(Warning {
                about: ObjectReference::default(),
                reason: "BadAnnotation",
                action: "Injecting",
                note: number.to_string(),
            });
        }
        let (_trigger, shutdown) = shutdown::channel();
        let telling = tokio::spawn(told.run(shutdown));
        let burst = usize::try_from(AT_ONCE).expect("it fits");
        for (seconds, told) in [(0, burst), (10, burst + 10), (1000, WAITING_MAX)] {
            tokio::time::sleep(ONE_MORE * seconds + ONE_MORE / 2).await;
            // Half a second after each of these.
            let so_far = asked.load(Ordering::Relaxed);
            assert!((told..=told + 1).contains(&so_far), "{so_far} of {told} after {seconds} s");
        }
        drop(events);
        telling.await.expect("no panic");
    }

    #[test]
    fn the_same_said_of_the_same_object_is_one_event() {
        let warning = |uid: &str, note: &str| Warning {
            about: ObjectReference {
                name: Some("web".into()),
                namespace: Some("shop".into()),
                uid: Some(uid.into()),
                ..ObjectReference::default()
            },
            reason: "BadAnnotation",
            action: "Injecting",
            note: note.into(),
        };
        let name = |uid, note| event(&warning(uid, note), Timestamp::now()).metadata.name;
        assert_eq!(name("1", "a"), name("1", "a"));
        assert_ne!(name("1", "a"), name("2", "a"));
        assert_ne!(name("1", "a"), name("1", "b"));
        let long = event(&warning("1", &"ü".repeat(2000)), Timestamp::now());
        assert_eq!(long.note.map(|note| note.len()), Some(NOTE_BYTES_MAX));
    }
}
