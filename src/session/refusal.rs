//! An app that may not come: it is told why, in its own dialect, as the answer to the first thing that it asks.
//!
//! No session is opened for it. What it says first is read as far as that takes, no longer than two seconds and 64 KiB.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::{Input, LAST_WORDS, READ_BYTES, frame_start};
use crate::dialect::http::head;
use crate::dialect::http::response::Response;
use crate::dialect::http::{Refusal, status_of};
use crate::dialect::{Dialect, json};
use crate::wire::command::{Refused, Request};
use crate::wire::event::{self, Head};

/// How long the first command may take.
const FIRST_WITHIN: Duration = Duration::from_secs(2);

/// Tells an app that it may not come, and lets it go. One that says nothing is told all the same, as a line of JSON.
///
/// # Errors
/// What the streams say.
pub async fn refuse<R, W>(mut reader: R, mut writer: W, refused: &Refused) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut input = Input::default();
    let first = async {
        loop {
            if input.read(&mut reader, None).await? == 0 || input.rest().len() >= READ_BYTES {
                return Ok::<_, io::Error>(false);
            }
            if is_whole(input.rest()) {
                return Ok(true);
            }
        }
    };
    match timeout(FIRST_WITHIN, first).await {
        // Nothing is said to a connection that said nothing: stale sockets are tested that way.
        Ok(Ok(false)) if input.rest().is_empty() => return Ok(()),
        Ok(Err(error)) => return Err(error),
        Ok(Ok(_)) | Err(_) => {}
    }
    writer.write_all(&told(input.rest(), refused)).await?;
    writer.shutdown().await?;
    // An app that is still writing would lose the answer with the connection.
    let _ = timeout(LAST_WORDS, async {
        while input.read(&mut reader, None).await.is_ok_and(|read| read > 0) {
            input.consume(input.rest().len());
        }
    })
    .await;
    Ok(())
}

fn dialect(first: &[u8]) -> Dialect {
    first.first().map_or(Dialect::Json, |byte| Dialect::of(*byte))
}

/// Whether the first command, as far as it is answered, is there.
fn is_whole(first: &[u8]) -> bool {
    match dialect(first) {
        Dialect::Http => !matches!(head::parse(first), Ok(None)),
        Dialect::Json => first.contains(&b'\n'),
        Dialect::Cbor => frame_start(first).is_some(),
    }
}

/// What it is told.
fn told(first: &[u8], refused: &Refused) -> Vec<u8> {
    let mut out = Vec::new();
    match dialect(first) {
        Dialect::Http => {
            let status = status_of(refused.code).unwrap_or(403);
            let refusal = Refusal::new(status, refused.code, refused.message.clone());
            Response::refused(refusal).put(&mut out, first.starts_with(b"HEAD "), true, false);
        }
        Dialect::Cbor => {
            let request = frame_start(first).map(Request::read);
            event::put_frame(&mut out, answer(request.as_ref(), refused).bytes(), &[]);
        }
        Dialect::Json => {
            let mut frame = Vec::new();
            let line = first.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let read = json::line_to_frame(line, &mut frame);
            let request = read.is_ok().then(|| frame_start(&frame).map(Request::read)).flatten();
            let mut answered = Vec::new();
            event::put_frame(&mut answered, answer(request.as_ref(), refused).bytes(), &[]);
            json::frame_to_line(&answered, &mut out);
        }
    }
    out
}

/// As every command is answered that fails.
fn answer(request: Option<&Request<'_>>, refused: &Refused) -> Head {
    match request.and_then(|request| request.id) {
        Some(id) => Head::error(id, refused.code, &refused.message, false),
        None => Head::event("failed")
            .text("op", request.map_or("", |request| request.op))
            .text("to", "")
            .text("code", refused.code)
            .text("message", &refused.message)
            .uint("count", 1),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, duplex, split};

    use super::*;

    async fn hears(says: &[u8]) -> String {
        let (mut app, theirs) = duplex(64 * 1024);
        let refused = Refused { code: "denied", message: "the pod shop/cart-0 may not".to_owned() };
        let (reader, writer) = split(theirs);
        let refusing = refuse(reader, writer, &refused);
        let asks = async {
            app.write_all(says).await.expect("it is read");
            let mut heard = Vec::new();
            while app.read_buf(&mut heard).await.expect("it answers") > 0 {}
            drop(app);
            String::from_utf8_lossy(&heard).into_owned()
        };
        let (refused, heard) = tokio::join!(refusing, asks);
        refused.expect("it was told");
        heard
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_that_may_not_come_is_told_why_in_its_own_dialect() {
        let line = hears(b"{\"op\":\"self\",\"id\":7}\n{\"op\":\"nodes\",\"id\":8}\n").await;
        let expected = "{\"ev\":\"error\",\"id\":7,\"code\":\"denied\",\"message\":\"the pod shop/cart-0 may not\",\"maybe_applied\":false}\n";
        assert_eq!(line, expected);
        let line = hears(b"{\"op\":\"publish\",\"topic\":\"a\"}\n").await;
        assert!(line.starts_with("{\"ev\":\"failed\",\"op\":\"publish\""), "{line}");
        let line = hears(b"{no json\n").await;
        assert!(line.contains("\"code\":\"denied\""), "{line}");
        let http = hears(b"GET /v1/nodes HTTP/1.1\r\nHost: p\r\n\r\n").await;
        assert!(http.starts_with("HTTP/1.1 403 ") && http.contains("may not"), "{http}");
        let mut frame = Vec::new();
        json::line_to_frame(b"{\"op\":\"self\",\"id\":9}", &mut frame).expect("a command");
        let cbor = hears(&frame).await;
        assert!(cbor.contains("denied") && cbor.contains("may not"), "{cbor}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_that_says_little_or_too_much_first_is_told_all_the_same() {
        assert!(hears(b"").await.contains("denied"), "it waits for what it is told");
        assert!(hears(b"{\"op\":").await.contains("denied"));
        assert!(hears(b"GET /").await.contains("403"));
        assert!(hears(&[0, 0, 9]).await.contains("denied"));
        let long = [&b"{\"op\":\"send\",\"body\":\""[..], &vec![b'x'; 2 * READ_BYTES][..]].concat();
        assert!(hears(&long).await.contains("denied"));
    }
}
