//! A client of HTTP that sees every byte, and real curl.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use crate::support::{Daemon, PATIENCE};

/// One connection.
pub struct Http {
    stream: UnixStream,
    input: BufReader<UnixStream>,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// With small letters.
    pub fields: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// The response ended as it should.
    pub is_whole: bool,
}

impl Reply {
    #[track_caller]
    pub fn json(&self) -> Value {
        let what = || String::from_utf8_lossy(&self.body).into_owned();
        assert_eq!(self.field("content-type"), "application/json", "{}", what());
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", what()))
    }

    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// The status and the code of an error, which says everything that errors say.
    #[track_caller]
    pub fn error(&self) -> (u16, String) {
        let body = self.json();
        assert!(body["message"].as_str().is_some_and(|words| words.len() > 5), "{body}");
        assert!(body["maybe_applied"].is_boolean(), "{body}");
        (self.status, body["code"].as_str().unwrap().to_owned())
    }
}

impl Http {
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { input: BufReader::new(stream.try_clone().unwrap()), stream }
    }

    pub fn of(daemon: &Daemon) -> Self {
        Self::connect(&daemon.socket)
    }

    /// The same connection, for a thread that writes while this one reads.
    pub fn other_hand(&self) -> Self {
        let stream = self.stream.try_clone().unwrap();
        Self { input: BufReader::new(stream.try_clone().unwrap()), stream }
    }

    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Writes what may no longer be read.
    pub fn try_write(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// Says that nothing more will be written.
    pub fn stop_writing(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Writes a request without a body.
    pub fn begin(&mut self, method: &str, target: &str) {
        self.write(format!("{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
    }

    /// Writes a request with a body of this type.
    pub fn begin_with(&mut self, method: &str, target: &str, kind: &str, body: &[u8]) {
        let length = body.len();
        self.write(format!(
            "{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
        ));
        self.write(body);
    }

    pub fn get(&mut self, target: &str) -> Reply {
        self.begin("GET", target);
        self.reply()
    }

    /// Posts JSON.
    pub fn post(&mut self, target: &str, body: Value) -> Reply {
        self.send("POST", target, body)
    }

    pub fn send(&mut self, method: &str, target: &str, body: Value) -> Reply {
        self.begin_with(method, target, "application/json", body.to_string().as_bytes());
        self.reply()
    }

    /// The next response.
    pub fn reply(&mut self) -> Reply {
        self.reply_to(false)
    }

    /// The next response, which has no body after `HEAD`.
    pub fn reply_to(&mut self, is_head: bool) -> Reply {
        let mut reply = self.head();
        if is_head || reply.status == 204 || reply.status == 100 {
            return reply;
        }
        if reply.field("transfer-encoding") == "chunked" {
            reply.is_whole = false;
            while let Some(chunk) = self.chunk() {
                if chunk.is_empty() {
                    reply.is_whole = true;
                    break;
                }
                reply.body.extend_from_slice(&chunk);
            }
        } else if let Some(length) = reply.fields.get("content-length") {
            reply.body = vec![0; length.parse().unwrap()];
            self.input.read_exact(&mut reply.body).unwrap();
        } else {
            self.input.read_to_end(&mut reply.body).unwrap();
        }
        reply
    }

    /// What comes before the body of the next response.
    pub fn head(&mut self) -> Reply {
        let status = self.line();
        assert!(status.starts_with("HTTP/1.1 "), "{status}");
        let mut fields = BTreeMap::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(": ") else { break };
            assert!(fields.insert(name.to_lowercase(), value.to_owned()).is_none(), "{line}");
        }
        let status = status[9..12].parse().unwrap();
        Reply { status, fields, body: Vec::new(), is_whole: true }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.input.read_line(&mut line).unwrap();
        line.strip_suffix("\r\n").unwrap_or_else(|| panic!("no whole line: {line:?}")).to_owned()
    }

    /// The next chunk, empty for the last one; none when the connection ends before it.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut line = String::new();
        if self.input.read_line(&mut line).unwrap() == 0 {
            return None;
        }
        let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        self.input.read_exact(&mut chunk).unwrap();
        chunk.truncate(size);
        Some(chunk)
    }

    /// Begins a stream of events, and waits until it has begun: the pid of its process.
    #[track_caller]
    pub fn subscribe(&mut self, target: &str) -> String {
        self.begin("GET", target);
        let mut head = self.head();
        if head.status != 200 {
            let length: usize = head.field("content-length").parse().unwrap();
            head.body = vec![0; length];
            self.input.read_exact(&mut head.body).unwrap();
            panic!("{target}: {}", String::from_utf8_lossy(&head.body));
        }
        assert_eq!(head.field("content-type"), "text/event-stream");
        let (name, data) = self.event().expect("a first event");
        assert_eq!(name, "ok");
        data["pid"].as_str().unwrap().to_owned()
    }

    /// The next event of a stream, and its data; none at its end.
    #[track_caller]
    pub fn event(&mut self) -> Option<(String, Value)> {
        loop {
            let chunk = String::from_utf8(self.chunk()?).unwrap();
            let Some(event) = chunk.strip_prefix("event: ") else {
                assert!(chunk.is_empty() || chunk == ":\n\n", "{chunk}");
                if chunk.is_empty() {
                    return None;
                }
                continue;
            };
            let (name, rest) = event.split_once("\ndata: ").unwrap();
            let data = rest.strip_suffix("\n\n").unwrap();
            assert!(!data.contains('\n'), "{data}");
            return Some((name.to_owned(), serde_json::from_str(data).unwrap()));
        }
    }

    /// All that comes until the connection ends.
    pub fn rest(mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A connection that is closed before all of it was read says so at the end of what it said.
        let _ = self.input.read_to_end(&mut rest);
        rest
    }
}

/// Whether there is a curl. Says so when there is none.
pub fn has_curl() -> bool {
    let found = Command::new("curl").arg("--version").output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("SKIPPED: there is no curl here");
    }
    found
}

/// What curl prints.
#[track_caller]
pub fn curl(daemon: &Daemon, args: &[&str]) -> String {
    let output = curl_command(daemon).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl {args:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

pub fn curl_command(daemon: &Daemon) -> Command {
    let mut command = Command::new("curl");
    // Nobody's own settings.
    command.args(["-q", "-sS", "--max-time", "120", "--unix-socket"]).arg(&daemon.socket);
    command
}

/// A curl that prints events as they come.
pub struct Watcher {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Watcher {
    pub fn start(daemon: &Daemon, target: &str) -> Self {
        let mut command = curl_command(daemon);
        command.args(["-N", &format!("http://x{target}")]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// The next event and its data.
    #[track_caller]
    pub fn event(&mut self) -> (String, Value) {
        let (mut name, mut data) = (String::new(), Value::Null);
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "curl has ended");
            match line.trim_end().split_once(": ") {
                Some(("event", text)) => text.clone_into(&mut name),
                Some(("data", text)) => data = serde_json::from_str(text).unwrap(),
                _ if !name.is_empty() => return (name, data),
                _ => {}
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An app that is called `name`, serves the functions `count` and `take` of the module `stock` and is in the group `tills`. A
/// call or a function gives back what it was asked; a message `"stop"` ends it.
pub fn serve(daemon: &Daemon, name: &str) -> JoinHandle<Vec<Value>> {
    let mut app = daemon.json();
    app.ok(json!({"op": "register", "name": name}));
    app.ok(json!({"op": "serve", "module": "stock", "functions": ["count", "take"]}));
    app.ok(json!({"op": "join", "group": "tills"}));
    std::thread::spawn(move || {
        let mut heard = Vec::new();
        loop {
            let event = app.event();
            match event["ev"].as_str().unwrap() {
                "call" | "rpc" if !event["ref"].is_null() => {
                    let mut reply =
                        json!({"op": "reply", "ref": event["ref"], "body": event["body"]});
                    if !event["ct"].is_null() {
                        reply["ct"] = event["ct"].clone();
                    }
                    app.tell(reply);
                }
                "message" if event["body"] == "stop" => return heard,
                _ => heard.push(event),
            }
        }
    })
}
