//! `postgres` keeps the promises of every strategy, with a real server that the test starts, and a proxy before it that
//! breaks. What takes hours is tested beside the strategy, with a database from memory.

#![cfg(feature = "postgres")]

#[path = "postgres/server.rs"]
mod server;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pillion_strategies::conformance::{Fault, Node, PATIENCE, Place, announcement};
use pillion_strategies::{Health, Report, Reporter, Strategy, Surroundings, build};
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::server::{PASSWORD, Postgres, Proxy};

/// A channel of its own on a server, behind a proxy.
struct Channel {
    server: Arc<Postgres>,
    proxy: Proxy,
    channel: String,
    heartbeat: &'static str,
}

impl Channel {
    async fn new() -> Result<Self, String> {
        Ok(Self::on(Postgres::shared().await?, "300ms").await)
    }

    async fn on(server: Arc<Postgres>, heartbeat: &'static str) -> Self {
        static CHANNELS: AtomicU32 = AtomicU32::new(0);
        let channel = format!("place_{}", CHANNELS.fetch_add(1, Ordering::Relaxed));
        let proxy = Proxy::before(server.port).await;
        Self { server, proxy, channel, heartbeat }
    }
}

impl Place for Channel {
    fn strategy(&self) -> Box<dyn Strategy> {
        let Self { proxy, channel, heartbeat, .. } = self;
        strategy(&format!(
            "postgres://shop:{PASSWORD}@{}/postgres?channel={channel}&heartbeat={heartbeat}",
            proxy.address
        ))
    }

    fn spoil(&self) {
        let (server, channel) = (Arc::clone(&self.server), self.channel.clone());
        tokio::spawn(async move {
            let (client, _task) = server.client().await.expect("a connection");
            for n in 0..500 {
                let own = announcement(900 + n);
                let text = [
                    "hello".to_owned(),
                    "x".repeat(7999),
                    format!("{{\"say\":\"here\",\"node\":\"{}\"}}", own.node),
                    "{\"say\":\"bye\",\"node\":\"a@b\",\"incarnation\":\"00\",\"mesh\":\"\"}"
                        .into(),
                ];
                let text = &text[usize::from(n) % text.len()];
                client.batch_execute(&format!("NOTIFY {channel}, '{text}'")).await.expect("sent");
            }
        });
    }

    fn fault(&self, fault: Fault) -> bool {
        // Nobody is ever in an answer of a database: nodes speak for themselves.
        if matches!(fault, Fault::Empty | Fault::Partial) {
            return false;
        }
        self.proxy.breaks(Some(fault));
        true
    }

    fn mend(&self) {
        self.proxy.breaks(None);
    }
}

pillion_strategies::conformance!(Channel::new().await);

fn strategy(url: &str) -> Box<dyn Strategy> {
    let surroundings = Surroundings {
        registry: PathBuf::new(),
        interval: Duration::from_secs(5),
        ..Surroundings::default()
    };
    build(url, &surroundings).expect("postgres")
}

fn says(report: &Report, words: &str) -> bool {
    matches!(&report.health, Health::Unwell(why) if why.contains(words))
}

/// A strategy that runs.
struct Run {
    reports: watch::Receiver<Report>,
    _task: JoinSet<()>,
}

impl Run {
    fn of(url: &str) -> Self {
        let strategy = strategy(url);
        let (reporter, reports) = Reporter::new();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let ended = strategy.run(announcement(1), &reporter).await;
            panic!("it ended: {ended:?}");
        });
        Self { reports, _task: task }
    }

    async fn sees(&mut self, what: &str, holds: impl Fn(&Report) -> bool) -> Report {
        let found = timeout(PATIENCE, self.reports.wait_for(|report| holds(report))).await;
        match found.map(|report| report.expect("alive").clone()) {
            Ok(report) => report,
            Err(_) => panic!("never {what}; the last is {:?}", *self.reports.borrow()),
        }
    }
}

#[tokio::test]
async fn a_node_that_stops_says_goodbye_through_the_database() {
    let server = match Postgres::shared().await {
        Ok(server) => server,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    // Three heartbeats would be longer than any wait here.
    let place = Channel::on(server, "1m").await;
    let mut node = Node::start(&place, 1);
    let stops = Node::start(&place, 2);
    node.sees(&stops).await;
    let gone = stops.announcement.clone();
    drop(stops);
    node.forgets(&gone).await;
}

#[tokio::test]
async fn a_server_that_restarts_or_hangs_drops_nobody_and_is_used_again() {
    let server = match Postgres::start(&[]).await {
        Ok(server) => Arc::new(server),
        Err(why) => return println!("SKIPPED: {why}"),
    };
    let place = Channel::on(Arc::clone(&server), "300ms").await;
    let mut node = Node::start(&place, 1);
    let other = Node::start(&place, 2);
    node.sees(&other).await;

    server.end();
    let unwell = |report: &Report| matches!(report.health, Health::Unwell(_));
    let report = node.reports("the server's end", unwell).await;
    assert!(other.is_in(&report), "{report:?}");
    server.run().await.expect("it starts again");
    let report = node.reports("the server's return", |r| r.health == Health::Well).await;
    assert!(other.is_in(&report), "{report:?}");

    server.signal_all(Signal::STOP);
    let silent = |report: &Report| says(report, "within 10 s");
    let report = node.reports("the server's silence", silent).await;
    assert!(other.is_in(&report), "{report:?}");
    server.signal_all(Signal::CONT);
    let report = node.reports("the server's return", |r| r.health == Health::Well).await;
    assert!(other.is_in(&report), "{report:?}");
    let late = Node::start(&place, 3);
    node.sees(&late).await;
}

#[tokio::test]
async fn a_wrong_password_is_told_in_words_and_a_password_file_that_is_put_right_is_used() {
    let server = match Postgres::shared().await {
        Ok(server) => server,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    let file = std::env::temp_dir().join(format!("pillion-pgpass-{}", std::process::id()));
    let port = server.port;
    std::fs::write(&file, format!("127.0.0.1:{port}:*:shop:wr0ng\n")).expect("written");
    let mut run =
        Run::of(&format!("postgres://shop@127.0.0.1:{port}/postgres?passfile={}", file.display()));
    let report = run.sees("the refusal", |r| says(r, "PGPASSWORD")).await;
    assert!(says(&report, "password authentication failed") && !says(&report, "wr0ng"));
    std::fs::write(&file, format!("127.0.0.1:{port}:*:shop:{PASSWORD}\n")).expect("written");
    run.sees("being let in", |r| r.health == Health::Well).await;
    std::fs::remove_file(&file).expect("removed");
    let mut run = Run::of(&format!("postgres://shop:{PASSWORD}@127.0.0.1:{port}/nosuch"));
    run.sees("the missing database", |r| says(r, "Check the database's name")).await;
}

/// Where the test below says to itself what to connect to.
const HELPER: &str = "PILLION_TEST_POSTGRES_URL";

#[tokio::test]
async fn the_password_of_the_environment_is_used() {
    if let Ok(url) = std::env::var(HELPER) {
        let mut run = Run::of(&url);
        run.sees("being let in", |r| r.health == Health::Well).await;
        return;
    }
    let server = match Postgres::shared().await {
        Ok(server) => server,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    // An environment belongs to a process.
    let this = std::env::current_exe().expect("this test");
    let url = format!("postgres://shop@127.0.0.1:{}/postgres", server.port);
    let run = move || {
        Command::new(this)
            .args(["--exact", "the_password_of_the_environment_is_used"])
            .env(HELPER, url)
            .env("PGPASSWORD", PASSWORD)
            .output()
    };
    let output = tokio::task::spawn_blocking(run).await.expect("run").expect("run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test]
async fn tls_is_spoken_as_sslmode_says() {
    let dir = std::env::temp_dir().join(format!("pillion-pg-tls-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("made");
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("made");
    let (cert, key, stranger) = (dir.join("cert"), dir.join("key"), dir.join("other"));
    std::fs::write(&cert, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    std::fs::write(&stranger, other.cert.pem()).expect("written");
    let server = match Postgres::start(&[]).await {
        Ok(server) => server,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    for file in ["cert", "key"] {
        std::fs::copy(dir.join(file), server.data().join(file)).expect("copied");
        server.own(&server.data().join(file)).expect("owned");
    }
    let url = |host: &str, rest: &str| {
        format!("postgres://shop:{PASSWORD}@{host}:{}/postgres?{rest}", server.port)
    };
    let mut run = Run::of(&url("localhost", "sslmode=require"));
    run.sees("a server without TLS refused", |r| says(r, "does not support TLS")).await;

    let auto = server.data().join("postgresql.auto.conf");
    std::fs::write(&auto, "ssl=on\nssl_cert_file='cert'\nssl_key_file='key'\n").expect("written");
    server.end();
    server.run().await.expect("it starts again");
    run.sees("being let in", |r| r.health == Health::Well).await;
    let (client, _task) = server.client().await.expect("a connection");
    let row = "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE s.ssl AND a.application_name = 'pillion'";
    let count: i64 = client.query_one(row, &[]).await.expect("an answer").get(0);
    assert_eq!(count, 1, "encrypted");

    let verify =
        |file: &std::path::Path| format!("sslmode=verify-full&sslrootcert={}", file.display());
    let mut run = Run::of(&url("localhost", &verify(&cert)));
    run.sees("being let in", |r| r.health == Health::Well).await;
    let mut run = Run::of(&url("localhost", &verify(&stranger)));
    run.sees("an unknown issuer refused", |r| says(r, "certificate")).await;
    let mut run = Run::of(&url("127.0.0.1", &verify(&cert)));
    run.sees("another host's certificate refused", |r| says(r, "certificate")).await;
    let mut run = Run::of(&url("localhost", &verify(&dir.join("nosuch"))));
    run.sees("a missing file named", |r| says(r, "nosuch")).await;
    let _ = std::fs::remove_dir_all(&dir);
}
