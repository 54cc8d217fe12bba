//! Whom this node was connected to, on disk: read at the start, written when it changes.
//!
//! One small file per node, mode 0600, replaced whole by rename(2), so that a crash leaves the old one or the new one.
//! It names the mesh and what the mesh's keys are recognised by; a file of another mesh, or of another cookie, is not
//! used. It is a cache: what cannot be read or written is a line in the log, and nothing else.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::config::{Config, LocalDir};
use crate::mesh::{Past, REMEMBERED_MAX};
use crate::shutdown::Shutdown;
use crate::tls::Tls;
use crate::tls::cookie::hex;
use crate::wire::id::NodeName;

/// Changes that come close together are written together.
const DEBOUNCE: Duration = Duration::from_secs(2);
/// Whoever is connected was last seen now: that is written from time to time, and cleaners of `/tmp` see a file in use.
const AGAIN_EVERY: Duration = Duration::from_secs(60 * 60);
/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Most addresses of one node.
const ADDRESSES_MAX: usize = 16;

/// Where it is kept, and for which mesh.
#[derive(Clone, Debug)]
pub(super) struct Book {
    path: PathBuf,
    mesh: String,
    uid: u32,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    mesh: String,
    /// What the keys of the mesh are recognised by, in hex.
    ids: Vec<String>,
    peers: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    node: String,
    addresses: Vec<SocketAddr>,
    /// Milliseconds since 1970.
    seen_ms: u64,
}

impl Book {
    pub(super) fn of(config: &Config, dir: &LocalDir, base: &str) -> Self {
        let mesh = config.mesh.as_str();
        let directory = match &config.state_dir {
            Some(state) => state.join(mesh),
            None => dir.path().join(mesh),
        };
        let uid = rustix::process::geteuid().as_raw();
        Self { path: directory.join(format!("{base}.peers")), mesh: mesh.to_owned(), uid }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What an earlier run left, with how long ago each was seen.
    pub(super) fn read(&self, ids: &[[u8; 8]]) -> Vec<(NodeName, Vec<SocketAddr>, Duration)> {
        match self.load(ids) {
            Ok(past) => past,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                let path = self.path.display();
                tracing::warn!("{path}: {error}; the peers of earlier runs are not tried");
                Vec::new()
            }
        }
    }

    fn load(&self, ids: &[[u8; 8]]) -> io::Result<Vec<(NodeName, Vec<SocketAddr>, Duration)>> {
        let wrong = |words: String| io::Error::new(io::ErrorKind::InvalidData, words);
        let file = OpenOptions::new().read(true).open(&self.path)?;
        let metadata = file.metadata()?;
        if metadata.uid() != self.uid || metadata.mode() & 0o022 != 0 {
            return Err(wrong(
                "is not yours alone, so somebody else may have written it".to_owned(),
            ));
        }
        let mut text = String::new();
        if file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)? as u64 > FILE_BYTES_MAX {
            return Err(wrong("is larger than 1 MiB".to_owned()));
        }
        let file: File = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if file.mesh != self.mesh {
            return Err(wrong(format!("is of the mesh `{}`", file.mesh.escape_debug())));
        }
        if !in_hex(ids).iter().any(|id| file.ids.contains(id)) {
            // The cookie was changed: whoever has the old one is none of ours.
            return Ok(Vec::new());
        }
        let now = unix_ms();
        let lines = file.peers.into_iter().take(REMEMBERED_MAX);
        Ok(lines
            .filter_map(|line| {
                let mut addresses = line.addresses;
                addresses.truncate(ADDRESSES_MAX);
                let ago = Duration::from_millis(now.saturating_sub(line.seen_ms));
                Some((line.node.parse().ok()?, addresses, ago))
            })
            .collect())
    }

    fn write(&self, past: &[Past], ids: &[[u8; 8]]) -> io::Result<()> {
        let now = unix_ms();
        let line = |past: &Past| Line {
            node: past.node.to_string(),
            addresses: past.addresses.clone(),
            seen_ms: past.last.map_or(now, |last| {
                now.saturating_sub(u64::try_from(last.elapsed().as_millis()).unwrap_or(u64::MAX))
            }),
        };
        let peers = past.iter().map(line).collect();
        let file = File { version: 1, mesh: self.mesh.clone(), ids: in_hex(ids), peers };
        let mut text = serde_json::to_string(&file).map_err(io::Error::other)?;
        text.push('\n');
        if let Some(directory) = self.path.parent() {
            fs::DirBuilder::new().recursive(true).create(directory)?;
        }
        let fresh = self.path.with_extension("peers.new");
        // Whatever lies there is a leftover, or a link that somebody else has put there.
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        out.write_all(text.as_bytes())?;
        drop(out);
        fs::rename(&fresh, &self.path)
    }
}

/// Writes what the mesh wants kept, a moment after each change and once an hour, and at the end.
pub(super) async fn keep(
    book: Book,
    tls: Tls,
    mut saved: watch::Receiver<Vec<Past>>,
    mut shutdown: Shutdown,
) {
    let mut told = String::new();
    let mut again = Instant::now() + AGAIN_EVERY;
    let mut changed = false;
    let mut leaving = false;
    while !leaving {
        // With nobody to remember there is nothing to write again.
        let somebody = !saved.borrow().is_empty();
        tokio::select! {
            biased;
            () = shutdown.asked() => leaving = true,
            news = saved.changed() => match news {
                Ok(()) => {
                    changed = true;
                    // Whatever follows within a moment is written with it.
                    leaving = shutdown.asked_within(DEBOUNCE).await;
                    saved.mark_unchanged();
                }
                // The mesh has gone: what it said last stays.
                Err(_) => {
                    shutdown.asked().await;
                    leaving = true;
                }
            },
            () = sleep_until(again), if somebody => changed = true,
        }
        if !(changed || leaving && somebody) {
            continue;
        }
        changed = false;
        again = Instant::now() + AGAIN_EVERY;
        let past = saved.borrow().clone();
        match book.write(&past, &tls.ids()) {
            Ok(()) => told.clear(),
            Err(error) => {
                let text = error.to_string();
                if text != told {
                    let path = book.path.display();
                    tracing::warn!(
                        "{path}: {text}; whom this node is connected to is not kept for its next start (--state-dir names another place, --remember off does without)"
                    );
                    told = text;
                }
            }
        }
    }
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn in_hex(ids: &[[u8; 8]]) -> Vec<String> {
    ids.iter().map(|id| hex(id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [u8; 8] = [7; 8];

    fn book(directory: &Path) -> Book {
        let path = directory.join("state/default/a.peers");
        Book { path, mesh: "default".to_owned(), uid: rustix::process::geteuid().as_raw() }
    }

    fn past(node: &str, last: Option<Instant>) -> Past {
        let addresses = vec![([10, 0, 0, 1], 4470).into()];
        Past { node: node.parse().expect("a name"), addresses, last }
    }

    #[test]
    fn what_is_written_is_read_again_by_its_owner_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let book = book(directory.path());
        assert!(book.read(&[ID]).is_empty(), "there is nothing yet");
        book.write(&[past("b@h", None)], &[ID]).expect("written");
        let read = book.read(&[[1; 8], ID]);
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].0.as_str(), "b@h");
        assert!(read[0].2 < Duration::from_secs(60));
        assert_eq!(fs::metadata(&book.path).expect("it").mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(book.path.parent().expect("one")).expect("it").count(), 1);
    }

    #[test]
    fn nodes_of_another_mesh_or_another_cookie_are_not_tried() {
        let directory = tempfile::tempdir().expect("a directory");
        let book = book(directory.path());
        book.write(&[past("b@h", None)], &[ID]).expect("written");
        assert!(book.read(&[[8; 8]]).is_empty());
        let other = Book { mesh: "other".to_owned(), ..book.clone() };
        assert!(other.read(&[ID]).is_empty());
    }

    #[test]
    fn a_file_that_others_may_write_or_that_is_broken_is_left_alone() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let book = book(directory.path());
        book.write(&[past("b@h", None)], &[ID]).expect("written");
        fs::set_permissions(&book.path, fs::Permissions::from_mode(0o666)).expect("set");
        assert!(book.read(&[ID]).is_empty());
        fs::set_permissions(&book.path, fs::Permissions::from_mode(0o600)).expect("set");
        assert_eq!(book.read(&[ID]).len(), 1);
        for text in ["", "{", "[]", "{\"version\":1}"] {
            fs::write(&book.path, text).expect("written");
            assert!(book.read(&[ID]).is_empty(), "{text}");
        }
        fs::write(&book.path, vec![b' '; 2 << 20]).expect("written");
        assert!(book.read(&[ID]).is_empty());
    }
}
