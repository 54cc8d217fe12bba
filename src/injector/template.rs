//! What the sidecar is: rendered by the chart, read once at the start. Nothing of it is written here.

use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, EnvVar, Volume, VolumeMount};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Larger ones are none.
const BYTES_MAX: usize = 1 << 20;

/// A pod's sidecar, and what apps get of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Template {
    /// A core/v1 Container.
    pub container: Map<String, Value>,
    /// core/v1 Volumes.
    #[serde(default)]
    pub volumes: Vec<Value>,
    #[serde(default)]
    pub app: App,
    /// For how many seconds apps go on before they get SIGTERM; 0 for none.
    #[serde(default)]
    pub app_pre_stop_sleep: u32,
    /// The mesh of pods that name none.
    pub mesh: String,
    /// Whether the sidecar is an init container that runs as long as the pod.
    pub native: bool,
}

/// What each container of the app gets.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct App {
    /// core/v1 `EnvVars`.
    #[serde(default)]
    pub env: Vec<Value>,
    /// core/v1 `VolumeMounts`.
    #[serde(default)]
    pub volume_mounts: Vec<Value>,
}

/// Why there is no template.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// It is not there, or may not be read.
    #[error(
        "the template {path} cannot be read: {source}. The chart renders it as the ConfigMap `<name>-sidecar`"
    )]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It says what no pod could have.
    #[error(
        "the template {path} makes no sense: {words}. The chart renders it as the ConfigMap `<name>-sidecar`"
    )]
    Meaning {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        words: String,
    },
}

impl Template {
    /// Reads and checks the file; `mesh` is what the command line says.
    pub(crate) fn read(path: &Path, mesh: &str) -> Result<Self, TemplateError> {
        let failed = |source| TemplateError::Read { path: path.to_owned(), source };
        let text = std::fs::read(path).map_err(failed)?;
        let read = Self::parse(&text).and_then(|template| {
            if template.mesh == mesh {
                return Ok(template);
            }
            Err(format!("its mesh is {}, and --mesh says {mesh}", template.mesh))
        });
        read.map_err(|words| TemplateError::Meaning { path: path.to_owned(), words })
    }

    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() > BYTES_MAX {
            return Err(format!("it is larger than {BYTES_MAX} bytes"));
        }
        let mut template: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        // Whoever writes `cpu: 1` means `"1"`.
        for kind in ["/requests", "/limits"] {
            let resources =
                template.container.get_mut("resources").and_then(|all| all.pointer_mut(kind));
            for quantity in
                resources.and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut)
            {
                if quantity.is_number() {
                    *quantity = Value::String(quantity.to_string());
                }
            }
        }
        let container: Container = typed("container", &Value::Object(template.container.clone()))?;
        if container.name.is_empty() || container.image.is_none_or(|image| image.is_empty()) {
            return Err("its container needs a name and an image".to_owned());
        }
        named::<Volume>("volumes", &template.volumes)?;
        named::<EnvVar>("app.env", &template.app.env)?;
        named::<VolumeMount>("app.volumeMounts", &template.app.volume_mounts)?;
        Ok(template)
    }

    /// What the sidecar is called.
    pub(crate) fn name(&self) -> &str {
        self.container.get("name").and_then(Value::as_str).unwrap_or_default()
    }
}

fn named<T: DeserializeOwned>(place: &str, list: &[Value]) -> Result<(), String> {
    for value in list {
        typed::<T>(place, value)?;
    }
    Ok(())
}

fn typed<T: DeserializeOwned>(place: &str, value: &Value) -> Result<T, String> {
    T::deserialize(value).map_err(|error| format!("{place}: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(change: impl FnOnce(&mut Value)) -> Result<Template, String> {
        let mut template = json!({
            "container": {"name": "pillion", "image": "pillion:1"}, "volumes": [{"name": "pillion-socket", "emptyDir": {}}],
            "app": {"env": [{"name": "A", "value": "b"}], "volumeMounts": [{"name": "pillion-socket", "mountPath": "/run/pillion"}]},
            "appPreStopSleep": 5, "mesh": "default", "native": true,
        });
        change(&mut template);
        Template::parse(template.to_string().as_bytes())
    }

    #[test]
    fn what_the_chart_renders_is_read_and_what_no_pod_could_have_is_refused() {
        assert_eq!(parse(|_| {}).expect("a good one").name(), "pillion");
        let bare = parse(|t| t["container"]["resources"] = json!({"requests": {"cpu": 1}}));
        assert_eq!(bare.expect("a good one").container["resources"]["requests"]["cpu"], "1");
        for (words, change) in [
            ("unknown field", &(|t: &mut Value| t["extra"] = json!(1)) as &dyn Fn(&mut Value)),
            ("container:", &|t| t["container"]["args"] = json!("up")),
            ("a name and an image", &|t| t["container"]["image"] = json!("")),
            ("volumes:", &|t| t["volumes"] = json!([{"emptyDir": 1}])),
            ("app.env:", &|t| t["app"]["env"] = json!([3])),
            ("missing field", &|t| *t = json!({"container": {}, "native": true})),
        ] {
            let said = parse(change).expect_err(words);
            assert!(said.contains(words), "{said}");
        }
    }
}
