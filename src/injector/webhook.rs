//! `/mutate`: the API server asks about a pod that is being created, and is told what to change.
//!
//! A pod is never refused: what makes no sense is told in warnings, which `kubectl` shows, and in an event of what owns
//! the pod, since pods are mostly made by machines.

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use json_patch::Patch;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::timeout;

use super::events::Warning;
use super::patch::{self, Features, Outcome, Sidecar};
use super::{ANSWER, Injector, chain, server, store};
use crate::shutdown::Shutdown;

/// Most warnings of one answer; the API server takes 4096 bytes of them.
const WARNINGS_MAX: usize = 16;

/// Answers an `AdmissionReview`.
pub(crate) async fn mutate(State(injector): State<Injector>, request: Request) -> Response {
    let body = match server::body(request, &injector.room, server::BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let request: Result<AdmissionRequest<DynamicObject>, String> =
        serde_json::from_slice::<AdmissionReview<DynamicObject>>(&body)
            .map_err(|error| error.to_string())
            .and_then(|review| review.try_into().map_err(|error| format!("{error}")));
    drop(body);
    let request = match request {
        Ok(request) if request.types.api_version == "admission.k8s.io/v1" => request,
        Ok(request) => {
            return unreadable(&injector, &format!("its version is {}", request.types.api_version));
        }
        Err(error) => return unreadable(&injector, &error),
    };
    match review(&injector, &request) {
        Ok(response) => answer(response),
        Err(why) => unreadable(&injector, &why),
    }
}

fn unreadable(injector: &Injector, why: &str) -> Response {
    injector.health.admissions.get_or_create(&[("result", "unreadable")]).inc();
    let said = format!("this is no AdmissionReview of admission.k8s.io/v1 about a pod: {why}");
    (StatusCode::BAD_REQUEST, said.chars().take(500).collect::<String>()).into_response()
}

/// The answer, with the patch as base64, as the API says it; `kube` would write a list of numbers, four times as long.
fn answer(mut response: AdmissionResponse) -> Response {
    use base64::Engine as _;
    let patch = response.patch.take();
    let json = serde_json::to_value(response.into_review()).and_then(|mut review| {
        if let Some(patch) = patch {
            let encoded = base64::engine::general_purpose::STANDARD.encode(patch);
            review["response"]["patch"] = Value::String(encoded);
        }
        serde_json::to_vec(&review)
    });
    match json {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Decides about one pod.
fn review(
    injector: &Injector,
    request: &AdmissionRequest<DynamicObject>,
) -> Result<AdmissionResponse, String> {
    let mut response = AdmissionResponse::from(request);
    let Some(object) = request.object.as_ref().filter(|_| {
        request.operation == Operation::Create
            && request.kind.kind == "Pod"
            && request.sub_resource.is_none()
    }) else {
        return Ok(response);
    };
    let pod = serde_json::to_value(object).map_err(|error| error.to_string())?;
    let authority = injector.authority.borrow().clone();
    let sidecar = Sidecar {
        template: &injector.template,
        anchors: authority.as_deref().map_or("", |authority| authority.anchors_pem()),
        features: injector.features.borrow().unwrap_or_default(),
    };
    let Outcome { result, patch, warnings } = patch::decide(&pod, &sidecar)?;
    injector.health.admissions.get_or_create(&[("result", result.word())]).inc();
    injector.health.warnings.inc_by(warnings.len() as u64);
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let name = called(&object.metadata);
    tracing::debug!("pod {name} in {namespace}: {}", result.word());
    if !warnings.is_empty() {
        tracing::warn!("pod {name} in {namespace}: {}", warnings.join("; "));
        if let Some(about) = owner(&object.metadata, namespace).filter(|_| !request.dry_run) {
            for note in &warnings {
                injector.events.warn(Warning {
                    about: about.clone(),
                    reason: "PillionAnnotation",
                    action: "Injecting",
                    note: note.clone(),
                });
            }
        }
        response.warnings = Some(warnings.into_iter().take(WARNINGS_MAX).collect());
    }
    if patch.is_empty() {
        return Ok(response);
    }
    response.with_patch(Patch(patch)).map_err(|error| error.to_string())
}

/// What people call a pod that may have no name yet.
fn called(metadata: &ObjectMeta) -> String {
    match (&metadata.name, &metadata.generate_name) {
        (Some(name), _) => name.clone(),
        (None, Some(begin)) => format!("{begin}..."),
        (None, None) => "without a name".to_owned(),
    }
}

/// The controller that makes the pod.
fn owner(metadata: &ObjectMeta, namespace: &str) -> Option<ObjectReference> {
    let owner =
        metadata.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))?;
    Some(ObjectReference {
        api_version: Some(owner.api_version.clone()),
        kind: Some(owner.kind.clone()),
        name: Some(owner.name.clone()),
        uid: Some(owner.uid.clone()),
        namespace: Some(namespace.to_owned()),
        ..ObjectReference::default()
    })
}

/// Asks the API server once what it can do; until it has answered nothing newer than 1.29 is used.
pub(crate) async fn ask_features(
    injector: Injector,
    features: watch::Sender<Option<Features>>,
    mut shutdown: Shutdown,
) {
    loop {
        match timeout(ANSWER, injector.client.apiserver_version()).await {
            Ok(Ok(version)) => {
                let found = Features::of(&version.major, &version.minor);
                tracing::info!("the API server is Kubernetes {}: {found}", version.git_version);
                features.send_replace(Some(found));
                return;
            }
            Ok(Err(error)) => {
                tracing::warn!("the API server does not say its version: {}", chain(&error));
            }
            Err(_) => tracing::warn!("the API server does not say its version in time"),
        }
        if shutdown.asked_within(store::AGAIN).await {
            return;
        }
    }
}
