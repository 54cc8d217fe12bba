//! A name server on the loopback interface, over UDP and TCP, that answers what a test tells it to.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

pub const A: u16 = 1;
pub const CNAME: u16 = 5;
pub const AAAA: u16 = 28;
pub const SRV: u16 = 33;

pub const SERVFAIL: u8 = 2;
pub const NXDOMAIN: u8 = 3;

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Lower case, with its dot.
    pub name: String,
    pub kind: u16,
    pub tcp: bool,
}

/// One record.
#[derive(Clone, Debug)]
pub struct Rr {
    name: String,
    kind: u16,
    ttl: u32,
    data: Vec<u8>,
}

impl Rr {
    pub fn address(name: &str, ttl: u32, ip: &str) -> Self {
        let (kind, data) = match ip.parse().expect("an address") {
            IpAddr::V4(ip) => (A, ip.octets().to_vec()),
            IpAddr::V6(ip) => (AAAA, ip.octets().to_vec()),
        };
        Self { name: name.to_owned(), kind, ttl, data }
    }

    pub fn cname(name: &str, ttl: u32, to: &str) -> Self {
        Self { name: name.to_owned(), kind: CNAME, ttl, data: encoded(to) }
    }

    pub fn srv(name: &str, ttl: u32, target: &str, port: u16) -> Self {
        let data = [&[0; 4][..], &port.to_be_bytes(), &encoded(target)].concat();
        Self { name: name.to_owned(), kind: SRV, ttl, data }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(encoded(&self.name));
        out.extend(self.kind.to_be_bytes());
        out.extend(1_u16.to_be_bytes());
        out.extend(self.ttl.to_be_bytes());
        out.extend(u16::try_from(self.data.len()).expect("short").to_be_bytes());
        out.extend(&self.data);
    }
}

fn encoded(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        out.push(u8::try_from(label.len()).expect("a short label"));
        out.extend(label.as_bytes());
    }
    out.push(0);
    out
}

/// What is answered.
#[derive(Clone, Debug)]
pub enum Reply {
    /// These records, and these beside them.
    Records(Vec<Rr>, Vec<Rr>),
    /// The same, cut off.
    Truncated(Vec<Rr>),
    /// An error, or that there is no such name.
    Code(u8),
    /// The number of the question, then this.
    Rubbish(Vec<u8>),
    /// Nothing, and over TCP the connection stays open.
    Silence,
}

impl Reply {
    pub fn records(records: Vec<Rr>) -> Self {
        Self::Records(records, Vec::new())
    }
}

type Answers = dyn Fn(&Asked) -> (Duration, Reply) + Send;

/// The server. Dropping it ends it.
pub struct Server {
    pub address: SocketAddr,
    answers: Arc<Mutex<Box<Answers>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// A server on a port of its own, that knows of nobody.
    pub async fn start() -> Self {
        for _ in 0..50 {
            // The same port for both is free more often than not.
            let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
            let address = udp.local_addr().expect("it has one");
            if let Ok(tcp) = TcpListener::bind(address).await {
                return Self::on(address, udp, tcp);
            }
        }
        panic!("no port is free for UDP and TCP");
    }

    /// A server at this address; an error when it may not be there.
    pub async fn at(address: SocketAddr) -> std::io::Result<Self> {
        let udp = UdpSocket::bind(address).await?;
        let tcp = TcpListener::bind(address).await?;
        Ok(Self::on(address, udp, tcp))
    }

    fn on(address: SocketAddr, udp: UdpSocket, tcp: TcpListener) -> Self {
        let answers: Box<Answers> = Box::new(|_| (Duration::ZERO, Reply::Code(NXDOMAIN)));
        let answers = Arc::new(Mutex::new(answers));
        let asked = Arc::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(over_udp(Arc::new(udp), Arc::clone(&answers), Arc::clone(&asked)));
        tasks.spawn(over_tcp(tcp, Arc::clone(&answers), Arc::clone(&asked)));
        Self { address, answers, asked, _tasks: tasks }
    }

    /// From now on it answers this.
    pub fn answers(&self, answers: impl Fn(&Asked) -> Reply + Send + 'static) {
        self.answers_late(move |asked| (Duration::ZERO, answers(asked)));
    }

    /// From now on it answers this, after this time.
    pub fn answers_late(&self, answers: impl Fn(&Asked) -> (Duration, Reply) + Send + 'static) {
        *self.answers.lock().expect("whole") = Box::new(answers);
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("whole").clone()
    }
}

async fn over_udp(
    socket: Arc<UdpSocket>,
    answers: Arc<Mutex<Box<Answers>>>,
    log: Arc<Mutex<Vec<Asked>>>,
) {
    let mut under_way = JoinSet::new();
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        while under_way.try_join_next().is_some() {}
        let query = buffer[..length].to_vec();
        let Some((late, reply)) = decide(&query, false, &answers, &log) else { continue };
        let socket = Arc::clone(&socket);
        under_way.spawn(async move {
            tokio::time::sleep(late).await;
            if let Some(reply) = reply {
                let _ = socket.send_to(&reply, from).await;
            }
        });
    }
}

async fn over_tcp(
    listener: TcpListener,
    answers: Arc<Mutex<Box<Answers>>>,
    log: Arc<Mutex<Vec<Asked>>>,
) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let (answers, log) = (Arc::clone(&answers), Arc::clone(&log));
        connections.spawn(async move {
            let _ = connection(stream, &answers, &log).await;
        });
    }
}

async fn connection(
    mut stream: TcpStream,
    answers: &Mutex<Box<Answers>>,
    log: &Mutex<Vec<Asked>>,
) -> std::io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut query = vec![0; length.into()];
        stream.read_exact(&mut query).await?;
        let Some((late, reply)) = decide(&query, true, answers, log) else { continue };
        tokio::time::sleep(late).await;
        if let Some(reply) = reply {
            stream.write_u16(u16::try_from(reply.len()).expect("it fits")).await?;
            stream.write_all(&reply).await?;
        }
    }
}

fn decide(
    query: &[u8],
    tcp: bool,
    answers: &Mutex<Box<Answers>>,
    log: &Mutex<Vec<Asked>>,
) -> Option<(Duration, Option<Vec<u8>>)> {
    let (name, end) = decoded(query)?;
    let kind = u16::from_be_bytes(query.get(end..end + 2)?.try_into().ok()?);
    let question = &query[12..end + 4];
    let asked = Asked { name, kind, tcp };
    log.lock().expect("whole").push(asked.clone());
    let (late, reply) = answers.lock().expect("whole")(&asked);
    let head = |truncated: bool, code: u8, counts: [usize; 3]| {
        let mut out = query[..2].to_vec();
        out.extend([0x85 | (u8::from(truncated) << 1), 0x80 | code]);
        let counts = [1, counts[0], counts[1], counts[2]];
        out.extend(counts.map(|n| u16::try_from(n).expect("few").to_be_bytes()).concat());
        out.extend(question);
        out
    };
    let reply = match reply {
        Reply::Records(records, beside) => {
            let mut out = head(false, 0, [records.len(), 0, beside.len()]);
            for record in records.iter().chain(&beside) {
                record.write(&mut out);
            }
            Some(out)
        }
        Reply::Truncated(records) => {
            let mut out = head(true, 0, [records.len(), 0, 0]);
            for record in &records {
                record.write(&mut out);
            }
            Some(out)
        }
        Reply::Code(code) => Some(head(false, code, [0, 0, 0])),
        Reply::Rubbish(bytes) => Some([&query[..2], &bytes].concat()),
        Reply::Silence => None,
    };
    Some((late, reply))
}

/// The name that is asked for, and where it ends.
fn decoded(query: &[u8]) -> Option<(String, usize)> {
    let mut at = 12;
    let mut name = String::new();
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return Some((name, at));
        }
        name.push_str(&String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase());
        name.push('.');
        at += length;
    }
}
