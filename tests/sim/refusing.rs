//! Who is not let in, and that it costs little to keep them out.

use std::net::SocketAddr;
use std::time::Duration;

use pillion::frame::{read_frame, write_frame};
use pillion::tls::{Cookie, Tls, Trust};
use pillion::wire::message::{HELLO_BYTES_MAX, Hello, Kind, Refusal, cbor_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use turmoil::net::TcpStream;

use crate::world::{Setup, World};

const A_WHILE: Duration = Duration::from_secs(120);

/// Starts `a`, and `b` as given; returns what `b` has to say of `a`, which it lists.
fn refused(setup: Setup) -> (World, String) {
    let mut world = World::of(&["a"]);
    world.start_as("b", setup);
    world.list("b", &["a"]);
    world.throughout("no connection", A_WHILE, |w| {
        w.peers("a").is_empty() && w.peers("b").is_empty()
    });
    let reason = world.known("b")[0].reason.clone().expect("a reason");
    (world, reason)
}

#[test]
fn another_cookie_never_joins_and_is_told_in_words() {
    let (world, reason) = refused(Setup { cookie: 2, ..Setup::new("b") });
    assert!(reason.contains("does not share our cookie"), "{reason}");
    assert!(world.dials("b") < 16, "{} dials in two minutes", world.dials("b"));
}

#[test]
fn another_mesh_never_joins_though_it_has_the_cookie() {
    let (_, reason) = refused(Setup { mesh: "other".to_owned(), ..Setup::new("b") });
    assert!(reason.contains("mesh of another name"), "{reason}");
}

#[test]
fn foreign_sightings_are_never_dialled() {
    let mut world = World::of(&["a", "b"]);
    world.pass(Duration::from_millis(1));
    let mut mesh = world.sighting("a");
    mesh.mesh = Some("other".to_owned());
    let mut cookie = world.sighting("a");
    (cookie.ids, cookie.node) = (vec![[9; 8]], Some("z@sim".to_owned()));
    world.sees("b", vec![mesh, cookie]);
    world.pass(A_WHILE);
    assert_eq!(world.dials("b"), 0);
    assert_eq!(world.known("b").len(), 2);
}

/// A peer that holds the cookie and says whatever a test wants it to say.
async fn guest(
    address: SocketAddr,
    cookie: u8,
    host: &str,
) -> turmoil::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let lines = vec![Cookie::from_bytes([cookie; 32])];
    let tls = Tls::new(&Trust::Cookie { lines, file: None }, "default", host)?;
    let stream = TcpStream::connect(address).await?;
    Ok(tls.connector().connect(Tls::server_name(), stream).await?)
}

fn hello(node: &str) -> Hello {
    Hello {
        protocol_min: 1,
        protocol_max: 1,
        features: Vec::new(),
        mesh: "default".to_owned(),
        node: node.to_owned(),
        incarnation: 5,
        addresses: Vec::new(),
        labels: std::collections::BTreeMap::default(),
        hidden: false,
        known: None,
        clock_ms: None,
    }
}

/// What `a` answers to this hello: a refusal's code.
fn answer_to(hello: Hello) -> String {
    let mut world = World::of(&["a"]);
    let address = world.address("a");
    let (tell, told) = std::sync::mpsc::channel();
    world.stranger("guest", async move {
        let mut stream = guest(address, 1, "sim").await?;
        write_frame(&mut stream, &cbor_frame(Kind::Hello, 0, &hello)).await?;
        let frame = read_frame(&mut stream, HELLO_BYTES_MAX).await?.ok_or("closed")?;
        assert_eq!(frame.kind, Kind::Refuse as u8);
        tell.send(frame.as_frame().cbor::<Refusal>("refuse")?)?;
        Ok(())
    });
    world.pass(Duration::from_secs(2));
    let refusal = told.try_recv().expect("a refusal");
    assert!(refusal.message.len() > 20, "{refusal:?}");
    assert!(world.events("a").is_empty());
    refusal.code
}

#[test]
fn what_must_agree_and_does_not_is_refused_by_name() {
    assert_eq!(
        answer_to(Hello { protocol_min: 99, protocol_max: 99, ..hello("g@sim") }),
        "protocol"
    );
    assert_eq!(answer_to(Hello { mesh: "other".to_owned(), ..hello("g@sim") }), "mesh");
    assert_eq!(answer_to(hello("g@elsewhere")), "certificate");
    assert_eq!(answer_to(hello("no name")), "malformed");
}

#[test]
fn a_stranger_hears_nothing_and_is_shown_the_door() {
    let mut world = World::of(&["a", "b"]);
    let address = world.address("a");
    let (tell, told) = std::sync::mpsc::channel();
    world.stranger("mute", {
        let tell = tell.clone();
        async move {
            let mut stream = TcpStream::connect(address).await?;
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).await?;
            tell.send((heard.len(), turmoil::elapsed()))?;
            Ok(())
        }
    });
    world.stranger("babbler", async move {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&[b'x'; 4000]).await?;
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard).await;
        // A TLS alert at most.
        tell.send((heard.len().saturating_sub(7), turmoil::elapsed()))?;
        Ok(())
    });
    world.list("b", &["a"]);
    world.until("connection", Duration::from_secs(2), |w| w.are_joined("a", "b"));
    world.pass(Duration::from_secs(8));
    for _ in 0..2 {
        let (heard, when) = told.try_recv().expect("closed");
        assert_eq!(heard, 0);
        assert!(when < Duration::from_secs(7), "{when:?}");
    }
    assert_eq!(world.events("a"), ["up b"]);
}

#[test]
fn a_hello_over_the_limit_is_not_read() {
    let mut world = World::of(&["a"]);
    let address = world.address("a");
    let (tell, told) = std::sync::mpsc::channel();
    world.stranger("guest", async move {
        let mut stream = guest(address, 1, "sim").await?;
        stream.write_all(&[0x7f, 0xff, 0xff, 0xff, 1, 0]).await?;
        stream.flush().await?;
        let frame = read_frame(&mut stream, HELLO_BYTES_MAX).await?.ok_or("closed")?;
        tell.send(frame.as_frame().cbor::<Refusal>("refuse")?.code)?;
        Ok(())
    });
    world.pass(Duration::from_secs(1));
    assert_eq!(told.try_recv().as_deref(), Ok("malformed"));
}

#[test]
fn a_later_version_may_say_more_around_its_hello() {
    let mut world = World::of(&["a"]);
    let address = world.address("a");
    let (tell, told) = std::sync::mpsc::channel();
    world.stranger("guest", async move {
        let mut stream = guest(address, 1, "sim").await?;
        let mut later = cbor_frame(Kind::Beat, 0, &"what comes later");
        later[4] = 0x80;
        write_frame(&mut stream, &later).await?;
        write_frame(&mut stream, &cbor_frame(Kind::Hello, 0, &hello("g@sim"))).await?;
        write_frame(&mut stream, &later).await?;
        for _ in 0..2 {
            tell.send(read_frame(&mut stream, HELLO_BYTES_MAX).await?.ok_or("closed")?.kind)?;
        }
        write_frame(&mut stream, &later).await?;
        for kind in [Kind::Ready, Kind::Announced] {
            write_frame(&mut stream, &pillion::wire::message::bare_frame(kind)).await?;
        }
        // Until the world ends: a connection that is up is not closed by its guest.
        std::future::pending().await
    });
    world.until("nodeup", Duration::from_secs(2), |w| w.events("a") == ["up g"]);
    let heard: Vec<u8> = told.try_iter().collect();
    assert_eq!(heard, [Kind::Hello as u8, Kind::Accept as u8]);
}

#[test]
fn strangers_that_hold_every_place_do_not_keep_a_peer_out_for_long() {
    let mut world = World::of(&["a", "b"]);
    let address = world.address("a");
    world.stranger("flood", async move {
        let mut held = Vec::new();
        for _ in 0..80 {
            held.push(TcpStream::connect(address).await?);
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        Ok(())
    });
    world.pass(Duration::from_millis(200));
    world.list("b", &["a"]);
    world.until("connection", Duration::from_secs(2), |w| w.are_joined("a", "b"));
}
