//! Pods that ask for a sidecar and run without: the webhook was away when they were made, or does not see their
//! namespace. Their users would only find an app without a socket, so it is told: by an event of the pod, a log line and
//! a gauge.

use std::collections::BTreeSet;
use std::pin::pin;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ObjectMeta, PartialObjectMeta};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource as _};
use tokio::time::timeout;

use super::annotations::{INJECT, INJECTED};
use super::events::Warning;
use super::patch::{self, Decision, Sidecar};
use super::told::Told;
use super::{ANSWER, Injector, chain};
use crate::shutdown::Shutdown;

/// More of them are not told one by one.
const MISSED_MAX: usize = 10_000;

/// Watches pods without a sidecar while this replica leads, until it is asked to stop.
pub(crate) async fn watch(injector: Injector, mut shutdown: Shutdown) {
    let mut leading = injector.leading.clone();
    loop {
        tokio::select! {
            biased;
            () = shutdown.asked() => return,
            leads = leading.wait_for(|leads| *leads) => if leads.is_err() { return },
        }
        tokio::select! {
            biased;
            () = shutdown.asked() => return,
            leads = leading.wait_for(|leads| !*leads) => if leads.is_err() { return },
            () = follow(&injector) => {}
        }
        injector.health.missed.set(0);
    }
}

async fn follow(injector: &Injector) {
    // Of each pod only the metadata are sent: that is where it asks.
    let pods: Api<PartialObjectMeta<Pod>> = Api::all(injector.client.clone());
    let without = watcher::Config::default().labels(&format!("{INJECTED}!=true"));
    let mut events = pin!(watcher(pods, without).default_backoff());
    let (mut missed, mut listed) = (BTreeSet::new(), BTreeSet::new());
    let mut told = Told::default();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(pod)) => {
                if let Some(uid) = look(injector, &pod, &missed).await
                    && listed.len() < MISSED_MAX
                {
                    listed.insert(uid);
                }
            }
            Ok(watcher::Event::InitDone) => missed = std::mem::take(&mut listed),
            Ok(watcher::Event::Apply(pod)) => {
                if let Some(uid) = look(injector, &pod, &missed).await
                    && missed.len() < MISSED_MAX
                {
                    missed.insert(uid);
                }
            }
            Ok(watcher::Event::Delete(pod)) => {
                missed.remove(&pod.metadata.uid.unwrap_or_default());
            }
            Err(error) => told.warn(&format!(
                "pods cannot be watched, to find those without a sidecar: {}",
                chain(&error)
            )),
        }
        injector.health.missed.set(i64::try_from(missed.len()).unwrap_or(i64::MAX));
    }
}

/// Whether the metadata mention a sidecar at all.
fn asks(metadata: &ObjectMeta) -> bool {
    [&metadata.annotations, &metadata.labels]
        .into_iter()
        .flatten()
        .any(|texts| texts.contains_key(INJECT))
}

/// The pod's uid when it lacks a sidecar that it should have; told when it is not known yet.
async fn look(
    injector: &Injector,
    pod: &PartialObjectMeta<Pod>,
    known: &BTreeSet<String>,
) -> Option<String> {
    let metadata = &pod.metadata;
    let uid = metadata
        .uid
        .as_ref()
        .filter(|_| asks(metadata) && metadata.deletion_timestamp.is_none())?;
    if known.contains(uid) {
        return Some(uid.clone());
    }
    let (namespace, name) = (metadata.namespace.as_deref()?, metadata.name.as_deref()?);
    let api: Api<Pod> = Api::namespaced(injector.client.clone(), namespace);
    // One that is gone, or that cannot be read now, is looked at when it changes.
    let whole = timeout(ANSWER, api.get(name)).await.ok()?.ok()?;
    let over = whole.status.as_ref().and_then(|status| status.phase.as_deref());
    if whole.metadata.uid.as_ref() != Some(uid) || matches!(over, Some("Succeeded" | "Failed")) {
        return None;
    }
    let about = whole.object_ref(&());
    let sidecar = Sidecar {
        template: &injector.template,
        anchors: "",
        features: injector.features.borrow().unwrap_or_default(),
    };
    let outcome = patch::decide(&serde_json::to_value(&whole).ok()?, &sidecar).ok()?;
    if outcome.result != Decision::Injected {
        return None;
    }
    let note = "This pod asks for a Pillion and has none: the injector did not answer when it was made, or its webhook does not see this namespace. Delete the pod, so that it is made anew.";
    tracing::warn!(
        "pod {name} in {namespace} asks for a sidecar and has none: delete it, so that it is made anew"
    );
    injector.events.warn(Warning {
        about,
        reason: "PillionMissing",
        action: "Watching",
        note: note.to_owned(),
    });
    Some(uid.clone())
}
