//! Which process is at the other end of a connection, and its control groups.
//!
//! A process id may be given to another process as soon as its own has ended. Linux 6.5 and later give a handle of the process
//! that has connected (`SO_PEERPIDFD`): its id is asked for before and after what is read of it. Earlier ones give its id only:
//! then the time at which the process of that id was started must be the same before and after, and nothing tells an id that
//! was given anew before that.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use tokio::net::UnixStream;

use super::cgroup;

/// The process that has connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// Its id, as this node sees it.
    pub(super) pid: u32,
    /// What its `/proc/PID/cgroup` says.
    pub(super) cgroup: String,
}

/// Why nothing can be told of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Untold {
    /// It is of another set of processes than those that this node sees.
    #[error("its process cannot be seen from here: an agent needs `hostPID: true`")]
    Invisible,
    /// It has ended.
    #[error("its process has ended")]
    Gone,
    /// The system does not say.
    #[error("the system does not tell which process it is: {0}")]
    System(#[from] io::Error),
}

/// The process that has connected, with what `proc` says of it.
#[cfg(target_os = "linux")]
pub(super) fn caller(stream: &UnixStream, proc: &Path) -> Result<Caller, Untold> {
    use nix::errno::Errno;
    use nix::sys::socket::{getsockopt, sockopt};

    match getsockopt(stream, sockopt::PeerPidfd) {
        Ok(handle) => held(|| pid_of(&handle), proc),
        Err(Errno::ENOPROTOOPT) => {
            let pid = stream.peer_cred()?.pid().unwrap_or(0);
            by_id(u32::try_from(pid).unwrap_or(0), proc)
        }
        // It was waited for, so there is nothing to hold any more.
        Err(Errno::ESRCH | Errno::EINVAL) => Err(Untold::Gone),
        Err(error) => Err(Untold::System(error.into())),
    }
}

/// Only Linux has control groups.
#[cfg(not(target_os = "linux"))]
pub(super) fn caller(_: &UnixStream, _: &Path) -> Result<Caller, Untold> {
    Err(Untold::System(io::ErrorKind::Unsupported.into()))
}

/// The id of a process that is held: it cannot be given to another one meanwhile.
#[cfg(target_os = "linux")]
fn pid_of(handle: &std::os::fd::OwnedFd) -> Result<i64, Untold> {
    use std::os::fd::AsRawFd as _;

    let text = read(&Path::new("/proc/self/fdinfo").join(handle.as_raw_fd().to_string()))?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.ok_or_else(|| Untold::System(io::Error::other("a process without an id")))
}

/// What is said of a process that is held.
fn held(pid: impl Fn() -> Result<i64, Untold>, proc: &Path) -> Result<Caller, Untold> {
    let number = match pid()? {
        0 => return Err(Untold::Invisible),
        number => u32::try_from(number).map_err(|_| Untold::Gone)?,
    };
    let cgroup = cgroup_of(number, proc)?;
    if pid()? != i64::from(number) {
        return Err(Untold::Gone);
    }
    Ok(Caller { pid: number, cgroup })
}

/// What is said of the process that has this id now, if it is the one that connected.
fn by_id(pid: u32, proc: &Path) -> Result<Caller, Untold> {
    if pid == 0 {
        return Err(Untold::Invisible);
    }
    let before = started(&proc.join(pid.to_string()))?;
    let cgroup = cgroup_of(pid, proc)?;
    let after = started(&proc.join(pid.to_string()))?;
    if before != after {
        return Err(Untold::Gone);
    }
    Ok(Caller { pid, cgroup })
}

fn cgroup_of(pid: u32, proc: &Path) -> Result<String, Untold> {
    read(&proc.join(pid.to_string()).join("cgroup"))
}

/// When a process was started: field 22 of its `stat`, in ticks since the machine was. Its name, field 2, may hold anything.
fn started(process: &Path) -> Result<u64, Untold> {
    let text = read(&process.join("stat"))?;
    let fields = text.rsplit_once(')').map(|(_, fields)| fields);
    let started = fields.and_then(|fields| fields.split_ascii_whitespace().nth(19)?.parse().ok());
    started.ok_or_else(|| Untold::System(io::Error::other("a process without a start")))
}

fn read(path: &Path) -> Result<String, Untold> {
    let gone = |error: io::Error| {
        // A process that ends while its file is open makes reading fail.
        let ended = error.kind() == io::ErrorKind::NotFound
            || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error());
        if ended { Untold::Gone } else { Untold::System(error) }
    };
    let file = File::open(path).map_err(gone)?;
    let mut bytes = Vec::new();
    file.take(cgroup::BYTES_MAX as u64).read_to_end(&mut bytes).map_err(gone)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    /// A `/proc` with one process, whose name is as odd as a name may be.
    fn proc_of(pid: u32, started: u64) -> tempfile::TempDir {
        let proc = tempfile::tempdir().expect("a directory");
        let dir = proc.path().join(pid.to_string());
        fs::create_dir(&dir).expect("a directory");
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18";
        fs::write(dir.join("stat"), format!("{pid} (a) b) {fields} {started} 0 0\n"))
            .expect("a file");
        fs::write(dir.join("cgroup"), "0::/kubepods/pod1\n").expect("a file");
        proc
    }

    #[tokio::test]
    async fn the_process_that_has_connected_is_known_with_its_groups() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let proc = PathBuf::from("/proc");
        let own = std::process::id();
        let cgroup = fs::read_to_string("/proc/self/cgroup").expect("Linux has them");
        let expected = Caller { pid: own, cgroup };
        assert_eq!(caller(&ours, &proc).expect("it is us"), expected);
        // The way of an earlier system.
        assert_eq!(by_id(own, &proc).expect("it is us"), expected);
    }

    #[test]
    fn a_process_whose_id_has_been_given_to_another_one_meanwhile_is_gone() {
        let proc = proc_of(7, 100);
        let asked = Cell::new(0);
        let pid = || {
            asked.set(asked.get() + 1);
            Ok(if asked.get() == 1 { 7 } else { -1 })
        };
        assert!(matches!(held(pid, proc.path()), Err(Untold::Gone)));
        assert!(held(|| Ok(7), proc.path()).is_ok());
        assert!(matches!(held(|| Ok(-1), proc.path()), Err(Untold::Gone)));
        assert!(matches!(held(|| Ok(8), proc.path()), Err(Untold::Gone)), "there is none");
    }

    #[test]
    fn a_process_of_another_namespace_is_said_to_be_invisible() {
        let proc = proc_of(7, 100);
        assert!(matches!(by_id(0, proc.path()), Err(Untold::Invisible)));
        let told = held(|| Ok(0), proc.path()).expect_err("nobody").to_string();
        assert!(told.contains("hostPID"), "{told}");
    }

    #[test]
    fn the_start_of_a_process_is_found_behind_any_name() {
        let proc = proc_of(7, 4711);
        assert_eq!(started(&proc.path().join("7")).expect("it is there"), 4711);
        assert_eq!(by_id(7, proc.path()).expect("it is there").cgroup, "0::/kubepods/pod1\n");
        assert!(matches!(by_id(8, proc.path()), Err(Untold::Gone)));
        fs::write(proc.path().join("7/stat"), "7 (a) b S 1\n").expect("a file");
        assert!(matches!(by_id(7, proc.path()), Err(Untold::System(_))));
    }
}
