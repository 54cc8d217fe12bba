//! The registry directory: its checks, its files and its locks.
//!
//! Who holds the exclusive lock on `X.lock` owns `X.json`: the node that wrote it, or, once that is gone,
//! whoever removes it. Liveness is tried with a shared lock, so that those who look never take each other
//! for the owner. A lock counts only while the path still leads to the locked file.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, FileTimes, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;

use super::{Entry, Live};

/// Largest entry that is read, in bytes.
const ENTRY_BYTES_MAX: u64 = 64 * 1024;
/// Most entries that are read.
const ENTRIES_MAX: usize = 1024;
/// Longest part of a node name that goes into a file name, in bytes: file names have at most 255.
const NODE_IN_NAME_BYTES_MAX: usize = 200;
/// How often a lock is tried that somebody just looks at.
const LOCK_TRIES: u32 = 20;
/// A directory time stamp younger than this may hide a later change.
const STAMP_GRAIN: Duration = Duration::from_millis(100);
/// How old what a crash left half-made must be before it is removed.
const LEFTOVER_AGE: Duration = Duration::from_secs(60);

/// The directory. It may be missing.
pub(super) struct Registry {
    dir: PathBuf,
}

/// What a stat tells of the directory: as long as it is the same, nothing was added, replaced or removed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: SystemTime,
    inode: (u64, u64),
}

impl Stamp {
    /// Whether a change after the stat would have another stamp for sure.
    pub(super) fn is_settled(self) -> bool {
        SystemTime::now().duration_since(self.modified).is_ok_and(|age| age > STAMP_GRAIN)
    }
}

/// What a reading of the directory found.
#[derive(Default)]
pub(super) struct Scan {
    pub(super) live: BTreeMap<String, Live>,
    /// Entries and locks that nobody holds, by the stem of their names.
    pub(super) dead: Vec<String>,
    /// Temporary files of nodes that were killed while they wrote.
    leftovers: Vec<PathBuf>,
    pub(super) notes: Vec<String>,
}

impl Registry {
    pub(super) const fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The stamp of a directory that is ours and private; it is made when it is missing.
    pub(super) fn ready(&self) -> io::Result<Stamp> {
        match self.stamp() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
                self.stamp()
            }
            other => other,
        }
    }

    /// The stamp of a directory that is there, ours and private.
    pub(super) fn stamp(&self) -> io::Result<Stamp> {
        let metadata = std::fs::symlink_metadata(&self.dir)?;
        let refuse = |why: &str| Err(io::Error::other(why.to_owned()));
        if !metadata.is_dir() {
            return refuse("not a directory (a symbolic link is not followed): move it away");
        }
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return refuse("belongs to another user");
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            return refuse("open to others: chmod 700 it");
        }
        Ok(Stamp { modified: metadata.modified()?, inode: inode(&metadata) })
    }

    /// Takes the lock for `entry` and writes it.
    pub(super) fn publish(&self, entry: &Entry) -> io::Result<Own> {
        let stem = stem(entry);
        let lock = self.lock_for_good(&stem)?;
        let own = Own { json: self.file(&stem, "json"), lock_path: self.file(&stem, "lock"), lock };
        let content = serde_json::to_vec_pretty(entry)?;
        if content.len() as u64 > ENTRY_BYTES_MAX {
            return Err(io::Error::other("the labels of this node are too large: 64 KiB in all"));
        }
        let temporary = self.dir.join(format!(".{stem}.tmp"));
        remove(&temporary)?;
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(&content)?;
        std::fs::rename(&temporary, &own.json)?;
        Ok(own)
    }

    fn lock_for_good(&self, stem: &str) -> io::Result<File> {
        let path = self.file(stem, "lock");
        for _ in 0..LOCK_TRIES {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(no_follow())
                .open(&path)?;
            match file.try_lock() {
                Ok(()) if leads_to(&path, &file) => return Ok(file),
                // Somebody removed it between the opening and the locking.
                Ok(()) => {}
                // Somebody looks whether it is held, for a few microseconds.
                #[expect(
                    clippy::disallowed_methods,
                    reason = "microseconds, and there is nothing to await"
                )]
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_micros(100)),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Err(io::Error::other(format!("{} is held by another process", path.display())))
    }

    /// Reads every entry and tries every lock.
    pub(super) fn scan(&self) -> io::Result<Scan> {
        let mut scan = Scan::default();
        for item in std::fs::read_dir(&self.dir)? {
            let name = item?.file_name();
            let Some(name) = name.to_str() else {
                scan.notes.push(format!("skipped {}: not named like an entry", name.display()));
                continue;
            };
            if let Some(stem) = name.strip_suffix(".json") {
                if scan.live.len() == ENTRIES_MAX {
                    scan.notes.push(format!("more than {ENTRIES_MAX} nodes: not all are read"));
                    break;
                }
                self.consider(stem, &mut scan);
            } else if self.is_leftover(name) {
                match name.strip_suffix(".lock") {
                    Some(stem) => scan.dead.push(stem.to_owned()),
                    None => scan.leftovers.push(self.dir.join(name)),
                }
            }
        }
        scan.notes.sort_unstable();
        Ok(scan)
    }

    fn consider(&self, stem: &str, scan: &mut Scan) {
        let path = self.file(stem, "json");
        let skipped =
            |why: &dyn std::fmt::Display| format!("skipped {}: {why}; remove it", path.display());
        // Only what has the name of an entry is ever removed.
        let is_ours =
            stem.rsplit_once('.').is_some_and(|(_, run)| crate::options::hex_u64(run).is_some());
        let lock = match open(&self.file(stem, "lock")) {
            Ok(lock) if is_held(&lock) => lock,
            Ok(_) if is_ours => return scan.dead.push(stem.to_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound && is_ours => {
                return scan.dead.push(stem.to_owned());
            }
            Ok(_) => return scan.notes.push(skipped(&"not an entry")),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return scan.notes.push(skipped(&"not an entry, there is no lock beside it"));
            }
            // What is wrong is the lock: the entry beside it may be a living node's.
            Err(error) => {
                let lock = self.file(stem, "lock");
                let note = format!("skipped {}: {}: {error}", path.display(), lock.display());
                return scan.notes.push(note);
            }
        };
        match read(&path) {
            Ok(content) => match Entry::parse(&content) {
                Ok(entry) => drop(scan.live.insert(stem.to_owned(), Live { entry, lock })),
                Err(why) => scan.notes.push(skipped(&why)),
            },
            // Withdrawn between the listing and the reading.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => scan.notes.push(skipped(&error)),
        }
    }

    /// A lock without an entry, or a temporary file, that is too old to be in the making.
    fn is_leftover(&self, name: &str) -> bool {
        let entry_is_gone = match name.strip_suffix(".lock") {
            Some(stem) => !self.file(stem, "json").exists(),
            None => name.strip_prefix('.').and_then(|rest| rest.strip_suffix(".tmp")).is_some(),
        };
        let is_old = |metadata: Metadata| {
            let modified = metadata.modified().ok()?;
            Some(
                metadata.is_file()
                    && SystemTime::now().duration_since(modified).ok()? > LEFTOVER_AGE,
            )
        };
        entry_is_gone
            && std::fs::symlink_metadata(self.dir.join(name)).ok().and_then(is_old).unwrap_or(false)
    }

    /// Removes what the dead left. False when some of it is to be tried again.
    pub(super) fn clean_up(&self, scan: &Scan) -> bool {
        let failed = scan.leftovers.iter().filter(|path| remove(path).is_err()).count()
            + scan.dead.iter().filter(|stem| !self.remove_dead(stem)).count();
        failed == 0
    }

    fn remove_dead(&self, stem: &str) -> bool {
        let path = self.file(stem, "lock");
        // Made when it is missing: without holding the lock nobody removes anything.
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(no_follow())
            .open(&path);
        match lock {
            Ok(lock) if lock.try_lock().is_ok() && leads_to(&path, &lock) => {
                remove(&self.file(stem, "json")).and_then(|()| remove(&path)).is_ok()
            }
            Ok(_) => false,
            // A directory or a link in its place: nothing that trying again would mend.
            Err(_) => true,
        }
    }

    fn file(&self, stem: &str, kind: &str) -> PathBuf {
        self.dir.join(format!("{stem}.{kind}"))
    }
}

/// This node's entry, held. Dropping it removes the entry.
pub(super) struct Own {
    json: PathBuf,
    lock_path: PathBuf,
    lock: File,
}

impl Own {
    /// Whether both files are still where they were put.
    pub(super) fn is_in_place(&self) -> bool {
        leads_to(&self.lock_path, &self.lock) && self.json.exists()
    }

    /// Makes both files look used, for those who remove old files.
    pub(super) fn touch(&self) -> io::Result<()> {
        let now = SystemTime::now();
        let times = FileTimes::new().set_accessed(now).set_modified(now);
        self.lock.set_times(times)?;
        let json = OpenOptions::new().write(true).custom_flags(no_follow()).open(&self.json)?;
        json.set_times(times)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // Without the lock in its place somebody may be removing the entry as that of a dead node right now.
        // What is not removed here is removed by the others once the lock is gone.
        if leads_to(&self.lock_path, &self.lock) {
            let _ = remove(&self.json);
            let _ = remove(&self.lock_path);
        }
    }
}

/// Whether somebody holds the lock on this file.
pub(super) fn is_held(lock: &File) -> bool {
    match lock.try_lock_shared() {
        Ok(()) => {
            let _ = lock.unlock();
            false
        }
        // A lock that cannot be tried says nothing; the node counts as alive.
        Err(_) => true,
    }
}

fn stem(entry: &Entry) -> String {
    let mut node: String = entry.node.replace(['/', '\0'], "-");
    if node.starts_with('.') {
        node.replace_range(..1, "-");
    }
    let cut =
        (0..=NODE_IN_NAME_BYTES_MAX.min(node.len())).rev().find(|at| node.is_char_boundary(*at));
    node.truncate(cut.unwrap_or(0));
    format!("{node}.{:016x}", entry.incarnation)
}

fn no_follow() -> i32 {
    // The flags of open(2) fit into an i32 on every system; a device or a pipe in the place of a file is not
    // waited for.
    (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed()
}

fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(no_follow()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a file")) }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut content = Vec::new();
    file.take(ENTRY_BYTES_MAX + 1).read_to_end(&mut content)?;
    if content.len() as u64 > ENTRY_BYTES_MAX {
        return Err(io::Error::other("larger than 64 KiB"));
    }
    Ok(content)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn leads_to(path: &Path, file: &File) -> bool {
    match (std::fs::symlink_metadata(path), file.metadata()) {
        (Ok(there), Ok(here)) => inode(&there) == inode(&here),
        _ => false,
    }
}

fn inode(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}
