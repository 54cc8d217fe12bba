//! `exec` with programs that exist on a stage only, and time that passes when nobody has anything to do.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Mutex;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::*;
use crate::{Health, Report};

/// What a program does when it is started.
#[derive(Clone, Debug)]
enum Act {
    /// Prints this and ends with this status.
    Prints(String, i32),
    /// Prints this and goes on for ever.
    Stays(String),
    /// Cannot be started.
    Missing,
}

/// Programs that do what the test says, without a system.
#[derive(Clone, Default)]
struct Stage {
    act: Arc<Mutex<Option<Act>>>,
    starts: Arc<Mutex<Vec<Instant>>>,
    orders: Arc<Mutex<Vec<Order>>>,
}

impl Stage {
    fn acts(&self, act: Act) {
        *self.act.lock().expect("whole") = Some(act);
    }

    fn prints(&self, text: &str) {
        self.acts(Act::Prints(format!("{text}\n"), 0));
    }

    fn starts(&self) -> Vec<Instant> {
        self.starts.lock().expect("whole").clone()
    }

    fn exec(&self, url: &str) -> Exec {
        let exec = Exec::from_url(&Url::parse(url).expect("a url")).expect(url);
        let stage = self.clone();
        let launch: Launch = Arc::new(move |order: &Order| {
            stage.starts.lock().expect("whole").push(Instant::now());
            stage.orders.lock().expect("whole").push(order.clone());
            let act = stage.act.lock().expect("whole").clone();
            let ended = |code| Ended { well: code == 0, how: format!("exit status: {code}") };
            let output = |text: String| -> Output { Box::pin(Cursor::new(text.into_bytes())) };
            Ok(match act.unwrap_or(Act::Prints("[]\n".into(), 0)) {
                Act::Missing => return Err("there is no such program".into()),
                Act::Prints(text, code) => Program {
                    stdout: output(text),
                    stderr: output("what went wrong\n".into()),
                    ending: Box::pin(async move { ended(code) }),
                },
                Act::Stays(text) => {
                    let (mut ours, theirs) = tokio::io::duplex(4096);
                    let ending = async move {
                        use tokio::io::AsyncWriteExt as _;
                        let _ = ours.write_all(text.as_bytes()).await;
                        std::future::pending::<Ended>().await
                    };
                    Program {
                        stdout: Box::pin(theirs),
                        stderr: output(String::new()),
                        ending: Box::pin(ending),
                    }
                }
            })
        });
        Exec { launch, ..exec }
    }
}

fn announcement() -> Announcement {
    Announcement {
        mesh: "shop".into(),
        node: "a@hal".into(),
        incarnation: 1,
        protocol: 1,
        ids: Vec::new(),
        listen: vec!["[::]:4471".parse().expect("an address")],
        socket: None,
        labels: BTreeMap::new(),
    }
}

fn started(exec: Exec) -> (watch::Receiver<Report>, JoinSet<()>) {
    let (reporter, reports) = Reporter::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { exec.watch(&announcement(), &reporter).await });
    (reports, tasks)
}

fn addresses(report: &Report) -> Vec<String> {
    report.sightings.iter().flat_map(|s| &s.addresses).map(ToString::to_string).collect()
}

fn says<'a>(words: &'a str) -> impl FnMut(&Report) -> bool + 'a {
    move |report| matches!(&report.health, Health::Unwell(why) if why.contains(words))
}

fn has<'a>(address: &'a str) -> impl FnMut(&Report) -> bool + 'a {
    move |report| report.health == Health::Well && addresses(report) == [address]
}

#[test]
fn a_program_and_its_arguments_are_written_as_a_url() {
    let stage = Stage::default();
    let exec = stage
        .exec("exec:///opt/my%20tools/find?arg=--zone&arg=a%20b&arg=&interval=30s&timeout=500ms");
    assert_eq!((exec.program.as_str(), exec.label()), ("/opt/my tools/find", "find"));
    assert_eq!(exec.args, ["--zone", "a b", ""]);
    assert_eq!(
        (exec.interval, exec.timeout),
        (Duration::from_secs(30), Duration::from_millis(500))
    );
    let refused = |url: &str| match Exec::from_url(&Url::parse(url).expect("a url")) {
        Ok(exec) => panic!("{url} was taken as {}", exec.program),
        Err(error) => error.to_string(),
    };
    assert!(refused("exec://").contains("exec:///usr/local/bin/find-nodes"));
    assert!(refused("exec://x?interval=1s&interval=2s").contains("twice"));
    assert!(refused("exec://x?args=1").contains("did you mean `arg`"));
    assert!(refused("exec://x?arg=%00").contains("%00"));
}

#[tokio::test(start_paused = true)]
async fn a_program_that_ends_well_is_run_again_after_the_interval_and_told_of_its_node() {
    let stage = Stage::default();
    stage.prints(r#"["10.0.0.1"]"#);
    let (mut reports, _tasks) = started(stage.exec("exec://find?arg=x&interval=60s"));
    reports.wait_for(has("10.0.0.1:4470")).await.expect("alive");
    stage.prints(r#"{"nodes": [{"address": "10.0.0.2"}]}"#);
    reports.wait_for(has("10.0.0.2:4470")).await.expect("alive");
    let pause = stage.starts()[1] - stage.starts()[0];
    assert!((45..=60).contains(&pause.as_secs()), "{pause:?}");
    let order = stage.orders.lock().expect("whole")[0].clone();
    assert_eq!(order.args, ["x"]);
    let env: Vec<String> =
        order.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, ["PILLION_MESH=shop", "PILLION_NODE=a@hal", "PILLION_PORT=4471"]);
}

#[tokio::test(start_paused = true)]
async fn each_line_of_a_program_that_goes_on_is_a_whole_set() {
    let stage = Stage::default();
    stage.acts(Act::Stays("[\"10.0.0.1\"]\n\n[\"10.0.0.2\",\n[\"10.0.0.3\"]\n".into()));
    let (mut reports, _tasks) = started(stage.exec("exec://find?timeout=1s"));
    reports.wait_for(has("10.0.0.1:4470")).await.expect("alive");
    let report =
        reports.wait_for(says("line 2 of find is no snapshot")).await.expect("alive").clone();
    assert_eq!(addresses(&report), ["10.0.0.1:4470"]);
    reports.wait_for(has("10.0.0.3:4470")).await.expect("alive");
    // It has said something: now it may be silent.
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(stage.starts().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_program_that_fails_is_told_of_and_started_again_later_and_later() {
    let stage = Stage::default();
    stage.prints(r#"["10.0.0.1"]"#);
    let (mut reports, _tasks) = started(stage.exec("exec://find?interval=1s"));
    reports.wait_for(has("10.0.0.1:4470")).await.expect("alive");
    stage.acts(Act::Prints(String::new(), 3));
    let words = "find ended with exit status: 3 (it said: `what went wrong`)";
    let report = reports.wait_for(says(words)).await.expect("alive").clone();
    assert_eq!(addresses(&report), ["10.0.0.1:4470"]);
    sleep(Duration::from_secs(3600)).await;
    let starts = stage.starts();
    let pauses: Vec<Duration> = starts[1..].windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses[0] <= RETRY_FIRST + APART && pauses.iter().all(|p| *p <= RETRY_CAP + APART));
    assert!((60..120).contains(&starts.len()), "{}", starts.len());
    stage.acts(Act::Missing);
    reports.wait_for(says("cannot be started: there is no such program")).await.expect("alive");
    stage.prints(r#"["10.0.0.2"]"#);
    reports.wait_for(has("10.0.0.2:4470")).await.expect("alive");
}

#[tokio::test(start_paused = true)]
async fn a_program_that_hangs_without_a_line_is_told_of_ended_and_started_again() {
    let stage = Stage::default();
    stage.acts(Act::Stays("[\"10.0.0.9\"".into()));
    let began = Instant::now();
    let (mut reports, _tasks) = started(stage.exec("exec://find?timeout=5s"));
    reports.wait_for(says("find printed no line in 5s")).await.expect("alive");
    assert_eq!(began.elapsed().as_secs(), 5);
    stage.prints(r#"["10.0.0.1"]"#);
    reports.wait_for(has("10.0.0.1:4470")).await.expect("alive");
}

#[tokio::test(start_paused = true)]
async fn a_program_that_says_nothing_and_ends_well_says_nothing() {
    let stage = Stage::default();
    stage.prints(r#"["10.0.0.1"]"#);
    let (mut reports, _tasks) = started(stage.exec("exec://find?interval=1s"));
    reports.wait_for(has("10.0.0.1:4470")).await.expect("alive");
    stage.prints("");
    let report =
        reports.wait_for(says("ended well and printed no line")).await.expect("alive").clone();
    assert_eq!(addresses(&report), ["10.0.0.1:4470"]);
    stage.prints("[]");
    let nobody = |r: &Report| r.health == Health::Well && r.sightings.is_empty();
    reports.wait_for(nobody).await.expect("alive");
}

#[tokio::test(start_paused = true)]
async fn a_line_without_end_is_cut_and_costs_no_more_than_its_bound() {
    let long = [b"x".repeat(3 * LINE_BYTES_MAX), b"\n[]\n".to_vec()].concat();
    let mut lines = Lines::new(Box::pin(Cursor::new(long)), LINE_BYTES_MAX, APART);
    assert!(matches!(lines.next().await, Some(Line::Cut(line)) if line.len() == LINE_BYTES_MAX));
    assert_eq!(lines.next().await, Some(Line::Whole(b"[]")));
    assert!(lines.line.capacity() <= KEPT_BYTES_MAX);
    assert_eq!(lines.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_program_that_prints_without_a_pause_is_read_slowly() {
    let stage = Stage::default();
    let many: Vec<String> = (1..=100).map(|n| format!("[\"10.0.0.{n}\"]\n")).collect();
    stage.acts(Act::Stays(many.concat()));
    let began = Instant::now();
    let (mut reports, tasks) = started(stage.exec("exec://find"));
    reports.wait_for(has("10.0.0.100:4470")).await.expect("alive");
    assert!((99 * APART..=101 * APART).contains(&began.elapsed()), "{:?}", began.elapsed());
    drop(tasks);
    // The last words of one that has ended are not waited for.
    stage.prints(&many.concat());
    let began = Instant::now();
    let (mut reports, _tasks) = started(stage.exec("exec://find"));
    reports.wait_for(has("10.0.0.100:4470")).await.expect("alive");
    assert!(began.elapsed() <= APART, "{:?}", began.elapsed());
}

/// The promises of every strategy, with hours that pass in no time.
#[cfg(feature = "conformance")]
mod promises {
    use std::any::Any;

    use super::*;
    use crate::conformance::{Fault, Place};

    #[derive(Default)]
    struct Staged {
        stage: Stage,
        nodes: Arc<Mutex<Vec<u16>>>,
        fault: Arc<Mutex<Option<Fault>>>,
    }

    struct Planted {
        nodes: Arc<Mutex<Vec<u16>>>,
        fault: Arc<Mutex<Option<Fault>>>,
        stage: Stage,
        port: u16,
    }

    fn act(stage: &Stage, nodes: &Mutex<Vec<u16>>, fault: Option<Fault>) {
        let mut nodes = nodes.lock().expect("whole").clone();
        if fault == Some(Fault::Partial) {
            nodes.truncate(1);
        }
        if fault == Some(Fault::Empty) {
            nodes.clear();
        }
        let texts: Vec<String> = nodes
            .iter()
            .map(|port| {
                format!(r#"{{"address": "10.0.0.1", "port": {port}, "labels": {{"a": 1}}}}"#)
            })
            .collect();
        let line = format!("[{}]\n", texts.join(", "));
        stage.acts(match fault {
            Some(Fault::Error) => Act::Prints(line, 1),
            Some(Fault::Malformed) => Act::Prints("\u{1b}[2J{\"nodes\": 7}\n".into(), 0),
            Some(Fault::Silent) => Act::Stays(String::new()),
            _ => Act::Prints(line, 0),
        });
    }

    impl Place for Staged {
        fn strategy(&self) -> Box<dyn Strategy> {
            act(&self.stage, &self.nodes, *self.fault.lock().expect("whole"));
            Box::new(self.stage.exec("exec:///usr/local/bin/find?interval=1s&timeout=2s"))
        }

        fn plant(&self, announcement: &Announcement) -> Option<Box<dyn Any + Send>> {
            let port = announcement.listen[0].port();
            self.nodes.lock().expect("whole").push(port);
            let planted = Planted {
                nodes: self.nodes.clone(),
                fault: self.fault.clone(),
                stage: self.stage.clone(),
                port,
            };
            act(&self.stage, &self.nodes, *self.fault.lock().expect("whole"));
            Some(Box::new(planted))
        }

        fn spoil(&self) {
            self.stage.acts(Act::Prints("\0\0\n[[[\nnull\n".into(), 0));
        }

        fn fault(&self, fault: Fault) -> bool {
            *self.fault.lock().expect("whole") = Some(fault);
            act(&self.stage, &self.nodes, Some(fault));
            // A program that answers late, but in time, answers.
            fault != Fault::Slow
        }

        fn mend(&self) {
            *self.fault.lock().expect("whole") = None;
            act(&self.stage, &self.nodes, None);
        }

        fn hours_pass(&self) -> bool {
            true
        }
    }

    impl Drop for Planted {
        fn drop(&mut self) {
            let port = self.port;
            self.nodes.lock().expect("whole").retain(|known| *known != port);
            act(&self.stage, &self.nodes, *self.fault.lock().expect("whole"));
        }
    }

    crate::conformance!(Ok::<_, String>(Staged::default()), start_paused = true);
}
