//! What a pod asks for: its annotations `pillion.dev/...`, as one typed struct with their defaults and their documents.
//!
//! A bad annotation is told and otherwise as if it were not there: it never keeps a pod from being admitted, nor the
//! sidecar from starting. What goes to the node is therefore read here as the node itself will read it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use pillion_strategies::nearest;
use pillion_strategies::problems::line;
use serde_json::{Map, Value};

use super::quantity::Quantity;
use crate::config::{Config, Key, Machine, Origin, value};

/// What all of them begin with.
pub const PREFIX: &str = "pillion.dev/";
/// Written by the injector: the version and the hash of what was put in.
pub const STATUS: &str = "pillion.dev/status";
/// The label by which pods with a sidecar are found; written by the injector.
pub const INJECTED: &str = "pillion.dev/injected";
/// The label and the annotation that name the mesh; the label is written by the injector.
pub const MESH: &str = "pillion.dev/mesh";
/// The label and the annotation that ask for a sidecar.
pub const INJECT: &str = "pillion.dev/inject";

/// The variable that holds the base of the node's name.
pub(super) const APP: &str = "PILLION_APP";
/// Longest name of a mesh here: `pillion-<mesh>` is a Service.
const MESH_BYTES_MAX: usize = 55;
/// The least memory that a container runtime starts anything with.
const MEMORY_MIN: &str = "4Mi";
/// The least share of a processor that Kubernetes counts.
const CPU_MIN: &str = "1m";
/// The longest drain and the longest sleep.
const WAIT_MAX: Duration = Duration::from_secs(3600);
/// Longest text of one: nobody means more, and reading it takes time.
const TEXT_BYTES_MAX: usize = 16 * 1024;
/// Most variables, and most containers, that one names.
const NAMES_MAX: usize = 64;
/// Most warnings about one pod. What is wrong beyond that is not told.
const WARNINGS_MAX: usize = 64;
/// Longest text of somebody else's that is repeated.
const TOLD_CHARS_MAX: usize = 40;
/// Longest warning: the API server cuts longer ones.
const WARNING_CHARS_MAX: usize = 240;
/// What of the node's keys an annotation `env` may not say, because the pod around it would not fit any more.
const FIXED: [&str; 8] = [
    "PILLION_SOCKET",
    "PILLION_SOCKET_MODE",
    "PILLION_DIR",
    "PILLION_OPERATOR_SOCKET",
    "PILLION_CONFIG",
    "PILLION_ISSUER",
    "PILLION_ISSUER_CA",
    "PILLION_ISSUER_TOKEN",
];

/// One annotation, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// What follows [`PREFIX`].
    pub name: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// What it does.
    pub doc: &'static str,
}

/// The struct, the table of its documents and the reader of its fields from one list.
macro_rules! annotations {
    ($($(#[doc = $doc:literal])+ $name:literal $field:ident: $type:ty, $default:literal, $read:expr;)+) => {
        /// What a pod asks for. What it does not ask for is as the chart's values say.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Annotations {
            $($(#[doc = $doc])+ pub $field: Option<$type>,)+
        }

        /// Every annotation, in the order of the struct.
        pub const ALL: &[Annotation] = &[
            $(Annotation { name: $name, default: $default, doc: concat!($($doc,)+) },)+
        ];

        impl Annotations {
            /// Reads one; nothing when it is not known.
            fn take(&mut self, name: &str, text: &str) -> Option<Result<(), String>> {
                match name {
                    $($name => Some(($read)(text).map(|read| self.$field = Some(read))),)+
                    _ => None,
                }
            }
        }
    };
}

annotations! {
    /// Whether the pod gets a sidecar: `true` or `false`. The label of the same name does the same; where both are there,
    /// the annotation counts.
    "inject" inject: bool, "`false`", switch;
    /// The mesh that the pod joins: lower-case letters, digits and `-`, at most 55. The label of the same name does the
    /// same; where both are there, the annotation counts.
    "mesh" mesh: String, "the chart's `sidecar.mesh`", mesh;
    /// The containers that get the socket, by their names, with commas. Init containers that run before the sidecar get
    /// none.
    "containers" containers: Vec<String>, "all", names;
    /// `true`: a native sidecar, an init container that runs as long as the pod; it is there before the app and does not
    /// keep a Job from ending. `false`: a container beside the others.
    "native" native: bool, "the chart's `sidecar.native`", switch;
    /// The image of the sidecar.
    "image" image: String, "the chart's `sidecar.image`", image;
    /// When it is pulled: `Always`, `IfNotPresent` or `Never`.
    "image-pull-policy" image_pull_policy: String, "the chart's `sidecar.image.pullPolicy`", pull_policy;
    /// CPU that is set aside for the sidecar, such as `10m`. Above the limit it raises the limit.
    "cpu-request" cpu_request: Quantity, "the chart's `sidecar.resources`", cpu;
    /// Most CPU of the sidecar. Below the request it lowers the request.
    "cpu-limit" cpu_limit: Quantity, "the chart's `sidecar.resources`", cpu;
    /// Memory that is set aside for the sidecar, such as `16Mi`. Above the limit it raises the limit.
    "memory-request" memory_request: Quantity, "the chart's `sidecar.resources`", memory;
    /// Most memory of the sidecar. Below the request it lowers the request.
    "memory-limit" memory_limit: Quantity, "the chart's `sidecar.resources`", memory;
    /// The base of the node's name, which is `base@pod.namespace`: letters, digits, `_` and `-`, at most 64.
    "node-name" node_name: String, "the chart's `sidecar.name`, else the label `app.kubernetes.io/name` or `app`, else the first container's name", base;
    /// What the node tells others as its label `role`.
    "role" role: String, "the chart's `sidecar.role`", |text| node(Key::Role, text);
    /// What the node tells others of itself: `key=value`, with commas; instead of the chart's.
    "labels" labels: String, "the chart's `sidecar.labels`", |text| node(Key::Labels, text);
    /// The node is ready once so many others were connected at the same time.
    "min-peers" min_peers: String, "the chart's `sidecar.minPeers`", |text| node(Key::MinPeers, text);
    /// How long a drain may take before the pod ends, such as `15s`, up to `1h`.
    "drain-timeout" drain_timeout: Duration, "the chart's `sidecar.drain.timeout`", drain;
    /// For how many seconds containers with the socket and without a `preStop` of their own go on before they get
    /// `SIGTERM`, so that calls go elsewhere first; `0` for none. Kubernetes 1.30 and later.
    "app-prestop-sleep" app_prestop_sleep: u32, "the chart's `sidecar.appPreStopSleep`", seconds;
    /// The port of the mesh in this pod.
    "mesh-port" mesh_port: u16, "the chart's `sidecar.port`", port;
    /// The port of the sidecar's probes and metrics in this pod.
    "health-port" health_port: u16, "the chart's `sidecar.healthPort`", port;
    /// How much the sidecar logs: `error`, `warn`, `info`, `debug` or `trace`.
    "log-level" log_level: String, "the chart's `sidecar.log.level`", |text| node(Key::LogLevel, text);
    /// How it logs: `text` or `json`.
    "log-format" log_format: String, "the chart's `sidecar.log.format`", |text| node(Key::LogFormat, text);
    /// More environment variables of the sidecar: `NAME=value` with commas, or a JSON object of texts. With `PILLION_...`
    /// every other key of a node can be set (`PILLION_PROFILE=wan`).
    "env" env: BTreeMap<String, String>, "none", env;
}

impl Annotations {
    /// Reads the annotations and labels of a pod. What is not known or makes no sense is left out and told: each warning
    /// names the annotation, its value and what is expected, in at most 240 characters.
    #[must_use]
    pub fn read(metadata: &Map<String, Value>) -> (Self, Vec<String>) {
        let mut read = Self::default();
        let mut warnings = Vec::new();
        let of = |kind: &str| metadata.get(kind).and_then(Value::as_object);
        // Labels first, so that an annotation overrides its label.
        let labels =
            [INJECT, MESH].into_iter().filter_map(|key| Some((key, of("labels")?.get(key)?)));
        let annotations = of("annotations").into_iter().flatten();
        let annotations =
            annotations.filter(|(key, _)| *key != STATUS).map(|(key, text)| (key.as_str(), text));
        for (key, text) in labels.chain(annotations) {
            let (Some(name), Some(text)) = (key.strip_prefix(PREFIX), text.as_str()) else {
                continue;
            };
            let taken = if text.len() > TEXT_BYTES_MAX {
                Some(Err(format!("is longer than {TEXT_BYTES_MAX} bytes")))
            } else {
                read.take(name, text.trim())
            };
            match taken {
                Some(Ok(())) => {}
                _ if warnings.len() >= WARNINGS_MAX => {}
                Some(Err(words)) => warnings.push(told(key, text, &words)),
                None => warnings.push(told(key, text, &unknown(name))),
            }
        }
        read.settle(&mut warnings);
        (read, warnings)
    }

    /// Whether the pod asks for a sidecar.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.inject == Some(true)
    }

    /// What only makes sense together.
    fn settle(&mut self, warnings: &mut Vec<String>) {
        fn lifts(
            request: &mut Option<Quantity>,
            limit: Option<&Quantity>,
        ) -> Option<(String, String)> {
            let above = request.as_ref().zip(limit).filter(|(request, limit)| request > limit);
            let said = above
                .map(|(request, limit)| (request.as_str().to_owned(), limit.as_str().to_owned()));
            if said.is_some() {
                *request = None;
            }
            said
        }
        for (name, said) in [
            ("cpu", lifts(&mut self.cpu_request, self.cpu_limit.as_ref())),
            ("memory", lifts(&mut self.memory_request, self.memory_limit.as_ref())),
        ] {
            if let Some((request, limit)) = said {
                let words = format!(
                    "is more than {PREFIX}{name}-limit, which is {limit}: write at most that"
                );
                warnings.push(told(&format!("{PREFIX}{name}-request"), &request, &words));
            }
        }
        if self.mesh_port.is_some() && self.mesh_port == self.health_port {
            let port = self.health_port.take().unwrap_or_default().to_string();
            warnings.push(told(
                &format!("{PREFIX}health-port"),
                &port,
                "is the mesh's port: write another one",
            ));
        }
        // The node refuses to start with a variable that makes no sense to it, alone or beside the others.
        let mut env = self.env.take().unwrap_or_default();
        while let Some((name, words)) = refused(&env) {
            let text = env.remove(&name).unwrap_or_default();
            warnings.push(told(&format!("{PREFIX}env"), &format!("{name}={text}"), &words));
        }
        self.env = Some(env).filter(|env| !env.is_empty());
    }
}

/// A warning about an annotation: which, its value, what is expected.
fn told(key: &str, text: &str, words: &str) -> String {
    let shown = line(text, TOLD_CHARS_MAX);
    short(&format!("{key}: \"{shown}\" {words}"))
}

/// As long as a warning may be, in one line: not even the names of annotations were looked at before.
pub(super) fn short(warning: &str) -> String {
    let fits = warning.chars().nth(WARNING_CHARS_MAX).is_none();
    line(warning, if fits { WARNING_CHARS_MAX } else { WARNING_CHARS_MAX - 3 })
}

fn unknown(name: &str) -> String {
    match nearest(name, ALL.iter().map(|annotation| annotation.name)) {
        Some(meant) => format!("is no annotation of ours; did you mean {PREFIX}{meant}?"),
        None => "is no annotation of ours: `pillion injector annotations` lists them".to_owned(),
    }
}

// ===== readers: what is expected follows the value in a sentence =====

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("is not true or false".to_owned()),
    }
}

fn is_label(text: &str, bytes_max: usize) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=bytes_max).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn mesh(text: &str) -> Result<String, String> {
    is_label(text, MESH_BYTES_MAX).then(|| text.to_owned()).ok_or_else(|| {
        format!(
            "is no mesh's name here: 1 to {MESH_BYTES_MAX} lower-case letters, digits and inner -"
        )
    })
}

fn names(text: &str) -> Result<Vec<String>, String> {
    let names: Vec<String> =
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if names.is_empty() || !names.iter().all(|name| is_label(name, 63)) {
        return Err("is not a list of containers' names with commas, such as web,worker".to_owned());
    }
    if names.len() > NAMES_MAX {
        return Err(format!("names more than {NAMES_MAX} containers"));
    }
    Ok(names)
}

fn image(text: &str) -> Result<String, String> {
    let good = (1..=512).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric());
    good.then(|| text.to_owned())
        .ok_or_else(|| "is no image, such as example.org/pillion:1.2".to_owned())
}

fn pull_policy(text: &str) -> Result<String, String> {
    match text {
        "Always" | "IfNotPresent" | "Never" => Ok(text.to_owned()),
        _ => Err("is not Always, IfNotPresent or Never".to_owned()),
    }
}

fn at_least(text: &str, least: &str, example: &str) -> Result<Quantity, String> {
    let quantity =
        Quantity::parse(text).ok_or_else(|| format!("is no quantity, such as {example}"))?;
    match Quantity::parse(least) {
        Some(least) if quantity < least => {
            Err(format!("is less than {}: write {example}", least.as_str()))
        }
        _ => Ok(quantity),
    }
}

fn cpu(text: &str) -> Result<Quantity, String> {
    at_least(text, CPU_MIN, "10m or 0.5")
}

fn memory(text: &str) -> Result<Quantity, String> {
    at_least(text, MEMORY_MIN, "16Mi or 1Gi")
}

fn base(text: &str) -> Result<String, String> {
    value::is_base(text).then(|| text.to_owned()).ok_or_else(|| {
        "is not the base of a node's name: 1 to 64 letters, digits, _ and -".to_owned()
    })
}

fn drain(text: &str) -> Result<Duration, String> {
    value::parse_duration(text, Duration::from_secs(1), WAIT_MAX)
        .map_err(|words| format!("is not good: {words}"))
}

fn seconds(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    number
        .parse()
        .ok()
        .filter(|seconds| u64::from(*seconds) <= WAIT_MAX.as_secs() && !number.starts_with('+'))
        .ok_or_else(|| format!("is not a whole number of seconds from 0 to {}", WAIT_MAX.as_secs()))
}

fn port(text: &str) -> Result<u16, String> {
    // A process without capabilities cannot have a lower one everywhere.
    text.parse()
        .ok()
        .filter(|port| *port >= 1024 && !text.starts_with('+'))
        .ok_or_else(|| "is not a port from 1024 to 65535".to_owned())
}

/// The value of a key of the node, as the node will read it.
fn node(key: Key, text: &str) -> Result<String, String> {
    match refused(&BTreeMap::from([(key.variable(), text.to_owned())])) {
        Some((_, words)) => Err(words),
        None => Ok(text.to_owned()),
    }
}

fn env(text: &str) -> Result<BTreeMap<String, String>, String> {
    let pairs: Option<BTreeMap<String, String>> = if text.starts_with('{') {
        serde_json::from_str(text).ok()
    } else {
        let pairs = text.split([',', '\n']).map(str::trim).filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| pair.split_once('=').map(|(name, text)| (name.to_owned(), text.to_owned())))
            .collect()
    };
    let is_name = |name: &str| {
        (1..=255).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
            && !name.starts_with(|c: char| c.is_ascii_digit() || c == '.')
    };
    let pairs = pairs
        .filter(|pairs| !pairs.is_empty() && pairs.keys().all(|name| is_name(name)))
        .ok_or("is not NAME=value with commas, nor a JSON object of texts")?;
    // Each that the node refuses costs reading all of them again.
    if pairs.len() > NAMES_MAX {
        return Err(format!("has more than {NAMES_MAX} variables"));
    }
    Ok(pairs)
}

/// The first of these variables that a node does not start with, and why.
fn refused(variables: &BTreeMap<String, String>) -> Option<(String, String)> {
    let own = [Key::Mesh.variable(), APP.to_owned(), Key::Name.variable()];
    for name in variables.keys() {
        if FIXED.contains(&name.as_str()) || name.starts_with("POD_") {
            return Some((name.clone(), format!("is refused: {name} is given by the injector")));
        }
        if own.contains(name) {
            let words = format!("is refused: write {MESH} or {PREFIX}node-name instead of {name}");
            return Some((name.clone(), words));
        }
    }
    // What Kubernetes fills in is known when the pod runs.
    let known = variables.iter().filter(|(_, text)| !text.contains("$("));
    let environment = known.map(|(name, text)| (name.into(), text.into()));
    let machine = Machine {
        environment: environment.chain([("HOME".into(), "/".into())]).collect(),
        directory: PathBuf::from("/"),
        name: "pod".to_owned(),
        uid: 65532,
        namespace: None,
    };
    let problem = Config::load(&[], None, &machine).err()?.0.into_iter().next()?;
    let blamed = match &problem.origin {
        Origin::Variable(name) => variables.get_key_value(name),
        _ => None,
    };
    // A problem of several that names none of them: the last one goes.
    let (name, _) = blamed.or_else(|| variables.last_key_value())?;
    Some((name.clone(), format!("is refused by the node: {}", problem.words)))
}

/// The table of the annotations, in Markdown: `pillion injector annotations`.
#[must_use]
pub fn table() -> String {
    let mut text = String::from("| annotation | default | what it does |\n| --- | --- | --- |\n");
    for Annotation { name, default, doc } in ALL {
        let doc = doc.trim();
        let _ = writeln!(text, "| `{PREFIX}{name}` | {default} | {doc} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(annotations: Value) -> (Annotations, Vec<String>) {
        let metadata = json!({"annotations": annotations});
        Annotations::read(metadata.as_object().expect("an object"))
    }

    #[test]
    fn every_annotation_is_read_into_its_field() {
        let (read, warnings) = read(json!({
            "pillion.dev/inject": "true", "pillion.dev/mesh": "shop", "pillion.dev/containers": "web, worker",
            "pillion.dev/native": "false", "pillion.dev/image": "example.org/pillion@sha256:0a",
            "pillion.dev/image-pull-policy": "Always", "pillion.dev/cpu-request": "10m",
            "pillion.dev/cpu-limit": "1", "pillion.dev/memory-request": "16Mi", "pillion.dev/memory-limit": "64Mi",
            "pillion.dev/node-name": "stock", "pillion.dev/role": "backend", "pillion.dev/labels": "zone=a,rack=7",
            "pillion.dev/min-peers": "2", "pillion.dev/drain-timeout": "20s", "pillion.dev/app-prestop-sleep": "0",
            "pillion.dev/mesh-port": "5000", "pillion.dev/health-port": "5001", "pillion.dev/log-level": "debug",
            "pillion.dev/log-format": "json", "pillion.dev/env": "PILLION_PROFILE=wan,RUST_BACKTRACE=1",
            "pillion.dev/status": "anything", "app": "shop",
        }));
        assert_eq!(warnings, Vec::<String>::new());
        let quantity = |text| Quantity::parse(text);
        let env = [("PILLION_PROFILE", "wan"), ("RUST_BACKTRACE", "1")];
        let expected = Annotations {
            inject: Some(true),
            mesh: Some("shop".into()),
            containers: Some(vec!["web".into(), "worker".into()]),
            native: Some(false),
            image: Some("example.org/pillion@sha256:0a".into()),
            image_pull_policy: Some("Always".into()),
            cpu_request: quantity("10m"),
            cpu_limit: quantity("1"),
            memory_request: quantity("16Mi"),
            memory_limit: quantity("64Mi"),
            node_name: Some("stock".into()),
            role: Some("backend".into()),
            labels: Some("zone=a,rack=7".into()),
            min_peers: Some("2".into()),
            drain_timeout: Some(Duration::from_secs(20)),
            app_prestop_sleep: Some(0),
            mesh_port: Some(5000),
            health_port: Some(5001),
            log_level: Some("debug".into()),
            log_format: Some("json".into()),
            env: Some(env.map(|(name, text)| (name.to_owned(), text.to_owned())).into()),
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn each_bad_value_is_told_with_its_annotation_and_what_is_expected_and_counts_as_absent() {
        for (name, text, words) in [
            ("inject", "yes", "is not true or false"),
            ("mesh", "Shop_1", "lower-case letters"),
            ("mesh", &"m".repeat(56), "1 to 55"),
            ("containers", "Web", "containers' names"),
            ("containers", " , ", "containers' names"),
            ("native", "True", "is not true or false"),
            ("image", "a b", "is no image"),
            ("image-pull-policy", "always", "IfNotPresent"),
            ("cpu-request", "lots", "is no quantity, such as 10m"),
            ("cpu-limit", "1n", "is less than 1m"),
            ("memory-request", "64", "is less than 4Mi"),
            ("memory-limit", "64MB", "is no quantity, such as 16Mi"),
            ("node-name", "a@b", "base of a node's name"),
            ("role", "a\u{7}", "is refused by the node"),
            ("labels", "zone", "a label is key=value"),
            ("min-peers", "-1", "is refused by the node"),
            ("drain-timeout", "15", "500ms, 5s"),
            ("drain-timeout", "2h", "must be from 1s to 1h"),
            ("app-prestop-sleep", "-5", "seconds from 0 to 3600"),
            ("mesh-port", "80", "is not a port from 1024"),
            ("health-port", "99999", "is not a port from 1024"),
            ("log-level", "loud", "is refused by the node"),
            ("log-format", "xml", "is refused by the node"),
            ("env", "NOPE", "is not NAME=value"),
            ("env", "1A=b", "is not NAME=value"),
            ("env", "{\"A\": 1}", "is not NAME=value"),
            ("env", "PILLION_PROFIEL=wan", "PILLION_PROFILE"),
            ("env", "PILLION_PROFILE=moon", "is refused by the node"),
            ("env", "PILLION_SOCKET=/x", "given by the injector"),
            ("env", "POD_NAME=x", "given by the injector"),
            ("env", "PILLION_MESH=x", "write pillion.dev/mesh"),
            ("injcet", "true", "did you mean pillion.dev/inject?"),
            ("frobnicate", "1", "is no annotation of ours"),
        ] {
            let key = format!("{PREFIX}{name}");
            let (read, warnings) = read(json!({key.clone(): text}));
            assert_eq!(read, Annotations::default(), "{key}={text}");
            let [warning] = warnings.as_slice() else { panic!("{key}={text}: {warnings:?}") };
            assert!(warning.starts_with(&key) && warning.contains(words), "{warning}");
            assert!(warning.chars().count() <= WARNING_CHARS_MAX, "{warning}");
            let shown: String = text.trim().chars().filter(|c| !c.is_control()).take(20).collect();
            assert!(warning.contains(&shown), "{warning}");
        }
    }

    #[test]
    fn an_annotation_that_is_larger_than_meant_is_told_and_costs_nothing_more() {
        let many = |number: usize, of: &dyn Fn(usize) -> String| {
            (0..number).map(of).collect::<Vec<_>>().join(",")
        };
        let variables = |number| many(number, &|at| format!("PILLION_A{at}=1"));
        for (name, text, words) in [
            ("env", variables(NAMES_MAX + 1), "has more than 64 variables"),
            ("env", variables(100_000), "is longer than 16384 bytes"),
            ("containers", many(NAMES_MAX + 1, &|at| format!("a{at}")), "more than 64 containers"),
            ("labels", "k=v,".repeat(100_000), "is longer than 16384 bytes"),
            ("frobnicate", "x".repeat(1_000_000), "is longer than 16384 bytes"),
        ] {
            let key = format!("{PREFIX}{name}");
            let (read, warnings) = read(json!({key.clone(): text}));
            assert_eq!(read, Annotations::default(), "{key}");
            let [warning] = warnings.as_slice() else { panic!("{key}: {warnings:?}") };
            assert!(warning.starts_with(&key) && warning.contains(words), "{warning}");
        }
        let unknown: Map<String, Value> =
            (0..1000).map(|at| (format!("{PREFIX}x{at}"), json!("1"))).collect();
        assert_eq!(read(Value::Object(unknown)).1.len(), WARNINGS_MAX);
    }

    #[test]
    fn what_is_told_of_an_annotation_is_one_line_whatever_it_is_called() {
        let key = format!("{PREFIX}a\nERROR the authority is gone\r\u{1b}[2K");
        let (_, warnings) = read(json!({key: "b\nc"}));
        assert_eq!(warnings.len(), 1);
        assert!(!warnings[0].contains(char::is_control), "{warnings:?}");
    }

    #[test]
    fn what_does_not_go_together_is_told_and_the_rest_is_kept() {
        let (read, warnings) = read(json!({
            "pillion.dev/cpu-request": "2", "pillion.dev/cpu-limit": "1", "pillion.dev/mesh-port": "5000",
            "pillion.dev/health-port": "5000",
            "pillion.dev/env": "A=1,PILLION_MAILBOX_BYTES=64MiB,PILLION_QUEUE_BYTES=128MiB,PILLION_GRAEC=1s",
        }));
        assert_eq!((read.cpu_request, read.health_port), (None, None));
        assert_eq!((read.cpu_limit, read.mesh_port), (Quantity::parse("1"), Some(5000)));
        let kept: Vec<String> = read.env.expect("three are good").into_keys().collect();
        assert_eq!(kept, ["A", "PILLION_MAILBOX_BYTES", "PILLION_QUEUE_BYTES"]);
        assert_eq!(warnings.len(), 3, "{warnings:?}");
    }

    #[test]
    fn an_annotation_overrides_the_label_of_its_name() {
        let of = |labels: Value, annotations: Value| {
            let metadata = json!({"labels": labels, "annotations": annotations});
            Annotations::read(metadata.as_object().expect("an object"))
        };
        let key = |name: &str, text: &str| json!({format!("{PREFIX}{name}"): text});
        assert!(of(key("inject", "true"), Value::Null).0.asks());
        assert!(!of(key("inject", "true"), key("inject", "false")).0.asks());
        assert!(of(key("inject", "false"), key("inject", "true")).0.asks());
        let (read, warnings) = of(key("mesh", "a"), key("mesh", "b"));
        assert_eq!((read.mesh.as_deref(), warnings.len()), (Some("b"), 0));
        // Other labels are not ours to read.
        assert_eq!(of(key("log-level", "nonsense"), Value::Null), Default::default());
    }

    #[test]
    fn the_table_in_the_documents_is_the_one_that_is_printed() {
        let document = include_str!("../../docs/kubernetes-annotations.md");
        assert!(
            document.contains(&table()),
            "write anew: pillion injector annotations\n{}",
            table()
        );
    }
}
