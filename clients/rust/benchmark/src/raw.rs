//! Over frames that are written and read by hand: what the nodes cost without a client.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use ciborium::Value;

use crate::shared::{Count, Setup, Times, say_ready, variable};

struct Raw {
    stream: UnixStream,
    buffer: Vec<u8>,
    at: usize,
}

fn frame(fields: &[(&str, Value)], body: Option<&[u8]>) -> Vec<u8> {
    let head = fields.iter().map(|(key, value)| ((*key).into(), value.clone())).collect();
    let mut header = Vec::new();
    ciborium::into_writer(&Value::Map(head), &mut header).expect("a vector takes everything");
    let mut item = Vec::new();
    if let Some(body) = body {
        ciborium::into_writer(&Value::Bytes(body.to_vec()), &mut item).expect("the same");
    }
    let length = u32::try_from(2 + header.len() + item.len()).expect("a short frame");
    let mut out = length.to_be_bytes().to_vec();
    out.extend(u16::try_from(header.len()).expect("a short header").to_be_bytes());
    out.extend(header);
    out.extend(item);
    out
}

impl Raw {
    fn new(at: &str) -> Self {
        let stream = UnixStream::connect(variable(at)).expect("the node answers");
        Self { stream, buffer: Vec::new(), at: 0 }
    }

    fn write(&mut self, frame: &[u8]) {
        self.stream.write_all(frame).expect("a connection");
    }

    /// The next whole frame; reads when there is none.
    fn next(&mut self) -> &[u8] {
        loop {
            let rest = &self.buffer[self.at..];
            if let Some(length) = rest.first_chunk::<4>() {
                let length = 4 + u32::from_be_bytes(*length) as usize;
                if rest.len() >= length {
                    let start = self.at;
                    self.at += length;
                    return &self.buffer[start..start + length];
                }
            }
            self.buffer.drain(..self.at);
            self.at = 0;
            let mut chunk = [0; 65536];
            let n = self.stream.read(&mut chunk).expect("a connection");
            assert!(n > 0, "the node has gone");
            self.buffer.extend_from_slice(&chunk[..n]);
        }
    }

    fn ask(&mut self, fields: &[(&str, Value)]) {
        self.write(&frame(fields, None));
        while header(self.next())[4..].first_chunk::<2>() != Some(b"ok") {}
    }

    fn register(&mut self, setup: &Setup) {
        self.ask(&[("op", "register".into()), ("id", 1.into()), ("name", setup.name.as_str().into())]);
    }
}

/// Of an event it begins with a map's head, then `ev` and its length: what follows is its name.
fn header(frame: &[u8]) -> &[u8] {
    let length = usize::from(u16::from_be_bytes([frame[4], frame[5]]));
    let header = &frame[6..6 + length];
    &header[1..]
}

pub fn call(setup: &Setup) {
    let mut raw = Raw::new("PILLION_A");
    let to = format!("{}@b@bench", setup.name);
    let fields = [("op", "call".into()), ("to", to.into()), ("id", 7.into())];
    let call = frame(&fields, Some(&setup.body()));
    let mut times = Times::new(setup);
    loop {
        let since = Instant::now();
        raw.write(&call);
        assert!(raw.next().len() > setup.size);
        if !times.took(since) {
            return;
        }
    }
}

pub fn respond(setup: &Setup) {
    let mut raw = Raw::new("PILLION_B");
    raw.register(setup);
    say_ready();
    loop {
        let call = raw.next();
        // The last header member is `ref`, a number; what it takes is copied as it is.
        let length = usize::from(u16::from_be_bytes([call[4], call[5]]));
        let (head, body) = call[6..].split_at(length);
        let at = head.windows(4).rposition(|four| four == b"cref").expect("a ref");
        let mut reply = vec![0; 6];
        reply.extend(b"\xa2bopereply");
        reply.extend(&head[at..]);
        let head = u16::try_from(reply.len() - 6).expect("a short header");
        reply.extend(body);
        let length = u32::try_from(reply.len() - 4).expect("a short frame");
        reply[..4].copy_from_slice(&length.to_be_bytes());
        reply[4..6].copy_from_slice(&head.to_be_bytes());
        raw.write(&reply);
    }
}

pub fn send(setup: &Setup) {
    let mut raw = Raw::new("PILLION_A");
    let to = format!("{}@b@bench", setup.name);
    let send = frame(&[("op", "send".into()), ("to", to.into())], Some(&setup.body()));
    let many = send.repeat((65536 / send.len()).max(1));
    loop {
        raw.write(&many);
    }
}

pub fn receive(setup: &Setup) {
    let mut raw = Raw::new("PILLION_B");
    let policy = Value::Map(vec![("policy".into(), "wait".into())]);
    raw.ask(&[("op", "flag".into()), ("id", 1.into()), ("mailbox", policy)]);
    raw.register(setup);
    say_ready();
    let mut count = Count::new(setup);
    loop {
        assert!(raw.next().len() > setup.size);
        if !count.arrived(1) {
            return;
        }
    }
}
