//! The webhook over real connections, with an API server that asks well and with strangers that do not.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::annotations::INJECT;
use super::super::patch::tests::template;
use super::*;
use crate::shutdown::{self, Trigger};

/// A webhook without TLS, which is the same from there on.
struct Webhook {
    at: std::net::SocketAddr,
    health: Arc<Health>,
    trigger: Trigger,
    serving: JoinSet<()>,
}

impl Webhook {
    async fn start() -> Self {
        let injector = Injector::alone(template());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        let health = Arc::clone(&injector.health);
        let (trigger, shutdown) = shutdown::channel();
        let mut tasks = JoinSet::new();
        let how = Serving { health: Arc::clone(&health), grace: Duration::ZERO };
        tasks.spawn(serve(how, listener, None, routes(injector), shutdown));
        Self { at, health, trigger, serving: tasks }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.at).await.expect("it listens")
    }

    /// One request on a connection of its own: the status and the body of the answer.
    async fn ask(&self, head: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut stream = self.connect().await;
        let head = format!("{head}\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("it reads");
        // It may answer and close before it has read everything.
        let _ = stream.write_all(body).await;
        answer(&mut stream).await
    }

    async fn mutate(&self, body: &[u8]) -> (u16, Vec<u8>) {
        self.ask(&format!("POST /mutate HTTP/1.1\r\nContent-Length: {}", body.len()), body).await
    }

    async fn stop(mut self) {
        self.trigger.ask();
        while self.serving.join_next().await.is_some() {}
    }
}

async fn answer(stream: &mut TcpStream) -> (u16, Vec<u8>) {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no answer: {text}"));
    let end = text.find("\r\n\r\n").map_or(answer.len(), |at| at + 4);
    (status, answer[end..].to_vec())
}

fn review(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let kind = json!({"group": "", "version": "v1", "kind": "Pod"});
    let mut review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u-1", "kind": kind, "resource": {"group": "", "version": "v1", "resource": "pods"},
            "operation": "CREATE", "namespace": "shop", "userInfo": {}, "dryRun": true, "oldObject": null,
            "object": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "creationTimestamp": null, "annotations": {INJECT: "true"}},
                "spec": {"containers": [{"name": "web", "image": "web:1"}]}},
        },
    });
    change(&mut review);
    review.to_string().into_bytes()
}

/// The response of a review that was answered.
fn response((status, body): (u16, Vec<u8>)) -> Value {
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    let review: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(
        (review["apiVersion"].as_str(), review["kind"].as_str()),
        (Some("admission.k8s.io/v1"), Some("AdmissionReview"))
    );
    assert_eq!(
        (review["response"]["uid"].as_str(), &review["response"]["allowed"]),
        (Some("u-1"), &json!(true))
    );
    review["response"].clone()
}

fn patch(response: &Value) -> String {
    use base64::Engine as _;
    let text = response["patch"].as_str().unwrap_or_default();
    let bytes = base64::engine::general_purpose::STANDARD.decode(text);
    String::from_utf8(bytes.expect("base64")).expect("a text")
}

#[tokio::test]
async fn a_review_is_answered_with_its_uid_and_a_patch_that_the_api_server_reads() {
    let webhook = Webhook::start().await;
    let response_is = response(webhook.mutate(&review(|_| {})).await);
    assert_eq!(response_is["patchType"], "JSONPatch");
    assert!(patch(&response_is).contains("/spec/initContainers"), "{response_is}");
    let declined = review(|r| r["request"]["object"]["metadata"]["annotations"] = json!({}));
    let updated = review(|r| r["request"]["operation"] = json!("UPDATE"));
    let other = review(|r| r["request"]["kind"]["kind"] = json!("Deployment"));
    let gone = review(|r| r["request"]["object"] = Value::Null);
    for body in [declined, updated, other, gone] {
        assert!(response(webhook.mutate(&body).await).get("patch").is_none());
    }
    webhook.stop().await;
}

#[tokio::test]
async fn what_is_no_review_is_refused_in_words_and_the_next_one_answered() {
    let webhook = Webhook::start().await;
    let wide = format!("[{}]", vec!["{}"; 300_000].join(","));
    let deep = format!(
        "{{\"apiVersion\": \"admission.k8s.io/v1\", \"request\": {{\"object\": {{\"spec\": {}",
        "[".repeat(100_000)
    );
    for (body, words) in [
        (b"".to_vec(), "EOF"),
        (b"nonsense".to_vec(), "expected"),
        (deep.into_bytes(), "recursion limit"),
        (wide.into_bytes(), "more than 16384 objects"),
        (
            b"{\"apiVersion\": \"admission.k8s.io/v1\", \"kind\": \"AdmissionReview\"}".to_vec(),
            "AdmissionRequest",
        ),
        (
            review(|r| r["apiVersion"] = json!("admission.k8s.io/v1beta1")),
            "its version is admission.k8s.io/v1beta1",
        ),
        (review(|r| r["request"]["object"]["spec"] = json!(3)), "spec is no object"),
        (
            review(|r| r["request"]["object"]["spec"]["containers"][0] = json!("web")),
            "spec.containers",
        ),
        (review(|r| r["request"]["object"]["metadata"] = json!([])), "ObjectMeta"),
    ] {
        let (status, said) = webhook.mutate(&body).await;
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(status == 400 && said.contains(words), "{words}: {status} {said}");
        assert!(said.len() <= 500, "{said}");
    }
    response(webhook.mutate(&review(|_| {})).await);
    webhook.stop().await;
}

#[tokio::test]
async fn a_body_beyond_the_bound_or_of_no_length_is_not_read() {
    let webhook = Webhook::start().await;
    let head = |more: &str| format!("POST /mutate HTTP/1.1\r\n{more}");
    assert_eq!(
        webhook.ask(&head(&format!("Content-Length: {}", BODY_BYTES_MAX + 1)), b"").await.0,
        413
    );
    assert_eq!(webhook.ask(&head("Transfer-Encoding: chunked"), b"0\r\n\r\n").await.0, 411);
    assert_eq!(webhook.ask("GET /mutate HTTP/1.1", b"").await.0, 405);
    assert_eq!(webhook.ask("GET /nowhere HTTP/1.1", b"").await.0, 404);
    assert_eq!(webhook.ask("GET /healthz HTTP/1.1", b"").await, (200, b"ok".to_vec()));
    // As large as one may be, and mostly of one annotation.
    let mut large = review(|_| {});
    large.resize(BODY_BYTES_MAX, b' ');
    response(webhook.mutate(&large).await);
    webhook.stop().await;
}

#[tokio::test]
async fn more_connections_than_there_is_room_for_do_not_keep_the_api_server_out() {
    let webhook = Webhook::start().await;
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        idle.push(webhook.connect().await);
    }
    // The oldest that asks for nothing goes; it hears so, and nobody else.
    response(webhook.mutate(&review(|_| {})).await);
    let mut byte = [0];
    assert_eq!(idle[0].read(&mut byte).await.expect("a clean end"), 0);
    let last = idle.last_mut().expect("there are many");
    let body = review(|_| {});
    let head = format!(
        "POST /mutate HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    last.write_all(head.as_bytes()).await.expect("it is open");
    last.write_all(&body).await.expect("it is open");
    response(answer(last).await);
    webhook.stop().await;
}

#[tokio::test]
async fn a_request_under_way_is_answered_when_it_stops_and_a_slow_one_is_not_waited_for_for_ever() {
    let webhook = Webhook::start().await;
    let body = review(|_| {});
    let (mut prompt, mut slow) = (webhook.connect().await, webhook.connect().await);
    let head =
        format!("POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    for stream in [&mut prompt, &mut slow] {
        stream.write_all(head.as_bytes()).await.expect("it reads");
        stream.write_all(&body[..10]).await.expect("it reads");
    }
    // Both are under way once a request that came later was answered.
    response(webhook.mutate(&body).await);
    webhook.trigger.ask();
    let health = Arc::clone(&webhook.health);
    prompt.write_all(&body[10..]).await.expect("it reads on");
    response(answer(&mut prompt).await);
    assert_eq!(health.not_ready().as_deref(), Some("leaving"));
    tokio::time::pause();
    webhook.stop().await;
    assert_eq!(answer(&mut slow).await.0, 408);
}

#[tokio::test]
async fn probes_say_what_is_missing_and_metrics_what_was_counted() {
    let health = Arc::new(Health::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    let (trigger, shutdown) = shutdown::channel();
    let mut tasks = JoinSet::new();
    let how = Serving { health: Arc::clone(&health), grace: Duration::ZERO };
    tasks.spawn(serve(how, listener, None, probe_routes(Arc::clone(&health)), shutdown));
    let probes = Webhook { at, health, trigger, serving: tasks };
    let get = async |path: &str| {
        let (status, body) = probes.ask(&format!("GET {path} HTTP/1.1"), b"").await;
        (status, String::from_utf8(body).expect("a text"))
    };
    assert_eq!(get("/livez").await, (200, "ok".to_owned()));
    let (status, why) = get("/readyz").await;
    assert!(
        status == 503 && why.contains("certificate: there is no certificate to show yet"),
        "{why}"
    );
    for part in ["authority", "certificate", "webhook"] {
        probes.health.well(part);
    }
    assert_eq!(get("/readyz").await, (200, "ok".to_owned()));
    assert!(get("/metrics").await.1.contains("pillion_injector_connections_total{end=\"served\"}"));
    probes.stop().await;
}

/// Says that a body comes, and no more of it than this.
async fn begin(webhook: &Webhook, length: usize, body: &[u8]) -> TcpStream {
    let mut stream = webhook.connect().await;
    let head = format!("POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("it reads");
    stream.write_all(body).await.expect("it reads");
    stream
}

/// A request whose body is announced with this length and never comes, or does.
fn announced(length: usize, comes: bool) -> Request {
    let body = if comes {
        Body::from(vec![b' '; length])
    } else {
        Body::from_stream(futures_util::stream::pending::<Result<Bytes, Infallible>>())
    };
    let request = hyper::Request::post("/mutate").header(header::CONTENT_LENGTH, length);
    request.body(body).expect("a request")
}

#[tokio::test(start_paused = true)]
async fn large_bodies_that_do_not_come_keep_no_pod_waiting() {
    let (room, start) = (room(), tokio::time::Instant::now());
    let slow: Vec<_> = (0..=BODIES_KIB_MAX * 1024 / BODY_BYTES_MAX)
        .map(|_| {
            let room = Arc::clone(&room);
            tokio::spawn(async move {
                body(announced(BODY_BYTES_MAX, false), &room, BODY_BYTES_MAX).await
            })
        })
        .collect();
    tokio::task::yield_now().await;
    let small = body(announced(SMALL_BYTES_MAX, true), &room, BODY_BYTES_MAX).await;
    assert_eq!(
        (small.expect("it is read").len(), start.elapsed()),
        (SMALL_BYTES_MAX, Duration::ZERO)
    );
    // A large one waits, but not for as long as a request may take.
    let large = body(announced(BODY_BYTES_MAX, true), &room, BODY_BYTES_MAX).await;
    assert_eq!((large.expect("it is read").len(), start.elapsed()), (BODY_BYTES_MAX, BODY));
    for slow in slow {
        let refused = slow.await.expect("no panic").expect_err("it did not come");
        assert_eq!(refused.status(), StatusCode::REQUEST_TIMEOUT);
    }
}

#[tokio::test]
async fn requests_that_never_become_whole_give_their_places_to_those_that_do() {
    let webhook = Webhook::start().await;
    let mut slow = Vec::new();
    for at in 0..2 * CONNECTIONS_MAX {
        let (length, body): (_, &[u8]) = if at % 2 == 0 { (10, b"") } else { (70_000, b"{}") };
        slow.push(begin(&webhook, length, body).await);
        if at % 3 == 0 {
            let mut head = webhook.connect().await;
            head.write_all(b"POST /mutate HTTP/1.1\r\nX: ").await.expect("it reads");
            slow.push(head);
        }
    }
    response(webhook.mutate(&review(|_| {})).await);
    // Who has lost its place is gone at once, so that there are never many more connections than places.
    let (lost, mut byte) = (slow.len() + 1 - CONNECTIONS_MAX, [0]);
    for stream in &mut slow[..lost] {
        let ended = tokio::time::timeout(REQUEST / 2, stream.read(&mut byte)).await;
        assert!(!matches!(ended.expect("it is gone"), Ok(1)), "and was not answered");
    }
    drop(slow);
    webhook.stop().await;
}
