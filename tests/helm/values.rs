//! The values: what is refused and where, what is explained, and that nothing is a switch without a wire.

use std::fmt::Write as _;

use serde_json::Value;

use crate::support::{Chart, Helm, root};

/// What is set, and what the refusal must say: the path of the value and what would be right.
const REFUSED: [(&str, &[&str]); 33] = [
    ("nope=1", &["(root)", "nope"]),
    ("nameOverride=No", &["nameOverride"]),
    ("meshes={shop}", &["(root)", "meshes"]),
    ("injector.nope=1", &["injector", "nope"]),
    ("injector.enabled=maybe", &["injector.enabled", "boolean"]),
    ("injector.replicas=0", &["injector.replicas", "1"]),
    ("injector.replicas=many", &["injector.replicas", "integer"]),
    ("injector.failurePolicy=fail", &["injector.failurePolicy", "Ignore", "Fail"]),
    ("injector.timeoutSeconds=31", &["injector.timeoutSeconds", "30"]),
    ("injector.port=70000", &["injector.port", "65535"]),
    ("injector.logLevel=loud", &["injector.logLevel", "info"]),
    ("injector.resources.limit.memory=1", &["injector.resources", "limit"]),
    ("networkPolicy.apiServerCIDR=10.0.0.1", &["networkPolicy.apiServerCIDR"]),
    ("networkPolicy.namespaces={a,a}", &["networkPolicy.namespaces", "unique"]),
    ("monitoring.podMonitor.interval=soon", &["monitoring.podMonitor.interval"]),
    ("extraResources={1}", &["extraResources.0"]),
    ("sidecar.nope=1", &["sidecar", "nope"]),
    ("sidecar.image.tag=a b", &["sidecar", "image.tag"]),
    ("sidecar.image.digest=sha256:12", &["sidecar", "image.digest"]),
    ("sidecar.image.pullPolicy=Sometimes", &["sidecar", "image.pullPolicy", "IfNotPresent"]),
    ("sidecar.mesh=a_b", &["sidecar", "mesh"]),
    ("sidecar.port=0", &["sidecar", "port"]),
    ("sidecar.minPeers=-1", &["sidecar", "minPeers"]),
    ("sidecar.profile=moon", &["sidecar", "profile", "lan"]),
    ("sidecar.labels.a=1", &["sidecar", "labels.a", "string"]),
    ("sidecar.socket.mode=0777", &["sidecar", "socket.mode", "0666"]),
    ("sidecar.socket.dir=run", &["sidecar", "socket.dir"]),
    ("sidecar.log.format=xml", &["sidecar", "log.format", "json"]),
    ("sidecar.drain.timeout=15", &["sidecar", "drain.timeout"]),
    ("sidecar.appPreStopSleep=-1", &["sidecar", "appPreStopSleep"]),
    ("sidecar.probes.liveness.periodSeconds=0", &["sidecar", "probes.liveness.periodSeconds"]),
    ("sidecar.discovery.strategy=gossip", &["sidecar", "discovery.strategy", "kubernetes"]),
    (
        "sidecar.trust.certManager.issuerRef.nam=a",
        &["sidecar", "trust.certManager.issuerRef", "nam"],
    ),
];

#[test]
fn a_wrong_value_is_refused_with_its_path() {
    let Some(helm) = Helm::here() else { return };
    for (set, wanted) in REFUSED {
        let said = helm.template(Chart::Pillion, &["--set", set]).expect_err(set);
        assert!(said.contains("schema"), "{set}: {said}");
        for wanted in wanted {
            assert!(said.contains(wanted), "{set}: {said}");
        }
    }
    let said = helm.template(Chart::Example, &["--set", "pillion.socket.mode=0777"]).unwrap_err();
    assert!(said.contains("pillion:") && said.contains("socket.mode"), "{said}");
}

/// What does not go together, and what is said to do.
const TOGETHER: [(&str, &str); 14] = [
    ("agent.enabled=true", "Set injector.enabled=false"),
    ("injector.enabled=false", "set injector.enabled=true or agent.enabled=true"),
    ("injector.enabled=false,agent.enabled=true", "set sidecar.trust.cookieSecret=pillion-cookie"),
    ("sidecar.trust.cookieSecret=a", "sidecar.trust.cookieSecret: injected pods"),
    ("sidecar.trust.certManager.issuerRef.name=a", "leave it empty"),
    (
        "injector.enabled=false,agent.enabled=true,sidecar.trust.cookieSecret=a,sidecar.trust.tlsSecret=b",
        "leave one of them empty",
    ),
    (
        "injector.enabled=false,agent.enabled=true,sidecar.trust.cookieSecret=a,sidecar.native=false",
        "leave it true",
    ),
    (
        "injector.enabled=false,agent.enabled=true,sidecar.trust.cookieSecret=a,sidecar.socket.mode=0660",
        "set 0666",
    ),
    (
        "injector.enabled=false,agent.enabled=true,sidecar.trust.cookieSecret=a,networkPolicy.namespaces={a}",
        "leave it empty",
    ),
    ("sidecar.discovery.service=web", "leave it empty"),
    ("sidecar.discovery.namespace=shop", "install into shop"),
    ("sidecar.healthPort=4470", "need a port each"),
    ("sidecar.socket.dir=/run/pillion-operator/apps", "choose another, as /run/pillion"),
    ("serviceAccount.create=false", "serviceAccount.name: name the account"),
];

#[test]
fn what_does_not_go_together_is_refused_with_what_to_do() {
    let Some(helm) = Helm::here() else { return };
    for (set, wanted) in TOGETHER {
        let said = helm.template(Chart::Pillion, &["--set", set]).expect_err(set);
        assert!(said.contains(wanted), "{set}: {said}");
    }
    let said =
        helm.template(Chart::Example, &["--set", "pillion.trust.cookieSecret="]).unwrap_err();
    assert!(said.contains("set pillion.trust.cookieSecret=pillion-cookie"), "{said}");
    let said = helm.template(Chart::Pillion, &["--set", "monitoring.serviceMonitor.enabled=true,injector.enabled=false,agent.enabled=true,sidecar.trust.cookieSecret=a"]).unwrap_err();
    assert!(said.contains("monitoring.podMonitor.enabled"), "{said}");
}

fn values(chart: &str) -> String {
    std::fs::read_to_string(root().join("helm").join(chart).join("values.yaml")).unwrap()
}

#[test]
fn both_charts_say_the_same_of_the_sidecar() {
    let library = values("pillion-lib");
    let (_, library) = library.split_once("\n\n").expect("a head");
    let indented: String = library
        .lines()
        .map(|line| if line.is_empty() { "\n".into() } else { format!("  {line}\n") })
        .collect();
    let chart = values("pillion");
    assert!(
        chart.contains(&indented),
        "`sidecar:` of pillion is not pillion-lib's values.yaml, two blanks to the right"
    );
}

/// One value: its path, what it is without being set, and what it says of itself.
struct Row {
    path: String,
    default: String,
    words: String,
}

/// Reads a file of values as it is written here: two blanks a level, `# --` before what is explained.
fn rows(yaml: &str) -> Vec<Row> {
    let whole: Value = serde_saphyr::from_str(yaml).unwrap();
    let mut rows = Vec::new();
    let mut path: Vec<&str> = Vec::new();
    let mut words: Option<String> = None;
    // What is deeper than this belongs to a value that is explained.
    let mut inside: Option<usize> = None;
    for line in yaml.lines() {
        let text = line.trim_start();
        let depth = (line.len() - text.len()) / 2;
        if inside.is_some_and(|above| depth > above) || text.is_empty() {
            continue;
        }
        if let Some(comment) = text.strip_prefix('#') {
            match (comment.strip_prefix(" -- "), &mut words) {
                (Some(begin), _) => words = Some(begin.to_owned()),
                (None, Some(words)) => {
                    let _ = write!(words, " {}", comment.trim());
                }
                (None, None) => {}
            }
            continue;
        }
        inside = None;
        let key = text.split(':').next().expect("a key");
        path.truncate(depth);
        path.push(key);
        if let Some(words) = words.take() {
            let at = path.iter().try_fold(&whole, |value, key| value.get(key));
            rows.push(Row {
                path: path.join("."),
                default: at.expect("it is there").to_string(),
                words,
            });
            inside = Some(depth);
        }
    }
    rows
}

/// The paths of all leaves of a chart's values.
pub fn leaves_of(chart: &str) -> Vec<String> {
    let mut paths = Vec::new();
    leaves(&serde_saphyr::from_str(&values(chart)).unwrap(), "", &mut paths);
    paths
}

fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    match value.as_object().filter(|map| !map.is_empty()) {
        Some(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                leaves(value, &path, found);
            }
        }
        None => found.push(path.to_owned()),
    }
}

#[test]
fn every_value_is_explained_and_used() {
    for (chart, places) in
        [("pillion-lib", vec!["pillion-lib"]), ("pillion", vec!["pillion", "pillion-lib"])]
    {
        let yaml = values(chart);
        let rows = rows(&yaml);
        let mut paths = Vec::new();
        leaves(&serde_saphyr::from_str(&yaml).unwrap(), "", &mut paths);
        let templates: String = places.iter().map(|place| templates(place)).collect();
        for path in paths {
            let row = rows
                .iter()
                .find(|row| path == row.path || path.starts_with(&format!("{}.", row.path)));
            let row = row
                .unwrap_or_else(|| panic!("{chart}: {path} is not explained: `# -- ` before it"));
            let inner: Vec<&str> = row.path.rsplit('.').take(2).collect();
            let used = match inner[..] {
                [key, above] if above != "sidecar" => format!(".{above}.{key}"),
                [key, ..] => format!(".{key}"),
                [] => unreachable!("a path has a key"),
            };
            assert!(templates.contains(&used), "{chart}: {} is not used: no {used}", row.path);
        }
    }
}

/// The text of all templates of a chart.
fn templates(chart: &str) -> String {
    fn read(directory: &std::path::Path, all: &mut String) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, all);
            } else {
                all.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut all = String::new();
    read(&root().join("helm").join(chart).join("templates"), &mut all);
    all
}

#[test]
fn the_tables_of_values_in_the_readmes_are_those_of_the_charts() {
    const MARKS: [&str; 2] = [
        "<!-- values: written by PILLION_BLESS=1 cargo test --test helm -->\n",
        "<!-- end of values -->",
    ];
    for chart in ["pillion", "pillion-lib"] {
        let mut table = String::from("| value | default | |\n| --- | --- | --- |\n");
        let rows = rows(&values(chart));
        // Of the sidecar both charts have the same ones; one table is enough.
        for row in rows.iter().filter(|row| chart != "pillion" || !row.path.starts_with("sidecar."))
        {
            let cell = |text: &str| text.replace('|', "\\|");
            let _ = writeln!(
                table,
                "| `{}` | `{}` | {} |",
                row.path,
                cell(&row.default),
                cell(&row.words)
            );
        }
        let path = root().join("helm").join(chart).join("README.md");
        let text = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once(MARKS[0]).expect("the begin of the table is marked");
        let (kept, after) = rest.split_once(MARKS[1]).expect("the end of the table is marked");
        if std::env::var_os("PILLION_BLESS").is_some() {
            std::fs::write(&path, format!("{before}{}\n{table}\n{}{after}", MARKS[0], MARKS[1]))
                .unwrap();
        } else {
            assert_eq!(
                kept.trim(),
                table.trim(),
                "helm/{chart}/README.md: PILLION_BLESS=1 writes it"
            );
        }
    }
}

#[test]
fn the_example_in_the_readme_of_the_library_is_the_one_that_is_tested() {
    let place = root().join("helm/pillion-lib");
    let readme = std::fs::read_to_string(place.join("README.md")).unwrap();
    for file in ["Chart.yaml", "values.yaml", "templates/shop.yaml", "templates/pillion.yaml"] {
        let text = std::fs::read_to_string(place.join("example").join(file)).unwrap();
        assert!(
            readme.contains(&format!("```yaml\n{text}```")),
            "README.md does not show example/{file}"
        );
    }
}
