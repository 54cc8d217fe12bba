//! Finding the socket when nobody says which: the only one of this user that answers.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// How the sockets end that operators use beside wider ones; never the app socket.
const OPERATOR: &str = ".operator.sock";

/// Why there is no socket to talk to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// No node runs here, as far as can be seen.
    #[error(
        "no pillion runs here: nothing answers under {directory}. Start one with `pillion up`, or name its socket with --socket or PILLION_SOCKET"
    )]
    None {
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// The directory belongs to somebody else: what answers there is not to be trusted.
    #[error("{directory} belongs to another user; name the socket with --socket")]
    NotOurs {
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// More than one answers.
    #[error("{} nodes run here; choose one with --socket, or once and for all with PILLION_SOCKET:{}", .0.len(), listed(.0))]
    Several(Vec<PathBuf>),
}

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().fold(String::new(), |mut text, path| {
        let _ = write!(text, "\n  pillion --socket {} nodes", path.display());
        text
    })
}

/// Finds the socket: the one that was named, or the only one of this user that answers.
///
/// In this order: `explicit`, `PILLION_SOCKET`, `<directory>/<mesh>/<base>.sock` where the directory is `PILLION_DIR` or
/// `/tmp/pillion-<uid>`. A named one is not tried: connecting to it says more.
///
/// # Errors
/// [`FindError`], in words for the user.
pub fn find(explicit: Option<PathBuf>) -> Result<PathBuf, FindError> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = explicit.or_else(|| variable("PILLION_SOCKET").map(PathBuf::from)) {
        return Ok(path);
    }
    let uid = rustix::process::geteuid().as_raw();
    let directory = variable("PILLION_DIR")
        .map_or_else(|| PathBuf::from(format!("/tmp/pillion-{uid}")), PathBuf::from);
    find_under(&directory, uid)
}

/// Finds the operators' socket of the node that [`find`] would find: `PILLION_OPERATOR_SOCKET` unless one was named, else
/// `NAME.operator.sock` beside `NAME.sock` where there is one, else the socket itself, which is for operators then.
///
/// # Errors
/// [`FindError`], in words for the user.
pub fn find_operator(explicit: Option<PathBuf>) -> Result<PathBuf, FindError> {
    let variable = std::env::var_os("PILLION_OPERATOR_SOCKET").filter(|value| !value.is_empty());
    match variable {
        Some(path) if explicit.is_none() => Ok(path.into()),
        _ => find(explicit).map(|path| {
            let beside = path.with_extension(&OPERATOR[1..]);
            if beside.exists() { beside } else { path }
        }),
    }
}

/// The only socket below a directory that answers.
pub(super) fn find_under(directory: &Path, uid: u32) -> Result<PathBuf, FindError> {
    let directory = directory.to_owned();
    match std::fs::symlink_metadata(&directory) {
        Ok(metadata) if metadata.uid() != uid && metadata.uid() != 0 => {
            return Err(FindError::NotOurs { directory });
        }
        Ok(_) => {}
        Err(_) => return Err(FindError::None { directory }),
    }
    let mut sockets: Vec<PathBuf> = entries(&directory)
        .flat_map(|mesh| entries(&mesh))
        .filter(|path| path.extension() == Some(OsStr::new("sock")))
        .filter(|path| !path.to_string_lossy().ends_with(OPERATOR))
        .filter(|path| UnixStream::connect(path).is_ok())
        .collect();
    sockets.sort();
    match sockets.len() {
        0 => Err(FindError::None { directory }),
        1 => Ok(sockets.remove(0)),
        _ => Err(FindError::Several(sockets)),
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}
