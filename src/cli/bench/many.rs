//! Many of everything on one node: what each process, name and membership costs, and how long the end of many takes.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::daemon::{Daemon, Plan};
use super::frames;
use super::process::{Scratch, Trouble, resident_bytes};
use super::role;
use super::sample::float;

/// How many names and processes are made.
pub(super) const NAMES: u32 = 100_000;
/// Global names that one process of the benchmark has.
const NAMES_EACH: u32 = 5_000;
/// How many monitors the dying process has.
pub(super) const MONITORS: u32 = 10_000;
/// How many processes die with their session, and in how many groups each is.
pub(super) const DYING: u32 = 50_000;
/// In how many groups each of them is.
pub(super) const GROUPS: u32 = 10;
/// Bound for everything here.
const WITHIN: Duration = Duration::from_secs(120);
/// How many are asked for before their answers are read.
const BATCH: u32 = 500;

/// What many of a kind cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    /// Until all were there.
    pub seconds: f64,
    /// Resident bytes of each, where the system tells.
    pub each: Option<f64>,
}

/// A session in frames that are made before anything is measured.
pub(super) struct Session {
    stream: UnixStream,
    input: Vec<u8>,
}

impl Session {
    pub(super) fn open(daemon: &Daemon) -> Result<Self, Trouble> {
        drop(daemon.connect()?);
        Self::at(daemon.socket())
    }

    /// A session at a socket that takes connections.
    pub(super) fn at(socket: &Path) -> Result<Self, Trouble> {
        let (stream, _) = role::connect(socket, &[])?;
        stream.set_read_timeout(Some(WITHIN)).map_err(Trouble::io("setting up the socket"))?;
        stream.set_write_timeout(Some(WITHIN)).map_err(Trouble::io("setting up the socket"))?;
        Ok(Self { stream, input: Vec::new() })
    }

    pub(super) fn tell(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        self.stream.write_all(bytes).map_err(Trouble::io("telling a daemon"))
    }

    /// Reads one frame and gives what `look` makes of its header and its body.
    fn hear<T>(&mut self, look: impl FnOnce(&[u8], &[u8]) -> T) -> Result<T, Trouble> {
        loop {
            if let Some(frame) = frames::cut(&self.input) {
                if frames::is(frame.header, "failed") || frames::is(frame.header, "error") {
                    let said = frame.header.escape_ascii();
                    return Err(Trouble::Unexpected(format!("a daemon said {said}")));
                }
                let (found, bytes) = (look(frame.header, frame.body), frame.bytes);
                self.input.drain(..bytes);
                return Ok(found);
            }
            let mut chunk = [0; 16 * 1024];
            let read = self.stream.read(&mut chunk).map_err(Trouble::io("listening"))?;
            if read == 0 {
                return Err(Trouble::Unexpected("a daemon closed the socket".to_owned()));
            }
            self.input.extend_from_slice(&chunk[..read]);
        }
    }

    /// Waits until all that was told before has been done.
    pub(super) fn sync(&mut self) -> Result<(), Trouble> {
        let mut header = frames::header(&[("op", "self")]);
        frames::put_number(&mut header, "id", 1);
        self.tell(&framed(&header))?;
        while !self.hear(|header, _| frames::is(header, "ok"))? {}
        Ok(())
    }

    /// So many processes: their pids.
    fn spawn(&mut self, count: u32) -> Result<Vec<String>, Trouble> {
        let mut header = frames::header(&[("op", "spawn")]);
        frames::put_number(&mut header, "id", 1);
        let command = framed(&header);
        let mut pids = Vec::new();
        let mut left = count;
        while left > 0 {
            let batch = left.min(BATCH);
            self.tell(&command.repeat(usize::try_from(batch).unwrap_or(0)))?;
            for _ in 0..batch {
                let pid = self.hear(|header, _| {
                    let pid = frames::text_of(header, b"pid").unwrap_or_default();
                    String::from_utf8_lossy(pid).into_owned()
                })?;
                pids.push(pid);
            }
            left -= batch;
        }
        Ok(pids)
    }
}

fn framed(header: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frames::frame(&mut out, header, &[]);
    out
}

/// Does all that is written in `commands`, and what that cost the daemon.
fn cost(
    daemon: &Daemon,
    session: &mut Session,
    commands: &[u8],
    count: u32,
) -> Result<Cost, Trouble> {
    session.sync()?;
    let before = resident_bytes(daemon.id(), false);
    let start = Instant::now();
    session.tell(commands)?;
    session.sync()?;
    let seconds = start.elapsed().as_secs_f64();
    let after = resident_bytes(daemon.id(), false);
    let each = |(before, after): (u64, u64)| float(after.saturating_sub(before)) / f64::from(count);
    Ok(Cost { seconds, each: before.zip(after).map(each) })
}

fn alone(scratch: &Scratch, name: &str) -> Result<Daemon, Trouble> {
    Plan::list(&scratch.sub(name)?, &["a"])?.start_one(0)
}

/// Processes, each with a local name or without one.
///
/// # Errors
/// When a daemon does not do it.
pub(super) fn processes(scratch: &Scratch, named: bool) -> Result<Cost, Trouble> {
    let daemon = alone(scratch, if named { "many-named" } else { "many-processes" })?;
    let mut session = Session::open(&daemon)?;
    let mut commands = Vec::new();
    for number in 0..NAMES {
        let name = format!("name{number:06}");
        let mut pairs = vec![("op", "spawn")];
        if named {
            pairs.push(("name", name.as_str()));
        }
        frames::frame(&mut commands, &frames::header(&pairs), &[]);
    }
    cost(&daemon, &mut session, &commands, NAMES)
}

/// Global names: what they cost the node of their processes, and how long after that a peer knew them all.
///
/// # Errors
/// When the daemons do not do it.
pub(super) fn global_names(scratch: &Scratch) -> Result<(Cost, Cost), Trouble> {
    let plan = Plan::list(&scratch.sub("many-globals")?, &["a", "b"])?;
    let daemons = plan.start()?;
    let [a, b] = &daemons[..] else {
        return Err(Trouble::Unexpected("two daemons were asked for".to_owned()));
    };
    a.control()?.connected(1, WITHIN)?;
    b.control()?.connected(1, WITHIN)?;
    let (mut session, mut other) = (Session::open(a)?, Session::open(b)?);
    let pids = session.spawn(NAMES / NAMES_EACH)?;
    let mut commands = Vec::new();
    for number in 0..NAMES {
        let name = format!("name{number:06}");
        let pid = &pids[usize::try_from(number / NAMES_EACH).unwrap_or(0)];
        let pairs = [("op", "register"), ("name", &name), ("scope", "global"), ("pid", pid)];
        frames::frame(&mut commands, &frames::header(&pairs), &[]);
    }
    let before = resident_bytes(b.id(), false);
    let start = Instant::now();
    let here = cost(a, &mut session, &commands, NAMES)?;
    let last = format!("name{:06}", NAMES - 1);
    let mut whereis = frames::header(&[("op", "whereis"), ("name", &last), ("scope", "global")]);
    frames::put_number(&mut whereis, "id", 1);
    loop {
        other.tell(&framed(&whereis))?;
        if other.hear(|header, _| frames::text_of(header, b"pid").is_some_and(|p| !p.is_empty()))? {
            break;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let after = resident_bytes(b.id(), false);
    let each = |(before, after): (u64, u64)| float(after.saturating_sub(before)) / f64::from(NAMES);
    Ok((here, Cost { seconds, each: before.zip(after).map(each) }))
}

/// One process dies that is monitored very often: until the last monitor was told.
///
/// # Errors
/// When a daemon does not do it.
pub(super) fn monitors(scratch: &Scratch) -> Result<f64, Trouble> {
    let daemon = alone(scratch, "many-monitors")?;
    let (mut dying, mut watching) = (Session::open(&daemon)?, Session::open(&daemon)?);
    let pid = dying.spawn(1)?.remove(0);
    let command = framed(&frames::header(&[("op", "monitor"), ("to", &pid)]));
    watching.tell(&command.repeat(usize::try_from(MONITORS).unwrap_or(0)))?;
    watching.sync()?;
    let exit = framed(&frames::header(&[("op", "exit"), ("pid", &pid)]));
    let start = Instant::now();
    dying.tell(&exit)?;
    let mut left = MONITORS;
    while left > 0 {
        left -= u32::from(watching.hear(|header, _| frames::is(header, "down"))?);
    }
    Ok(start.elapsed().as_secs_f64())
}

/// How the end of a session with many processes in many groups went.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    /// Until nothing of it was left.
    pub seconds: f64,
    /// The longest that another session waited for an answer meanwhile.
    pub pause: f64,
    /// Resident bytes of each membership, where the system tells.
    pub each: Option<f64>,
}

/// A session dies with all its processes, which are in groups.
///
/// # Errors
/// When a daemon does not do it.
pub(super) fn end(scratch: &Scratch) -> Result<End, Trouble> {
    let daemon = alone(scratch, "many-members")?;
    let (mut dying, mut other) = (Session::open(&daemon)?, Session::open(&daemon)?);
    let pids = dying.spawn(DYING)?;
    let mut commands = Vec::new();
    for (at, pid) in pids.iter().enumerate() {
        for number in 0..usize::try_from(GROUPS).unwrap_or(0) {
            let group = format!("group{}", (at + number) % 100);
            let pairs = [("op", "join"), ("group", group.as_str()), ("pid", pid)];
            frames::frame(&mut commands, &frames::header(&pairs), &[]);
        }
    }
    let joined = cost(&daemon, &mut dying, &commands, DYING * GROUPS)?;
    let mut groups = frames::header(&[("op", "groups")]);
    frames::put_number(&mut groups, "id", 1);
    let groups = framed(&groups);
    let start = Instant::now();
    drop(dying);
    let mut pause = Duration::ZERO;
    loop {
        let asked = Instant::now();
        other.tell(&groups)?;
        let none = other.hear(|_, body| body == [0x80])?;
        pause = pause.max(asked.elapsed());
        if none {
            break;
        }
        if start.elapsed() > WITHIN {
            return Err(Trouble::Late("the end of a session", WITHIN));
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(End { seconds, pause: pause.as_secs_f64(), each: joined.each })
}
