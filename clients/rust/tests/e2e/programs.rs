//! Programs that are one `GenServer`, hosted by a node and by themselves: `examples/program_store.rs`.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use pillion_client::{Client, Code, Kind, Op, Value};
use rustix::process::{Pid, Signal};

use crate::support::{Node, PATIENCE, Place, code, eventually, program, within};

/// The example is built with the tests.
fn store() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    here.ancestors().nth(2).unwrap().join("examples/program_store")
}

/// A store that runs by itself.
struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    async fn start(node: &Node) -> Self {
        let mut command = Command::new(store());
        command.env_clear().env("PILLION_SOCKET", &node.socket);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }.prints("registered").await
    }

    async fn prints(mut self, want: &str) -> Self {
        let (running, line) = within(tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            self.lines.read_line(&mut line).unwrap();
            (self, line)
        }))
        .await
        .unwrap();
        assert_eq!(line.trim_end(), want);
        running
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its status, what else it printed, and what it said on standard error.
    async fn ended(mut self) -> (Option<i32>, String, String) {
        let ending = tokio::task::spawn_blocking(move || {
            let (mut out, mut said) = (String::new(), String::new());
            self.lines.read_to_string(&mut out).unwrap();
            self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            (self.child.wait().unwrap().code(), out, said)
        });
        within(ending).await.unwrap()
    }
}

fn ends(status: i32, out: &str, said: &str) -> (Option<i32>, String, String) {
    (Some(status), out.to_owned(), said.to_owned())
}

async fn ask(client: &Client, body: &[&str]) -> pillion_client::Result<Value> {
    client.call_within(PATIENCE, "primary_store", body).await
}

async fn down(client: &Client, reference: u64) -> String {
    let down = client
        .receive_where(|event| event.kind() == Kind::Down && event.reference() == Some(reference));
    within(down).await.unwrap().reason().unwrap().to_owned()
}

#[tokio::test]
async fn a_supervisor_starts_a_store_that_crashed_anew_and_leaves_one_that_stopped() {
    let Some(place) = Place::new() else { return };
    let node = place.start("a");
    let client = node.connect().await;
    let mut host = Command::new(program().unwrap());
    host.env_clear().arg("--socket").arg(&node.socket);
    host.args(["host", "primary_store", "--restart", "transient", "--"]).arg(store());
    assert!(tokio::task::spawn_blocking(move || host.status()).await.unwrap().unwrap().success());
    let before = client.whereis("primary_store").await.unwrap();
    let first = client.monitor("primary_store").await.unwrap();
    client.cast("primary_store", ("set", "bar", 2)).await.unwrap();
    assert_eq!(ask(&client, &["get", "bar"]).await.unwrap(), Value::from(2));

    let error = ask(&client, &["boom"]).await.unwrap_err();
    assert_eq!((error.class(), error.reason()), (Some("Boom"), Some("it broke")));
    assert_eq!(down(&client, first).await, "Boom: it broke");
    eventually("it is there anew", || async {
        let pid = client.whereis("primary_store").await.unwrap();
        pid.is_some() && pid != before
    })
    .await;
    assert_eq!(ask(&client, &["get", "foo"]).await.unwrap(), Value::from(1));
    assert_eq!(ask(&client, &["get", "bar"]).await.unwrap(), Value::Null);

    let second = client.monitor("primary_store").await.unwrap();
    assert_eq!(ask(&client, &["stop", "normal"]).await.unwrap(), Value::from("ok"));
    assert_eq!(down(&client, second).await, "normal");
    eventually("it stays away", || async {
        let tree: Value = client.request(Op::new("tree")).await.unwrap().body().unwrap();
        let tree = format!("{tree:?}");
        tree.contains("Text(\"stopped\")") && tree.contains("Text(\"normal\")")
    })
    .await;
    assert_eq!(client.whereis("primary_store").await.unwrap(), None);
}

#[tokio::test]
async fn a_failure_of_a_program_is_status_1_and_one_line_that_says_why() {
    let Some(place) = Place::new() else { return };
    let node = place.start("a");
    let client = node.connect().await;
    let running = Running::start(&node).await;
    assert_eq!(code(ask(&client, &["boom"]).await), Code::Exception);
    let said = "primary_store has ended: Boom: it broke\n";
    assert_eq!(running.ended().await, ends(1, "ended: Boom: it broke\n", said));

    let running = Running::start(&node).await;
    client.kill("primary_store", "out of stock").await.unwrap();
    let said = "primary_store has ended: out of stock\n";
    assert_eq!(running.ended().await, ends(1, "ended: out of stock\n", said));
}

#[tokio::test]
async fn a_stop_that_is_no_failure_is_status_0() {
    let Some(place) = Place::new() else { return };
    let node = place.start("a");
    let client = node.connect().await;
    for reason in ["normal", "shutdown", "shutdown: moved"] {
        let running = Running::start(&node).await;
        ask(&client, &["stop", reason]).await.unwrap();
        assert_eq!(running.ended().await, ends(0, &format!("ended: {reason}\n"), ""));
    }
}

#[tokio::test]
async fn sigterm_answers_what_the_program_was_given_and_is_status_0() {
    let Some(place) = Place::new() else { return };
    let node = place.start("a");
    let client = node.connect().await;
    for signal in [Signal::TERM, Signal::INT] {
        let running = Running::start(&node).await;
        let reference = client.monitor("primary_store").await.unwrap();
        let asking = client.clone();
        let answer = tokio::spawn(async move { ask(&asking, &["slow", "done"]).await });
        let running = running.prints("working").await;
        running.signal(signal);
        assert_eq!(answer.await.unwrap().unwrap(), Value::from("done"));
        assert_eq!(running.ended().await, ends(0, "ended: shutdown\n", ""));
        assert_eq!(down(&client, reference).await, "shutdown");
    }
}

#[tokio::test]
async fn a_node_that_leaves_ends_the_program_with_status_0() {
    let Some(place) = Place::new() else { return };
    let node = place.start("a");
    let running = Running::start(&node).await;
    node.terminate();
    assert_eq!(running.ended().await, ends(0, "ended: shutdown\n", ""));
}
