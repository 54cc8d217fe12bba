//! `pillion dashboard`, as a browser and as somebody who should not be let in see it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use crate::support::{Daemon, PATIENCE, Place, Value, eventually, json};

/// A dashboard that runs.
struct Dashboard {
    child: Child,
    address: String,
    token: String,
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Dashboard {
    fn of(daemon: &Daemon) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
        command.env_clear().args(["dashboard", "--json", "--socket"]).arg(&daemon.socket);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let url = said["url"].as_str().unwrap();
        let (address, token) = url.strip_prefix("http://").unwrap().split_once("/#").unwrap();
        assert_eq!(token, said["token"]);
        assert!(address.starts_with("127.0.0.1:"), "{url}");
        Self { child, address: address.to_owned(), token: token.to_owned() }
    }

    /// The status, and all of the answer.
    fn get(&self, path: &str, host: &str, token: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        (answer[9..12].parse().unwrap(), answer)
    }

    fn look(&self, what: &str) -> (u16, Value) {
        let (status, answer) = self.get(&format!("/debug/{what}"), &self.address, &self.token);
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }
}

#[test]
fn the_dashboard_shows_the_node_to_whoever_has_its_token() {
    let place = Place::new();
    let a = place.start("a", &[]);
    let b = place.start("b", &[]);
    let mut app = a.json();
    app.meets(&[&b]);
    app.ok(json!({"op": "subscribe", "topic": "shop.*"}));
    let dashboard = Dashboard::of(&a);
    let (status, page) = dashboard.get("/", &dashboard.address, "");
    assert_eq!(status, 200);
    assert!(page.contains("<!doctype html>") && page.contains("default-src 'none'"), "{page}");
    assert!(!page.contains("b@t"), "the page itself tells nothing");
    assert_eq!(dashboard.look("node").1["diagnosis"]["node"], "a@t");
    assert_eq!(dashboard.look("peers").1["peers"][0]["node"], "b@t");
    assert_eq!(dashboard.look("topics").1["topics"][0]["topic"], "shop.*");
    assert_eq!(dashboard.look("explain/b@t").1["explanation"]["state"], "connected");
    for what in ["nodes", "processes", "names", "groups", "modules", "tree"] {
        let (status, answer) = dashboard.look(what);
        assert_eq!((status, &answer["ev"]), (200, &json!("ok")), "{what}: {answer}");
    }
    assert_eq!(dashboard.look("kill").0, 404);
}

#[test]
fn the_dashboard_lets_nobody_in_without_its_token_or_by_another_name() {
    let a = Daemon::alone(&[]);
    let dashboard = Dashboard::of(&a);
    let (address, token) = (dashboard.address.as_str(), dashboard.token.as_str());
    let other = Dashboard::of(&a);
    assert_ne!(other.token, token);
    for wrong in ["", "nonsense", other.token.as_str()] {
        let (status, answer) = dashboard.get("/debug/node", address, wrong);
        assert_eq!(status, 401, "{answer}");
        assert!(!answer.contains("diagnosis"), "{answer}");
    }
    for wrong in ["evil.example", "127.0.0.1:1", "localhost"] {
        assert_eq!(dashboard.get("/debug/node", wrong, token).0, 403, "{wrong}");
        assert_eq!(dashboard.get("/", wrong, token).0, 403, "{wrong}");
    }
    assert_eq!(dashboard.get("/debug/node", address, token).0, 200);
}

#[test]
fn the_dashboard_outlives_its_node_and_finds_it_again() {
    let mut a = Daemon::alone(&[]);
    let dashboard = Dashboard::of(&a);
    assert_eq!(dashboard.look("node").0, 200);
    a.kill();
    eventually("it says that nobody answers", || dashboard.look("node").0 == 502);
    let _again = a.again(&[]);
    eventually("it is there again", || dashboard.look("node").0 == 200);
}
