//! Clients that do not do what they should: the kit finds out.
//!
//! `careless.py` is a client that keeps the promises of a few scripts. Told to be careless in one thing, it is the same client
//! but for that, so what fails then fails for no other reason.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::client;
use crate::script::{self, Script};

/// How long a careless client is waited for: what it leaves out never comes.
const SHORT: Duration = Duration::from_secs(5);

fn careless(name: &str, fault: &str) -> Option<Result<(), String>> {
    let python = Command::new("python3").arg("--version").output();
    if !python.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: a careless client, because there is no python3 here");
        return None;
    }
    let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/careless.py");
    let mut script: Script = script::named(name);
    script.env.insert("CARELESS".to_owned(), fault.to_owned());
    let patience = if fault.is_empty() { client::patience() } else { SHORT };
    Some(client::play(&driver, &script, patience))
}

/// The script passes with a careful client, and fails where this is expected with a careless one.
fn only_the_careful_pass(name: &str, fault: &str, expected: &str) {
    match careless(name, "") {
        None => return,
        Some(played) => played.unwrap_or_else(|report| panic!("a careful client fails {report}")),
    }
    let report =
        careless(name, fault).expect("python3 was here").expect_err("a careless client passes");
    assert!(report.contains(&script::named(name).promise), "it says no promise: {report}");
    let step = report.lines().find(|line| line.starts_with("expected ")).unwrap_or_default();
    assert!(step.contains(expected), "it failed elsewhere: {report}");
}

#[test]
fn a_client_that_ignores_draining_fails() {
    only_the_careful_pass("draining_calls", "draining", r#""op":"bye""#);
}

#[test]
fn a_client_that_ignores_a_gap_fails() {
    only_the_careful_pass("gap", "gap", r#""reason":"overflow""#);
}

#[test]
fn a_client_that_does_not_tell_what_it_took_fails() {
    only_the_careful_pass("window_waits", "more", r#""op":"more""#);
}

#[test]
fn a_client_that_counts_wrongly_fails() {
    only_the_careful_pass("resume", "seen", r#""$seen":0"#);
}

#[test]
fn a_node_that_says_something_else_fails() {
    let mut script = script::named("error_noproc");
    let Some(wrong) = script.steps.iter_mut().find(|step| step.text.contains(r#""code":"noproc""#))
    else {
        panic!("the script has changed: {script:?}");
    };
    if let script::Does::In { frame, .. } = &mut wrong.does {
        frame["maybe_applied"] = true.into();
    }
    let report = crate::node::play(&script).expect_err("the node says false");
    assert!(report.contains("`maybe_applied` is false, not true"), "{report}");
    assert!(report.contains("everything before:"), "{report}");
}
