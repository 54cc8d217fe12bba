//! `exec` keeps the promises of every strategy with real programs, and leaves none of them behind.

#![cfg(all(feature = "exec", target_os = "linux"))]

use std::any::Any;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pillion_strategies::conformance::{Fault, Node, PATIENCE, Place, announcement};
use pillion_strategies::{Announcement, Health, Report, Reporter, Strategy, Surroundings, build};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

const FIND: &str = r#"#!/bin/sh
cd "$1"
case "$(cat mode)" in
    error) echo 'the API said 403' >&2; exit 1 ;;
    empty) echo '[]' ;;
    partial) echo "[$(head -n 1 nodes)]" ;;
    malformed) printf '{"nodes": \n\000\033[2J\n' ;;
    slow) sleep 1; echo "[$(paste -s -d , nodes)]" ;;
    silent) sleep 1000 & sleep 1000 ;;
    *) echo "[$(paste -s -d , nodes)]" ;;
esac
"#;

/// A directory with a program in it, which prints the nodes of a file.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Result<Self, String> {
        static DIRS: AtomicU32 = AtomicU32::new(0);
        let number = DIRS.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("pillion-exec-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
        let dir = Self(dir);
        dir.write("mode", "well");
        dir.write("nodes", "");
        Ok(dir)
    }

    fn write(&self, name: &str, text: &str) {
        // In one step: a program may be reading.
        let file = self.0.join(format!(".{name}"));
        fs::write(&file, text).expect("a file");
        fs::rename(file, self.0.join(name)).expect("in its place");
    }

    fn program(&self, text: &str) -> PathBuf {
        self.write("find", text);
        let path = self.0.join("find");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        path
    }

    /// The numbers in a file, once there are `count` of them.
    async fn pids(&self, name: &str, count: usize) -> Vec<u32> {
        let path = self.0.join(name);
        eventually("the processes are written down", || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let pids: Vec<u32> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
            (pids.len() == count).then_some(pids)
        })
        .await
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// Whether a process runs; one that has ended and that nobody has waited for does not.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

fn strategy(program: &Path, options: &str) -> Box<dyn Strategy> {
    build(&format!("exec://{}?{options}", program.display()), &Surroundings::default())
        .expect("a strategy")
}

fn started(strategy: Box<dyn Strategy>) -> (watch::Receiver<Report>, JoinSet<()>) {
    let (reporter, reports) = Reporter::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let ended = strategy.run(announcement(1), &reporter).await;
        panic!("it ended: {ended:?}");
    });
    (reports, tasks)
}

async fn until(
    reports: &mut watch::Receiver<Report>,
    holds: impl FnMut(&Report) -> bool,
) -> Report {
    timeout(PATIENCE, reports.wait_for(holds)).await.expect("in time").expect("alive").clone()
}

fn unwell(words: &str) -> impl FnMut(&Report) -> bool + '_ {
    move |report| matches!(&report.health, Health::Unwell(why) if why.contains(words))
}

struct Programs {
    dir: Arc<Dir>,
    program: PathBuf,
    lines: Arc<Mutex<Vec<String>>>,
}

/// A node in the file, until it is dropped.
struct Line {
    dir: Arc<Dir>,
    lines: Arc<Mutex<Vec<String>>>,
    text: String,
}

fn write_nodes(dir: &Dir, lines: &[String]) {
    dir.write("nodes", &lines.iter().map(|line| format!("{line}\n")).collect::<String>());
}

impl Programs {
    fn new() -> Result<Self, String> {
        let dir = Arc::new(Dir::new()?);
        let program = dir.program(FIND);
        Ok(Self { dir, program, lines: Arc::default() })
    }
}

impl Place for Programs {
    fn strategy(&self) -> Box<dyn Strategy> {
        let dir = self.dir.0.display();
        strategy(&self.program, &format!("arg={dir}&interval=100ms&timeout=5s"))
    }

    fn plant(&self, announcement: &Announcement) -> Option<Box<dyn Any + Send>> {
        let text = format!(
            r#"{{"address": "10.0.0.1:{}", "node": "{}", "incarnation": "{:016x}", "labels": {{"n": 1}}, "x": [0]}}"#,
            announcement.listen[0].port(),
            announcement.node,
            announcement.incarnation
        );
        let mut lines = self.lines.lock().expect("whole");
        lines.push(text.clone());
        write_nodes(&self.dir, &lines);
        Some(Box::new(Line { dir: self.dir.clone(), lines: self.lines.clone(), text }))
    }

    fn spoil(&self) {
        let mut lines = self.lines.lock().expect("whole");
        lines.extend([r#"{"address": null}"#.into(), "7".into(), r#""no address""#.into()]);
        write_nodes(&self.dir, &lines);
    }

    fn fault(&self, fault: Fault) -> bool {
        self.dir.write("mode", &format!("{fault:?}").to_lowercase());
        true
    }

    fn mend(&self) {
        self.dir.write("mode", "well");
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut lines = self.lines.lock().expect("whole");
        lines.retain(|line| *line != self.text);
        write_nodes(&self.dir, &lines);
    }
}

pillion_strategies::conformance!(Programs::new());

#[tokio::test]
async fn a_strategy_that_is_dropped_leaves_no_process_behind() {
    let dir = Dir::new().expect("a directory");
    let program = dir.program(
        "#!/bin/sh\ncd \"$1\"\n(sleep 1000 & echo $! >> pids; wait) &\ntrap '' TERM HUP INT\necho $! >> pids; echo $$ >> pids\necho '[\"10.0.0.1\"]'\nwhile :; do sleep 1000; done\n",
    );
    let (mut reports, tasks) = started(strategy(&program, &format!("arg={}", dir.0.display())));
    until(&mut reports, |report| report.health == Health::Well).await;
    let pids = dir.pids("pids", 3).await;
    assert!(pids.iter().all(|pid| runs(*pid)), "{pids:?}");
    drop(tasks);
    eventually("all of them have ended", || pids.iter().all(|pid| !runs(*pid)).then_some(())).await;
    // The program was our own child: it is waited for too, so nothing of it is left.
    let ours = || pids.iter().all(|pid| parent(*pid) != Some(std::process::id()));
    eventually("its end was taken notice of", || ours().then_some(())).await;
}

/// Whose child a process is, as long as anything of it is left.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}

#[tokio::test]
async fn what_a_program_left_behind_ends_with_it() {
    let dir = Dir::new().expect("a directory");
    let program = dir.program(
        "#!/bin/sh\ncd \"$1\"\n(trap '' HUP TERM; sleep 1000) & echo $! > pid\necho '[]'\n",
    );
    let options = format!("arg={}&interval=1h", dir.0.display());
    let (mut reports, _tasks) = started(strategy(&program, &options));
    until(&mut reports, |report| report.health == Health::Well).await;
    let pids = dir.pids("pid", 1).await;
    eventually("it has ended", || (!runs(pids[0])).then_some(())).await;
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_all_that_it_has_started() {
    let dir = Dir::new().expect("a directory");
    let program = dir.program(
        "#!/bin/sh\ncd \"$1\"\ntrap '' TERM\n[ -e hung ] && { echo '[\"10.0.0.2\"]'; exit; }\nsleep 1000 & echo $! > pids; echo $$ >> pids; touch hung\nwait\n",
    );
    let options = format!("arg={}&timeout=500ms", dir.0.display());
    let (mut reports, _tasks) = started(strategy(&program, &options));
    until(&mut reports, unwell("find printed no line in 500ms")).await;
    let pids = dir.pids("pids", 2).await;
    eventually("both have ended", || pids.iter().all(|pid| !runs(*pid)).then_some(())).await;
    until(&mut reports, |report| report.health == Health::Well && report.sightings.len() == 1)
        .await;
}

#[tokio::test]
async fn a_program_finds_its_node_in_its_environment_and_nothing_to_read() {
    let dir = Dir::new().expect("a directory");
    let program = dir.program(
        "#!/bin/sh\ncat > /dev/null\necho \"[{\\\"address\\\": \\\"10.0.0.1:$PILLION_PORT\\\", \\\"node\\\": \\\"$PILLION_NODE\\\", \\\"mesh\\\": \\\"$PILLION_MESH\\\"}]\"\n",
    );
    let (mut reports, _tasks) = started(strategy(&program, ""));
    let report = until(&mut reports, |report| report.health == Health::Well).await;
    let (told, announced) = (&report.sightings[0], announcement(1));
    assert_eq!(told.addresses[0].port(), announced.listen[0].port());
    assert_eq!(told.node.as_ref(), Some(&announced.node));
    assert_eq!(told.mesh.as_ref(), Some(&announced.mesh));
    assert_eq!(told.source, "exec find");
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_told_with_what_to_do() {
    let dir = Dir::new().expect("a directory");
    let text = dir.0.join("notes.txt");
    fs::write(&text, "not a program").expect("a file");
    let (mut reports, _a) = started(strategy(&text, ""));
    until(&mut reports, unwell("chmod +x")).await;
    let (mut reports, _b) = started(strategy(&dir.0.join("nosuch"), ""));
    until(&mut reports, unwell("there is no such program")).await;
    let program = dir.program("#!/nosuch/interpreter\n");
    let (mut reports, _c) = started(strategy(&program, ""));
    until(&mut reports, unwell("first line (#!)")).await;
    // It is used as soon as it is there.
    dir.program("#!/bin/sh\necho '[]'\n");
    until(&mut reports, |report| report.health == Health::Well).await;
}

#[tokio::test]
async fn the_last_words_of_a_program_are_told_with_its_end() {
    let place = Programs::new().expect("a place");
    let mut node = Node::start(&place, 1);
    node.reports("being well", |report| report.health == Health::Well).await;
    place.fault(Fault::Error);
    let words = "find ended with exit status: 1 (it said: `the API said 403`)";
    node.reports("what it said", unwell(words)).await;
}
