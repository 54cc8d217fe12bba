//! The programs of `docs/discovery.md`, run as they stand there: what the page shows as their output is what they print.

#![allow(clippy::disallowed_methods, reason = "a test waits for real processes, in real time")]
#![cfg(feature = "exec")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use pillion_strategies::conformance::{PATIENCE, announcement};
use pillion_strategies::{Health, Report, Reporter, Surroundings, build};
use tokio::time::timeout;

fn manual() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/discovery.md");
    fs::read_to_string(path).expect("docs/discovery.md")
}

/// The block of the manual that is fenced as `kind` and has `words` in it.
fn block(kind: &str, words: &str) -> String {
    let manual = manual();
    let fence = format!("```{kind}\n");
    let mut blocks = manual.split(&fence).skip(1).filter_map(|rest| rest.split("\n```").next());
    let found = blocks.find(|block| block.contains(words));
    found.unwrap_or_else(|| panic!("no {kind} with {words} in docs/discovery.md")).to_owned()
}

/// What the manual shows as the output of `command`.
fn shown(command: &str) -> Vec<String> {
    let console = block("console", command);
    console.lines().skip(1).map(str::to_owned).collect()
}

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("pillion-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        Self(dir)
    }

    fn program(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn is_there(program: &str) -> bool {
    let mut asked = Command::new(program);
    asked
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Waits for a report of the strategy of `url`.
async fn report(url: &str, holds: impl FnMut(&Report) -> bool) -> Report {
    let strategy = build(url, &Surroundings::default()).expect("a strategy");
    let (reporter, mut reports) = Reporter::new();
    tokio::select! {
        biased;
        report = timeout(PATIENCE, reports.wait_for(holds)) => report.expect("in time").expect("alive").clone(),
        ended = strategy.run(announcement(1), &reporter) => panic!("it ended: {ended:?}"),
    }
}

fn addresses(report: &Report) -> Vec<String> {
    report.sightings.iter().flat_map(|s| &s.addresses).map(ToString::to_string).collect()
}

/// As `aws` does it: only what was asked for, in lines for people.
const AWS: &str = r#"#!/bin/sh
same() { [ "$1" = "$2" ] || { echo "Unknown options: $1" >&2; exit 252; }; }
same "$1 $2 $3 $4 $5" "ec2 describe-instances --output json --filters"
same "$7" "Name=instance-state-name,Values=running"
same "$8 $9" "--query Reservations[].Instances[].{address: PrivateIpAddress, labels: {zone: Placement.AvailabilityZone}}"
case "$6" in
    Name=tag:Mesh,Values=shop) ;;
    *) echo "An error occurred (UnauthorizedOperation) when calling the DescribeInstances operation: You are not authorized to perform this operation." >&2; exit 254 ;;
esac
cat <<END
[
    {
        "address": "10.0.0.7",
        "labels": {
            "zone": "eu-central-1a"
        }
    },
    {
        "address": "10.0.0.8",
        "labels": {
            "zone": "eu-central-1b"
        }
    }
]
END
"#;

#[tokio::test]
async fn the_program_for_ec2_prints_what_the_manual_shows() {
    let dir = Dir::new("ec2");
    dir.program("aws", AWS);
    // With a PATH of its own: nobody's real account is asked.
    let path = format!("{}:/usr/bin:/bin", dir.0.display());
    let find = dir.program("find-in-ec2", &block("sh", "describe-instances"));
    let printed = Command::new(&find).arg("shop").env("PATH", &path).output().expect("it runs");
    assert!(printed.status.success(), "{printed:?}");
    let lines = String::from_utf8(printed.stdout).expect("text");
    assert_eq!(lines.lines().collect::<Vec<_>>(), shown("$ find-in-ec2 shop"));

    let run =
        dir.program("run", &format!("#!/bin/sh\nPATH={path} exec {} \"$@\"\n", find.display()));
    let url = format!("exec://{}?arg=shop&interval=30s&timeout=20s", run.display());
    let report_of_shop = report(&url, |report| report.health == Health::Well).await;
    assert_eq!(addresses(&report_of_shop), ["10.0.0.7:4470", "10.0.0.8:4470"]);
    assert_eq!(report_of_shop.sightings[1].labels["zone"], "eu-central-1b");

    let refused = format!("exec://{}?arg=other", run.display());
    let refused = report(&refused, |report| matches!(report.health, Health::Unwell(_))).await;
    assert!(
        matches!(&refused.health, Health::Unwell(why) if why.contains("UnauthorizedOperation")),
        "{refused:?}"
    );
}

/// Answers as Consul does: with the next of its answers each, once it is there to be given.
fn consul(answers: Receiver<String>) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its number").to_string();
    let (asked, questions) = channel();
    std::thread::spawn(move || {
        for (index, connection) in (1..).zip(listener.incoming().map_while(Result::ok)) {
            if answer(connection, index, &asked, &answers).is_none() {
                return;
            }
        }
    });
    (address, questions)
}

fn answer(
    mut connection: TcpStream,
    index: u32,
    asked: &Sender<String>,
    answers: &Receiver<String>,
) -> Option<()> {
    let mut lines = BufReader::new(connection.try_clone().ok()?).lines().map_while(Result::ok);
    asked.send(lines.next()?).ok()?;
    let _ = lines.find(String::is_empty);
    let body = answers.recv().ok()?;
    let length = body.len();
    write!(
        connection,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Consul-Index: {index}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .ok()
}

/// One of `/v1/health/service/...`, cut down to what counts here.
fn entry(node: &str, address: &str, meta: &str) -> String {
    format!(
        r#"{{"Node": {{"Node": "n", "Address": "{node}"}}, "Service": {{"Service": "pillion", "Address": "{address}", "Port": 4470, "Meta": {meta}}}, "Checks": []}}"#
    )
}

#[tokio::test]
async fn the_program_for_consul_prints_what_the_manual_shows() {
    if !is_there("python3") {
        return println!("SKIPPED: no python3");
    }
    let dir = Dir::new("consul");
    let find = dir.program("find-in-consul", &block("python", "X-Consul-Index"));
    let both = format!(
        "[{}, {}]",
        entry("10.0.0.1", "10.0.0.7", r#"{"zone": "a"}"#),
        entry("10.0.0.8", "", "{}")
    );
    let one = format!("[{}]", entry("10.0.0.8", "", "{}"));

    let (say, answers) = channel();
    let (address, questions) = consul(answers);
    let mut program = Command::new(&find)
        .arg("pillion")
        .env("CONSUL_HTTP_ADDR", &address)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(program.stdout.take().expect("its output")).lines();
    let mut printed = Vec::new();
    for (index, body) in [&both, &one].into_iter().enumerate() {
        say.send(body.clone()).expect("asked for");
        printed.push(lines.next().expect("a line").expect("text"));
        let question = questions.recv_timeout(Duration::from_secs(60)).expect("a question");
        let path = "/v1/health/service/pillion?passing=1&wait=5m";
        assert_eq!(question, format!("GET {path}&index={index} HTTP/1.1"));
    }
    program.kill().expect("killed");
    program.wait().expect("waited for");
    assert_eq!(printed, shown("$ find-in-consul pillion"));
    drop(say);

    let (say, answers) = channel();
    let (address, _questions) = consul(answers);
    let set = format!("#!/bin/sh\nCONSUL_HTTP_ADDR={address} exec {} \"$@\"\n", find.display());
    let run = dir.program("run", &set);
    let url = format!("exec://{}?arg=pillion", run.display());
    say.send(both).expect("there");
    say.send(one).expect("there");
    let last = report(&url, |report| addresses(report) == ["10.0.0.8:4470"]).await;
    assert_eq!(last.health, Health::Well);
}
