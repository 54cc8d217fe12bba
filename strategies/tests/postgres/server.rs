//! A PostgreSQL server of a test's own, and a proxy before it that breaks as it is told.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use pillion_strategies::conformance::Fault;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

pub const PASSWORD: &str = "s3cret-of-this-test";
/// How long the server may take to start, on a machine that is busy.
const START: Duration = Duration::from_secs(120);

/// A server in a directory of its own. Dropping it ends it.
pub struct Postgres {
    bin: PathBuf,
    dir: PathBuf,
    pub port: u16,
    child: Mutex<Option<Child>>,
}

impl Postgres {
    /// The server that the tests share which do not break it; the last of them ends it.
    pub async fn shared() -> Result<Arc<Self>, String> {
        static SHARED: tokio::sync::Mutex<Weak<Postgres>> =
            tokio::sync::Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            return Ok(server);
        }
        let server = Arc::new(Self::start(&[]).await?);
        *shared = Arc::downgrade(&server);
        Ok(server)
    }

    /// A server with these settings; why there can be none, where there can be none.
    pub async fn start(settings: &[String]) -> Result<Self, String> {
        static SERVERS: AtomicU32 = AtomicU32::new(0);
        let bin = bin()
            .ok_or("there is no PostgreSQL server here (Debian: apt-get install postgresql)")?;
        let number = SERVERS.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("pillion-pg-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
        let port = StdListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let port = port.map_err(|error| error.to_string())?.port();
        let server = Self { bin, dir, port, child: Mutex::default() };
        server.own(&server.dir)?;
        let password = server.dir.join("password");
        fs::write(&password, PASSWORD).map_err(|error| error.to_string())?;
        server.own(&password)?;
        let output = server
            .command("initdb")
            .args(["-U", "shop", "-A", "scram-sha-256", "-E", "UTF8", "--no-locale", "--no-sync"])
            .arg("--pwfile")
            .arg(&password)
            .arg("-D")
            .arg(server.data())
            .output()
            .map_err(|error| format!("initdb cannot be run: {error}"))?;
        if !output.status.success() {
            return Err(format!("initdb failed: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let config = server.data().join("postgresql.auto.conf");
        fs::write(&config, settings.join("\n")).map_err(|error| error.to_string())?;
        server.own(&config)?;
        server.run().await?;
        Ok(server)
    }

    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Gives a file to the user as whom the server runs; a server of this refuses to run as root.
    pub fn own(&self, path: &Path) -> Result<(), String> {
        let Some((uid, gid)) = user() else { return Ok(()) };
        let mode = if path.is_dir() { 0o755 } else { 0o600 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .and_then(|()| chown(path, Some(uid), Some(gid)))
            .map_err(|error| error.to_string())
    }

    fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let mut command = match user() {
            None => Command::new(&program),
            Some((uid, gid)) => {
                let mut command = Command::new("setpriv");
                command
                    .args([format!("--reuid={uid}"), format!("--regid={gid}")])
                    .arg("--clear-groups")
                    .arg(&program);
                command
            }
        };
        command.current_dir(&self.dir).stdin(Stdio::null());
        command
    }

    /// Starts the server that was ended.
    pub async fn run(&self) -> Result<(), String> {
        let log = fs::File::create(self.dir.join("log")).map_err(|error| error.to_string())?;
        let child = self
            .command("postgres")
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
            .args(["-c", "shared_buffers=4MB", "-c", "max_connections=50"])
            .arg("-p")
            .arg(self.port.to_string())
            .arg("-k")
            .arg(&self.dir)
            .arg("-D")
            .arg(self.data())
            .stdout(log.try_clone().map_err(|error| error.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("postgres cannot be run: {error}"))?;
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        let ready = async {
            while self.client().await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        match tokio::time::timeout(START, ready).await {
            Ok(()) => Ok(()),
            Err(_) => Err(format!(
                "postgres is not up in time: {}",
                fs::read_to_string(self.dir.join("log")).unwrap_or_default()
            )),
        }
    }

    /// A connection of the test's own.
    pub async fn client(&self) -> Result<(tokio_postgres::Client, JoinSet<()>), String> {
        let url = format!("postgres://shop:{PASSWORD}@127.0.0.1:{}/postgres", self.port);
        let (client, connection) =
            tokio_postgres::connect(&url, NoTls).await.map_err(|error| error.to_string())?;
        let mut task = JoinSet::new();
        task.spawn(async move { drop(connection.await) });
        Ok((client, task))
    }

    fn pid(&self) -> Option<Pid> {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.as_ref().and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?))
    }

    /// Ends the server, as `pg_ctl stop -m immediate` does.
    pub fn end(&self) {
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, Signal::QUIT);
        }
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child {
            let ended = child.wait().expect("it was ours");
            assert!(ended.code().is_some() || ended.signal().is_some());
        }
    }

    /// Sends a signal to the server and to each of its processes.
    pub fn signal_all(&self, signal: Signal) {
        let Some(pid) = self.pid() else { return };
        let raw = pid.as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{raw}/task/{raw}/children"));
        let children = children.unwrap_or_default();
        let children =
            children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        for pid in std::iter::once(pid).chain(children) {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.signal_all(Signal::CONT);
        self.end();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Where its programs are.
fn bin() -> Option<PathBuf> {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> = installed.map(|version| version.path().join("bin")).collect();
    places.sort();
    places.reverse();
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path));
    places
        .into_iter()
        .find(|place| place.join("initdb").exists() && place.join("postgres").exists())
}

/// As whom it runs, when we are root: the user of the package, or nobody.
fn user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let of = |name: &str| {
        let line = users.lines().find(|line| line.starts_with(&format!("{name}:")))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    of("postgres").or_else(|| of("nobody"))
}

/// What stands between the nodes of one test and the server.
pub struct Proxy {
    pub address: SocketAddr,
    fault: watch::Sender<Option<Fault>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it has one");
        let (fault, faults) = watch::channel(None);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                while connections.try_join_next().is_some() {}
                connections.spawn(pass(client, port, faults.clone()));
            }
        });
        Self { address, fault, _tasks: tasks }
    }

    pub fn breaks(&self, fault: Option<Fault>) {
        self.fault.send_replace(fault);
    }
}

async fn pass(
    mut client: TcpStream,
    port: u16,
    mut faults: watch::Receiver<Option<Fault>>,
) -> io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    let (mut up, mut down) = ([0; 8192], [0; 8192]);
    loop {
        let fault = *faults.borrow_and_update();
        match fault {
            Some(Fault::Error) => return Ok(()),
            Some(Fault::Malformed) => {
                client.write_all(&[0xff; 64]).await?;
                let _ = faults.changed().await;
                return Ok(());
            }
            Some(Fault::Silent) => {
                let _ = faults.changed().await;
                continue;
            }
            _ => {}
        }
        tokio::select! {
            biased;
            changed = faults.changed() => if changed.is_err() {
                return Ok(());
            },
            read = client.read(&mut up) => match read? {
                0 => return Ok(()),
                n => server.write_all(&up[..n]).await?,
            },
            read = server.read(&mut down) => match read? {
                0 => return Ok(()),
                n => {
                    let late = if fault == Some(Fault::Slow) { 300 } else { 0 };
                    tokio::time::sleep(Duration::from_millis(late)).await;
                    client.write_all(&down[..n]).await?;
                }
            },
        }
    }
}
