//! `/mutate`: the API server asks about a pod that is being created, and is told what to change.
//!
//! A pod is never refused: what makes no sense is told in warnings, which `kubectl` shows, and in an event of what owns
//! the pod, since pods are mostly made by machines.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use json_patch::Patch;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation};
use pillion_strategies::problems::line;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::timeout;

use super::events::Warning;
use super::patch::{self, Features, Outcome, Sidecar};
use super::told::Told;
use super::{ANSWER, Injector, chain, server};
use crate::backoff::{Backoff, Rng, Waits};
use crate::shutdown::Shutdown;

/// Most warnings of one answer; the API server takes 4096 bytes of them.
const WARNINGS_MAX: usize = 16;
/// Most objects, and most members of objects and lists together, of a review. Reading one object takes some six hundred bytes,
/// so a body of nothing else would take more memory than the injector has. A pod with a thousand variables has five thousand.
const OBJECTS_MAX: usize = 16 << 10;
const MEMBERS_MAX: usize = 256 << 10;
/// Longest name that is told, in characters.
const NAME_MAX: usize = 253;

/// Answers an `AdmissionReview`.
pub(crate) async fn mutate(State(injector): State<Injector>, request: Request) -> Response {
    let body = match server::body(request, &injector.room, server::BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    if !is_modest(&body) {
        let why = format!("it has more than {OBJECTS_MAX} objects or {MEMBERS_MAX} members");
        return unreadable(&injector, &why);
    }
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
    match review(&injector, request) {
        Ok(response) => answer(response),
        Err(why) => unreadable(&injector, &why),
    }
}

/// Whether a text, if it is JSON, can be read within some ten MiB.
fn is_modest(json: &[u8]) -> bool {
    let (mut objects, mut members) = (0, 0);
    let (mut quoted, mut escaped) = (false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' => objects += 1,
            b',' => members += 1,
            _ => {}
        }
    }
    objects <= OBJECTS_MAX && members <= MEMBERS_MAX
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
    mut request: AdmissionRequest<DynamicObject>,
) -> Result<AdmissionResponse, String> {
    let mut response = AdmissionResponse::from(&request);
    let asks = request.operation == Operation::Create
        && request.kind.kind == "Pod"
        && request.sub_resource.is_none();
    let Some(object) = request.object.take().filter(|_| asks) else { return Ok(response) };
    // The rest of it is large, and moved.
    let DynamicObject { mut metadata, data: mut pod, .. } = object;
    metadata.managed_fields = None;
    let outline = serde_json::to_value(&metadata).map_err(|error| error.to_string())?;
    pod.as_object_mut().ok_or("it is no object")?.insert("metadata".to_owned(), outline);
    let authority = injector.authority.borrow().clone();
    let sidecar = Sidecar {
        template: &injector.template,
        anchors: authority.as_deref().map_or("", |authority| authority.anchors_pem()),
        features: injector.features.borrow().unwrap_or_default(),
    };
    let Outcome { result, patch, mut warnings } = patch::decide(&pod, &sidecar)?;
    drop(pod);
    warnings.truncate(WARNINGS_MAX);
    injector.health.admissions.get_or_create(&[("result", result.word())]).inc();
    injector.health.warnings.inc_by(warnings.len() as u64);
    let namespace = request.namespace.as_deref().unwrap_or_default();
    // Nobody has looked yet whether these may be names.
    let (name, place) = (line(&called(&metadata), NAME_MAX), line(namespace, NAME_MAX));
    tracing::debug!("pod {name} in {place}: {}", result.word());
    if !warnings.is_empty() {
        tracing::warn!("pod {name} in {place}: {}", warnings.join("; "));
        if let Some(about) = owner(&metadata, namespace).filter(|_| !request.dry_run) {
            for note in &warnings {
                injector.events.warn(Warning {
                    about: about.clone(),
                    reason: "PillionAnnotation",
                    action: "Injecting",
                    note: note.clone(),
                });
            }
        }
        response.warnings = Some(warnings);
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

/// How often the API server is asked what it can do: it may be upgraded, or put back, while the injector runs. Of several
/// API servers that are upgraded one by one any may answer; for so long a pod may lack the sleep, or be refused it by an
/// older one and be made again by its controller.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// The pauses before it is asked again that has not answered.
const WAITS: Waits = Waits { first: Duration::from_secs(1), cap: Duration::from_secs(30) };

/// Asks the API server what it can do, now and again; until it has answered nothing newer than 1.29 is used, and while it
/// does not what it said last.
pub(crate) async fn ask_features(
    injector: Injector,
    features: watch::Sender<Option<Features>>,
    mut shutdown: Shutdown,
) {
    let (mut told, mut backoff) = (Told::default(), Backoff::default());
    let mut rng = Rng::new(u64::from(std::process::id()));
    loop {
        let why = match timeout(ANSWER, injector.client.apiserver_version()).await {
            Ok(Ok(version)) => {
                let found = Features::of(&version.major, &version.minor);
                if features.send_replace(Some(found)) != Some(found) {
                    tracing::info!("the API server is Kubernetes {}: {found}", version.git_version);
                }
                None
            }
            Ok(Err(error)) => Some(chain(&error)),
            Err(_) => Some("it does not answer".to_owned()),
        };
        let wait = match why {
            None => {
                told.well();
                backoff.reset();
                ASK_AGAIN
            }
            Some(why) => {
                told.warn(&format!("the API server does not say its version: {why}"));
                backoff.next(WAITS, &mut rng)
            }
        };
        if shutdown.asked_within(wait).await {
            return;
        }
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
    use kube::Client;
    use kube::client::Body;
    use serde_json::json;

    use super::*;
    use crate::injector::annotations::INJECT;
    use crate::injector::events;
    use crate::injector::patch::tests::template;
    use crate::shutdown;

    /// Is asked for its version, and is upgraded, away, and put back.
    #[derive(Clone)]
    struct Server(Arc<AtomicUsize>);

    impl tower_service::Service<http::Request<Body>> for Server {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            assert_eq!(request.uri().path(), "/version");
            let asked = self.0.fetch_add(1, Ordering::Relaxed);
            let minor = ["29", "30+", "", "30", "29"].get(asked).copied().unwrap_or("34");
            let said = json!({"major": "1", "minor": minor, "gitVersion": "", "gitCommit": "", "gitTreeState": "",
                "buildDate": "", "goVersion": "", "compiler": "", "platform": ""});
            let mut answer = http::Response::new(Body::from(said.to_string().into_bytes()));
            if minor.is_empty() {
                *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
            ready(Ok(answer))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_comes_back_with_another_version_is_asked_what_it_can_do() {
        let mut injector = Injector::alone(template());
        let asked = Arc::new(AtomicUsize::new(0));
        injector.client = Client::new(Server(Arc::clone(&asked)), "default");
        let (trigger, shutdown) = shutdown::channel();
        let (tell, mut features) = watch::channel(None);
        let asking = ask_features(injector, tell, shutdown);
        let watching = async {
            // The third time it does not answer, and what it said last holds.
            for (sleep, times) in [(false, 1), (true, 2), (true, 4), (false, 5), (true, 6)] {
                features.changed().await.expect("it is asked");
                let found = features.borrow_and_update().expect("it has answered");
                assert_eq!((found.native, found.sleep), (true, sleep), "asked {times} times");
                assert_eq!(asked.load(Ordering::Relaxed), times);
            }
            trigger.ask();
        };
        tokio::join!(asking, watching);
    }

    #[test]
    fn a_review_that_would_take_more_memory_than_there_is_is_not_read() {
        let of = |item: &str, number: usize| {
            let list = vec![item; number].join(",");
            is_modest(format!("[{list}]").as_bytes())
        };
        assert!(of("{}", OBJECTS_MAX) && !of("{}", OBJECTS_MAX + 1));
        assert!(of("0", MEMBERS_MAX + 1) && !of("0", MEMBERS_MAX + 2));
        // What is said is no structure, however it is said.
        let text = ["{,".repeat(MEMBERS_MAX), "\\\"{,\\\\".repeat(MEMBERS_MAX)].concat();
        assert!(is_modest(format!("{{\"a\": \"{text}\", \"b\": \"\"}}").as_bytes()));
        assert!(!of("\"\\\"\", {}, \"\\\\\"", OBJECTS_MAX + 1), "behind texts");
        for text in [&b""[..], b"\"", b"\\", b"\"\\"] {
            assert!(is_modest(text));
        }
    }

    #[tokio::test]
    async fn what_is_only_tried_leaves_no_event_behind() {
        let mut injector = Injector::alone(template());
        let (events, waiting) = events::channel(injector.client.clone());
        injector.events = events;
        for (dry, told) in [(true, 0), (false, 1)] {
            let request: AdmissionRequest<DynamicObject> = serde_json::from_value(json!({
                "uid": "u", "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "resource": {"group": "", "version": "v1", "resource": "pods"}, "operation": "CREATE", "namespace": "shop",
                "userInfo": {}, "dryRun": dry,
                "object": {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "web", "image": "web:1"}]},
                    "metadata": {"generateName": "web-", "annotations": {INJECT: "true", "pillion.dev/log-level": "loud"},
                        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "w", "controller": true}]}},
            }))
            .expect("a request");
            let response = review(&injector, request).expect("a pod");
            assert_eq!(response.warnings.map(|warnings| warnings.len()), Some(1), "dry run: {dry}");
            assert_eq!(waiting.len(), told, "dry run: {dry}");
        }
    }
}
