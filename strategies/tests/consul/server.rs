//! A Consul of a test's own that answers over HTTP or TLS, and breaks as it is told.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pillion_strategies::conformance::Fault;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// What is in it.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub index: u64,
    pub ports: BTreeSet<u16>,
    /// Entries that make no sense, as JSON, each with a comma before it.
    pub rubbish: String,
    pub fault: Option<Fault>,
    /// Who does not give this token is refused.
    pub token: Option<String>,
}

/// The server. Dropping it ends it.
pub struct Server {
    pub address: SocketAddr,
    pub state: Arc<watch::Sender<State>>,
    requests: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub async fn start(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it has one");
        let state = Arc::new(watch::Sender::new(State { index: 1, ..State::default() }));
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut tasks = JoinSet::new();
        let (states, log) = (state.subscribe(), Arc::clone(&requests));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                while connections.try_join_next().is_some() {}
                let (states, log, tls) = (states.clone(), Arc::clone(&log), tls.clone());
                connections.spawn(async move {
                    let _ = match tls {
                        None => serve(stream, states, &log).await,
                        Some(config) => match TlsAcceptor::from(config).accept(stream).await {
                            Ok(stream) => serve(stream, states, &log).await,
                            Err(error) => Err(error),
                        },
                    };
                });
            }
        });
        Self { address, state, requests, _tasks: tasks }
    }

    pub fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(|state| {
            change(state);
            state.index += 1;
        });
    }

    /// The heads of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("whole").clone()
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut states: watch::Receiver<State>,
    log: &Mutex<Vec<String>>,
) -> io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        log.lock().expect("whole").push(head.clone());
        let number = |key: &str| -> Option<u64> {
            let (_, rest) = head.split_once(key)?;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        // It is held while there is no news, and while nothing is broken.
        if let Some(index) = number("index=") {
            let wait = Duration::from_millis(number("wait=").expect("written"));
            let news = |state: &State| state.index != index;
            let _ = timeout(wait, states.wait_for(news)).await;
        }
        let state = states.borrow_and_update().clone();
        match state.fault {
            Some(Fault::Slow) => sleep(Duration::from_millis(800)).await,
            Some(Fault::Silent) => std::future::pending().await,
            _ => {}
        }
        let (status, body) = answer(&state, &head);
        let text = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Consul-Index: {}\r\nContent-Length: {}\r\n\r\n{body}",
            state.index,
            body.len()
        );
        stream.write_all(text.as_bytes()).await?;
    }
}

fn answer(state: &State, head: &str) -> (&'static str, String) {
    let token = head.lines().find_map(|line| line.strip_prefix("x-consul-token: "));
    if state.token.is_some() && state.token.as_deref() != token {
        return ("403 Forbidden", "Permission denied: token lacks permission".into());
    }
    let share = match state.fault {
        Some(Fault::Error) => return ("500 Internal Server Error", "No cluster leader".into()),
        Some(Fault::Malformed) => return ("200 OK", "[{\"Node\":".into()),
        Some(Fault::Empty) => 0,
        Some(Fault::Partial) => state.ports.len() / 2,
        _ => usize::MAX,
    };
    let is_catalog = head.contains("/v1/catalog/service/");
    let entry = |port: &u16| {
        if is_catalog {
            format!(
                r#"{{"Node":"n{port}","Address":"127.0.0.1","ServiceAddress":"","ServicePort":{port}}}"#
            )
        } else {
            format!(
                r#"{{"Node":{{"Node":"n{port}","Address":"10.9.9.9"}},"Service":{{"ID":"x","Address":"127.0.0.1","Port":{port}}},"Checks":[]}}"#
            )
        }
    };
    let entries: Vec<String> = state.ports.iter().take(share).map(entry).collect();
    ("200 OK", format!("[{}{}]", entries.join(","), state.rubbish))
}
