//! What was typed before: `$XDG_STATE_HOME/pillion/history`, for its owner alone, because messages may be secrets.

use std::ffi::OsString;
use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Most lines that are kept.
pub(super) const LINES_MAX: usize = 1000;

/// Where it lies; `None` without a home directory.
pub(super) fn path(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    // The XDG base directory specification: a relative path is as good as none.
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("pillion/history"))
}

/// Makes the file if need be, and sees to it that nobody else can read it.
pub(super) fn prepare(path: &Path) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lies_where_state_lies() {
        let with = |pairs: &[(&str, &str)]| {
            path(|name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.into()))
        };
        let home = ("HOME", "/home/a");
        assert_eq!(with(&[home]), Some("/home/a/.local/state/pillion/history".into()));
        assert_eq!(with(&[home, ("XDG_STATE_HOME", "/s")]), Some("/s/pillion/history".into()));
        assert_eq!(with(&[home, ("XDG_STATE_HOME", "s")]), with(&[home]));
        assert_eq!(with(&[]), None);
    }

    #[test]
    fn nobody_else_can_read_it() {
        let directory =
            std::env::temp_dir().join(format!("pillion-history-{}", std::process::id()));
        let path = directory.join("state/pillion/history");
        prepare(&path).expect("a file");
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("made wider");
        prepare(&path).expect("the same file");
        let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}
