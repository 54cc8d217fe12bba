//! The files that the chart gives to Prometheus, as its own tool sees them.

#![allow(missing_docs, reason = "a test has no public interface")]

use std::fmt::Write as _;
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
fn prometheus_takes_every_query_of_the_dashboard() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("helm/pillion/files/dashboard.json");
    let dashboard = std::fs::read_to_string(path).expect("it is there");
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    // Each query as a rule, for that is what the tool reads.
    let mut rules = String::from("groups:\n  - name: dashboard\n    rules:\n");
    let mut count = 0;
    for target in targets {
        count += 1;
        let query = target["expr"].as_str().expect("a query");
        let query = query.replace("$__rate_interval", "5m");
        let query = query.replace("$namespace", ".*").replace("$pod", ".*");
        assert!(!query.contains('$'), "{query}");
        let query = query.replace('\'', "''");
        let _ = writeln!(rules, "      - record: query:{count}\n        expr: '{query}'");
    }
    assert!(count > 30, "{count}");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("rules.yaml");
    std::fs::write(&file, rules).expect("it is written");
    promtool(&["check", "rules", file.to_str().expect("a path")]);
}

#[test]
fn alerts_fire_for_what_they_say_and_for_nothing_else() {
    promtool(&["test", "rules", "tests/metrics/alerts.yaml"]);
}
