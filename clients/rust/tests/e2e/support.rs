//! Nodes to test with: real ones, each in a mesh and a directory of this test's own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pillion_client::{Builder, Client, Code};

/// Nothing that works takes this long, on however busy a machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program: `PILLION_BIN`, else the one that was built beside this test, else the one on the `PATH`.
pub fn program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("PILLION_BIN").filter(|path| !path.is_empty()) {
        return Some(path.into());
    }
    let here = std::env::current_exe().ok()?;
    let beside = here.ancestors().skip(1).take(4).map(|folder| folder.join("pillion"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("pillion"));
    let found = beside.chain(on_path).find(|path| path.is_file());
    if found.is_none() {
        eprintln!("SKIPPED: there is no `pillion` to start; build it, or name it with PILLION_BIN");
    }
    found
}

/// A mesh of its own.
pub struct Place {
    program: PathBuf,
    directory: tempfile::TempDir,
    mesh: String,
}

impl Place {
    /// None where there is nothing to start: then the test is skipped.
    pub fn new() -> Option<Self> {
        let program = program()?;
        let directory = tempfile::Builder::new().prefix("pc").tempdir().unwrap();
        let name = directory.path().file_name().unwrap().to_string_lossy().into_owned();
        let mesh = name.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "");
        Some(Self { program, directory, mesh })
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Starts the node `base@t`. Whoever connects waits for it.
    pub fn start(&self, base: &str) -> Node {
        self.start_with(base, &[])
    }

    pub fn start_with(&self, base: &str, args: &[&str]) -> Node {
        let log = std::fs::File::create(self.path().join(format!("{base}.log"))).unwrap();
        let child = Command::new(&self.program)
            .env_clear()
            .env("PILLION_DIR", self.path().join("p"))
            .env("HOME", self.path().join("h"))
            .args(["up", "--name", &format!("{base}@t"), "--mesh", &self.mesh])
            .args(["--listen", "127.0.0.1:0", "--strategy", "local", "--send-timeout", "60s"])
            .args(args)
            .current_dir(self.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let socket = self.path().join("p").join(&self.mesh).join(format!("{base}.sock"));
        Node { child, socket }
    }
}

/// A node that runs. Dropping it kills it.
pub struct Node {
    child: Child,
    pub socket: PathBuf,
}

impl Node {
    pub fn builder(&self) -> Builder {
        Client::builder().socket(&self.socket).connect_timeout(PATIENCE)
    }

    pub async fn connect(&self) -> Client {
        self.builder().connect().await.unwrap()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits for its end.
    pub async fn ended(mut self) -> bool {
        let ended = tokio::task::spawn_blocking(move || self.child.wait());
        within(ended).await.unwrap().unwrap().success()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits for what must come.
pub async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it comes, however busy the machine is")
}

/// Two nodes that are connected, with an app at each.
pub async fn two(place: &Place) -> (Node, Node, Client, Client) {
    let (a, b) = (place.start("a"), place.start("b"));
    let (left, right) = (a.connect().await, b.connect().await);
    let op = pillion_client::Op::new("wait_for").field("nodes", &["b@t"]);
    within(left.request(op)).await.unwrap();
    let op = pillion_client::Op::new("wait_for").field("nodes", &["a@t"]);
    within(right.request(op)).await.unwrap();
    (a, b, left, right)
}

/// Asks again and again until it is so.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let asking = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, asking).await.is_ok(), "never: {what}");
}

/// The code of what went wrong.
pub fn code<T: std::fmt::Debug>(result: Result<T, pillion_client::Error>) -> Code {
    result.unwrap_err().code().clone()
}
