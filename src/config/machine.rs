//! What a configuration asks of its surroundings: read once, passed in, so that tests bring their own.

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::wire::id::NodeName;

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
        })
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
