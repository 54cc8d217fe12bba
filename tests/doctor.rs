//! `pillion doctor`, `explain` and `peers`, with each thing broken on purpose: what somebody reads who was woken up for it.

#![allow(clippy::disallowed_methods, reason = "a test waits for real processes, in real time")]

#[path = "doctor/trust.rs"]
mod trust;

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use serde_json::Value as Json;

/// A place on this machine where nobody else's nodes are.
struct Place(tempfile::TempDir);

/// A node that runs; killed when the test ends.
struct Node {
    child: Child,
    log: BufReader<ChildStderr>,
    socket: PathBuf,
}

/// How a command ended.
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn bare(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().stdin(Stdio::null()).current_dir(self.path());
        command.env("HOME", self.path()).env("PILLION_DIR", self.path().join("dir"));
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        Ended::of(self.bare(env!("CARGO_BIN_EXE_pillion")).args(arguments))
    }

    fn up(&self, name: &str, more: &[&str]) -> Node {
        let mut command = self.bare(env!("CARGO_BIN_EXE_pillion"));
        command.args(["up", "--name", name, "--listen", "127.0.0.1:0"]).args(more);
        self.node(command, "default", name.split('@').next().expect("a base"))
    }

    fn node(&self, mut command: Command, mesh: &str, name: &str) -> Node {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it runs");
        let log = BufReader::new(child.stderr.take().expect("piped"));
        let socket = self.path().join("dir").join(mesh).join(format!("{name}.sock"));
        let mut node = Node { child, log, socket };
        node.says("is up");
        node
    }
}

impl Node {
    /// Reads its log up to a line with this.
    fn says(&mut self, words: &str) -> String {
        let mut said = String::new();
        while self.log.read_line(&mut said).expect("text") > 0 {
            if said.contains(words) {
                return said;
            }
        }
        panic!("it never said {words:?}, but: {said}");
    }

    fn socket(&self) -> &str {
        self.socket.to_str().expect("text")
    }

    /// Where it listens, as it says itself.
    fn port(&self, place: &Place) -> String {
        let nodes = place.run(&["nodes", "--state", "self", "--json", "--socket", self.socket()]);
        let address = nodes.json()["nodes"][0]["addresses"][0].as_str().expect("one").to_owned();
        address.rsplit_once(':').expect("a port").1.to_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    fn of(command: &mut Command) -> Self {
        let output = command.output().expect("it runs");
        Self {
            code: output.status.code().expect("an exit code"),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }

    fn json(&self) -> Json {
        let all = || panic!("no JSON: {}\n{}", self.out, self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|_| all())
    }

    /// The line of a check, with what to do.
    #[track_caller]
    fn line(&self, state: &str, check: &str) -> String {
        let mut lines = self.out.lines().peekable();
        while let Some(line) = lines.next() {
            let mut words = line.split_whitespace();
            if words.next() == Some(state) && line.get(9..).is_some_and(|l| l.starts_with(check)) {
                let advice = lines.peek().filter(|next| next.trim_start().starts_with("-> "));
                return format!("{line}\n{}", advice.copied().unwrap_or_default());
            }
        }
        panic!("no line `{state} {check}` in:\n{}\n{}", self.out, self.err);
    }

    #[track_caller]
    fn has(&self, words: &[&str]) {
        for words in words {
            assert!(self.out.contains(words), "no {words:?} in:\n{}\n{}", self.out, self.err);
        }
    }
}

#[test]
fn without_a_node_doctor_says_so_and_checks_what_it_can() {
    let place = Place::new();
    let ended = place.run(&["doctor"]);
    let line = ended.line("warning", "socket");
    assert!(line.contains("no node runs here") && line.contains("`pillion up`"), "{line}");
    for (state, check) in [("warning", "cookie"), ("ok", "directory"), ("ok", "clock")] {
        ended.line(state, check);
    }
    let json = place.run(&["doctor", "--json"]).json();
    assert_eq!(json["node"], false);
    assert!(json["findings"].as_array().is_some_and(|all| all.len() >= 6), "{json}");
}

#[test]
fn of_a_healthy_node_doctor_finds_nothing_wrong_and_ends_with_0() {
    let place = Place::new();
    let a = place.up("a", &["--strategy", "local"]);
    let mut b = place.up("b", &["--strategy", "local"]);
    b.says("joined");
    let ended = place.run(&["doctor", "--socket", a.socket()]);
    assert_eq!(ended.code, 0, "{}", ended.out);
    for check in ["socket", "directory", "cookie", "clock", "ports", "local", "peers", "dns"] {
        if check != "ports" {
            ended.line("ok", check);
        }
    }
    ended.has(&["a@", "1 connected", "sees b@", "within "]);
    // It listens on loopback only, which is said.
    assert!(ended.line("warning", "ports").contains("loopback only"));
    let json = place.run(&["doctor", "--json", "--socket", a.socket()]).json();
    assert_eq!((&json["failed"], &json["node"]), (&0.into(), &true.into()));
}

#[test]
fn with_several_nodes_doctor_asks_which_one() {
    let place = Place::new();
    let _nodes = [place.up("a", &["--strategy", "none"]), place.up("b", &["--strategy", "none"])];
    let ended = place.run(&["doctor"]);
    assert_eq!(ended.code, 1);
    let line = ended.line("failed", "socket");
    assert!(line.contains("2 nodes run here") && line.contains("--socket"), "{line}");
}

#[test]
fn a_socket_that_lets_nobody_in_is_told_with_the_command_that_mends_it() {
    let place = Place::new();
    let a = place.up("a", &["--strategy", "none"]);
    fs::set_permissions(&a.socket, Permissions::from_mode(0o000)).expect("set");
    for line in [vec!["doctor"], vec!["doctor", "--socket", a.socket()]] {
        let ended = place.run(&line);
        assert_eq!(ended.code, 1);
        let line = ended.line("failed", "socket");
        assert!(line.contains("mode 0000") && line.contains("chmod 600"), "{line}");
    }
}

#[test]
fn a_socket_whose_node_was_killed_is_told_apart_from_no_node() {
    let place = Place::new();
    let mut a = place.up("a", &["--strategy", "none"]);
    a.child.kill().expect("killed");
    a.child.wait().expect("it ends");
    let ended = place.run(&["doctor"]);
    assert_eq!(ended.code, 1);
    let line = ended.line("failed", "socket");
    assert!(line.contains("nobody answers") && line.contains("pillion up"), "{line}");
}

#[test]
fn a_cookie_that_others_can_read_and_one_that_is_gone_are_told() {
    let place = Place::new();
    let _a = place.up("a", &["--strategy", "none"]);
    let cookie = place.path().join(".config/pillion/cookie");
    fs::set_permissions(&cookie, Permissions::from_mode(0o644)).expect("set");
    let ended = place.run(&["doctor"]);
    assert_eq!(ended.code, 1);
    let line = ended.line("failed", "cookie");
    assert!(line.contains("chmod 600") && line.contains("cookie new"), "{line}");
    fs::remove_file(&cookie).expect("removed");
    let line = place.run(&["doctor"]).line("failed", "cookie");
    assert!(line.contains("does not exist") && line.contains("copy it"), "{line}");
}

#[test]
fn a_directory_that_others_may_enter_is_told() {
    let place = Place::new();
    let _a = place.up("a", &["--strategy", "none"]);
    fs::set_permissions(place.path().join("dir"), Permissions::from_mode(0o755)).expect("set");
    let ended = place.run(&["doctor"]);
    assert_eq!(ended.code, 1);
    assert!(ended.line("failed", "directory").contains("chmod 700"));
}

#[test]
fn a_strategy_whose_source_is_gone_is_told_with_what_it_saw_last() {
    let place = Place::new();
    let file = place.path().join("nodes");
    fs::write(&file, "127.0.0.1:1\n").expect("written");
    let mut a = place.up("a", &["--strategy", "list://?file=nodes&interval=100ms"]);
    a.says("not connected");
    fs::remove_file(&file).expect("removed");
    // It looks again after a tenth of a second; the log says when it has.
    let ended = loop {
        let ended = place.run(&["doctor"]);
        if ended.out.contains("failed   list") {
            break ended;
        }
    };
    assert_eq!(ended.code, 1);
    let line = ended.line("failed", "list");
    for words in ["unwell for", "it was last well", "saw 127.0.0.1:1", "nobody who is connected"] {
        assert!(line.contains(words), "{words}: {line}");
    }
}

#[test]
fn a_name_that_does_not_resolve_is_told() {
    let place = Place::new();
    let _a = place.up("a", &["--strategy", "list://nosuch.invalid"]);
    let ended = place.run(&["doctor"]);
    let line = ended.line("failed", "dns");
    assert!(line.contains("nosuch.invalid"), "{line}");
}

#[test]
fn a_low_limit_of_open_files_is_told() {
    let place = Place::new();
    let mut command = place.bare("sh");
    let line = "ulimit -n 100; exec \"$0\" up --name a --listen 127.0.0.1:0 --strategy none";
    command.args(["-c", line, env!("CARGO_BIN_EXE_pillion")]);
    let _a = place.node(command, "default", "a");
    let ended = place.run(&["doctor"]);
    assert_eq!(ended.code, 1);
    let line = ended.line("failed", "files");
    assert!(line.contains("of 100 files") && line.contains("ulimit -n"), "{line}");
}

#[test]
fn a_mesh_port_that_another_program_has_is_told() {
    let place = Place::new();
    // Where it is taken already somebody else plays the part.
    let _held = TcpListener::bind("0.0.0.0:4470");
    let line = place.run(&["doctor"]).line("warning", "ports");
    assert!(line.contains("4470") && line.contains("4472") && line.contains("ss -ltnp"), "{line}");
}

#[test]
fn an_interface_without_multicast_is_told() {
    let place = Place::new();
    // A network of its own, in which this user is root.
    let line = "ip link add d0 type veth peer name d1 && ip link set d1 up && \
                ip addr add 10.99.0.1/24 dev d0 && ip link set d0 up multicast on && \
                ip addr add 10.99.1.1/24 dev d1 && ip link set d1 down multicast off && ip link set d1 up || exit 99; \
                iptables -A INPUT -p udp --dport 5353 -j DROP && \
                ip6tables -A INPUT -p udp --dport 5353 -j DROP || exit 99; exec \"$0\" doctor";
    let mut command = place.bare("unshare");
    command.args(["-rn", "sh", "-c", line, env!("CARGO_BIN_EXE_pillion")]);
    let ended = match command.output() {
        Ok(output) if matches!(output.status.code(), Some(0 | 1)) && !output.stdout.is_empty() => {
            Ended {
                code: output.status.code().unwrap_or(-1),
                out: String::from_utf8(output.stdout).expect("text"),
                err: String::from_utf8(output.stderr).expect("text"),
            }
        }
        other => {
            println!("SKIPPED: no network of its own can be made here: {other:?}");
            return;
        }
    };
    assert_eq!(ended.code, 1, "{}", ended.out);
    let line = ended.line("failed", "multicast");
    assert!(line.contains("did not come back") && line.contains("5353"), "{line}");
}

#[test]
fn explain_says_of_a_node_that_is_connected_since_when_and_who_reports_it() {
    let place = Place::new();
    let a = place.up("a", &["--strategy", "local"]);
    let mut b = place.up("b", &["--strategy", "local"]);
    b.says("joined");
    let ended = place.run(&["explain", "a", "--socket", b.socket()]);
    assert_eq!(ended.code, 0);
    ended.has(&["a@", "has been connected for", "`local"]);
    let own = place.run(&["explain", "a", "--socket", a.socket()]);
    own.has(&["is this node itself"]);
    let peers = place.run(&["peers", "--socket", b.socket()]);
    peers.has(&["NODE", "a@", "connected", "local"]);
}

#[test]
fn explain_says_of_an_address_that_refuses_what_was_tried_and_what_to_do() {
    let place = Place::new();
    let mut a = place.up("a", &["--strategy", "none", "--join", "127.0.0.1:1"]);
    a.says("not connected");
    let ended = place.run(&["explain", "127.0.0.1:1"]);
    assert_eq!(ended.code, 0);
    ended.has(&["is not connected", "refuses connections", "next try", "`ss -ltnp`", "`list"]);
    let json = place.run(&["peers", "--json"]).json();
    let peer = &json["peers"][0];
    assert_eq!((&peer["state"], &peer["failure"]["result"]), (&"wanted".into(), &"refused".into()));
    assert!(peer["sources"][0]["source"].as_str().is_some_and(|s| s.contains("list")), "{json}");
}

#[test]
fn explain_says_that_the_cookie_or_the_mesh_is_another_one() {
    let place = Place::new();
    let a = place.up("a", &["--strategy", "none"]);
    let join = format!("127.0.0.1:{}", a.port(&place));
    let cookie = place.path().join("other");
    let new = place.run(&["cookie", "new"]).out;
    fs::write(&cookie, new).expect("written");
    fs::set_permissions(&cookie, Permissions::from_mode(0o600)).expect("set");
    let more = ["--strategy", "none", "--join", &join, "--cookie-file", "other"];
    let mut b = place.up("b", &more);
    b.says("not connected");
    let ended = place.run(&["explain", &join, "--socket", b.socket()]);
    ended.has(&["cookie", "pillion cookie show"]);
    // And so does the other side, of whoever it was that came.
    let ended = place.run(&["explain", "b", "--socket", a.socket()]);
    assert_eq!(ended.code, 1, "nobody has reported b");
    ended.has(&["Somebody at 127.0.0.1 dialled this node", "cookie"]);

    let mut command = place.bare(env!("CARGO_BIN_EXE_pillion"));
    command.args(["up", "--name", "c", "--listen", "127.0.0.1:0", "--mesh", "other"]);
    command.args(["--strategy", "none", "--join", &join]);
    let mut c = place.node(command, "other", "c");
    c.says("not connected");
    let ended = place.run(&["explain", &join, "--socket", c.socket()]);
    ended.has(&["mesh"]);
}

#[test]
fn explain_says_of_a_node_that_was_sent_away_how_to_have_it_back() {
    let place = Place::new();
    let a = place.up("a", &["--strategy", "local"]);
    let mut b = place.up("b", &["--strategy", "local"]);
    b.says("joined");
    assert_eq!(place.run(&["disconnect", "a", "--socket", b.socket()]).code, 0);
    let ended = place.run(&["explain", "a", "--socket", b.socket()]);
    ended.has(&["somebody asked for `disconnect`", "`pillion connect a@"]);
    drop(a);
}

#[test]
fn explain_says_of_a_node_that_nobody_has_reported_how_the_strategies_are_doing() {
    let place = Place::new();
    let _a = place.up("stock", &["--strategy", "local"]);
    let ended = place.run(&["explain", "nobody@elsewhere"]);
    assert_eq!(ended.code, 1);
    ended.has(&["Nobody has reported nobody@elsewhere", "`local` is well", "pillion connect"]);
}

#[test]
fn a_node_that_starts_again_tries_whom_it_was_connected_to() {
    let place = Place::new();
    let mut a = place.up("a", &["--strategy", "none"]);
    let join = format!("127.0.0.1:{}", a.port(&place));
    let mut b = place.up("b", &["--strategy", "none", "--join", &join, "--state-dir", "state"]);
    b.says("joined");
    a.says("joined");
    let stopped = Command::new("kill").args(["-s", "TERM", &b.child.id().to_string()]).status();
    assert!(stopped.expect("kill").success());
    b.says("gone");
    b.child.wait().expect("it ends");
    let kept = place.path().join("state/default/b.peers");
    assert_eq!(fs::metadata(&kept).expect("it is kept").permissions().mode() & 0o777, 0o600);
    // Nobody tells it of a any more.
    let mut b = place.up("b", &["--strategy", "none", "--state-dir", "state"]);
    b.says("joined");
    drop(b);
    // A memory that was turned off is none.
    let more = ["--strategy", "none", "--state-dir", "state", "--remember", "off"];
    let c = place.up("b", &more);
    let peers = place.run(&["peers", "--json", "--socket", c.socket()]).json();
    let ours = |peer: &&Json| peer["sources"].to_string().contains("remembered");
    assert_eq!(peers["peers"].as_array().expect("a list").iter().filter(ours).count(), 0);
}

#[test]
fn a_node_is_ready_once_enough_peers_were_there() {
    let place = Place::new();
    let mut a = place.up("a", &["--strategy", "local", "--min-peers", "1"]);
    let ready = |node: &Node| {
        let arguments = ["nodes", "--state", "self", "--json", "--socket", node.socket()];
        place.run(&arguments).json()["nodes"][0]["ready"].clone()
    };
    assert_eq!(ready(&a), false);
    place.run(&["doctor", "--socket", a.socket()]).has(&["not ready: "]);
    let b = place.up("b", &["--strategy", "local"]);
    a.says("joined");
    // It may still be looking for others itself.
    place.run(&["ready", "--wait", "60s", "--socket", b.socket()]).has(&["is ready"]);
    assert_eq!((ready(&a), ready(&b)), (true.into(), true.into()));
    drop(b);
    a.says("left");
    assert_eq!(ready(&a), true, "a gate, not a gauge");
}

#[cfg(feature = "kubernetes")]
#[test]
fn an_api_server_that_is_away_is_told() {
    let place = Place::new();
    let config = "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters:\n- name: a\n  cluster: {server: 'https://127.0.0.1:1'}\n\
                  users:\n- name: a\n  user: {token: x}\ncontexts:\n- name: a\n  context: {cluster: a, user: a, namespace: shop}\n";
    fs::write(place.path().join("kubeconfig"), config).expect("written");
    let mut command = place.bare(env!("CARGO_BIN_EXE_pillion"));
    command.env("PILLION_STRATEGY", "kubernetes://?service=web&kubeconfig=kubeconfig");
    let ended = Ended::of(command.arg("doctor"));
    assert_eq!(ended.code, 1);
    let line = ended.line("failed", "kubernetes");
    assert!(line.contains("127.0.0.1:1") && line.contains("cannot be asked"), "{line}");
}

#[cfg(feature = "kubernetes")]
#[test]
fn a_real_api_server_is_asked_what_is_allowed() {
    let Some(kubeconfig) = std::env::var_os("KUBECONFIG") else {
        println!("SKIPPED: no KUBECONFIG names an API server");
        return;
    };
    let place = Place::new();
    let mut command = place.bare(env!("CARGO_BIN_EXE_pillion"));
    command.env("KUBECONFIG", kubeconfig);
    command.env("PILLION_STRATEGY", "kubernetes://?service=web&namespace=default");
    let ended = Ended::of(command.arg("doctor"));
    // Who is asked for may be allowed to, or not: both are answers of that server.
    ended.has(&["the API server at ", "list endpointslices.discovery.k8s.io in default"]);
}
