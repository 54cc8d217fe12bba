//! The alerts and the dashboard.

use std::process::Command;

use serde_json::Value;

use crate::support::{Chart, Helm, find, root, run};

#[test]
fn prometheus_accepts_the_rules() {
    let rules = root().join("helm/pillion/files/rules.yaml");
    if Command::new("promtool").arg("--version").output().is_err() {
        return println!(
            "SKIPPED: there is no promtool here; it is in Debian's package prometheus"
        );
    }
    run(Command::new("promtool").args(["check", "rules", "--lint-fatal"]).arg(rules)).unwrap();
}

#[test]
fn rules_and_dashboard_are_installed_as_they_are() {
    let Some(helm) = Helm::here() else { return };
    let flags =
        ["--set", "monitoring.prometheusRule.enabled=true,monitoring.dashboard.enabled=true"];
    let objects = helm.objects(Chart::Pillion, &flags);
    let file =
        |name: &str| std::fs::read_to_string(root().join("helm/pillion/files").join(name)).unwrap();
    let rules: Value = serde_saphyr::from_str(&file("rules.yaml")).unwrap();
    assert_eq!(find(&objects, "PrometheusRule pillion")["spec"], rules);
    let dashboard =
        find(&objects, "ConfigMap pillion-dashboard")["data"]["pillion.json"].as_str().unwrap();
    let dashboard: Value = serde_json::from_str(dashboard).unwrap();
    let kept: Value = serde_json::from_str(&file("dashboard.json")).unwrap();
    assert_eq!(dashboard, kept);
}
