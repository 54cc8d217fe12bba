//! Daemons to test, and apps to test them with.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ciborium::Value as Cbor;
use rustix::process::Signal;
pub use serde_json::{Value, json};

/// Nothing that works takes this long, on however busy a machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The two dialects that every daemon speaks.
pub const DIALECTS: [Dialect; 2] = [Dialect::Json, Dialect::Cbor];

/// A private directory: the daemons in it share a cookie and find each other, as those of one user do.
#[derive(Clone)]
pub struct Place(Rc<tempfile::TempDir>);

impl Place {
    pub fn new() -> Self {
        Self(Rc::new(tempfile::Builder::new().prefix("pe").tempdir().unwrap()))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The command that starts `base@t` here. What `args` say beats what is said here.
    pub fn command(&self, base: &str, args: &[&str]) -> Command {
        let name = format!("{base}@t");
        let usual = [
            ("--name", name.as_str()),
            ("--listen", "127.0.0.1:0"),
            ("--strategy", "local"),
            ("--grace", "200ms"),
            // Never reached: a node that is slow because its machine is starved loses nothing of what a test counts.
            ("--send-timeout", "60s"),
        ];
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
        command.env_clear();
        command.env("PILLION_DIR", self.path().join("p")).env("HOME", self.path().join("h"));
        command.arg("up");
        for (flag, value) in usual {
            if !args.contains(&flag) {
                command.args([flag, value]);
            }
        }
        command.args(args).current_dir(self.path());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Starts `base@t` here and waits until its socket answers.
    pub fn start(&self, base: &str, args: &[&str]) -> Daemon {
        self.run(base, args, self.command(base, args))
    }

    /// Starts a node without `--name`, whose socket `args` give.
    pub fn start_unnamed(&self, log: &str, args: &[&str]) -> Daemon {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
        command.env_clear().current_dir(self.path());
        command.env("PILLION_DIR", self.path().join("p")).env("HOME", self.path().join("h"));
        command.args(["up", "--listen", "127.0.0.1:0", "--strategy", "local"]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        self.run(log, args, command)
    }

    /// Starts a node as this command does it, and waits until its socket answers.
    pub fn run(&self, base: &str, args: &[&str], mut command: Command) -> Daemon {
        let mesh =
            args.iter().position(|arg| *arg == "--mesh").map_or("default", |at| args[at + 1]);
        let socket = match args.iter().position(|arg| *arg == "--socket") {
            Some(at) => PathBuf::from(args[at + 1]),
            None => self.path().join("p").join(mesh).join(format!("{base}.sock")),
        };
        let log = self.path().join(format!("{base}.log"));
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let child = command.stderr(file).spawn().unwrap();
        let mut daemon = Daemon {
            child: Some(child),
            base: base.to_owned(),
            node: args
                .iter()
                .position(|arg| *arg == "--name")
                .map_or_else(|| format!("{base}@t"), |at| args[at + 1].to_owned()),
            socket,
            log,
            place: self.clone(),
        };
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(&daemon.socket).is_err() {
            let child = daemon.child.as_mut().unwrap();
            if let Some(status) = child.try_wait().unwrap() {
                panic!("{base} did not start: {status}\n{}", daemon.logged());
            }
            assert!(Instant::now() < deadline, "{base} does not answer\n{}", daemon.logged());
            std::thread::sleep(Duration::from_millis(5));
        }
        daemon
    }

    /// Runs a daemon that is not going to start: how it ended, and what it said.
    pub fn refused(&self, base: &str, args: &[&str]) -> (ExitStatus, String) {
        let log = self.path().join(format!("{base}-refused.log"));
        let mut child =
            self.command(base, args).stderr(File::create(&log).unwrap()).spawn().unwrap();
        let status = wait(&mut child);
        (status, fs::read_to_string(&log).unwrap())
    }
}

/// Waits for a child to end; kills it when it does not.
pub fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the process does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asks again and again until the answer is yes.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A running daemon. Dropping it kills it, and prints its log when the test has failed.
pub struct Daemon {
    child: Option<Child>,
    base: String,
    pub node: String,
    pub socket: PathBuf,
    pub log: PathBuf,
    place: Place,
}

impl Daemon {
    /// One daemon in a place of its own, with nobody to find.
    pub fn alone(args: &[&str]) -> Self {
        let mut all = vec!["--strategy", "none"];
        all.extend(args);
        Place::new().start("a", &all)
    }

    pub fn app(&self, dialect: Dialect) -> App {
        App::connect(&self.socket, dialect)
    }

    pub fn json(&self) -> App {
        self.app(Dialect::Json)
    }

    pub fn cbor(&self) -> App {
        self.app(Dialect::Cbor)
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().unwrap());
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// kill -9. What it hosts, where the system tells, goes with it: no test is to leave programs behind.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let hosted = format!("/proc/{0}/task/{0}/children", child.id());
            let hosted = fs::read_to_string(hosted).unwrap_or_default();
            let _ = child.kill();
            let _ = child.wait();
            for hosted in hosted.split_whitespace() {
                let hosted = hosted.parse().ok().and_then(rustix::process::Pid::from_raw);
                let _ = rustix::process::kill_process_group(hosted.unwrap(), Signal::KILL);
            }
        }
    }

    /// Waits for the end that a signal brings.
    pub fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        wait(&mut child)
    }

    pub fn lives(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// The same node, started again after its end.
    pub fn again(&mut self, args: &[&str]) -> Self {
        self.kill();
        self.place.start(&self.base, args)
    }

    pub fn logged(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its port for other nodes, as host:port.
    pub fn address(&self) -> String {
        let (mut app, mut address) = (self.json(), None);
        // The app socket is there before the port.
        eventually("the node listens", || {
            let nodes = app.ok(json!({"op": "nodes", "state": "self"}));
            address = nodes["nodes"][0]["addresses"][0].as_str().map(str::to_owned);
            address.is_some()
        });
        address.unwrap()
    }

    /// The most memory that was ever resident, in bytes, where the system says.
    pub fn resident_peak(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib * 1024)
    }

    /// Resident memory in bytes, where the system says.
    pub fn resident(&self) -> Option<u64> {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.pid())).ok()?;
        let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
        Some(pages * 4096)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {} said:\n{}---", self.base, self.logged());
        }
    }
}

/// How an app spells its commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// One JSON object per line.
    Json,
    /// CBOR frames.
    Cbor,
}

/// An app. Commands and events are JSON values whatever the dialect, bytes as `{"$bytes": base64}`.
pub struct App {
    stream: UnixStream,
    dialect: Dialect,
    input: Vec<u8>,
    at: usize,
    events: VecDeque<Value>,
    answers: Vec<Value>,
    last_id: u64,
    /// Commands written.
    pub commands: u64,
    /// Frames received.
    pub seen: u64,
    pub pid: String,
}

impl App {
    /// Connects and asks for the pid of its own process.
    pub fn connect(socket: &Path, dialect: Dialect) -> Self {
        let mut app = Self::connect_quietly(socket, dialect);
        let own = app.ok(json!({"op": "self"}));
        own["pid"].as_str().unwrap().clone_into(&mut app.pid);
        app
    }

    /// Connects and says nothing.
    pub fn connect_quietly(socket: &Path, dialect: Dialect) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            dialect,
            input: Vec::new(),
            at: 0,
            events: VecDeque::new(),
            answers: Vec::new(),
            last_id: 0,
            commands: 0,
            seen: 0,
            pid: String::new(),
        }
    }

    /// Writes a command whose answer, if there is one, nobody waits for.
    pub fn tell(&mut self, command: Value) {
        self.commands += 1;
        let bytes = spell(self.dialect, &command);
        self.stream.write_all(&bytes).unwrap();
    }

    /// Writes a command and gives the id of its answer.
    pub fn begin(&mut self, mut command: Value) -> u64 {
        self.last_id += 1;
        command["id"] = self.last_id.into();
        self.tell(command);
        self.last_id
    }

    /// The answer to a command that was begun.
    pub fn answer(&mut self, id: u64) -> Value {
        self.answer_to(&id.into())
    }

    /// The answer to the command that had this id.
    pub fn answer_to(&mut self, id: &Value) -> Value {
        loop {
            if let Some(at) = self.answers.iter().position(|answer| answer["id"] == *id) {
                return self.answers.swap_remove(at);
            }
            self.read_one();
        }
    }

    /// Writes a command and waits for its answer.
    pub fn ask(&mut self, command: Value) -> Value {
        let id = self.begin(command);
        self.answer(id)
    }

    /// The answer to a command that must succeed.
    #[track_caller]
    pub fn ok(&mut self, command: Value) -> Value {
        let shown = command.to_string();
        let answer = self.ask(command);
        assert_eq!(answer["ev"], "ok", "{shown:.300} was answered {answer}");
        answer
    }

    /// The code of a command that must fail.
    #[track_caller]
    pub fn code(&mut self, command: Value) -> String {
        let shown = command.to_string();
        let answer = self.ask(command);
        assert_eq!(answer["ev"], "error", "{shown:.300} was answered {answer}");
        assert!(answer["message"].as_str().is_some_and(|words| words.len() > 5), "{answer}");
        answer["code"].as_str().unwrap().to_owned()
    }

    /// The next event that is no answer.
    pub fn event(&mut self) -> Value {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            self.read_one();
        }
    }

    /// What comes next, be it an event or an answer.
    pub fn next(&mut self) -> Value {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            if !self.answers.is_empty() {
                return self.answers.remove(0);
            }
            self.read_one();
        }
    }

    /// Answers a call, and waits for the sidecar to have taken the answer.
    pub fn reply(&mut self, to: &Value, body: Value) {
        self.ok(json!({"op": "reply", "ref": to["ref"], "body": body}));
    }

    /// The next event of this kind; others before it are passed over.
    pub fn event_of(&mut self, kind: &str) -> Value {
        loop {
            let event = self.event();
            if event["ev"] == kind {
                return event;
            }
        }
    }

    /// The body of the next event, which must be a message.
    #[track_caller]
    pub fn body(&mut self) -> Value {
        let mut event = self.event();
        assert_eq!(event["ev"], "message", "{event}");
        event["body"].take()
    }

    /// Every event that was on its way before this node had answered one more command.
    pub fn pending(&mut self) -> Vec<Value> {
        self.ok(json!({"op": "self"}));
        self.events.drain(..).collect()
    }

    /// Nothing was on its way. What another node sent may still be: ask that one first.
    #[track_caller]
    pub fn nothing(&mut self) {
        assert_eq!(self.pending(), Vec::<Value>::new());
    }

    /// The sidecar has closed the connection; what it said last.
    pub fn last_words(mut self) -> Vec<Value> {
        while let Some(event) = self.try_read() {
            self.sort(event);
        }
        self.answers.drain(..).chain(self.events.drain(..)).collect()
    }

    /// A process of this session.
    pub fn spawn(&mut self, mut options: Value) -> String {
        options["op"] = "spawn".into();
        self.ok(options)["pid"].as_str().unwrap().to_owned()
    }

    /// Sends and waits for the sidecar to have taken it.
    #[track_caller]
    pub fn send(&mut self, to: &str, body: Value) {
        self.ok(json!({"op": "send", "to": to, "body": body}));
    }

    /// Waits until its node is connected to these.
    pub fn meets(&mut self, nodes: &[&Daemon]) {
        self.ok(json!({"op": "monitor_nodes", "on": true}));
        let connected = self.connected();
        let mut missing: Vec<&str> = nodes.iter().map(|node| node.node.as_str()).collect();
        missing.retain(|node| !connected.iter().any(|name| name == node));
        while !missing.is_empty() {
            let up = self.event_of("nodeup");
            missing.retain(|node| up["node"] != *node);
        }
        self.ok(json!({"op": "monitor_nodes", "on": false}));
        // Others may have come meanwhile.
        self.events.retain(|event| event["ev"] != "nodeup");
    }

    /// The names of the nodes that its node is connected to.
    pub fn connected(&mut self) -> Vec<String> {
        let answer = self.ok(json!({"op": "nodes", "state": "connected"}));
        let names = answer["nodes"].as_array().unwrap().iter();
        let mut names: Vec<String> =
            names.map(|node| node["node"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }

    /// What `info` says about one key of one process.
    pub fn info(&mut self, to: &str, key: &str) -> Value {
        let answer = self.ok(json!({"op": "info", "to": to, "keys": [key]}));
        answer["info"][key].clone()
    }

    /// Writes bytes that are no command.
    pub fn write_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    fn read_one(&mut self) {
        match self.try_read() {
            Some(event) => self.sort(event),
            None => panic!("the sidecar closed the connection"),
        }
    }

    fn sort(&mut self, event: Value) {
        self.seen += 1;
        if event["id"].is_null() {
            self.events.push_back(event);
        } else {
            self.answers.push(event);
        }
    }

    /// The next frame; None at the end of the stream.
    fn try_read(&mut self) -> Option<Value> {
        loop {
            let rest = &self.input[self.at..];
            let (used, event) = match self.dialect {
                Dialect::Json => match rest.iter().position(|byte| *byte == b'\n') {
                    Some(end) => (end + 1, Some(serde_json::from_slice(&rest[..end]).unwrap())),
                    None => (0, None),
                },
                Dialect::Cbor => match rest.first_chunk::<4>() {
                    Some(length) if rest.len() >= 4 + u32::from_be_bytes(*length) as usize => {
                        let whole = 4 + u32::from_be_bytes(*length) as usize;
                        (whole, Some(read_frame(&rest[4..whole])))
                    }
                    _ => (0, None),
                },
            };
            self.at += used;
            if event.is_some() {
                return event;
            }
            self.input.drain(..self.at);
            self.at = 0;
            let mut buffer = vec![0; 64 * 1024];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(n) => self.input.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing came: {error}; waiting: {:?}", self.events),
            }
        }
    }
}

/// A command as a dialect writes it.
pub fn spell(dialect: Dialect, command: &Value) -> Vec<u8> {
    match dialect {
        Dialect::Json => {
            let mut line = serde_json::to_vec(command).unwrap();
            line.push(b'\n');
            line
        }
        Dialect::Cbor => {
            let mut header = command.clone();
            let body = header.as_object_mut().unwrap().remove("body");
            let mut head = Vec::new();
            ciborium::into_writer(&to_cbor(&header), &mut head).unwrap();
            let mut rest = Vec::new();
            match (body, header.get("ct")) {
                (None, _) => {}
                (Some(body), None) => ciborium::into_writer(&to_cbor(&body), &mut rest).unwrap(),
                (Some(body), Some(_)) => {
                    let Cbor::Bytes(bytes) = to_cbor(&body) else { panic!("a `ct` wants bytes") };
                    rest = bytes;
                }
            }
            frame(&head, &rest)
        }
    }
}

/// A frame of a header and a body, each as they are.
pub fn frame(head: &[u8], body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(6 + head.len() + body.len());
    frame.extend_from_slice(&u32::try_from(2 + head.len() + body.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(&u16::try_from(head.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(head);
    frame.extend_from_slice(body);
    frame
}

fn read_frame(rest: &[u8]) -> Value {
    let length = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
    let (head, body) = rest[2..].split_at(length);
    let head: Cbor = ciborium::from_reader(head).unwrap();
    let mut event = to_json(head);
    if !body.is_empty() {
        let noun = event.as_object_mut().unwrap().remove("as");
        let noun = noun.as_ref().and_then(Value::as_str).unwrap_or("body").to_owned();
        event[noun] = if event["ct"].is_null() {
            to_json(ciborium::from_reader(body).unwrap())
        } else {
            bytes(body)
        };
        if event["ct"].is_null() {
            event.as_object_mut().unwrap().remove("ct");
        }
    }
    event
}

/// Bytes as JSON spells them.
pub fn bytes(bytes: &[u8]) -> Value {
    json!({"$bytes": STANDARD.encode(bytes)})
}

/// The bytes that JSON spelled.
#[track_caller]
pub fn unbytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(value["$bytes"].as_str().unwrap()).unwrap()
}

fn to_cbor(value: &Value) -> Cbor {
    match value {
        Value::Null => Cbor::Null,
        Value::Bool(yes) => Cbor::Bool(*yes),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(n), _) => Cbor::Integer(n.into()),
            (None, Some(n)) => Cbor::Integer(n.into()),
            (None, None) => Cbor::Float(number.as_f64().unwrap()),
        },
        Value::String(text) => Cbor::Text(text.clone()),
        Value::Array(items) => Cbor::Array(items.iter().map(to_cbor).collect()),
        Value::Object(pairs) if pairs.contains_key("$bytes") => Cbor::Bytes(unbytes(value)),
        Value::Object(pairs) => Cbor::Map(
            pairs.iter().map(|(key, value)| (Cbor::Text(key.clone()), to_cbor(value))).collect(),
        ),
    }
}

fn to_json(value: Cbor) -> Value {
    match value {
        Cbor::Null => Value::Null,
        Cbor::Bool(yes) => yes.into(),
        Cbor::Integer(number) => match u64::try_from(number) {
            Ok(number) => number.into(),
            Err(_) => i64::try_from(number).unwrap().into(),
        },
        Cbor::Float(number) => number.into(),
        Cbor::Text(text) => text.into(),
        Cbor::Bytes(raw) => bytes(&raw),
        Cbor::Array(items) => items.into_iter().map(to_json).collect(),
        Cbor::Map(pairs) => pairs
            .into_iter()
            .map(|(key, value)| (key.into_text().unwrap(), to_json(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => panic!("not expected here: {other:?}"),
    }
}

/// What an app is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Rust, over the dialect.
    Rust(Dialect),
    /// Python 3 without a package, over JSON lines.
    Python,
}

/// Every language that this machine has.
pub fn languages() -> Vec<Language> {
    let mut languages: Vec<Language> = DIALECTS.into_iter().map(Language::Rust).collect();
    let python = Command::new("python3").arg("--version").output();
    if python.is_ok_and(|output| output.status.success()) {
        languages.push(Language::Python);
    } else {
        eprintln!("SKIPPED in Python: there is no python3 here");
    }
    languages
}

/// The stock of the first seed document: a receive loop whose state is a list.
pub struct Stock(Running);

enum Running {
    Rust(std::thread::JoinHandle<Vec<String>>),
    Python(Child),
}

impl Stock {
    /// Starts it as a process of `daemon` and registers it there.
    pub fn start(daemon: &Daemon, language: Language, name: &str) -> Self {
        let mut asker = daemon.json();
        let mut taken = move || {
            let found = asker.ok(json!({"op": "whereis", "name": name}));
            !found["pid"].is_null()
        };
        eventually("the stock before this one is gone", || !taken());
        let running = match language {
            Language::Rust(dialect) => {
                let mut app = daemon.app(dialect);
                app.ok(json!({"op": "register", "name": name}));
                Running::Rust(std::thread::spawn(move || stock(app)))
            }
            Language::Python => {
                let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/stock.py");
                let mut command = Command::new("python3");
                command.arg(script).arg(&daemon.socket).arg(name).stdout(Stdio::piped());
                let child = command.spawn().unwrap();
                eventually("the stock in Python is registered", taken);
                Running::Python(child)
            }
        };
        Self(running)
    }

    /// What it printed, once it was told to stop.
    pub fn printed(self) -> Vec<String> {
        match self.0 {
            Running::Rust(thread) => thread.join().unwrap(),
            Running::Python(mut child) => {
                assert!(wait(&mut child).success());
                let mut text = String::new();
                child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
                text.lines().map(|line| line.replace('\'', "\"")).collect()
            }
        }
    }
}

fn stock(mut app: App) -> Vec<String> {
    let mut stock: Vec<Value> = Vec::new();
    let mut printed = Vec::new();
    loop {
        let body = app.body();
        let item = |at: usize| body[at].as_str().unwrap_or_default();
        match (item(0), body.as_array().map_or(0, Vec::len)) {
            ("add", 2) => stock.insert(0, body[1].clone()),
            ("add", _) => {
                stock.insert(0, body[2].clone());
                printed.push(format!("{} added a new item on stock", item(1)));
                app.tell(json!({"op": "send", "to": body[1], "body": stock}));
            }
            ("status", length) => {
                printed.push(format!("{} checked the stock", item(1)));
                let shown = if length == 2 {
                    json!(["show", stock])
                } else {
                    json!(["stock", body[2], stock])
                };
                app.tell(json!({"op": "send", "to": body[1], "body": shown}));
            }
            _ if body == "status" => {
                let names: Vec<&Value> = stock.iter().map(|product| &product["name"]).collect();
                printed.push(format!("{names:?}").replace("String(", "").replace(')', ""));
            }
            _ => {
                assert_eq!(body, "stop");
                return printed;
            }
        }
    }
}
