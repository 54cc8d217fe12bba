//! The Unix socket: bind it safely, look at who comes, hand each app to a session.
//!
//! Two daemons never fight over one path: whoever holds the lock beside the socket owns it, and a socket file
//! is removed only under that lock and only when nobody answers behind it.

pub mod pods;

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use tracing::Instrument as _;

use self::pods::Pods;
use crate::backoff::{Backoff, Rng, Waits};
use crate::config::SOCKET_PATH_BYTES_MAX;
use crate::hub::Hub;
use crate::session::{self, SessionOptions};
use crate::shutdown::Shutdown;

/// Most sessions at a time.
const SESSIONS_MAX: usize = 10_000;
/// The mode that makes its apps operators.
const OPERATOR_MODE: u32 = 0o600;

/// Why there is no socket to be had. Nothing was left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The path does not fit into an address.
    #[error(
        "the socket path {path} has {length} bytes; the system allows {SOCKET_PATH_BYTES_MAX}. Choose a shorter one with --socket, or a shorter PILLION_DIR"
    )]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// Somebody serves it.
    #[error(
        "another pillion serves {path} already. Talk to that one, or give this one another --name or --socket"
    )]
    Taken {
        /// The path.
        path: PathBuf,
    },
    /// Something that is no socket is in the way.
    #[error(
        "{path} exists and is not a socket; it was left alone. Remove it, or choose another --socket"
    )]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A bound socket. Dropping it removes its file, if that is still the same.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file that we made.
    file: (u64, u64),
    operator: bool,
    /// The pods that are served here, where they are told apart.
    pods: Option<Arc<Pods>>,
    _lock: File,
}

impl Socket {
    /// Binds a socket with this mode. It appears under its path ready to be connected to.
    ///
    /// # Errors
    /// [`SocketError`]; a socket that another daemon serves is left alone.
    pub fn bind(path: &Path, mode: u32) -> Result<Self, SocketError> {
        let length = path.as_os_str().len();
        if length > SOCKET_PATH_BYTES_MAX {
            return Err(SocketError::PathTooLong { path: path.into(), length });
        }
        let lock = lock(path)?;
        clean(path)?;
        // Bound under another name first: nobody can connect before the mode is right.
        let temporary = temporary(path);
        let _ = std::fs::remove_file(&temporary);
        let failed = |what| move |source| SocketError::Io { what, path: path.into(), source };
        let listener = UnixListener::bind(&temporary).map_err(failed("bind the socket"))?;
        let ready = std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(mode))
            .and_then(|()| std::fs::symlink_metadata(&temporary))
            .and_then(|metadata| std::fs::rename(&temporary, path).map(|()| metadata));
        match ready {
            Ok(metadata) => Ok(Self {
                listener,
                path: path.into(),
                file: (metadata.dev(), metadata.ino()),
                operator: mode & 0o777 == OPERATOR_MODE,
                pods: None,
                _lock: lock,
            }),
            Err(source) => {
                let _ = std::fs::remove_file(&temporary);
                Err(failed("set up the socket")(source))
            }
        }
    }

    /// Serves the apps of these pods only, and tells them apart.
    #[must_use]
    pub fn for_pods(mut self, pods: Option<Arc<Pods>>) -> Self {
        self.pods = pods;
        self
    }

    /// Hands every app that comes to a session, until it is asked to stop; then waits for the sessions to end.
    pub async fn serve(self, hub: Arc<Hub>, body_bytes_max: usize, mut shutdown: Shutdown) {
        let mut sessions = JoinSet::new();
        // Two sockets of one node must not try again in step.
        let mut rng = Rng::new(hub.me().incarnation.0 ^ self.file.1);
        let mut backoff = Backoff::default();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.asked() => break,
                Some(ended) = sessions.join_next(), if !sessions.is_empty() => {
                    note(ended);
                    continue;
                }
                accepted = self.listener.accept(), if sessions.len() < SESSIONS_MAX => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, path = %self.path.display(), "accepting an app failed; trying again");
                    let wait = backoff.next(Waits::ACCEPT, &mut rng);
                    if shutdown.asked_within(wait).await {
                        break;
                    }
                    continue;
                }
            };
            backoff.reset();
            if !self.admits(&stream) {
                continue;
            }
            let options = SessionOptions { operator: self.operator, body_bytes_max };
            let (hub, shutdown) = (Arc::clone(&hub), shutdown.clone());
            if let Some(pods) = &self.pods {
                sessions.spawn(serve_pod(stream, Arc::clone(pods), hub, options, shutdown));
                continue;
            }
            sessions.spawn(async move {
                let (reader, writer) = stream.into_split();
                session::run(reader, writer, &hub, options, shutdown).await
            });
        }
        while let Some(ended) = sessions.join_next().await {
            note(ended);
        }
    }

    /// A socket of mode 0600 serves its owner and root; a wider one whoever can open it.
    fn admits(&self, stream: &UnixStream) -> bool {
        if !self.operator {
            return true;
        }
        let own = rustix::process::geteuid().as_raw();
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == own || peer.uid() == 0 => true,
            Ok(peer) => {
                tracing::warn!(uid = peer.uid(), path = %self.path.display(), "an app of another user was turned away");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "an app whose user cannot be told was turned away");
                false
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let same = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file);
        if same {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// One app of some pod: it is found out which one, and whether it may come.
async fn serve_pod(
    stream: UnixStream,
    pods: Arc<Pods>,
    hub: Arc<Hub>,
    options: SessionOptions,
    mut shutdown: Shutdown,
) -> io::Result<()> {
    // On the heap, because a session lasts much longer.
    let admitted = tokio::select! {
        biased;
        () = shutdown.asked() => return Ok(()),
        admitted = Box::pin(pods.admit(&stream, &hub)) => admitted,
    };
    let (reader, writer) = stream.into_split();
    match admitted {
        Ok(guest) => {
            let pod = Arc::clone(&guest.pod);
            let span = tracing::info_span!("app", %pod);
            session::run_of(reader, writer, &hub, options, Some(pod), shutdown)
                .instrument(span)
                .await
        }
        Err(turned) => {
            let Ok(_telling) = pods.telling.try_acquire() else { return Ok(()) };
            tokio::select! {
                biased;
                () = shutdown.asked() => Ok(()),
                told = Box::pin(session::refuse(reader, writer, &turned.refused)) => told,
            }
        }
    }
}

fn note(ended: Result<io::Result<()>, tokio::task::JoinError>) {
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a session ended"),
        Err(error) => {
            // A bug. Ending loudly beats serving from a state that nobody understands.
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

/// As long as the path, because it must fit where that fits.
fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().as_encoded_bytes().to_vec();
    if let Some(last) = name.last_mut() {
        *last = if *last == b'~' { b'-' } else { b'~' };
    }
    path.with_file_name(OsStr::from_bytes(&name))
}

fn lock(path: &Path) -> Result<File, SocketError> {
    let beside = beside(path, ".lock");
    let failed = |what| {
        let path = beside.clone();
        move |source| SocketError::Io { what, path, source }
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0))
        .open(&beside)
        .map_err(failed("open the lock file"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(SocketError::Taken { path: path.into() }),
        Err(std::fs::TryLockError::Error(source)) => Err(failed("lock")(source)),
    }
}

/// Removes a socket file that nobody serves. Called under the lock.
fn clean(path: &Path) -> Result<(), SocketError> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(SocketError::Io { what: "look at", path: path.into(), source }),
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket { path: path.into() });
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(SocketError::Taken { path: path.into() }),
        Err(_) => std::fs::remove_file(path).map_err(|source| SocketError::Io {
            what: "remove the stale socket",
            path: path.into(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_longest_path_that_the_configuration_allows_can_be_bound() {
        let place = tempfile::tempdir().expect("a directory");
        let room = SOCKET_PATH_BYTES_MAX - place.path().as_os_str().len();
        // One character is left for the name: what is bound beside it may not be longer.
        let dir = place.path().join("d".repeat(room - 3));
        std::fs::create_dir(&dir).expect("a directory");
        let path = dir.join("s");
        assert_eq!(path.as_os_str().len(), SOCKET_PATH_BYTES_MAX);
        let socket = Socket::bind(&path, 0o600).expect("it fits");
        UnixStream::connect(&path).await.expect("somebody listens");
        drop(socket);
        assert!(!path.exists());
        let longer = dir.join("so");
        assert!(matches!(Socket::bind(&longer, 0o600), Err(SocketError::PathTooLong { .. })));
    }
}
