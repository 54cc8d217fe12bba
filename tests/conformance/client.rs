//! A script with a client: the kit is the node.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::frames;
use crate::matching::Names;
use crate::script::{Does, Script};
use crate::transcript::Transcript;

/// How long a client is given to keep still where it is to write nothing.
const QUIET: Duration = Duration::from_millis(200);
/// How long a driver may take to be built.
const BUILD: Duration = Duration::from_secs(240);
/// The exit status of a driver whose toolchain is not here.
const UNAVAILABLE: i32 = 69;

/// How long the kit waits for what must come.
pub fn patience() -> Duration {
    let said = std::env::var("CONFORMANCE_PATIENCE_MS").ok().and_then(|text| text.parse().ok());
    Duration::from_millis(said.unwrap_or(30_000))
}

/// Something that has happened.
enum Got {
    /// A frame of the client on the connection of this number.
    Frame(u64, Result<Value, String>),
    /// That connection is over.
    End(u64),
    /// A line of the driver.
    Line(String),
    /// The driver says no more.
    Silence,
}

/// Starts the driver with nothing to do, so that it is built. Says why it cannot be had.
pub fn prepare(driver: &Path) -> Result<(), String> {
    if !driver.exists() {
        return Err(format!("there is no {}", driver.display()));
    }
    let mut command = command(driver, Path::new("/nonexistent"), &BTreeMap::new());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", driver.display()))?;
    drop(child.stdin.take());
    let mut errors = child.stderr.take().expect("it is piped");
    let said = thread::spawn(move || {
        let mut text = String::new();
        let _ = errors.read_to_string(&mut text);
        text
    });
    let status = ended(&mut child, BUILD);
    let said = said.join().unwrap_or_default();
    match status {
        None => panic!("{} does not end with its standard input:\n{said}", driver.display()),
        Some(status) if status.code() == Some(UNAVAILABLE) => Err(said.trim().to_owned()),
        Some(status) => {
            assert!(status.success(), "{} ended: {status}\n{said}", driver.display());
            Ok(())
        }
    }
}

fn command(driver: &Path, socket: &Path, env: &BTreeMap<String, String>) -> Command {
    let mut command = Command::new(driver);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PILLION_") {
            command.env_remove(name);
        }
    }
    // A group of its own: scripts that start programs leave none behind.
    command.env("PILLION_SOCKET", socket).envs(env).process_group(0);
    command
}

/// Waits for the end; a child that does not end is killed with its group.
fn ended(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            return Some(status);
        }
        if Instant::now() > deadline {
            kill(child);
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn kill(child: &mut Child) {
    let group = rustix::process::Pid::from_child(child);
    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    let _ = child.wait();
}

/// Plays a script. The error is for people: what was promised, what came instead, and everything before.
pub fn play(driver: &Path, script: &Script, patience: Duration) -> Result<(), String> {
    let mut stage = Stage::set(driver, script, patience);
    let mut done = Ok(());
    for (at, step) in script.steps.iter().enumerate() {
        stage.transcript.step(at + 1, step);
        if step.only.as_deref().is_some_and(|only| only != "client") {
            continue;
        }
        if let Err(fault) = stage.flush_before(&step.does).and_then(|()| stage.step(&step.does)) {
            done = Err(stage.transcript.failure(script, at + 1, step, &fault));
            break;
        }
    }
    let last = stage.flush();
    if done.is_ok()
        && let (Err(fault), Some(step)) = (last, script.steps.last())
    {
        done = Err(stage.transcript.failure(script, script.steps.len(), step, &fault));
    }
    let said = stage.end();
    done.map_err(|report| {
        if said.is_empty() { report } else { format!("{report}\nits driver wrote:\n{said}") }
    })
}

struct Stage<'s> {
    script: &'s Script,
    patience: Duration,
    names: Names,
    transcript: Transcript,
    directory: tempfile::TempDir,
    child: Child,
    input: ChildStdin,
    errors: thread::JoinHandle<String>,
    listener: Option<UnixListener>,
    /// The connection, and how many there were.
    stream: Option<UnixStream>,
    connections: u64,
    sender: Sender<Got>,
    got: Receiver<Got>,
    frames: VecDeque<Result<Value, String>>,
    /// What it may write some time, and the answer.
    optional: Vec<(Value, Option<Value>)>,
    /// Frames that follow each other are written together, as a node does.
    unwritten: Vec<u8>,
    must_arrive: bool,
    deaf: Arc<AtomicBool>,
    over: bool,
    lines: BTreeMap<String, VecDeque<Value>>,
    silent: bool,
}

impl<'s> Stage<'s> {
    fn set(driver: &Path, script: &'s Script, patience: Duration) -> Self {
        let directory = tempfile::Builder::new().prefix("pc").tempdir().expect("a directory");
        let socket = directory.path().join("node.sock");
        let mut command = command(driver, &socket, &script.env);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", driver.display()));
        let (sender, got) = channel();
        let (output, lines) = (child.stdout.take().expect("piped"), sender.clone());
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = lines.send(Got::Line(line));
            }
            let _ = lines.send(Got::Silence);
        });
        let mut errors = child.stderr.take().expect("piped");
        let errors = thread::spawn(move || {
            let mut text = Vec::new();
            let _ = errors.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let listener = Some(UnixListener::bind(&socket).expect("a socket"));
        Self {
            script,
            patience,
            names: Names::default(),
            transcript: Transcript::default(),
            directory,
            input: child.stdin.take().expect("piped"),
            child,
            errors,
            listener,
            stream: None,
            connections: 0,
            sender,
            got,
            frames: VecDeque::new(),
            optional: Vec::new(),
            unwritten: Vec::new(),
            must_arrive: false,
            deaf: Arc::default(),
            over: false,
            lines: BTreeMap::new(),
            silent: false,
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("node.sock")
    }

    /// Ends the driver, which ends with its standard input, and gives what it wrote for people.
    fn end(self) -> String {
        let Self { mut child, input, errors, stream, listener, .. } = self;
        drop((input, stream, listener));
        let status = ended(&mut child, Duration::from_secs(10));
        // What it may have started has its group.
        kill(&mut child);
        let mut said = errors.join().unwrap_or_default();
        if status.is_none() {
            said.push_str("(it did not end with its standard input)\n");
        }
        said
    }

    fn step(&mut self, does: &Does) -> Result<(), String> {
        match does {
            Does::App(action) => {
                let action =
                    self.names.fill(&Value::Object(action.clone()), &self.script.values)?;
                let line = format!("{action}\n");
                self.input.write_all(line.as_bytes()).map_err(|e| format!("its driver: {e}"))
            }
            Does::Out { frame, optional: true, then } => {
                self.optional.push((frame.clone(), then.clone()));
                for frame in std::mem::take(&mut self.frames) {
                    self.frame_came(frame)?;
                }
                Ok(())
            }
            Does::Out { frame, .. } => self.frame_comes(frame),
            Does::In { frame, optional } => {
                let frame = self.names.fill(frame, &self.script.values)?;
                let bytes = frames::write(&frame)?;
                self.names.event(&frame);
                self.unwritten.extend_from_slice(&bytes);
                self.must_arrive |= !optional;
                Ok(())
            }
            Does::Sees { label, rest } => self.line_comes(label, rest),
            Does::Unseen(label) => {
                self.wait_for_nothing(QUIET);
                match self.lines.get(label).and_then(VecDeque::front) {
                    Some(line) => Err(format!("it said {line}")),
                    None => Ok(()),
                }
            }
            Does::Kit { does, with } => self.kit(does, with),
            Does::Other { .. } | Does::OtherIn { .. } | Does::Node { .. } => Ok(()),
        }
    }

    fn kit(&mut self, does: &str, with: &Map<String, Value>) -> Result<(), String> {
        match does {
            "listen" => {
                let listener = UnixListener::bind(self.socket()).map_err(|e| e.to_string())?;
                self.listener = Some(listener);
            }
            "unlisten" => {
                self.listener = None;
                let _ = fs::remove_file(self.socket());
            }
            // `over` is the node's own end of a session, behind its answer to `bye`.
            "cut" | "over" => self.cut(),
            "accept" => self.accept()?,
            "quiet" => {
                self.wait_for_nothing(QUIET);
                if let Some(frame) = self.next_frame_here() {
                    return Err(format!("it wrote {}", shown(&frame)));
                }
            }
            // Not even `more`.
            "still" => {
                self.wait_for_nothing(QUIET);
                if let Some(frame) = self.frames.front() {
                    return Err(format!("it wrote {}", shown(frame)));
                }
            }
            // Nobody connects.
            "alone" => {
                self.wait_for_nothing(QUIET);
                let listener = self.listener.as_ref().ok_or("the kit does not listen")?;
                listener.set_nonblocking(true).map_err(|error| error.to_string())?;
                if listener.accept().is_ok() {
                    return Err("it connects again".to_owned());
                }
            }
            "closed" => {
                let deadline = Instant::now() + self.patience;
                while !self.over {
                    self.take(deadline).map_err(|why| format!("it keeps the connection: {why}"))?;
                }
                self.cut();
            }
            // It goes, with a `bye` or without.
            "leaves" => {
                let deadline = Instant::now() + self.patience;
                while !self.over {
                    self.take(deadline).map_err(|why| format!("it keeps the connection: {why}"))?;
                    let Some(frame) = self.next_frame_here() else { continue };
                    let bye = frame.ok().filter(|frame| frame["op"] == "bye");
                    let bye = bye.ok_or("it says something else than `bye`")?;
                    let _ = self.write(&frames::write(&json!({"ev": "ok", "id": bye["id"]}))?);
                    break;
                }
                self.cut();
            }
            // Nothing is read from here on, until `hear`.
            "deaf" => self.deaf.store(true, Ordering::Relaxed),
            "hear" => self.deaf.store(false, Ordering::Relaxed),
            "raw" => {
                let text = with.get("hex").and_then(Value::as_str).ok_or("`raw` has `hex`")?;
                self.write(&unhex(text)?)?;
            }
            other => return Err(format!("the kit cannot `{other}`")),
        }
        Ok(())
    }

    fn flush_before(&mut self, does: &Does) -> Result<(), String> {
        if matches!(does, Does::In { .. }) { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), String> {
        let bytes = std::mem::take(&mut self.unwritten);
        let must_arrive = std::mem::take(&mut self.must_arrive);
        let written = if bytes.is_empty() { Ok(()) } else { self.write(&bytes) };
        if must_arrive { written } else { Ok(()) }
    }

    /// Puts a frame behind those that wait for their step, or answers it if it may come at any time.
    fn frame_came(&mut self, frame: Result<Value, String>) -> Result<(), String> {
        if let Ok(got) = &frame {
            let found = self.optional.iter().position(|(may, _)| self.names.meets(may, got));
            if let Some((may, then)) = found.map(|found| self.optional.remove(found)) {
                self.names.meet(&may, got)?;
                let Some(then) = then else { return Ok(()) };
                let then = self.names.fill(&then, &self.script.values)?;
                self.names.event(&then);
                return self.write(&frames::write(&then)?);
            }
        }
        self.frames.push_back(frame);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        let stream = self.stream.as_mut().ok_or("there is no connection; `accept` comes first")?;
        match stream.write_all(bytes) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string()),
            Err(_) => Err("it has closed the connection".to_owned()),
            Ok(()) => Ok(()),
        }
    }

    fn cut(&mut self) {
        if let Some(stream) = self.stream.take() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.frames.clear();
        self.optional.clear();
        self.over = false;
        // What is still under way of this connection counts no more.
        self.connections += 1;
    }

    fn accept(&mut self) -> Result<(), String> {
        self.cut();
        let listener = self.listener.as_ref().ok_or("the kit does not listen")?;
        listener.set_nonblocking(true).map_err(|error| error.to_string())?;
        let deadline = Instant::now() + self.patience;
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Err(error.to_string());
                }
                Err(_) if Instant::now() > deadline => return Err("it does not connect".to_owned()),
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        };
        stream.set_nonblocking(false).map_err(|error| error.to_string())?;
        stream.set_write_timeout(Some(self.patience)).map_err(|error| error.to_string())?;
        let number = self.connections;
        self.names.connected();
        let (mut reader, sender) =
            (stream.try_clone().map_err(|e| e.to_string())?, self.sender.clone());
        self.stream = Some(stream);
        let deaf = Arc::clone(&self.deaf);
        thread::spawn(move || {
            loop {
                while deaf.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(2));
                }
                let frame = match frames::next(&mut reader) {
                    Ok(Some(bytes)) => frames::read(&bytes),
                    Ok(None) => break,
                    Err(error) => Err(error.to_string()),
                };
                let bad = frame.is_err();
                if sender.send(Got::Frame(number, frame)).is_err() || bad {
                    break;
                }
            }
            let _ = sender.send(Got::End(number));
        });
        Ok(())
    }

    /// Waits for something to happen, and puts it where it belongs.
    fn take(&mut self, deadline: Instant) -> Result<(), String> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.got.recv_timeout(left) {
            Ok(Got::Frame(number, frame)) if number == self.connections => {
                self.transcript.came(&format!("client {}", shown(&frame)));
                if let Ok(frame) = &frame {
                    self.names.command(frame);
                }
                self.frame_came(frame)?;
            }
            Ok(Got::End(number)) if number == self.connections => {
                self.transcript.came("client is gone: the connection is closed");
                self.over = true;
            }
            Ok(Got::Frame(..) | Got::End(_)) => {}
            Ok(Got::Line(line)) => {
                self.transcript.came(&format!("driver {line}"));
                let said: Value = serde_json::from_str(&line).map_err(|error| {
                    format!("its driver wrote what is no JSON ({error}): {line}")
                })?;
                let label = said["saw"].as_str().unwrap_or_default().to_owned();
                self.lines.entry(label).or_default().push_back(said);
            }
            Ok(Got::Silence) => self.silent = true,
            Err(RecvTimeoutError::Timeout) => return Err("nothing came".to_owned()),
            Err(RecvTimeoutError::Disconnected) => return Err("nobody is there".to_owned()),
        }
        Ok(())
    }

    /// Takes what comes within this time.
    fn wait_for_nothing(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while self.take(deadline).is_ok() {}
    }

    /// The next frame that has come and is no `more`.
    fn next_frame_here(&mut self) -> Option<Result<Value, String>> {
        while self.frames.front().is_some_and(is_more) {
            self.frames.pop_front();
        }
        self.frames.pop_front()
    }

    fn frame_comes(&mut self, expected: &Value) -> Result<(), String> {
        let wants_more = expected["op"] == "more";
        let deadline = Instant::now() + self.patience;
        loop {
            while !wants_more && self.frames.front().is_some_and(is_more) {
                self.frames.pop_front();
            }
            match self.frames.pop_front() {
                Some(Ok(got)) => {
                    let met = self.names.meet(expected, &got);
                    return met.map_err(|why| format!("{got}\nfor {why}"));
                }
                Some(Err(fault)) => return Err(format!("no frame: {fault}")),
                None if self.over => return Err("it has closed the connection".to_owned()),
                None if self.silent => return Err("its driver has ended".to_owned()),
                None => self.take(deadline)?,
            }
        }
    }

    fn line_comes(&mut self, label: &str, rest: &Map<String, Value>) -> Result<(), String> {
        let deadline = Instant::now() + self.patience;
        let expected = Value::Object(rest.clone());
        loop {
            if let Some(line) = self.lines.get_mut(label).and_then(VecDeque::pop_front) {
                // A value of null may be left out.
                return self
                    .names
                    .meet(&expected, &line)
                    .map_err(|why| format!("{line}\nfor {why}"));
            }
            if self.silent {
                return Err("its driver has ended".to_owned());
            }
            self.take(deadline)?;
        }
    }
}

fn is_more(frame: &Result<Value, String>) -> bool {
    frame.as_ref().is_ok_and(|frame| frame["op"] == "more")
}

fn shown(frame: &Result<Value, String>) -> String {
    match frame {
        Ok(frame) => frame.to_string(),
        Err(fault) => json!({ "no frame": fault }).to_string(),
    }
}

pub fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0).ok_or("no hex")?;
    digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] << 4 | pair[1]).map_err(|error| error.to_string()))
        .collect()
}
