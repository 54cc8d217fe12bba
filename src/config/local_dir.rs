//! The local directory: where sockets, locks and the registry of this machine's nodes lie.
//!
//! ```text
//! /tmp/pillion-501/            0700, ours, a real directory: else refused
//!   default/                   one per mesh
//!     stock.sock               the app socket of stock@hal
//!     stock.lock               held (flock) while a node has the base `stock`; says which process
//!     nodes/                   the registry of the `local` strategy
//! ```
//!
//! It is below `/tmp`, where anybody may have put a directory or a symbolic link of that name first; hence the
//! checks. A lock file stays when its node ends: removing it would let two nodes hold two files of one name.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::config::value::{MeshName, is_base};
use crate::config::{Machine, WantedBase};
use crate::wire::id::BASE_BYTES_MAX;

/// Longest path of a Unix socket, in bytes: `sun_path` less its closing zero (unix(7); 104 on macOS and BSD).
pub const SOCKET_PATH_BYTES_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
/// Most nodes of one wanted base on this machine, `stock` to `stock-999`.
const SAME_BASE_MAX: usize = 999;

/// Why the local directory cannot be used. Nothing has been changed but directories that were made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalDirError {
    /// The system refused something.
    #[error("{path}: cannot {doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something stands there that is not ours alone.
    #[error(
        "{path} {wrong}. It must be a directory of yours with mode 0700, because whoever may write there can be your \
         apps: remove it, or choose another with --dir or PILLION_DIR"
    )]
    NotOurs {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        wrong: String,
    },
    /// A running node has the base that was asked for.
    #[error(
        "the name {base} is taken in the mesh {mesh} on this machine{by}: choose another --name, or stop that one first"
    )]
    Taken {
        /// The base.
        base: String,
        /// The mesh.
        mesh: MeshName,
        /// ` by process 4711`, where the lock says.
        by: String,
    },
    /// Nobody asked for a base, and every one that could be picked is taken.
    #[error(
        "{base} to {base}-{SAME_BASE_MAX} are all taken in the mesh {mesh} on this machine: choose a --name"
    )]
    AllTaken {
        /// The base.
        base: String,
        /// The mesh.
        mesh: MeshName,
    },
    /// The path of the socket is longer than the system takes.
    #[error("{0}")]
    SocketPath(String),
}

/// The local directory, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalDir {
    path: PathBuf,
    uid: u32,
}

/// A base that is this node's for as long as this lives.
#[derive(Debug)]
#[must_use = "the base is free again as soon as the claim is dropped"]
pub struct Claim {
    /// What the node is called before the `@`.
    pub base: String,
    /// The open lock file.
    pub lock: File,
}

impl LocalDir {
    /// `/tmp/pillion-<uid>`. Never `XDG_RUNTIME_DIR`, which differs under ssh, su and editors and is absent on
    /// macOS: nodes of one user would not see each other.
    #[must_use]
    pub fn default_path(uid: u32) -> PathBuf {
        PathBuf::from(format!("/tmp/pillion-{uid}"))
    }

    /// Makes the directory where it is missing, and checks that it is ours alone.
    ///
    /// # Errors
    /// [`LocalDirError`], in words for the user.
    pub fn open(path: &Path, machine: &Machine) -> Result<Self, LocalDirError> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io_error("make the directory", parent))?;
        }
        make_private(path, machine.uid)?;
        Ok(Self { path: path.to_owned(), uid: machine.uid })
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of one mesh, made where it is missing.
    ///
    /// # Errors
    /// [`LocalDirError`], in words for the user.
    pub fn mesh(&self, mesh: &MeshName) -> Result<PathBuf, LocalDirError> {
        let path = self.path.join(mesh.as_str());
        make_private(&path, self.uid)?;
        Ok(path)
    }

    /// The directory of one mesh where nodes leave word of themselves, made where it is missing.
    ///
    /// # Errors
    /// [`LocalDirError`], in words for the user.
    pub fn registry(&self, mesh: &MeshName) -> Result<PathBuf, LocalDirError> {
        let path = self.mesh(mesh)?.join("nodes");
        make_private(&path, self.uid)?;
        Ok(path)
    }

    /// Where the app socket of a base lies, its directory made.
    ///
    /// # Errors
    /// [`LocalDirError::SocketPath`] when the path is too long for the system, else as [`LocalDir::mesh`].
    pub fn socket(&self, mesh: &MeshName, base: &str) -> Result<PathBuf, LocalDirError> {
        let path = Self::socket_path(&self.path, mesh, base);
        Self::check_socket_path(&path).map_err(LocalDirError::SocketPath)?;
        self.mesh(mesh)?;
        Ok(path)
    }

    /// Where the app socket of a base would lie; for clients, which make nothing.
    #[must_use]
    pub fn socket_path(dir: &Path, mesh: &MeshName, base: &str) -> PathBuf {
        dir.join(mesh.as_str()).join(format!("{base}.sock"))
    }

    /// Checks that a path is short enough for a Unix socket.
    ///
    /// # Errors
    /// Words for the user, with the limit and what to do.
    pub fn check_socket_path(path: &Path) -> Result<(), String> {
        let bytes = path.as_os_str().as_bytes().len();
        if bytes <= SOCKET_PATH_BYTES_MAX {
            return Ok(());
        }
        Err(format!(
            "the socket {} would have a path of {bytes} bytes, and this system takes {SOCKET_PATH_BYTES_MAX}: choose \
             a shorter --dir, --name or --socket",
            path.display()
        ))
    }
}

/// Claims a base for as long as the answer lives: the wanted one, or `-2`, `-3` behind it when nobody asked for
/// exactly that. The system gives the claim back when this process ends, however it ends.
///
/// # Errors
/// [`LocalDirError::Taken`] when a base that was asked for is taken.
pub fn claim_base(
    dir: &LocalDir,
    mesh: &MeshName,
    wanted: &WantedBase,
) -> Result<Claim, LocalDirError> {
    let directory = dir.mesh(mesh)?;
    let tries = if wanted.explicit { 1 } else { SAME_BASE_MAX };
    for number in 1..=tries {
        let base = numbered(&wanted.text, number);
        debug_assert!(is_base(&base), "a base is safe in a path: {base}");
        let path = directory.join(format!("{base}.lock"));
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open the lock", &path))?;
        match lock.try_lock() {
            Ok(()) => {
                // Whom to name to the next who asks. A claim without it is as good.
                let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
                return Ok(Claim { base, lock });
            }
            Err(TryLockError::WouldBlock) if wanted.explicit => {
                return Err(LocalDirError::Taken { base, mesh: mesh.clone(), by: holder(lock) });
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(source)) => return Err(io_error("lock", &path)(source)),
        }
    }
    Err(LocalDirError::AllTaken { base: wanted.text.clone(), mesh: mesh.clone() })
}

/// The base with `-number` behind it, within the bound.
fn numbered(base: &str, number: usize) -> String {
    if number == 1 {
        return base.to_owned();
    }
    let tail = format!("-{number}");
    let kept = base.len().min(BASE_BYTES_MAX - tail.len());
    format!("{}{tail}", &base[..kept])
}

/// ` by process 4711`, from the lock of somebody else.
fn holder(lock: File) -> String {
    let mut text = String::new();
    let read = lock.take(32).read_to_string(&mut text);
    let pid = text.trim();
    let good = read.is_ok() && !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit());
    if good { format!(" by process {pid}") } else { String::new() }
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LocalDirError {
    let path = path.to_owned();
    move |source| LocalDirError::Io { doing, path, source }
}

/// Makes a directory with mode 0700 where nothing stands, and checks what stands there. `lstat` does not follow a
/// link, and in a sticky `/tmp` nobody can replace what is ours between the check and its use.
fn make_private(path: &Path, uid: u32) -> Result<(), LocalDirError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(io_error("make the directory", path)(error));
        }
        Ok(()) | Err(_) => {}
    }
    let found = fs::symlink_metadata(path).map_err(io_error("look at", path))?;
    let mode = found.mode() & 0o777;
    let wrong = if found.is_symlink() {
        "is a symbolic link".to_owned()
    } else if !found.is_dir() {
        "is not a directory".to_owned()
    } else if found.uid() != uid {
        format!("belongs to user {}, and you are user {uid}", found.uid())
    } else if mode != 0o700 {
        format!("has mode {mode:04o}")
    } else {
        return Ok(());
    };
    Err(LocalDirError::NotOurs { path: path.to_owned(), wrong })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn me() -> Machine {
        Machine { uid: rustix::process::geteuid().as_raw(), ..Machine::default() }
    }

    fn mesh() -> MeshName {
        MeshName::new("default").unwrap()
    }

    fn wanted(text: &str, explicit: bool) -> WantedBase {
        WantedBase { text: text.to_owned(), explicit }
    }

    #[test]
    fn the_directory_is_made_for_its_owner_alone() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("a/pillion");
        let dir = LocalDir::open(&path, &me()).unwrap();
        let registry = dir.registry(&mesh()).unwrap();
        assert_eq!(registry, path.join("default/nodes"));
        for made in [&path, &path.join("default"), &registry] {
            assert_eq!(fs::metadata(made).unwrap().mode() & 0o777, 0o700, "{}", made.display());
        }
        // Finding it there is as good as making it.
        assert_eq!(LocalDir::open(&path, &me()).unwrap(), dir);
    }

    #[test]
    fn a_link_a_file_a_wide_mode_and_somebody_elses_directory_are_refused_in_words() {
        let outer = tempfile::tempdir().unwrap();
        let refused = |path: &Path, machine: &Machine| {
            LocalDir::open(path, machine).expect_err("refused").to_string()
        };
        let link = outer.path().join("link");
        symlink(outer.path(), &link).unwrap();
        assert!(refused(&link, &me()).contains("is a symbolic link"));
        let file = outer.path().join("file");
        File::create(&file).unwrap();
        assert!(refused(&file, &me()).contains("is not a directory"));
        let wide = outer.path().join("wide");
        fs::create_dir(&wide).unwrap();
        fs::set_permissions(&wide, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(refused(&wide, &me()).contains("has mode 0755"));
        let theirs = outer.path().join("theirs");
        let stranger = Machine { uid: me().uid + 1, ..me() };
        assert!(refused(&theirs, &stranger).contains("belongs to user"));
    }

    #[test]
    fn a_base_that_nobody_chose_gets_the_next_free_number() {
        let outer = tempfile::tempdir().unwrap();
        let dir = LocalDir::open(&outer.path().join("p"), &me()).unwrap();
        let claim = || claim_base(&dir, &mesh(), &wanted("stock", false)).unwrap();
        let (first, second, third) = (claim(), claim(), claim());
        assert_eq!([&first.base, &second.base, &third.base], ["stock", "stock-2", "stock-3"]);
        drop(second);
        assert_eq!(claim().base, "stock-2");
    }

    #[test]
    fn a_base_that_was_asked_for_and_is_taken_is_refused_with_its_holder() {
        let outer = tempfile::tempdir().unwrap();
        let dir = LocalDir::open(&outer.path().join("p"), &me()).unwrap();
        let _first = claim_base(&dir, &mesh(), &wanted("stock", true)).unwrap();
        let words = claim_base(&dir, &mesh(), &wanted("stock", true)).unwrap_err().to_string();
        let holder = format!(
            "is taken in the mesh default on this machine by process {}",
            std::process::id()
        );
        assert!(words.contains(&holder), "{words}");
        // Another mesh is another matter.
        let other = MeshName::new("other").unwrap();
        assert_eq!(claim_base(&dir, &other, &wanted("stock", true)).unwrap().base, "stock");
    }

    #[test]
    fn a_number_behind_the_longest_base_keeps_within_the_bound() {
        let long = "a".repeat(BASE_BYTES_MAX);
        assert_eq!(numbered(&long, 1), long);
        assert_eq!(numbered(&long, 12).len(), BASE_BYTES_MAX);
        assert!(numbered(&long, 12).ends_with("a-12"));
    }

    #[test]
    fn a_socket_path_longer_than_the_system_takes_is_refused_with_the_limit() {
        let path = |bytes: usize| PathBuf::from(format!("/{}", "a".repeat(bytes - 1)));
        assert_eq!(LocalDir::check_socket_path(&path(SOCKET_PATH_BYTES_MAX)), Ok(()));
        let words = LocalDir::check_socket_path(&path(SOCKET_PATH_BYTES_MAX + 1)).unwrap_err();
        assert!(words.contains(&format!("takes {SOCKET_PATH_BYTES_MAX}")), "{words}");
    }
}
