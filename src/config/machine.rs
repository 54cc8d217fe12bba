//! What a configuration asks of its surroundings: read once, passed in, so that tests bring their own.

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pillion_strategies::pods;

use crate::wire::id::NodeName;
use crate::wire::pod;

/// The environment, the working directory, the machine's name and the user.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Every environment variable.
    pub environment: Vec<(OsString, OsString)>,
    /// The working directory, absolute.
    pub directory: PathBuf,
    /// What the machine calls itself, as `uname -n` prints it.
    pub name: String,
    /// Who we are.
    pub uid: u32,
    /// The namespace of the pod that this is, where its service account says so.
    pub namespace: Option<String>,
}

/// Where a pod finds the namespace that it is in, unless its manifest keeps it from there.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
/// The variable that every pod has.
const IN_A_POD: &str = "KUBERNETES_SERVICE_HOST";

/// The pod that this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    /// What runs in it: the base of a node's name.
    pub(crate) app: String,
    /// The host of a node's name.
    pub(crate) host: String,
}

impl Machine {
    /// This machine, as this process sees it.
    ///
    /// # Errors
    /// When the working directory is gone or may not be looked at.
    pub fn here() -> io::Result<Self> {
        Ok(Self {
            environment: std::env::vars_os().collect(),
            directory: std::env::current_dir()?,
            name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            uid: rustix::process::geteuid().as_raw(),
            namespace: std::env::var_os(IN_A_POD).and_then(|_| {
                let text = std::fs::read_to_string(NAMESPACE_FILE).ok()?;
                Some(text.trim().to_owned()).filter(|text| !text.is_empty())
            }),
        })
    }

    /// The pod that this is; none on a machine that is no pod. `POD_NAME` and `POD_NAMESPACE`, which its manifest fills
    /// by `fieldRef`, count most; else it is called as the machine calls itself, which a pod in its machine's network
    /// does not. What runs in it says `PILLION_APP`, else what made it.
    pub(crate) fn pod(&self) -> Option<Pod> {
        let here = || self.variable(IN_A_POD).map(|_| self.host());
        let pod = self.variable("POD_NAME").map(str::to_owned).or_else(here)?;
        let namespace = self.variable("POD_NAMESPACE").or(self.namespace.as_deref());
        let app = self.variable("PILLION_APP").unwrap_or_else(|| pods::workload(&pod));
        Some(Pod { app: pods::base(app), host: pods::host(&pod, namespace) })
    }

    /// The same as one of the pods of a machine, where its manifest says which one it is.
    pub(crate) fn own_pod(&self) -> Option<Arc<pod::Pod>> {
        let (name, namespace) = (self.variable("POD_NAME")?, self.variable("POD_NAMESPACE")?);
        Some(Arc::new(pod::Pod {
            namespace: namespace.into(),
            name: name.into(),
            account: "".into(),
            app: self.pod()?.app.into(),
        }))
    }

    /// The value of an environment variable that is text and not empty.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment
            .iter()
            .find(|(key, _)| key == name)
            .and_then(|(_, value)| value.to_str())
            .filter(|value| !value.is_empty())
    }

    /// The host part of a node name: the machine's name to its first dot. Its case stays as it is, because
    /// people recognise their `Gustavos-MacBook-Pro`.
    #[must_use]
    pub fn host(&self) -> String {
        // A machine that is named by its address is not called `10`.
        let is_address = self.name.parse::<IpAddr>().is_ok();
        let short = self.name.split('.').next().unwrap_or_default();
        NodeName::clean_host(if is_address { &self.name } else { short })
    }

    /// The base of a node name that nobody chose: the working directory's name.
    #[must_use]
    pub fn base(&self) -> String {
        let name = self.directory.file_name().map(|name| name.to_string_lossy());
        NodeName::clean_base(name.as_deref().unwrap_or_default())
    }

    /// `path` as an absolute one: `~/` is the home directory (no shell expands it in a file), anything else
    /// that is relative starts at `start`.
    #[must_use]
    pub fn absolute(&self, path: &str, start: &Path) -> PathBuf {
        match (path.strip_prefix("~/"), self.variable("HOME")) {
            (Some(rest), Some(home)) => Path::new(home).join(rest),
            _ => self.directory.join(start).join(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(name: &str, directory: &str) -> Machine {
        Machine {
            name: name.to_owned(),
            directory: directory.into(),
            environment: vec![("HOME".into(), "/home/gus".into())],
            uid: 501,
            namespace: None,
        }
    }

    #[test]
    fn the_host_is_the_machines_name_to_its_first_dot_in_its_own_case() {
        assert_eq!(machine("Gustavos-MacBook-Pro.local", "/").host(), "Gustavos-MacBook-Pro");
        assert_eq!(machine("10.0.0.5", "/").host(), "10.0.0.5");
        assert_eq!(machine("", "/").host(), "node");
    }

    #[test]
    fn the_base_is_the_working_directory_cleaned() {
        assert_eq!(machine("hal", "/src/product stock").base(), "product-stock");
        assert_eq!(machine("hal", "/").base(), "node");
    }

    fn pod(variables: &[(&str, &str)], namespace: Option<&str>) -> Option<(String, String)> {
        let here = machine("web-6d4cf56db6-x7x2k", "/");
        let environment = variables.iter().map(|(key, value)| (key.into(), value.into())).collect();
        let machine = Machine { environment, namespace: namespace.map(str::to_owned), ..here };
        machine.pod().map(|pod| (pod.app, pod.host))
    }

    #[test]
    fn a_pod_is_known_by_its_variables_and_named_by_its_app() {
        let named = [("POD_NAME", "web-0"), ("POD_NAMESPACE", "shop"), ("PILLION_APP", "till")];
        assert_eq!(pod(&named, Some("other")), Some(("till".into(), "web-0.shop".into())));
        // The label that it is taken from may be missing.
        let without = [("POD_NAME", "web-0"), ("POD_NAMESPACE", "shop"), ("PILLION_APP", "")];
        assert_eq!(pod(&without, None), Some(("web".into(), "web-0.shop".into())));
        let odd = [("POD_NAME", "web-0"), ("PILLION_APP", "my app")];
        assert_eq!(pod(&odd, Some("shop")), Some(("my-app".into(), "web-0.shop".into())));
    }

    #[test]
    fn a_pod_without_variables_is_named_by_its_host_name_and_its_service_account() {
        let inside = [("KUBERNETES_SERVICE_HOST", "10.0.0.1")];
        let host = "web-6d4cf56db6-x7x2k";
        assert_eq!(pod(&inside, Some("shop")), Some(("web".into(), format!("{host}.shop"))));
        assert_eq!(pod(&inside, None), Some(("web".into(), host.to_owned())));
    }

    #[test]
    fn a_machine_that_is_no_pod_is_none() {
        assert_eq!(pod(&[], None), None);
        assert_eq!(pod(&[("PILLION_APP", "till"), ("POD_NAMESPACE", "shop")], None), None);
    }

    #[test]
    fn a_relative_path_starts_where_it_was_written() {
        let machine = machine("hal", "/srv");
        assert_eq!(machine.absolute("a", Path::new("")), Path::new("/srv/a"));
        assert_eq!(machine.absolute("a", Path::new("etc")), Path::new("/srv/etc/a"));
        assert_eq!(machine.absolute("a", Path::new("/etc")), Path::new("/etc/a"));
        assert_eq!(machine.absolute("/a", Path::new("/etc")), Path::new("/a"));
        assert_eq!(machine.absolute("~/a", Path::new("/etc")), Path::new("/home/gus/a"));
    }
}
