//! The least that it could cost in this language: ciborium and a Unix socket between two processes.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

use crate::shared::{Bytes, Count, Setup, Times, say_ready};

#[derive(Serialize, Deserialize)]
struct Header {
    op: String,
    to: String,
    id: u64,
}

struct Floor {
    reader: BufReader<OwnedReadHalf>,
    writer: BufWriter<OwnedWriteHalf>,
    frame: Vec<u8>,
}

impl Floor {
    fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        let (reader, writer) = (BufReader::new(reader), BufWriter::new(writer));
        Self { reader, writer, frame: Vec::new() }
    }

    async fn connect(setup: &Setup) -> Self {
        Self::new(UnixStream::connect(&setup.path).await.expect("the other end listens"))
    }

    async fn accept(setup: &Setup) -> Self {
        let listener = UnixListener::bind(&setup.path).expect("a path of its own");
        say_ready();
        Self::new(listener.accept().await.expect("the other end connects").0)
    }

    async fn write(&mut self, header: &Header, body: &Bytes) {
        self.frame.clear();
        self.frame.extend([0; 6]);
        ciborium::into_writer(header, &mut self.frame).expect("a vector takes everything");
        let head = u16::try_from(self.frame.len() - 6).expect("a short header");
        ciborium::into_writer(body, &mut self.frame).expect("the same");
        let length = u32::try_from(self.frame.len() - 4).expect("a short frame");
        self.frame[..4].copy_from_slice(&length.to_be_bytes());
        self.frame[4..6].copy_from_slice(&head.to_be_bytes());
        self.writer.write_all(&self.frame).await.expect("a connection");
    }

    async fn read(&mut self) -> Option<(Header, Bytes)> {
        let length = self.reader.read_u32().await.ok()?;
        self.frame.resize(length as usize, 0);
        self.reader.read_exact(&mut self.frame).await.ok()?;
        let head = usize::from(u16::from_be_bytes([self.frame[0], self.frame[1]]));
        let header = ciborium::from_reader(&self.frame[2..2 + head]).ok()?;
        let body = ciborium::from_reader(&self.frame[2 + head..]).ok()?;
        Some((header, body))
    }
}

fn header(setup: &Setup) -> Header {
    Header { op: "call".to_owned(), to: setup.name.clone(), id: 7 }
}

pub async fn call(setup: &Setup) {
    let mut floor = Floor::connect(setup).await;
    let (header, body) = (header(setup), Bytes(setup.body()));
    let mut times = Times::new(setup);
    loop {
        let since = Instant::now();
        floor.write(&header, &body).await;
        floor.writer.flush().await.expect("a connection");
        let (header, reply) = floor.read().await.expect("a reply");
        assert_eq!((header.id, reply.0.len()), (7, setup.size));
        if !times.took(since) {
            return;
        }
    }
}

pub async fn respond(setup: &Setup) {
    let mut floor = Floor::accept(setup).await;
    while let Some((header, body)) = floor.read().await {
        floor.write(&header, &body).await;
        floor.writer.flush().await.expect("a connection");
    }
}

pub async fn send(setup: &Setup) {
    let mut floor = Floor::connect(setup).await;
    let (header, body) = (header(setup), Bytes(setup.body()));
    loop {
        floor.write(&header, &body).await;
    }
}

pub async fn receive(setup: &Setup) {
    let mut floor = Floor::accept(setup).await;
    let mut count = Count::new(setup);
    loop {
        let (header, body) = floor.read().await.expect("a message");
        assert_eq!((header.op.len(), body.0.len()), (4, setup.size));
        if !count.arrived(1) {
            return;
        }
    }
}
