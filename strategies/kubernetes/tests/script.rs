//! An API server in memory that does as it is told: lists, watches, and every way of failing.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use kube::client::ClientBuilder;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tower_service::Service;

use super::super::cluster::{Cluster, Connect};
use super::super::guard::{Guard, LINE_MAX};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How it behaves at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mood {
    #[default]
    Well,
    /// Refuses the connection.
    Away,
    /// Every answer has this status.
    Answers(u16),
    /// As `Answers(403)`, in this one namespace's words only.
    Forbids(&'static str),
    Empty,
    Partial,
    Malformed,
    Slow,
    Silent,
    /// Begins an answer and stops in the middle.
    Stuck,
    Endless,
    /// Watches that begin are expired already.
    Expired,
}

/// The server. Clones are the same one.
#[derive(Clone, Default)]
pub(super) struct Script(Arc<Mutex<Inside>>);

#[derive(Default)]
struct Inside {
    mood: Mood,
    version: u64,
    /// By collection (`endpointslices` or `pods`), namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    history: Vec<(u64, String, String, String)>,
    watches: Vec<Watch>,
    asked: Vec<Asked>,
    connected: usize,
    /// How many watches were ever begun.
    begun: watch::Sender<usize>,
}

struct Watch {
    collection: String,
    namespace: String,
    lines: mpsc::Sender<Bytes>,
}

/// A question.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) collection: String,
    /// Empty for all of them.
    pub(super) namespace: String,
    pub(super) query: BTreeMap<String, String>,
    pub(super) accept: String,
}

impl Asked {
    pub(super) fn is_watch(&self) -> bool {
        self.query.contains_key("watch")
    }
}

impl Script {
    /// A way to it that bears the bounds of a real one.
    pub(super) fn connect(&self) -> Connect {
        let script = self.clone();
        Arc::new(move || {
            script.with(|inside| inside.connected += 1);
            let client = ClientBuilder::new(script.clone(), "shop").with_layer(&Guard).build();
            let cluster = Cluster {
                client,
                namespace: "shop".into(),
                inside: true,
                url: "https://10.96.0.1/".into(),
            };
            Box::pin(async move { Ok(cluster) })
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inside) -> T) -> T {
        act(&mut self.0.lock().expect("whole"))
    }

    /// Changes its mood. The watches that are open end, as when a server is restarted.
    pub(super) fn mood(&self, mood: Mood) {
        self.with(|inside| {
            inside.mood = mood;
            inside.watches.clear();
        });
    }

    /// Changes its mood, and says on every watch that its history is gone.
    pub(super) fn mood_after_410(&self, mood: Mood) {
        self.say(&json!({
            "type": "ERROR",
            "object": {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "too old resource version: 1 (2)", "reason": "Expired", "code": 410},
        }));
        self.mood(mood);
    }

    /// Changes its mood and leaves open watches as they are.
    pub(super) fn mood_quietly(&self, mood: Mood) {
        self.with(|inside| inside.mood = mood);
    }

    /// Writes a line on every watch.
    pub(super) fn say(&self, line: &Value) {
        self.say_text(&line.to_string());
    }

    pub(super) fn say_text(&self, text: &str) {
        let line = Bytes::from(format!("{text}\n"));
        self.with(|inside| inside.watches.retain(|w| w.lines.try_send(line.clone()).is_ok()));
    }

    pub(super) fn bookmark(&self) -> u64 {
        let version = self.with(|inside| {
            inside.version += 10;
            inside.version
        });
        self.say(&json!({
            "type": "BOOKMARK",
            "object": {"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
                "metadata": {"resourceVersion": version.to_string()}},
        }));
        version
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.with(|inside| inside.asked.clone())
    }

    pub(super) fn connected(&self) -> usize {
        self.with(|inside| inside.connected)
    }

    /// Waits until so many watches were begun, ever.
    pub(super) async fn watched(&self, count: usize) {
        let mut begun = self.with(|inside| inside.begun.subscribe());
        begun.wait_for(|begun| *begun >= count).await.expect("the server is there");
    }

    pub(super) fn watches(&self) -> usize {
        self.with(|inside| {
            inside.watches.retain(|watch| !watch.lines.is_closed());
            inside.watches.len()
        })
    }

    pub(super) fn put(&self, collection: &str, mut object: Value) {
        self.with(|inside| {
            inside.version += 1;
            object["metadata"]["resourceVersion"] = inside.version.to_string().into();
            let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
            let key = (collection.to_owned(), text("namespace"), text("name"));
            let kind = if inside.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
            inside.objects.insert(key.clone(), object.clone());
            inside.happened(&key, kind, &object);
        });
    }

    pub(super) fn delete(&self, collection: &str, namespace: &str, name: &str) {
        self.with(|inside| {
            let key = (collection.to_owned(), namespace.to_owned(), name.to_owned());
            let Some(mut object) = inside.objects.remove(&key) else { return };
            inside.version += 1;
            object["metadata"]["resourceVersion"] = inside.version.to_string().into();
            inside.happened(&key, "DELETED", &object);
        });
    }

    fn answer(&self, asked: Asked) -> Result<Response<Spoken>, BoxError> {
        self.with(|inside| {
            inside.asked.push(asked.clone());
            let mood = match inside.mood {
                Mood::Forbids(namespace) if namespace != asked.namespace => Mood::Well,
                mood => mood,
            };
            match mood {
                Mood::Away => {
                    return Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into());
                }
                Mood::Answers(code) => return Ok(status(code, &asked)),
                Mood::Forbids(_) => return Ok(status(403, &asked)),
                Mood::Malformed => return Ok(whole("{\"items\": [{\"metadata\": nonsense")),
                Mood::Endless => return Ok(whole(&"x".repeat(LINE_MAX + 1))),
                Mood::Expired if asked.is_watch() => return Ok(status(410, &asked)),
                _ => {}
            }
            if asked.is_watch() {
                return Ok(inside.watch(&asked));
            }
            let text = inside.list(&asked, mood);
            if mood == Mood::Stuck {
                let (keep, rest) = mpsc::channel(1);
                let half = Bytes::from(text[..text.len() / 2].to_owned());
                return Ok(Response::new(Spoken {
                    first: Some(half),
                    rest: Some(rest),
                    _keep: Some(keep),
                }));
            }
            Ok(whole(&text))
        })
    }
}

impl Inside {
    fn happened(
        &mut self,
        (collection, namespace, _): &(String, String, String),
        kind: &str,
        object: &Value,
    ) {
        let line = json!({"type": kind, "object": object}).to_string() + "\n";
        self.history.push((self.version, collection.clone(), namespace.clone(), line.clone()));
        if matches!(self.mood, Mood::Silent | Mood::Empty | Mood::Partial) {
            return;
        }
        let line = Bytes::from(line);
        self.watches.retain(|watch| {
            watch.collection != *collection
                || !is_in(&watch.namespace, namespace)
                || watch.lines.try_send(line.clone()).is_ok()
        });
    }

    fn list(&self, asked: &Asked, mood: Mood) -> String {
        let here = self.objects.iter().filter(|((collection, namespace, _), _)| {
            *collection == asked.collection && is_in(&asked.namespace, namespace)
        });
        let all: Vec<&Value> = here.map(|(_, object)| object).collect();
        let all = match mood {
            Mood::Empty => &all[..0],
            Mood::Partial => &all[..all.len() / 2],
            _ => &all[..],
        };
        let number = |key: &str| asked.query.get(key).and_then(|text| text.parse::<usize>().ok());
        let from = number("continue").unwrap_or_default().min(all.len());
        let to = from.saturating_add(number("limit").unwrap_or(all.len())).min(all.len());
        let more = if to < all.len() { to.to_string() } else { String::new() };
        json!({
            "kind": "List", "apiVersion": "v1",
            "metadata": {"resourceVersion": self.version.to_string(), "continue": more},
            "items": all[from..to],
        })
        .to_string()
    }

    fn watch(&mut self, asked: &Asked) -> Response<Spoken> {
        let (lines, rest) = mpsc::channel(1024);
        let since =
            asked.query.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
        for (version, collection, namespace, line) in &self.history {
            let is_asked = *collection == asked.collection && is_in(&asked.namespace, namespace);
            if *version > since && is_asked {
                lines.try_send(Bytes::from(line.clone())).expect("room");
            }
        }
        let (collection, namespace) = (asked.collection.clone(), asked.namespace.clone());
        self.watches.push(Watch { collection, namespace, lines });
        self.begun.send_modify(|begun| *begun += 1);
        Response::new(Spoken { first: None, rest: Some(rest), _keep: None })
    }
}

/// Who asks in no namespace asks in all of them.
fn is_in(asked: &str, namespace: &str) -> bool {
    asked.is_empty() || asked == namespace
}

fn whole(text: &str) -> Response<Spoken> {
    Response::new(Spoken { first: Some(Bytes::from(text.to_owned())), rest: None, _keep: None })
}

fn status(code: u16, asked: &Asked) -> Response<Spoken> {
    let verb = if asked.is_watch() { "watch" } else { "list" };
    let (group, collection) = match asked.collection.as_str() {
        "pods" => ("", "pods"),
        _ => ("discovery.k8s.io", "endpointslices"),
    };
    let message = format!(
        "{collection} is forbidden: User \"system:serviceaccount:shop:web\" cannot {verb} resource \"{collection}\" in API group \"{group}\" in the namespace \"{}\"",
        asked.namespace
    );
    let text = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": "Because", "code": code});
    let mut response = whole(&text.to_string());
    *response.status_mut() = http::StatusCode::from_u16(code).expect("a status");
    response
}

impl Service<Request<kube::client::Body>> for Script {
    type Response = Response<Spoken>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let parts: Vec<&str> = request.uri().path().split('/').collect();
        let at = parts.iter().position(|part| *part == "namespaces");
        let (namespace, collection) = match at {
            Some(at) => (parts[at + 1], parts[at + 2]),
            None => ("", *parts.last().expect("a path")),
        };
        let query = request.uri().query().unwrap_or_default().split('&');
        let asked = Asked {
            collection: collection.to_owned(),
            namespace: namespace.to_owned(),
            query: query
                .filter_map(|pair| pair.split_once('='))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            accept: request
                .headers()
                .get(http::header::ACCEPT)
                .map(|value| value.to_str().expect("text").to_owned())
                .unwrap_or_default(),
        };
        let script = self.clone();
        Box::pin(async move {
            match script.with(|inside| inside.mood) {
                Mood::Silent => {
                    script.with(|inside| inside.asked.push(asked));
                    std::future::pending().await
                }
                Mood::Slow => {
                    sleep(Duration::from_secs(7)).await;
                    script.answer(asked)
                }
                _ => script.answer(asked),
            }
        })
    }
}

/// A body: what is known now, then what is sent later.
pub(super) struct Spoken {
    first: Option<Bytes>,
    rest: Option<mpsc::Receiver<Bytes>>,
    /// Keeps the rest from ending.
    _keep: Option<mpsc::Sender<Bytes>>,
}

impl Body for Spoken {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        match &mut self.rest {
            None => Poll::Ready(None),
            Some(rest) => {
                rest.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
            }
        }
    }
}
