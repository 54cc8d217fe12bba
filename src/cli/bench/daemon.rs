//! Real daemons, started and stopped by the benchmark, and the line that it keeps to each.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::process::{Process, Trouble};
use super::slices::{self, Slices};

/// Bound for a daemon's start.
const START_WITHIN: Duration = Duration::from_secs(10);
/// Bound for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Between two tries to connect to a socket that is not there yet.
const TRY_EVERY: Duration = Duration::from_micros(50);

/// How a set of daemons is started.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    home: PathBuf,
    names: Vec<String>,
    arguments: Vec<String>,
    /// One port each, known to all from the start.
    ports: Vec<u16>,
    /// Where they listen when their ports are not given.
    listen: &'static str,
    /// Where they listen on their ports: others are told of them there, not they of each other.
    slices: Option<(IpAddr, Arc<Slices>)>,
}

impl Plan {
    /// Daemons that are given each other's addresses.
    ///
    /// # Errors
    /// When no ports are free.
    pub(super) fn list(home: &Path, names: &[&str]) -> Result<Self, Trouble> {
        let listeners: Vec<_> = names
            .iter()
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<Result<_, _>>()
            .map_err(Trouble::io("finding free ports"))?;
        let ports = listeners
            .iter()
            .map(|l| l.local_addr().map(|a| a.port()))
            .collect::<Result<_, _>>()
            .map_err(Trouble::io("finding free ports"))?;
        Ok(Self { ports, ..Self::by(home, names, "none") })
    }

    /// Daemons that find each other by a strategy.
    #[must_use]
    pub(super) fn by(home: &Path, names: &[&str], strategy: &str) -> Self {
        Self {
            home: home.to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            arguments: vec!["--strategy".to_owned(), strategy.to_owned()],
            ports: Vec::new(),
            listen: "127.0.0.1:0",
            slices: None,
        }
    }

    /// Daemons that an API server lists.
    ///
    /// # Errors
    /// When no ports are free, or the API server does not take the slices.
    pub(super) fn listed(home: &Path, names: &[&str], kubeconfig: &Path) -> Result<Self, Trouble> {
        let ip = slices::address()?;
        let ports = Self::list(home, names)?.ports;
        let slices = Slices::make(kubeconfig, ip, &ports)?;
        let strategy = slices.strategy();
        let slices = Some((ip, Arc::new(slices)));
        Ok(Self { ports, slices, ..Self::by(home, names, &strategy) })
    }

    /// The same, reachable from outside this machine: mDNS does not announce loopback.
    #[must_use]
    pub(super) fn outside(self) -> Self {
        Self { listen: "[::]:0", ..self }
    }

    /// The same with more arguments for each.
    #[must_use]
    pub(super) fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Starts all, waiting for none.
    ///
    /// # Errors
    /// When one cannot be started.
    pub(super) fn start(&self) -> Result<Vec<Daemon>, Trouble> {
        (0..self.names.len()).map(|index| self.start_one(index)).collect()
    }

    /// Starts one of them.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start_one(&self, index: usize) -> Result<Daemon, Trouble> {
        let name = &self.names[index];
        let program = std::env::current_exe().map_err(Trouble::io("finding this program"))?;
        let mut command = Command::new(program);
        command.args(["up", "--name", name]).args(&self.arguments);
        let ip = self.slices.as_ref().map_or(Ipv4Addr::LOCALHOST.into(), |(ip, _)| *ip);
        match self.ports.get(index) {
            Some(port) => command.args(["--listen", &SocketAddr::new(ip, *port).to_string()]),
            None => command.args(["--listen", self.listen]),
        };
        let joins = self.ports.iter().filter(|_| self.slices.is_none());
        for port in joins.filter(|port| self.ports.get(index) != Some(port)) {
            command.args(["--join", &format!("127.0.0.1:{port}")]);
        }
        // A home of its own: no configuration, no cookie and no socket of the user's is read, written or met.
        for (key, _) in
            std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("PILLION_"))
        {
            command.env_remove(key);
        }
        let log = std::fs::File::create(self.home.join(format!("{name}.log")))
            .map_err(Trouble::io("making a log"))?;
        command
            .env("PILLION_DIR", &self.home)
            .env("HOME", &self.home)
            .env("XDG_CONFIG_HOME", self.home.join("config"))
            .current_dir(&self.home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let started = Instant::now();
        let process = Process::start(&mut command)?;
        let socket = self.home.join("default").join(format!("{name}.sock"));
        let log = self.home.join(format!("{name}.log"));
        Ok(Daemon { process, socket, log, started })
    }
}

/// One daemon, killed when this is dropped.
#[derive(Debug)]
#[must_use = "dropping it kills the daemon"]
pub(super) struct Daemon {
    process: Process,
    socket: PathBuf,
    log: PathBuf,
    started: Instant,
}

impl Daemon {
    /// The process's number.
    #[must_use]
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Where apps connect.
    #[must_use]
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Just before it was started.
    #[must_use]
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for the end that a signal brings.
    ///
    /// # Errors
    /// When it does not end well, or not in time.
    pub(super) fn ended(mut self, within: Duration) -> Result<(), Trouble> {
        let status = self.process.ended(within)?;
        if status.success() {
            return Ok(());
        }
        Err(Trouble::Unexpected(format!("a daemon ended with {status}")))
    }

    /// Connects as soon as the socket takes connections.
    ///
    /// # Errors
    /// When it does not in time.
    pub(super) fn connect(&self) -> Result<UnixStream, Trouble> {
        let deadline = self.started.max(Instant::now()) + START_WITHIN;
        loop {
            match UnixStream::connect(&self.socket) {
                Ok(stream) => return Ok(stream),
                Err(_) if Instant::now() < deadline => thread::sleep(TRY_EVERY),
                Err(_) => {
                    let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                    let last = log.lines().last().unwrap_or("it said nothing").to_owned();
                    return Err(Trouble::Unexpected(format!(
                        "a daemon's socket did not come within {START_WITHIN:?}: {last}"
                    )));
                }
            }
        }
    }

    /// Opens a session in JSON lines.
    ///
    /// # Errors
    /// When the daemon does not take one.
    pub(super) fn control(&self) -> Result<Control, Trouble> {
        Control::new(self.connect()?)
    }
}

/// A session in JSON lines: what the benchmark asks a daemon about itself.
#[derive(Debug)]
pub(super) struct Control {
    lines: BufReader<UnixStream>,
    line: String,
    node: String,
    /// Who is connected, by events.
    up: BTreeSet<String>,
    /// When the last event about a node came, and what it was.
    id: u64,
}

impl Control {
    fn new(stream: UnixStream) -> Result<Self, Trouble> {
        let lines = BufReader::new(stream);
        let mut control =
            Self { lines, line: String::new(), node: String::new(), up: BTreeSet::new(), id: 0 };
        let answer = control.ask(&json!({"op": "self"}))?;
        let pid = answer["pid"].as_str().unwrap_or_default();
        let node = pid.trim_start_matches('<').rsplitn(3, '.').nth(2).unwrap_or_default();
        node.clone_into(&mut control.node);
        control.ask(&json!({"op": "monitor_nodes", "on": true}))?;
        let answer = control.ask(&json!({"op": "nodes", "state": "connected"}))?;
        for entry in answer["nodes"].as_array().into_iter().flatten() {
            control.up.insert(entry["node"].as_str().unwrap_or_default().to_owned());
        }
        Ok(control)
    }

    /// Waits until a daemon that was just started is ready for work, and says when it was.
    ///
    /// # Errors
    /// When it is not in time.
    pub(super) fn ready(stream: UnixStream, within: Duration) -> Result<Instant, Trouble> {
        let lines = BufReader::new(stream);
        let mut control =
            Self { lines, line: String::new(), node: String::new(), up: BTreeSet::new(), id: 0 };
        let wait = u64::try_from(within.as_millis() / 2).unwrap_or(0);
        let answer = control.ask(&json!({"op": "ready", "wait_ms": wait}))?;
        if answer["ready"] == true {
            return Ok(Instant::now());
        }
        Err(Trouble::Unexpected(format!("a daemon is not ready: {}", answer["message"])))
    }

    /// Drains it, and waits until no app and no call is left.
    ///
    /// # Errors
    /// When something is left after that time.
    pub(super) fn drained(&mut self, within: Duration) -> Result<(), Trouble> {
        let wait = u64::try_from(within.as_millis() / 2).unwrap_or(0);
        let left = self.ask(&json!({"op": "drain", "wait_ms": wait}))?;
        if left["sessions"] == 0 && left["calls"] == 0 {
            return Ok(());
        }
        Err(Trouble::Unexpected(format!("a drained daemon has left {left}")))
    }

    /// Waits until so many nodes serve a module.
    ///
    /// # Errors
    /// When they do not in time.
    pub(super) fn served(
        &mut self,
        module: &str,
        nodes: usize,
        within: Duration,
    ) -> Result<(), Trouble> {
        let deadline = Instant::now() + within;
        loop {
            let answer = self.ask(&json!({"op": "modules"}))?;
            let modules = answer["modules"].as_array().into_iter().flatten();
            let served = modules.filter(|entry| entry["module"] == module);
            if served.filter_map(|entry| entry["served"].as_array()).any(|s| s.len() >= nodes) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Trouble::Late("a module on every node", within));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The daemon's name, `base@host`.
    #[must_use]
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// Waits until it sees this many others and says when it did.
    ///
    /// # Errors
    /// When it does not in time.
    pub(super) fn connected(
        &mut self,
        others: usize,
        within: Duration,
    ) -> Result<Instant, Trouble> {
        let deadline = Instant::now() + within;
        while self.up.len() < others {
            self.event("the other nodes", within, deadline)?;
        }
        Ok(Instant::now())
    }

    /// Waits until it sees at most this many others; gives when, and the last reason.
    ///
    /// # Errors
    /// When it does not in time.
    pub(super) fn left(
        &mut self,
        others: usize,
        within: Duration,
    ) -> Result<(Instant, String), Trouble> {
        let deadline = Instant::now() + within;
        let mut reason = String::new();
        while self.up.len() > others {
            let event = self.event("nodedown", within, deadline)?;
            event["reason"].as_str().unwrap_or_default().clone_into(&mut reason);
        }
        Ok((Instant::now(), reason))
    }

    fn ask(&mut self, command: &Value) -> Result<Value, Trouble> {
        self.id += 1;
        let mut command = command.clone();
        command["id"] = self.id.into();
        let stream = self.lines.get_mut();
        writeln!(stream, "{command}").map_err(Trouble::io("asking a daemon"))?;
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            let event = self.event("an answer", ANSWER_WITHIN, deadline)?;
            if event["id"] == self.id {
                if event["ev"] == "ok" {
                    return Ok(event);
                }
                return Err(Trouble::Unexpected(format!("{command} was answered {event}")));
            }
        }
    }

    fn event(
        &mut self,
        what: &'static str,
        within: Duration,
        deadline: Instant,
    ) -> Result<Value, Trouble> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Trouble::Late(what, within));
        }
        self.lines
            .get_ref()
            .set_read_timeout(Some(left))
            .map_err(Trouble::io("listening to a daemon"))?;
        match self.lines.read_line(&mut self.line) {
            Ok(0) => return Err(Trouble::Unexpected("a daemon closed the socket".to_owned())),
            Ok(_) => {}
            // What was read of a line so far stays in it.
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                return Err(Trouble::Late(what, within));
            }
            Err(e) => return Err(Trouble::io("listening to a daemon")(e)),
        }
        let event: Value = serde_json::from_str(&self.line)
            .map_err(|_| Trouble::Unexpected(format!("a daemon said `{}`", self.line)))?;
        self.line.clear();
        let node = event["node"].as_str().unwrap_or_default();
        match event["ev"].as_str() {
            Some("nodeup") => {
                self.up.insert(node.to_owned());
            }
            Some("nodedown") => {
                self.up.remove(node);
            }
            _ => {}
        }
        Ok(event)
    }
}
