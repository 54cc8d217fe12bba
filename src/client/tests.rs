//! The client against a sidecar that is played by hand.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::wire::command::{Command, Id, Request};
use crate::wire::event::{Head, put_frame};

/// The sidecar's end of a connection, played by hand.
struct Sidecar(DuplexStream);

impl Sidecar {
    async fn reads(&mut self) -> Vec<u8> {
        let length = self.0.read_u32().await.expect("a frame") as usize;
        let mut rest = vec![0; length];
        self.0.read_exact(&mut rest).await.expect("a whole frame");
        rest
    }

    async fn says(&mut self, head: &Head, body: &[u8]) {
        let mut frame = Vec::new();
        put_frame(&mut frame, head.bytes(), body);
        self.0.write_all(&frame).await.expect("the client reads");
    }

    async fn messages(&mut self, n: usize) {
        for _ in 0..n {
            self.says(&Head::event("message"), b"\x01").await;
        }
    }
}

fn pair() -> (Client, Sidecar) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (reader, writer) = tokio::io::split(near);
    (Client::over(reader, writer), Sidecar(far))
}

#[tokio::test]
async fn answers_find_their_commands_whatever_their_order() {
    let (client, mut sidecar) = pair();
    let first = client.start(Op::new("self")).await.unwrap();
    let second = client.start(Op::new("whereis").text("name", "stock")).await.unwrap();
    for id in [2, 1] {
        sidecar.says(&Head::ok(Id::Number(id)).uint("n", id), &[]).await;
    }
    assert_eq!(first.answer().await.unwrap().uint("n"), Some(1));
    assert_eq!(second.answer().await.unwrap().uint("n"), Some(2));
}

#[tokio::test]
async fn a_command_is_written_as_the_sidecar_reads_it() {
    let (client, mut sidecar) = pair();
    let op = Op::new("send").text("to", "stock").text_body("three");
    let _pending = client.start(op).await.unwrap();
    let rest = sidecar.reads().await;
    let request = Request::read(&rest);
    assert_eq!(request.id, Some(Id::Number(1)));
    assert!(matches!(request.command, Ok(Command::Send { to: "stock", .. })));
    assert_eq!(request.body, b"\x65three");
}

#[tokio::test]
async fn an_error_answer_keeps_its_code_and_whether_it_may_have_happened() {
    let (client, mut sidecar) = pair();
    let pending = client.start(Op::new("self")).await.unwrap();
    sidecar.says(&Head::error(Id::Number(1), "timeout", "too slow", true), &[]).await;
    let error = pending.answer().await.expect_err("refused");
    assert_eq!((error.code(), error.maybe_applied()), (Some("timeout"), true));
}

#[tokio::test]
async fn a_lost_connection_ends_what_waits_and_the_events_behind_those_that_came() {
    let (client, mut sidecar) = pair();
    let pending = client.start(Op::new("self")).await.unwrap();
    sidecar.messages(1).await;
    drop(sidecar);
    assert!(matches!(pending.answer().await, Err(ClientError::Lost(_))));
    assert_eq!(client.next_event().await.expect("it had come").name(), "message");
    assert_eq!(client.next_event().await, None);
    assert_eq!(client.next_event().await, None);
    assert!(client.request(Op::new("self")).await.is_err());
}

#[tokio::test]
async fn a_window_is_opened_again_by_coming_back_for_more() {
    let (client, mut sidecar) = pair();
    let hello = client.hello("test", Delivery::Window(4));
    let answers = async {
        sidecar.reads().await;
        sidecar.says(&Head::event("welcome").text("node", "a@b").uint("session", 7), &[]).await;
        sidecar.says(&Head::ok(Id::Number(1)), &[]).await;
        sidecar.messages(3).await;
    };
    let (welcome, ()) = tokio::join!(hello, answers);
    assert_eq!(welcome.unwrap().session, 7);
    for _ in 0..3 {
        client.next_event().await.unwrap();
    }
    let waits = client.next_event();
    let tells = async {
        let mut consumed = 0;
        while consumed < 3 {
            let rest = sidecar.reads().await;
            let Ok(Command::More { n, pid: None }) = Request::read(&rest).command else {
                panic!("more of the own process, and nothing else");
            };
            consumed += n;
        }
        sidecar.messages(1).await;
        consumed
    };
    let (event, consumed) = tokio::join!(waits, tells);
    assert_eq!((event.unwrap().name(), consumed), ("message", 3));
}

#[test]
fn what_is_not_there_cannot_be_found() {
    let directory = Path::new("/nonexistent/pillion");
    let error = find::find_under(directory, 0).expect_err("nothing there");
    assert!(error.to_string().contains("pillion up"), "{error}");
}
