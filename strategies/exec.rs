//! `exec`: whatever a program of yours says. The plug for every cloud, catalogue and database that this page does not
//! name.
//!
//! The program is started, and each line that it prints on its standard output is a snapshot: everybody who is visible
//! now, as JSON. It may print one line and end, and is run again after `interval`; or go on and print a line whenever
//! something changes. It announces nothing by itself: where nodes have to be told of, the program may do that.
//!
//! ```text
//! --strategy exec:///usr/local/bin/find-nodes
//! --strategy 'exec:///usr/local/bin/find-nodes?arg=--zone&arg=eu-1&interval=30s&timeout=10s'
//!
//! strategy = ["local://", "exec:///usr/local/bin/find-nodes?interval=30s"]        # in the file
//! ```
//!
//! | option | default | |
//! | --- | --- | --- |
//! | `arg` | none | an argument of the program; given several times, they keep their order |
//! | `interval` | `10s` | how long after its end a program that ended well is run again |
//! | `timeout` | `30s` | how long a program may take for its first line; then it is ended and started again |
//!
//! The program is named by its path, or by a name that is looked up in the `PATH` of the node. In the path and in values
//! `%20` is a space, `%26` an `&`, `%3F` a `?`. No shell reads any of it.
//!
//! **A line** is an array of nodes, or an object with that array as `nodes`:
//!
//! ```json
//! [{"address": "10.0.0.7"}, {"addresses": ["10.0.0.8:4470", "[fd00::8]:4470"], "node": "stock@hal", "labels": {"zone": "b"}}]
//! ```
//!
//! | member | |
//! | --- | --- |
//! | `address`, `addresses` | where it can be dialled: IP addresses, with a port or without |
//! | `port` | the port of those without one, otherwise 4470 |
//! | `node` | `base@host`, where the source knows it |
//! | `labels` | what else it knows: texts, numbers, yes and no |
//! | `mesh`, `incarnation` | where the source knows them |
//!
//! A node may also be just its address, a text. All other members are ignored. `[]` means that nobody is there.
//!
//! - A line has at most 1 MiB and 4096 nodes, a node 16 addresses. More than 50 lines a second are read more slowly.
//! - The program finds `PILLION_MESH`, `PILLION_NODE` and `PILLION_PORT` (where this node listens for others) in its
//!   environment. Its standard input is empty. What it prints on standard error is in the log of the node, at most
//!   20 lines a second.
//! - It runs as the user of the node and needs no permission from it but to be executed.
//! - It runs in a process group of its own, which is killed when the program has ended or the node stops: what it starts in
//!   the background ends with it, unless it leaves the group (`setsid`). A node that is itself killed with SIGKILL can kill
//!   nobody: a program that goes on then finds its output closed at its next line.
//!
//! Two worked examples, for Consul and for EC2, are in `docs/discovery.md`.
//!
//! **What failure looks like.** Whatever fails, the last set stays, and the strategy's health says what happened: a
//! program that cannot be started, and why; one that ended with a status that is not 0, with the last line of its standard
//! error; one that printed nothing in its time; a line that is no snapshot, with its beginning. A program that failed is started
//! again after 100 ms, then later and later up to a minute. A node without a usable address is named, the others count.

mod program;
mod snapshot;

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::{Instant, sleep, sleep_until};

use self::program::{Ended, Order, Output, Program};
use self::snapshot::shown;
use crate::options::{Url, wrong};
use crate::retry::{Retry, spread};
use crate::{Announcement, Reporter, Running, Strategy, StrategyError};

/// Longest line that is read.
const LINE_BYTES_MAX: usize = 1 << 20;
/// A buffer of a line that is larger than this is not kept for the next one.
const KEPT_BYTES_MAX: usize = 16 * 1024;
/// How often a program that ended well is run again.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long it may take for its first line.
const FIRST_LINE: Duration = Duration::from_secs(30);
/// The least time between two snapshots of one program.
const APART: Duration = Duration::from_millis(20);
/// The pauses before a program that failed is started again.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_CAP: Duration = Duration::from_secs(60);
/// A program that lasted this long was no failure from the start.
const LASTED: Duration = Duration::from_secs(10);
/// How long what a program printed may take to be read once it has ended.
const LAST_LINES: Duration = Duration::from_millis(500);
/// Longest line of its standard error that is logged.
const COMPLAINT_BYTES_MAX: usize = 1024;
/// Most lines of its standard error that are logged in one second.
const COMPLAINTS_MAX: usize = 20;
/// Most arguments of a program.
const ARGS_MAX: usize = 64;

/// Starts a program; the system's way, except in tests.
type Launch = Arc<dyn Fn(&Order) -> Result<Program, String> + Send + Sync>;

/// The strategy `exec`. See the [module](self).
pub struct Exec {
    program: String,
    args: Vec<String>,
    interval: Duration,
    timeout: Duration,
    launch: Launch,
}

impl Exec {
    pub(crate) fn from_url(url: &Url) -> Result<Self, StrategyError> {
        url.only_and_several(&["arg", "interval", "timeout"], &["arg"])?;
        let program = url.decoded_place()?;
        if program.is_empty() {
            return Err(wrong(
                "exec has no program to run: write exec:///usr/local/bin/find-nodes, or exec://find-nodes for one in the PATH",
            ));
        }
        let args: Vec<String> = url.several("arg").map(str::to_owned).collect();
        if args.len() > ARGS_MAX {
            return Err(wrong(format!("exec takes at most {ARGS_MAX} arguments")));
        }
        if std::iter::once(&program).chain(&args).any(|text| text.contains('\0')) {
            return Err(wrong("neither a program nor its arguments can have a %00 in them"));
        }
        Ok(Self {
            program,
            args,
            interval: url.duration("interval")?.unwrap_or(INTERVAL),
            timeout: url.duration("timeout")?.unwrap_or(FIRST_LINE),
            launch: Arc::new(program::start),
        })
    }

    /// What people call it: the last part of its path.
    fn label(&self) -> &str {
        self.program.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(&self.program)
    }

    async fn watch(&self, announcement: &Announcement, reporter: &Reporter) {
        let port = announcement.listen.first().map_or(0, std::net::SocketAddr::port);
        let order = Order {
            program: self.program.clone(),
            args: self.args.clone(),
            env: vec![
                ("PILLION_MESH", announcement.mesh.clone()),
                ("PILLION_NODE", announcement.node.clone()),
                ("PILLION_PORT", port.to_string()),
            ],
        };
        let mut view = View::new(reporter, self.label(), announcement);
        let mut retry = Retry::new(RETRY_FIRST, RETRY_CAP);
        loop {
            let started = Instant::now();
            let why = match (self.launch)(&order) {
                Ok(program) => self.run_once(program, &mut view).await.err(),
                Err(why) => Some(format!("cannot be started: {why}")),
            };
            let wait = match why {
                None => {
                    retry.succeeded();
                    spread(self.interval)
                }
                Some(why) => {
                    view.failed(&why);
                    if view.good_lines > 0 && started.elapsed() >= LASTED {
                        retry.succeeded();
                    }
                    retry.after_failure()
                }
            };
            sleep(wait).await;
        }
    }

    /// Reads a program to its end. The error is a sentence on what was wrong with it.
    async fn run_once(&self, program: Program, view: &mut View<'_>) -> Result<(), String> {
        let Program { stdout, stderr, mut ending } = program;
        let mut lines = Lines::new(stdout, LINE_BYTES_MAX, APART);
        let mut complaints = Complaints::new(self.label().to_owned(), stderr);
        let mut by = Instant::now() + self.timeout;
        let (mut read, mut complained) = (false, false);
        let mut ended: Option<Ended> = None;
        view.begin();
        while !(read && complained && ended.is_some()) {
            tokio::select! {
                biased;
                end = &mut ending, if ended.is_none() => {
                    ended = Some(end);
                    by = Instant::now() + LAST_LINES;
                    lines.hurry();
                }
                line = lines.next(), if !read => match line {
                    Some(line) => view.take(line),
                    None => {
                        read = true;
                        if ended.is_none() {
                            by = Instant::now() + self.timeout;
                        }
                    }
                },
                more = complaints.copy_one(), if !complained => complained = !more,
                () = sleep_until(by), if view.lines == 0 || read || ended.is_some() => break,
            }
        }
        let said = complaints.last();
        match ended {
            Some(Ended { well: true, .. }) if view.lines > 0 => Ok(()),
            Some(Ended { well: true, .. }) => {
                Err(format!("ended well and printed no line{said}: `[]` says that nobody is there"))
            }
            Some(Ended { how, .. }) => Err(format!("ended with {how}{said}")),
            None if read => Err(format!(
                "closed its output {:?} ago and goes on{said}: it was ended, and is started again",
                self.timeout
            )),
            None => Err(format!(
                "printed no line in {:?}{said}: it was ended, and is started again. Look what it waits for, or give it more time with timeout=",
                self.timeout
            )),
        }
    }
}

impl Strategy for Exec {
    fn name(&self) -> &'static str {
        "exec"
    }

    fn run<'a>(&'a self, announcement: Announcement, reporter: &'a Reporter) -> Running<'a> {
        Box::pin(async move {
            self.watch(&announcement, reporter).await;
            Ok(())
        })
    }
}

/// What was made of a program's lines.
struct View<'a> {
    reporter: &'a Reporter,
    label: &'a str,
    own: &'a Announcement,
    source: String,
    /// Of the run that is under way.
    lines: u64,
    good_lines: u64,
    trouble: Option<String>,
}

impl<'a> View<'a> {
    fn new(reporter: &'a Reporter, label: &'a str, own: &'a Announcement) -> Self {
        let source = format!("exec {}", shown(label.as_bytes()));
        Self { reporter, label, own, source, lines: 0, good_lines: 0, trouble: None }
    }

    const fn begin(&mut self) {
        self.lines = 0;
        self.good_lines = 0;
    }

    fn take(&mut self, line: Line<'_>) {
        self.lines += 1;
        let read = match line {
            Line::Whole(line) => snapshot::read(line, &self.source),
            Line::Cut(line) => {
                Err(format!("it is longer than {LINE_BYTES_MAX} bytes: `{}`", shown(line)))
            }
        };
        match read {
            Ok(mut snapshot) => {
                self.good_lines += 1;
                snapshot.nodes.retain(|seen| {
                    seen.node.as_ref() != Some(&self.own.node)
                        || seen.incarnation != Some(self.own.incarnation)
                });
                let trouble = snapshot.trouble.map(|why| {
                    format!("line {} of {} was taken, but {why}", self.lines, self.label)
                });
                match &trouble {
                    None => self.reporter.visible(snapshot.nodes),
                    Some(why) => self.reporter.visible_but(snapshot.nodes, why.clone()),
                }
                self.tell(trouble);
            }
            Err(why) => {
                let why = format!(
                    "line {} of {} is no snapshot, and the last one stays: {why}",
                    self.lines, self.label
                );
                self.reporter.unwell(why.clone());
                self.tell(Some(why));
            }
        }
    }

    fn failed(&mut self, why: &str) {
        let why = format!("{} {why}; what it said last stays", self.label);
        self.reporter.unwell(why.clone());
        self.tell(Some(why));
    }

    /// Once for each trouble, not for each line.
    fn tell(&mut self, trouble: Option<String>) {
        if self.trouble != trouble {
            match &trouble {
                Some(why) => tracing::warn!(strategy = "exec", "{why}"),
                None => tracing::info!(strategy = "exec", "{} is well again", self.label),
            }
            self.trouble = trouble;
        }
    }
}

/// A line, without its end.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Whole(&'a [u8]),
    /// The beginning of one that is too long.
    Cut(&'a [u8]),
}

/// Lines of bounded length, not more of them in a time than can be of use. Blank ones are left out.
struct Lines {
    from: BufReader<Output>,
    bytes_max: usize,
    apart: Duration,
    not_before: Instant,
    line: Vec<u8>,
    cut: bool,
    /// The line was given away, so the next one begins.
    taken: bool,
}

impl Lines {
    fn new(from: Output, bytes_max: usize, apart: Duration) -> Self {
        Self {
            from: BufReader::with_capacity(2048, from),
            bytes_max,
            apart,
            not_before: Instant::now(),
            line: Vec::new(),
            cut: false,
            taken: false,
        }
    }

    /// What is still to come is little, and only the last of it counts.
    fn hurry(&mut self) {
        self.apart = Duration::ZERO;
        self.not_before = Instant::now();
    }

    /// The next line; none at the end. Cancel safe.
    async fn next(&mut self) -> Option<Line<'_>> {
        if self.taken {
            self.taken = false;
            self.cut = false;
            self.line.clear();
            self.line.shrink_to(KEPT_BYTES_MAX);
        }
        sleep_until(self.not_before).await;
        loop {
            let ended = self.read_some().await?;
            let is_blank = self.line.iter().all(u8::is_ascii_whitespace);
            if ended && is_blank {
                self.line.clear();
                self.cut = false;
            } else if ended {
                self.taken = true;
                self.not_before = Instant::now() + self.apart;
                let line = &self.line[..];
                return Some(if self.cut { Line::Cut(line) } else { Line::Whole(line) });
            }
        }
    }

    /// Takes what is there of a line: whether it is whole now. None when there is nothing more.
    async fn read_some(&mut self) -> Option<bool> {
        let there = self.from.fill_buf().await.unwrap_or_default();
        if there.is_empty() {
            // The last line may be without an end.
            return (!self.line.is_empty()).then_some(true);
        }
        let end = there.iter().position(|byte| *byte == b'\n');
        let part = &there[..end.unwrap_or(there.len())];
        let room = self.bytes_max - self.line.len();
        self.line.extend_from_slice(&part[..part.len().min(room)]);
        self.cut |= part.len() > room;
        let used = end.map_or(part.len(), |end| end + 1);
        self.from.consume(used);
        Some(end.is_some())
    }
}

/// What a program prints on its standard error: into the log, as far as anybody could read it.
struct Complaints {
    label: String,
    lines: Lines,
    last: String,
    second: Instant,
    logged: usize,
    left_out: usize,
}

impl Complaints {
    fn new(label: String, from: Output) -> Self {
        let lines = Lines::new(from, COMPLAINT_BYTES_MAX, Duration::ZERO);
        Self { label, lines, last: String::new(), second: Instant::now(), logged: 0, left_out: 0 }
    }

    /// Logs one line; false at the end. Cancel safe.
    async fn copy_one(&mut self) -> bool {
        let Some(Line::Whole(line) | Line::Cut(line)) = self.lines.next().await else {
            return false;
        };
        self.last.clear();
        let text = String::from_utf8_lossy(line);
        let steers = |c: char| c.is_control() && c != '\t';
        let plain = |c: char| if steers(c) { char::REPLACEMENT_CHARACTER } else { c };
        self.last.extend(text.trim_end().chars().map(plain));
        if self.second.elapsed() >= Duration::from_secs(1) {
            self.tell_left_out();
            self.second = Instant::now();
            self.logged = 0;
        }
        if self.logged < COMPLAINTS_MAX {
            self.logged += 1;
            tracing::info!(strategy = "exec", "{} | {}", self.label, self.last);
        } else {
            self.left_out += 1;
        }
        true
    }

    fn tell_left_out(&mut self) {
        if self.left_out > 0 {
            tracing::info!(
                strategy = "exec",
                "{} | ... and {} lines more within a second",
                self.label,
                self.left_out
            );
            self.left_out = 0;
        }
    }

    /// The last line, for the end of a sentence.
    fn last(&mut self) -> String {
        self.tell_left_out();
        if self.last.is_empty() {
            String::new()
        } else {
            format!(" (it said: `{}`)", shown(self.last.as_bytes()))
        }
    }
}

#[cfg(test)]
mod tests;
