//! The way to an issuer, over TLS on the loopback: one that answers, and those that do not.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::tls::issuing::Authority;

/// Says what it was told to, to everybody, and what it was asked last.
struct Place {
    at: SocketAddr,
    asked: tokio::sync::mpsc::Receiver<String>,
    _task: JoinSet<()>,
}

/// A server that answers with this; with nothing, it reads and is silent.
async fn place(authority: &Authority, answer: Option<Vec<u8>>) -> Place {
    let (certificate, key) = authority.serving("localhost");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_protocol_versions(&[&rustls::version::TLS13])
    .expect("a version")
    .with_no_client_auth()
    .with_single_cert(vec![certificate], key)
    .expect("a certificate");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    let (tell, asked) = tokio::sync::mpsc::channel(16);
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut held = Vec::new();
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut heard = Vec::new();
            while !whole(&heard) && stream.read_buf(&mut heard).await.is_ok_and(|n| n > 0) {}
            let _ = tell.try_send(String::from_utf8_lossy(&heard).into_owned());
            match &answer {
                Some(answer) => {
                    let _ = stream.write_all(answer).await;
                    let _ = stream.shutdown().await;
                }
                None => held.push(stream),
            }
        }
    });
    Place { at, asked, _task: task }
}

fn whole(heard: &[u8]) -> bool {
    let text = String::from_utf8_lossy(heard);
    text.split_once("\r\n\r\n").is_some_and(|(_, body)| body.ends_with('}'))
}

fn http(status: &str, body: &str) -> Option<Vec<u8>> {
    let length = body.len();
    Some(format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes())
}

fn issuer(at: SocketAddr, directory: &Path) -> Issuer {
    let token = directory.join("token");
    std::fs::write(&token, "the.token\n").expect("written");
    let (host, path) = ("localhost".to_owned(), "/v1/certificate".to_owned());
    let url = IssuerUrl { host, port: at.port(), path };
    Issuer { url, token, mesh: "default".to_owned() }
}

#[tokio::test]
async fn a_request_says_who_asks_and_its_answer_is_read() {
    let (authority, directory) = (Authority::new("one"), tempfile::tempdir().expect("one"));
    let answer = r#"{"certificate": "a", "anchors": "b", "more": 1}"#;
    let mut place = place(&authority, http("200 OK", answer)).await;
    let issuer = issuer(place.at, directory.path());
    let answer = issuer.ask("the csr", &[authority.der()]).await.expect("an answer");
    assert_eq!(answer, Answer { certificate: "a".to_owned(), anchors: "b".to_owned() });
    let asked = place.asked.recv().await.expect("it was asked");
    assert!(asked.starts_with("POST /v1/certificate HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("authorization: Bearer the.token\r\n"), "{asked}");
    assert!(asked.ends_with(r#"{"csr":"the csr","mesh":"default"}"#), "{asked}");

    // The kubelet has replaced it.
    std::fs::write(&issuer.token, "another.token").expect("written");
    issuer.ask("the csr", &[authority.der()]).await.expect("an answer");
    let asked = place.asked.recv().await.expect("it was asked");
    assert!(asked.contains("authorization: Bearer another.token\r\n"), "{asked}");
}

#[tokio::test]
async fn an_issuer_that_refuses_or_is_none_is_told_in_words_and_never_believed() {
    let (authority, directory) = (Authority::new("one"), tempfile::tempdir().expect("one"));
    let refusal = r#"{"code": "other_mesh", "message": "this pod is in the mesh shop"}"#;
    let long = "x".repeat(2 * ANSWER_BYTES_MAX);
    for (answer, words) in [
        (http("403 Forbidden", refusal), "refuses: this pod is in the mesh shop [other_mesh]"),
        (http("502 Bad Gateway", "<html>"), "answers 502"),
        (http("200 OK", "<html>"), "cannot be read"),
        (http("200 OK", r#"{"certificate": "a"}"#), "anchors"),
        (http("200 OK", &long), "cannot be read"),
        (Some(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()), "cannot be read"),
        (Some(Vec::new()), "cannot be read"),
    ] {
        let place = place(&authority, answer).await;
        let issuer = issuer(place.at, directory.path());
        let said = issuer.ask("csr", &[authority.der()]).await.expect_err(words).to_string();
        assert!(said.contains(words) && said.contains("https://localhost:"), "{words}: {said}");
        assert!(!said.contains("the.token"), "{said}");
    }
}

#[tokio::test]
async fn an_issuer_that_no_anchor_of_ours_signed_gets_no_token() {
    let (authority, directory) = (Authority::new("one"), tempfile::tempdir().expect("one"));
    let mut place = place(&Authority::new("eve"), http("200 OK", "{}")).await;
    let issuer = issuer(place.at, directory.path());
    let said = issuer.ask("csr", &[authority.der()]).await.expect_err("a stranger").to_string();
    assert!(said.contains("none of this node's anchors signed"), "{said}");
    assert!(place.asked.try_recv().is_err(), "it was told something");
}

#[tokio::test]
async fn an_issuer_that_is_away_and_a_token_that_is_not_there_are_told_in_words() {
    let (authority, directory) = (Authority::new("one"), tempfile::tempdir().expect("one"));
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("one");
    let mut issuer = issuer(gone, directory.path());
    let ask = async |issuer: &Issuer| {
        issuer.ask("csr", &[authority.der()]).await.expect_err("nobody").to_string()
    };
    let said = ask(&issuer).await;
    assert!(said.contains("cannot be reached") && said.contains("Is the injector up"), "{said}");
    issuer.url.host = "no-such-host.invalid".to_owned();
    let said = ask(&issuer).await;
    // A resolver that is cut off says nothing at all.
    assert!(said.contains("is not found") || said.contains("does not answer"), "{said}");

    for text in ["", " \n"] {
        std::fs::write(&issuer.token, text).expect("written");
        let said = ask(&issuer).await;
        assert!(said.contains("audience pillion.dev") && said.contains("is empty"), "{said}");
    }
    std::fs::write(&issuer.token, "two\nlines").expect("written");
    assert!(ask(&issuer).await.contains("characters that no token has"));
    std::fs::remove_file(&issuer.token).expect("removed");
    assert!(ask(&issuer).await.contains("cannot be read"));
    std::fs::create_dir(&issuer.token).expect("made");
    std::fs::set_permissions(&issuer.token, std::fs::Permissions::from_mode(0o700)).expect("set");
    assert!(ask(&issuer).await.contains("not a regular file"));
}

#[tokio::test]
async fn an_issuer_that_takes_the_question_and_is_silent_is_given_up() {
    let (authority, directory) = (Authority::new("one"), tempfile::tempdir().expect("one"));
    let mut place = place(&authority, None).await;
    let issuer = issuer(place.at, directory.path());
    let anchors = [authority.der()];
    let asking = issuer.ask("csr", &anchors);
    let mut asking = pin!(asking);
    tokio::select! {
        biased;
        asked = place.asked.recv() => assert!(asked.is_some()),
        early = &mut asking => panic!("{early:?}"),
    }
    // From here on nothing but the time passes.
    tokio::time::pause();
    let said = asking.await.expect_err("nothing came").to_string();
    assert!(said.contains("does not answer within 15 s"), "{said}");
}
