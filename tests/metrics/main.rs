//! The files that the chart gives to Prometheus, as its own tool sees them.

#![allow(missing_docs, reason = "a test has no public interface")]

use std::path::Path;
use std::process::Command;

/// Runs `promtool` in the repository, unless it is not there.
fn promtool(arguments: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = match Command::new("promtool").args(arguments).current_dir(root).output() {
        Ok(output) => output,
        Err(error) => {
            println!("SKIPPED: promtool (the package `prometheus`) cannot be run: {error}");
            return;
        }
    };
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn prometheus_takes_the_rules_of_the_chart() {
    promtool(&["check", "rules", "helm/pillion/files/rules.yaml"]);
}

#[test]
fn alerts_fire_for_what_they_say_and_for_nothing_else() {
    promtool(&["test", "rules", "tests/metrics/alerts.yaml"]);
}
