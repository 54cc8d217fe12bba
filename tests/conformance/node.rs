//! A script with a real node: the kit is the client, and what stands beside it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Map, Value, json};

use crate::client::{patience, unhex};
use crate::frames;
use crate::matching::Names;
use crate::script::{Does, Script};
use crate::support::{Daemon, Place, eventually};
use crate::transcript::Transcript;

/// Plays a script. The error is for people.
pub fn play(script: &Script) -> Result<(), String> {
    let mut stage = Stage::set(script)?;
    for (at, step) in script.steps.iter().enumerate() {
        stage.transcript.step(at + 1, step);
        if step.only.as_deref().is_some_and(|only| only != "node") {
            continue;
        }
        if let Err(fault) = stage.step(&step.does) {
            let mut report = stage.transcript.failure(script, at + 1, step, &fault);
            for (name, node) in &stage.nodes {
                let _ = write!(report, "\nnode {name} logged:\n{}", node.logged());
            }
            return Err(report);
        }
    }
    Ok(())
}

struct Stage<'s> {
    script: &'s Script,
    names: Names,
    transcript: Transcript,
    place: Place,
    nodes: BTreeMap<String, Daemon>,
    stream: Option<UnixStream>,
    /// The other apps, one beside each node.
    others: BTreeMap<String, UnixStream>,
}

impl<'s> Stage<'s> {
    fn set(script: &'s Script) -> Result<Self, String> {
        let mut stage = Self {
            script,
            names: Names::default(),
            transcript: Transcript::default(),
            place: Place::new(),
            nodes: BTreeMap::new(),
            stream: None,
            others: BTreeMap::new(),
        };
        stage.start("a");
        if script.steps.iter().any(|step| step.text.contains("$other")) {
            stage.other("a")?;
        }
        Ok(stage)
    }

    fn start(&mut self, name: &str) {
        // The names of nodes in scripts end in `@t`, as those of `Place` do.
        let node = self.place.start(name, &["--grace", "5s"]);
        self.nodes.insert(name.to_owned(), node);
    }

    fn step(&mut self, does: &Does) -> Result<(), String> {
        match does {
            Does::Out { frame, then, .. } => {
                let frame = self.names.fill(frame, &self.script.values)?;
                let bytes = frames::write(&frame)?;
                self.names.command(&frame);
                let stream = self.stream.as_mut().ok_or("there is no connection")?;
                stream.write_all(&bytes).map_err(|error| error.to_string())?;
                then.as_ref().map_or(Ok(()), |then| self.frame_comes(then))
            }
            Does::In { frame, .. } => self.frame_comes(frame),
            Does::Other { frame, node } => {
                let frame = self.names.fill(frame, &Map::new())?;
                let bytes = frames::write(&frame)?;
                self.other(node)?.write_all(&bytes).map_err(|error| error.to_string())
            }
            Does::OtherIn { frame, node } => {
                let mut got = next(self.other(node)?)?;
                while got["ev"] == "draining" && frame["ev"] != "draining" {
                    got = next(self.other(node)?)?;
                }
                self.transcript.came(&format!("other {got}"));
                self.names.meet(frame, &got).map_err(|why| format!("{got}\nfor {why}"))
            }
            Does::Node { does, name } => self.node(does, name),
            Does::Kit { does, with } => self.kit(does, with),
            Does::App(_) | Does::Sees { .. } | Does::Unseen(_) => Ok(()),
        }
    }

    fn frame_comes(&mut self, expected: &Value) -> Result<(), String> {
        let stream = self.stream.as_mut().ok_or("there is no connection")?;
        let got = next(stream)?;
        self.transcript.came(&format!("node {got}"));
        self.names.event(&got);
        self.names.meet(expected, &got).map_err(|why| format!("{got}\nfor {why}"))
    }

    /// The other app beside this node. `$other` is its pid.
    fn other(&mut self, node: &str) -> Result<&mut UnixStream, String> {
        if !self.others.contains_key(node) {
            let daemon = self.nodes.get(node).ok_or_else(|| format!("{node} is not started"))?;
            let mut stream = connect(daemon)?;
            let pid = ask(&mut stream, &json!({"op": "self", "id": 0}))?["pid"].clone();
            let name = if node == "a" { "$other".to_owned() } else { format!("$other_{node}") };
            self.names.bind(&name, pid);
            self.others.insert(node.to_owned(), stream);
        }
        Ok(self.others.get_mut(node).expect("it is there"))
    }

    fn node(&mut self, does: &str, name: &str) -> Result<(), String> {
        match does {
            "start" => {
                self.start(name);
                self.other(name)?;
            }
            // Both know of each other, so what is asked for is not too early.
            "meet" => {
                let wait = json!({"op": "wait_for", "id": 0, "nodes": [format!("{name}@t")]});
                ask(self.other("a")?, &wait)?;
                let wait = json!({"op": "wait_for", "id": 0, "nodes": ["a@t"]});
                ask(self.other(name)?, &wait)?;
            }
            "kill" | "restart" => {
                self.others.remove(name);
                let mut node = self.nodes.remove(name).ok_or("it is not started")?;
                node.kill();
                if does == "restart" {
                    self.start(name);
                }
            }
            "drain" => {
                let answer = ask(self.other(name)?, &json!({"op": "drain", "id": 0}))?;
                if answer["ev"] != "ok" {
                    return Err(answer.to_string());
                }
            }
            "stop" => self.nodes[name].signal(Signal::TERM),
            "gone" => {
                let node = self.nodes.get_mut(name).ok_or("it is not started")?;
                eventually("the node ends", || !node.lives());
            }
            // Everything that the other app has written so far has been carried out.
            "settled" => {
                ask(self.other(name)?, &json!({"op": "self", "id": 0}))?;
            }
            other => return Err(format!("a node is not done `{other}` to")),
        }
        Ok(())
    }

    fn kit(&mut self, does: &str, with: &Map<String, Value>) -> Result<(), String> {
        match does {
            "accept" => {
                self.stream = Some(connect(&self.nodes["a"])?);
                self.names.connected();
            }
            "cut" | "closed" | "leaves" => {
                if let Some(stream) = self.stream.take() {
                    let _ = stream.shutdown(Shutdown::Both);
                }
            }
            "over" => {
                let mut stream = self.stream.take().ok_or("there is no connection")?;
                match frames::next(&mut stream) {
                    Ok(None) => {}
                    Ok(Some(frame)) => {
                        return Err(format!("the node wrote {:?}", frames::read(&frame)));
                    }
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                    Err(error) => return Err(error.to_string()),
                }
            }
            "raw" => {
                let text = with.get("hex").and_then(Value::as_str).ok_or("`raw` has `hex`")?;
                let stream = self.stream.as_mut().ok_or("there is no connection")?;
                stream.write_all(&unhex(text)?).map_err(|error| error.to_string())?;
            }
            "listen" | "unlisten" | "quiet" | "still" | "alone" | "deaf" | "hear" => {}
            other => return Err(format!("the kit cannot `{other}`")),
        }
        Ok(())
    }
}

fn connect(node: &Daemon) -> Result<UnixStream, String> {
    let stream = UnixStream::connect(&node.socket).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(patience())).map_err(|error| error.to_string())?;
    stream.set_write_timeout(Some(patience())).map_err(|error| error.to_string())?;
    Ok(stream)
}

fn next(stream: &mut UnixStream) -> Result<Value, String> {
    match frames::next(stream) {
        Ok(Some(frame)) => frames::read(&frame),
        Ok(None) => Err("the node has closed the connection".to_owned()),
        Err(error) => Err(format!("nothing came: {error}")),
    }
}

/// Writes a command and reads until its answer, past all else.
fn ask(stream: &mut UnixStream, command: &Value) -> Result<Value, String> {
    stream.write_all(&frames::write(command)?).map_err(|error| error.to_string())?;
    let deadline = Instant::now() + patience();
    while Instant::now() < deadline {
        let got = next(stream)?;
        if got["id"] == command["id"] {
            return Ok(got);
        }
        thread::sleep(Duration::ZERO);
    }
    Err("no answer".to_owned())
}
