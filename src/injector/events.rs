//! Events of Kubernetes: what users see with `kubectl describe` and `kubectl get events`.
//!
//! They are told by the way, one after the other: nobody waits for them, and when too many are waiting, more are left out.
//! An event has a name that follows from what it says about whom, so that replicas and repetitions make one.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use ring::digest::{SHA256, digest};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{ANSWER, chain};
use crate::shutdown::Shutdown;
use crate::tls::cookie::hex;

/// Most events that wait to be told.
const WAITING_MAX: usize = 256;
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
        loop {
            let warning = tokio::select! {
                biased;
                () = shutdown.asked() => return,
                warning = self.warnings.recv() => warning,
            };
            let Some(warning) = warning else { return };
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
    use super::*;

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
