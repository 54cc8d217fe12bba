//! What is counted is written down, and everything that is drawn or alarmed about is counted.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::metrics::{self, Sample};
use super::process::Process;
use crate::hub::Hub;
use crate::router::Limits;
use crate::wire::id::{Incarnation, Node};

/// A sample of a node in which each family has something to show.
async fn sample() -> Sample {
    let node = Node { name: "a@h".parse().expect("a name"), incarnation: Incarnation(1 << 20) };
    let hub = Hub::new(node.clone(), Limits::default());
    let now = tokio::time::Instant::now();
    hub.note(|notes| {
        notes.reported("dns", 3, Some(true), now);
        notes.joining(true, "joined");
        notes.certificate_ends = Some(std::time::UNIX_EPOCH + Duration::from_secs(1_086_400));
    });
    Sample {
        node,
        mesh: "default".to_owned(),
        observed: hub.observe().await,
        lag: crate::router::tally::Durations::default(),
        process: Process {
            cpu: Some(0.5),
            resident: Some(4096),
            files: Some(9),
            files_max: Some(1024),
        },
        unix: Duration::from_secs(1_000_000),
    }
}

/// The families of the classic format: name, kind, help, names of labels.
fn families(text: &str) -> Vec<(String, String, String, BTreeSet<String>)> {
    let mut families: Vec<(String, String, String, BTreeSet<String>)> = Vec::new();
    let mut help = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').expect("a name and words").1.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a kind");
            let help = std::mem::take(&mut help);
            families.push((name.to_owned(), kind.to_owned(), help, BTreeSet::new()));
        } else if let (Some((_, labels)), Some(family)) =
            (line.split_once('{'), families.last_mut())
        {
            let labels = labels.split_once('}').expect("labels end").0;
            let names = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0));
            family.3.extend(names.filter(|name| *name != "le").map(str::to_owned));
        }
    }
    families
}

fn root(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[tokio::test(start_paused = true)]
async fn the_page_of_metrics_lists_every_metric_as_it_is() {
    let text = super::text::classic(&metrics::encode(sample().await));
    let mut table =
        String::from("| metric | kind | labels | what it is |\n| --- | --- | --- | --- |\n");
    for (name, kind, help, labels) in families(&text) {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(table, "| `{name}` | {kind} | {} | {help} |", labels.join(", "));
    }
    let path = root("docs/metrics.md");
    let page = fs::read_to_string(&path).expect("the page");
    let (begin, end) = ("<!-- table: begin -->\n", "<!-- table: end -->");
    let (head, rest) = page.split_once(begin).expect("where the table begins");
    let (old, tail) = rest.split_once(end).expect("where it ends");
    if std::env::var_os("PILLION_BLESS").is_some() {
        fs::write(&path, format!("{head}{begin}{table}{end}{tail}")).expect("the page is written");
    } else {
        assert_eq!(old, table, "run this test with PILLION_BLESS=1 and look at what it changes");
    }
}

#[tokio::test(start_paused = true)]
async fn metrics_are_named_by_prometheus_rules() {
    let text = metrics::encode(sample().await);
    assert!(text.ends_with("# EOF\n"), "OpenMetrics ends so");
    let families = families(&super::text::classic(&text));
    let mut names = BTreeSet::new();
    for (name, kind, help, _) in &families {
        assert!(names.insert(name), "{name} is there once");
        assert!(name.starts_with("pillion_") || name.starts_with("process_"), "{name}");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
        assert!(help.ends_with('.'), "{name}: {help}");
        for unit in ["_ms", "_us", "_ns", "_kb", "_mb", "_kib", "_mib"] {
            assert!(!name.contains(unit), "{name}: base units only");
        }
    }
    assert!(families.len() > 40, "{}", families.len());
}

/// Every word of a text that may be the name of a metric of ours.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours = words.filter(|word| word.starts_with("pillion_") || word.starts_with("process_"));
    ours.map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn every_alert_and_every_panel_asks_for_metrics_that_exist() {
    let text = super::text::classic(&metrics::encode(sample().await));
    let mut there: BTreeSet<String> = BTreeSet::new();
    for (name, kind, ..) in families(&text) {
        if kind == "histogram" {
            there.extend(["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")));
        } else {
            there.insert(name);
        }
    }
    let dashboard =
        fs::read_to_string(root("helm/pillion/files/dashboard.json")).expect("it is there");
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).expect("JSON");
    let mut asked = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().expect("a query");
            let names = named(query);
            assert!(!names.is_empty() || query.contains("up{"), "{query}");
            asked.extend(names);
        }
    }
    assert!(asked.len() > 20, "the dashboard shows little: {asked:?}");
    let rules = fs::read_to_string(root("helm/pillion/files/rules.yaml")).expect("it is there");
    let queries = rules.lines().filter(|line| line.trim_start().starts_with("expr:"));
    let alarmed: BTreeSet<String> = queries.flat_map(named).collect();
    assert!(alarmed.len() > 5, "the rules look at little: {alarmed:?}");
    asked.extend(alarmed);
    let missing: Vec<&String> = asked.difference(&there).collect();
    assert!(missing.is_empty(), "nobody counts {missing:?}");
}
