//! Finding the socket when nobody says which: the only one of this user that answers.

use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::error::{Code, Error, Result};

/// Finds the socket: `PILLION_SOCKET`, else the only one below `PILLION_DIR` or `/tmp/pillion-<uid>` that answers.
pub(crate) fn find() -> Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = variable("PILLION_SOCKET") {
        return Ok(path.into());
    }
    let uid = rustix::process::geteuid().as_raw();
    let directory = variable("PILLION_DIR")
        .map_or_else(|| PathBuf::from(format!("/tmp/pillion-{uid}")), PathBuf::from);
    find_under(&directory, uid)
}

fn find_under(directory: &Path, uid: u32) -> Result<PathBuf> {
    let unreachable = |words| Error::new(Code::Unreachable, false, words);
    let none = || {
        unreachable(format!(
            "no node of Pillion answers below {}; start one with `pillion up`, or name its socket with PILLION_SOCKET",
            directory.display()
        ))
    };
    let metadata = std::fs::symlink_metadata(directory).map_err(|_| none())?;
    if metadata.uid() != uid && metadata.uid() != 0 {
        let words = "belongs to another user; name the socket with PILLION_SOCKET";
        return Err(Error::new(Code::Denied, false, format!("{} {words}", directory.display())));
    }
    let mut sockets: Vec<PathBuf> = entries(directory)
        .flat_map(|mesh| entries(&mesh))
        .filter(|path| path.extension().is_some_and(|ending| ending == "sock"))
        .filter(|path| !path.to_string_lossy().ends_with(".operator.sock"))
        .filter(|path| UnixStream::connect(path).is_ok())
        .collect();
    sockets.sort();
    match sockets.as_slice() {
        [] => Err(none()),
        [_] => Ok(sockets.remove(0)),
        several => {
            let listed: Vec<String> =
                several.iter().map(|path| path.display().to_string()).collect();
            let words = format!(
                "{} nodes run here; choose one with PILLION_SOCKET: {}",
                listed.len(),
                listed.join(", ")
            );
            Err(Error::new(Code::BadArg, false, words))
        }
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn the_only_socket_that_answers_is_found_and_others_are_named() {
        let place = tempfile::tempdir().unwrap();
        let uid = std::fs::metadata(place.path()).unwrap().uid();
        let find = || find_under(place.path(), uid);
        assert_eq!(find().unwrap_err().code(), &Code::Unreachable);
        assert_eq!(
            find_under(&place.path().join("no"), uid).unwrap_err().code(),
            &Code::Unreachable
        );
        let mesh = place.path().join("m");
        std::fs::create_dir(&mesh).unwrap();
        let _operator = UnixListener::bind(mesh.join("a.operator.sock")).unwrap();
        drop(UnixListener::bind(mesh.join("dead.sock")).unwrap());
        assert_eq!(find().unwrap_err().code(), &Code::Unreachable);
        let _one = UnixListener::bind(mesh.join("a.sock")).unwrap();
        assert_eq!(find().unwrap(), mesh.join("a.sock"));
        let _two = UnixListener::bind(mesh.join("b.sock")).unwrap();
        let error = find().unwrap_err();
        assert!(
            error.message().contains("a.sock") && error.message().contains("b.sock"),
            "{error}"
        );
        let stranger = find_under(place.path(), uid.wrapping_add(1)).unwrap_err();
        let refused = stranger.code() == &Code::Denied;
        assert_eq!(refused, uid != 0, "what belongs to another user, but root, is refused");
    }
}
