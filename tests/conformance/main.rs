//! The conformance kit: the same scripts with every client, the kit as its node, and with a real node, the kit as its client.
//!
//! `README.md` says what scripts and drivers are. Scripts are chosen by `CONFORMANCE_ONLY`, texts with commas between, each a part of
//! a name. `CONFORMANCE_CLIENT` is the path of a driver for the test `driver`; `CONFORMANCE_SCRIPTS` another directory of
//! scripts; `CONFORMANCE_PATIENCE_MS` how long the kit waits for what must come (30 s).

#![allow(
    clippy::disallowed_methods,
    reason = "clients and daemons live in real time: deadlines are read from the clock"
)]
#![allow(clippy::missing_panics_doc, reason = "a test that fails panics")]
#![allow(unreachable_pub, missing_docs, reason = "a test has no public interface")]

mod client;
mod failing;
mod frames;
mod matching;
mod node;
mod script;
#[path = "../e2e/support.rs"]
#[allow(dead_code, reason = "the end-to-end tests need more of it")]
#[allow(clippy::needless_pass_by_value, reason = "as in the end-to-end tests")]
mod support;
mod transcript;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use script::Script;

/// How many scripts are played at once. Most of their time they wait.
const AT_ONCE: usize = 4;

/// Plays each script, and says which failed, each with its transcript.
fn play_all(scripts: &[Script], whom: &str, play: impl Fn(&Script) -> Result<(), String> + Sync) {
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(script) = scripts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(report) = play(script) {
                        eprintln!("----- {whom} FAILS {report}");
                        failures.lock().expect("nobody panics").push(script.name.clone());
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().expect("nobody panics");
    failures.sort();
    eprintln!("{whom}: {} of {} scripts pass", scripts.len() - failures.len(), scripts.len());
    assert!(failures.is_empty(), "{whom} fails {}", failures.join(", "));
}

fn client_keeps_the_promises(driver: &Path, name: &str) {
    if let Err(why) = client::prepare(driver) {
        eprintln!("SKIPPED: the kit with the client in {name}: {why}");
        return;
    }
    play_all(&script::all(), name, |script| client::play(driver, script, client::patience()));
}

fn driver_of(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name).join("conformance")
}

#[test]
fn python() {
    client_keeps_the_promises(&driver_of("python"), "python");
}

#[test]
fn typescript() {
    client_keeps_the_promises(&driver_of("typescript"), "typescript");
}

#[test]
fn go() {
    client_keeps_the_promises(&driver_of("go"), "go");
}

#[test]
fn rust() {
    client_keeps_the_promises(&driver_of("rust"), "rust");
}

/// Whatever stands at `CONFORMANCE_CLIENT`: a client that is being written, somewhere else.
#[test]
fn driver() {
    let Some(path) = std::env::var_os("CONFORMANCE_CLIENT") else {
        eprintln!("SKIPPED: the kit with another client, because CONFORMANCE_CLIENT names none");
        return;
    };
    client_keeps_the_promises(Path::new(&path), "the driver");
}

#[test]
fn node_keeps_the_promises() {
    let (mut played, mut not) = (Vec::new(), Vec::new());
    for script in script::all() {
        if script.not_with_node.is_empty() { played.push(script) } else { not.push(script) }
    }
    for script in &not {
        eprintln!("not with a node: {}: {}", script.name, script.not_with_node);
    }
    play_all(&played, "the node", node::play);
}
