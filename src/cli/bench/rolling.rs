//! A rolling restart under load: ten nodes are drained, stopped and started again one after the other, while an app beside
//! another node calls a function that an app beside each of them serves. How many calls fail, and how soon a node is ready.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use super::daemon::{Control, Daemon, Plan};
use super::frames;
use super::life::SEEN_WITHIN;
use super::process::{Scratch, Trouble};
use super::report::{Row, Target};
use super::role;
use super::sample::{Sample, Unit, float};
use super::{Bench, Part};

/// How many nodes are restarted.
const NODES: usize = 10;
/// How many calls are made in a second, whatever becomes of them.
const CALLS_PER_SECOND: u32 = 1000;
/// What is served.
const MODULE: &str = "bench";
/// For how long each node is up between two restarts, at least.
const BETWEEN: Duration = Duration::from_millis(200);
/// Bound for a node to be drained, to end and to be ready.
const STEP_WITHIN: Duration = Duration::from_secs(10);
/// Bound for the answers that are owed at the end.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// Bound for an app that serves to be asked anything.
const SERVED_WITHIN: Duration = Duration::from_secs(300);
const READ_BYTES: usize = 64 * 1024;

/// What became of the calls.
#[derive(Clone, Debug, Default)]
struct Calls {
    made: u64,
    answered: u64,
    /// How many failed, by code.
    failed: BTreeMap<String, u64>,
}

/// What a rolling restart found.
#[derive(Clone, Debug, Default)]
struct Rolled {
    calls: Calls,
    /// From exec to ready, one value per restart.
    ready: Sample,
}

fn roll(scratch: &Scratch) -> Result<Rolled, Trouble> {
    let home = scratch.sub("rolling")?;
    let names: Vec<String> = (0..=NODES).map(|number| format!("n{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let plan = Plan::list(&home, &names)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // The last one is the caller's. All of them go, and with them whoever waits for them, when this ends.
        let mut daemons = plan.start()?;
        let caller = daemons.pop().ok_or_else(|| Trouble::Unexpected("a bug".to_owned()))?;
        let mut watch = caller.control()?;
        watch.connected(NODES, SEEN_WITHIN)?;
        let serving = |daemon: &Daemon| {
            let socket = daemon.socket().to_owned();
            scope.spawn(move || serve(&socket))
        };
        let mut nodes: Vec<_> = daemons
            .into_iter()
            .map(|daemon| {
                let server = serving(&daemon);
                (daemon, server)
            })
            .collect();
        watch.served(MODULE, NODES, STEP_WITHIN)?;
        let socket = caller.socket().to_owned();
        let stopped = &stop;
        let calling = scope.spawn(move || call(&socket, stopped));
        let mut rolled = || -> Result<Sample, Trouble> {
            let mut ready = Sample::default();
            for index in 0..NODES {
                thread::sleep(BETWEEN);
                let (daemon, server) = nodes.remove(0);
                daemon.control()?.drained(STEP_WITHIN)?;
                daemon.signal(Signal::TERM);
                daemon.ended(STEP_WITHIN)?;
                server.join().unwrap_or_else(|_| Err(Trouble::Unexpected("a bug".to_owned())))?;
                watch.left(NODES - 1, STEP_WITHIN)?;
                let daemon = plan.start_one(index)?;
                let at = Control::ready(daemon.connect()?, STEP_WITHIN)?;
                ready.push(at.saturating_duration_since(daemon.started()).as_secs_f64());
                let server = serving(&daemon);
                nodes.push((daemon, server));
                watch.connected(NODES, SEEN_WITHIN)?;
                watch.served(MODULE, NODES, STEP_WITHIN)?;
            }
            thread::sleep(BETWEEN);
            Ok(ready)
        };
        let ready = rolled();
        stop.store(true, Ordering::Relaxed);
        let calls = calling.join().unwrap_or_else(|_| Err(Trouble::Unexpected("a bug".to_owned())));
        Ok(Rolled { ready: ready?, calls: calls? })
    })
}

/// An app that answers calls until its node drains: then it takes nothing more, answers what it has, and goes.
fn serve(socket: &Path) -> Result<(), Trouble> {
    let (mut stream, _) = role::connect(socket, &[json!({"op": "self"})])?;
    stream
        .set_read_timeout(Some(SERVED_WITHIN))
        .map_err(Trouble::io("setting up the socket of an app"))?;
    let mut out = Vec::new();
    frames::frame(&mut out, &frames::header(&[("op", "serve"), ("module", MODULE)]), &[]);
    let mut buffer = vec![0; READ_BYTES];
    let mut filled = 0;
    loop {
        stream.write_all(&out).map_err(Trouble::io("answering"))?;
        out.clear();
        let read = match stream.read(&mut buffer[filled..]) {
            Ok(read) => read,
            // Its node was killed, because the benchmark is over.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            Err(error) => return Err(Trouble::io("waiting for a call")(error)),
        };
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let mut used = 0;
        while let Some(frame) = frames::cut(&buffer[used..filled]) {
            used += frame.bytes;
            if frames::is(frame.header, "rpc") {
                frames::reply(&mut out, &frame);
            } else if frames::is(frame.header, "draining") {
                let mut header = frames::header(&[("op", "flag"), ("delivery", "pull")]);
                frames::put_number(&mut header, "id", 1);
                frames::frame(&mut out, &header, &[]);
            } else if frames::is(frame.header, "ok") {
                // Nothing was given behind this answer.
                frames::frame(&mut out, &frames::header(&[("op", "bye")]), &[]);
            }
        }
        buffer.copy_within(used..filled, 0);
        filled -= used;
    }
}

/// An app that calls at a steady rate until it is told to stop, and then hears all answers.
fn call(socket: &Path, stop: &AtomicBool) -> Result<Calls, Trouble> {
    let (mut stream, _) = role::connect(socket, &[json!({"op": "self"})])?;
    stream
        .set_read_timeout(Some(Duration::from_millis(1)))
        .map_err(Trouble::io("setting up the socket of an app"))?;
    let mut header = frames::header(&[
        ("op", "rpc"),
        ("node", "any"),
        ("module", MODULE),
        ("function", "answer"),
    ]);
    frames::put_number(&mut header, "id", 0);
    let mut request = Vec::new();
    frames::frame(&mut request, &header, &frames::body(64));
    let mut calls = Calls::default();
    let (mut out, mut buffer, mut filled) = (Vec::new(), vec![0; READ_BYTES], 0);
    let (began, mut ends) = (Instant::now(), None);
    loop {
        let failed: u64 = calls.failed.values().sum();
        if let Some(ends) = ends {
            if calls.answered + failed >= calls.made || Instant::now() > ends {
                return Ok(calls);
            }
        } else if stop.load(Ordering::Relaxed) {
            ends = Some(Instant::now() + ANSWERED_WITHIN);
        } else {
            let due = began.elapsed().as_micros() * u128::from(CALLS_PER_SECOND) / 1_000_000;
            while u128::from(calls.made) < due {
                out.extend_from_slice(&request);
                calls.made += 1;
            }
            stream.write_all(&out).map_err(Trouble::io("calling"))?;
            out.clear();
        }
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => return Err(Trouble::Unexpected("the socket was closed".to_owned())),
            Ok(read) => filled += read,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(e) => return Err(Trouble::io("waiting for an answer")(e)),
        }
        let mut used = 0;
        while let Some(frame) = frames::cut(&buffer[used..filled]) {
            used += frame.bytes;
            if frames::is(frame.header, "ok") {
                calls.answered += 1;
            } else if frames::is(frame.header, "error") {
                let code = frames::text_of(frame.header, b"code").unwrap_or_default();
                let code = String::from_utf8_lossy(code).into_owned();
                *calls.failed.entry(code).or_default() += 1;
            }
        }
        buffer.copy_within(used..filled, 0);
        filled -= used;
    }
}

impl Bench<'_> {
    /// Rolls, and says how many calls were lost.
    pub(super) fn rolling(&mut self) {
        if !self.args.wants(Part::Rolling) {
            return;
        }
        self.say("rolling restart");
        let what = format!("rolling restart of {NODES} nodes, {CALLS_PER_SECOND} calls/s: lost");
        let Rolled { calls, ready } = match roll(&self.scratch) {
            Ok(rolled) => rolled,
            Err(trouble) => return self.rows.push(Row::failed(what, &trouble)),
        };
        let one = |count: u64| Sample(vec![float(count)]);
        let lost = one(calls.made - calls.answered);
        let mut row = Row::plain(what, Unit::Count, lost, Some(Target::AtMost(0.0)));
        if !calls.failed.is_empty() {
            row.note = Some(format!("failed, by code: {:?}", calls.failed));
        }
        self.rows.push(row);
        self.rows.push(Row::plain("  calls made", Unit::Count, one(calls.made), None));
        let target = Some(Target::AtMost(0.050));
        self.rows.push(Row::plain("  from exec to ready", Unit::Seconds, ready, target));
    }
}
