//! `local` keeps the promises of every strategy, and those about its directory.

#![allow(clippy::disallowed_methods, reason = "a test waits for real processes, in real time")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pillion_strategies::conformance::{Fault, Node, Place, announcement};
use pillion_strategies::local::entries;
use pillion_strategies::{Health, Strategy, Surroundings, build};
use tokio::time::Instant;

/// A registry of its own.
struct Machine {
    root: PathBuf,
}

impl Machine {
    fn new() -> Self {
        static PLACES: AtomicU32 = AtomicU32::new(0);
        let number = PLACES.fetch_add(1, Ordering::Relaxed);
        let root =
            std::env::temp_dir().join(format!("pillion-local-{}-{number}", std::process::id()));
        Self { root }
    }

    fn registry(&self) -> PathBuf {
        self.root.join("default/nodes")
    }

    fn files(&self) -> Vec<String> {
        let listing = fs::read_dir(self.registry()).expect("a registry");
        let name = |item: fs::DirEntry| item.file_name().to_string_lossy().into_owned();
        let mut names: Vec<String> = listing.map(|item| name(item.expect("an item"))).collect();
        names.sort();
        names
    }
}

impl Place for Machine {
    fn strategy(&self) -> Box<dyn Strategy> {
        let surroundings = Surroundings {
            registry: self.registry(),
            interval: Duration::from_secs(5),
            ..Surroundings::default()
        };
        build("local", &surroundings).expect("local")
    }

    fn spoil(&self) {
        let registry = self.registry();
        fs::create_dir_all(&registry).expect("a registry");
        fs::set_permissions(&registry, fs::Permissions::from_mode(0o700)).expect("private");
        let run = "00000000000000ff";
        for (name, content) in [
            (format!("empty.{run}"), String::new()),
            (format!("garbage.{run}"), "{\"node\": 1".into()),
            (format!("huge.{run}"), "[".repeat(100_000)),
            ("nameless".into(), "{}".into()),
        ] {
            fs::write(registry.join(format!("{name}.json")), content).expect("written");
        }
        fs::write(registry.join("notes.txt"), "not ours").expect("written");
        fs::create_dir_all(registry.join(format!("directory.{run}.json"))).expect("made");
        let _ = symlink("/etc/passwd", registry.join(format!("link.{run}.json")));
        let _ = symlink("/dev/zero", registry.join(format!("link.{run}.lock")));
    }

    fn fault(&self, fault: Fault) -> bool {
        if fault != Fault::Error {
            return false;
        }
        fs::rename(self.registry(), self.root.join("away")).expect("renamed");
        fs::write(self.registry(), "in its place").expect("written");
        true
    }

    fn mend(&self) {
        fs::remove_file(self.registry()).expect("removed");
        fs::rename(self.root.join("away"), self.registry()).expect("renamed back");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

pillion_strategies::conformance!(Ok::<_, String>(Machine::new()));

// In simulated time: what is promised is how long they pause, not how busy the machine is.
#[tokio::test(start_paused = true)]
async fn three_nodes_that_start_together_see_each_other_at_once() {
    let machine = Machine::new();
    let started = Instant::now();
    let mut nodes: Vec<Node> = (1..=3).map(|n| Node::start(&machine, n)).collect();
    for at in 0..3 {
        let (before, rest) = nodes.split_at_mut(at);
        let (node, after) = rest.split_first_mut().expect("three");
        for other in before.iter().chain(after.iter()) {
            node.sees(other).await;
        }
    }
    let took = started.elapsed();
    println!("three nodes saw each other after {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn the_command_line_reads_what_runs_and_where_its_socket_is() {
    let machine = Machine::new();
    assert!(entries(&machine.registry()).is_empty());
    let mut node = Node::start(&machine, 1);
    node.reports("being well", |report| report.health == Health::Well).await;
    let found = entries(&machine.registry());
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].node, node.announcement.node);
    assert_eq!(found[0].incarnation, node.announcement.incarnation);
    assert_eq!(found[0].socket, node.announcement.socket);
    assert_eq!(found[0].labels, node.announcement.labels);
    assert_eq!(found[0].pid, std::process::id());
    let mode = |path: PathBuf| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(machine.registry()), 0o700);
    for file in machine.files() {
        assert_eq!(mode(machine.registry().join(&file)), 0o600, "{file}");
    }
}

#[tokio::test]
async fn entries_and_the_directory_are_made_again_when_they_are_deleted() {
    let machine = Machine::new();
    let mut a = Node::start(&machine, 1);
    let b = Node::start(&machine, 2);
    a.sees(&b).await;
    for file in machine.files() {
        fs::remove_file(machine.registry().join(file)).expect("removed");
    }
    let late = Node::start(&machine, 3);
    let mut late_too = Node::start(&machine, 4);
    late_too.sees(&b).await;
    late_too.sees(&late).await;
    fs::remove_dir_all(&machine.root).expect("removed");
    late_too
        .reports("everybody again", |r| r.sightings.len() == 3 && r.health == Health::Well)
        .await;
    let mut last = Node::start(&machine, 5);
    last.reports("all four", |report| report.sightings.len() == 4).await;
}

#[tokio::test]
async fn a_node_whose_lock_was_deleted_takes_it_again() {
    let machine = Machine::new();
    let mut a = Node::start(&machine, 1);
    let mut b = Node::start(&machine, 2);
    a.sees(&b).await;
    b.sees(&a).await;
    for lock in machine.files().iter().filter(|file| file.ends_with("lock")) {
        fs::remove_file(machine.registry().join(lock)).expect("removed");
    }
    let mut late = Node::start(&machine, 3);
    late.reports("both", |report| a.is_in(report) && b.is_in(report)).await;
    a.sees(&late).await;
    b.sees(&late).await;
    let gone = late.announcement.clone();
    drop(late);
    a.forgets(&gone).await;
    a.sees(&b).await;
    b.sees(&a).await;
    assert_eq!(machine.files().len(), 4, "{:?}", machine.files());
}

#[tokio::test]
async fn a_directory_that_others_can_write_or_that_is_a_link_is_refused() {
    let machine = Machine::new();
    fs::create_dir_all(machine.registry()).expect("made");
    fs::set_permissions(machine.registry(), fs::Permissions::from_mode(0o770)).expect("opened");
    let mut node = Node::start(&machine, 1);
    let unwell = |part: &'static str| move |r: &pillion_strategies::Report| matches!(&r.health, Health::Unwell(why) if why.contains(part));
    node.reports("a refusal", unwell("chmod 700")).await;
    assert!(machine.files().is_empty() && entries(&machine.registry()).is_empty());
    fs::set_permissions(machine.registry(), fs::Permissions::from_mode(0o700)).expect("closed");
    node.reports("being well", |report| report.health == Health::Well).await;

    fs::rename(machine.registry(), machine.root.join("real")).expect("moved");
    symlink(machine.root.join("real"), machine.registry()).expect("a link");
    node.reports("a refusal", unwell("symbolic link")).await;
    assert!(entries(&machine.registry()).is_empty());
}

const HELPER: &str = "PILLION_LOCAL_HELPER";

/// Not a promise: the process that the next test kills.
#[tokio::test]
async fn helper_process() {
    if let Ok(root) = std::env::var(HELPER) {
        let machine = Machine { root: root.into() };
        let _node = Node::start(&machine, 9);
        std::future::pending::<()>().await;
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_node_that_was_killed_vanishes_and_is_cleaned_up_by_the_others() {
    let machine = Machine::new();
    let mut node = Node::start(&machine, 1);
    let mut helper = Command::new(std::env::current_exe().expect("this binary"));
    helper.args(["--exact", "helper_process"]).env(HELPER, &machine.root).stdout(Stdio::null());
    let helper = Killed(helper.spawn().expect("a helper"));
    let name = announcement(9).node;
    let is_there = |report: &pillion_strategies::Report| {
        report.sightings.iter().any(|sighting| sighting.node.as_ref() == Some(&name))
    };
    node.reports("the helper", is_there).await;
    assert_eq!(machine.files().len(), 4);
    drop(helper);
    // It is dead, and nothing is waited for any more but the pauses between two looks.
    tokio::time::pause();
    let killed = Instant::now();
    node.reports("its end", |report| !is_there(report)).await;
    println!("noticed {:?} after the kill", killed.elapsed());
    assert_eq!(machine.files().len(), 2, "{:?}", machine.files());
    assert!(killed.elapsed() < Duration::from_secs(5));
}
