//! From a good hello to `ready` at both ends.
//!
//! Nothing but hellos has crossed before; the senior's `accept` is the decision, and each side's mesh has a say.

use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::hello::expect_frame;
use super::{ConnId, Context, Event, Order, Orders, Problem, refusal};
use crate::frame::{OwnedFrame, ReadError, read_frame};
use crate::wire::message::{
    ACCEPT_HOLDS, FrameError, HELLO_BYTES_MAX, Kind, bare_frame, finish, start,
};

/// How long both meshes may take to decide: longer than it takes them to probe another connection.
const DECIDED_WITHIN: Duration = Duration::from_secs(5);

/// Does as the meshes decide. Gives the stream back once both sides are ready and the seat is free.
pub(super) async fn run<R, W>(
    context: &Context,
    conn: ConnId,
    read: R,
    mut write: W,
    orders: &mut Orders,
) -> Result<(R, W), Problem>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let deadline = Instant::now() + DECIDED_WITHIN;
    let read = timeout_at(deadline, decide(context, conn, read, &mut write, orders));
    Ok((read.await.map_err(|_| Problem::Slow)??, write))
}

async fn decide<R, W>(
    context: &Context,
    conn: ConnId,
    read: R,
    write: &mut W,
    orders: &mut Orders,
) -> Result<R, Problem>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut next = pin!(next_frame(read));
    let mut back = None;
    let mut accepted = false;
    // Between the senior's accept and our mesh's consent nothing more is read.
    let mut asking = false;
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(Order::Accept { number, holds }) => {
                    accepted = true;
                    let mut out = accept_frame(number, holds);
                    out.extend_from_slice(&bare_frame(Kind::Ready));
                    send(context, write, &out).await?;
                }
                Some(Order::Take) => {
                    asking = false;
                    send(context, write, &bare_frame(Kind::Ready)).await?;
                }
                Some(Order::Up) => {
                    if let Some(read) = back.take() {
                        return Ok(read);
                    }
                }
                // The wait for `ready` has its own deadline; the list of peers is sent again once it is up.
                Some(Order::Probe | Order::Send(_)) => {}
                Some(Order::Close { code, message: Some(message), .. }) => {
                    return Err(Problem::Refusing(refusal(code, message)));
                }
                Some(Order::Close { message: None, .. }) | None => return Err(Problem::CalledOff),
            },
            (read, frame) = &mut next, if back.is_none() && !asking => {
                let frame = expect_frame(frame, &context.mesh)?;
                match Kind::from_u8(frame.kind) {
                    Some(Kind::Accept) if !accepted => {
                        (accepted, asking) = (true, true);
                        let holds = frame.flags & ACCEPT_HOLDS != 0;
                        context.tell(Event::Accepted(conn, frame.serial, holds)).await;
                        next.set(next_frame(read));
                    }
                    Some(Kind::Ready) if accepted => {
                        back = Some(read);
                        context.tell(Event::Ready(conn)).await;
                    }
                    None if Kind::is_skipped(frame.kind) => next.set(next_frame(read)),
                    _ => return Err(FrameError::Malformed("handshake").into()),
                }
            }
        }
    }
}

async fn next_frame<R>(mut read: R) -> (R, Result<Option<OwnedFrame>, ReadError>)
where
    R: AsyncRead + Unpin,
{
    let frame = read_frame(&mut read, HELLO_BYTES_MAX).await;
    (read, frame)
}

async fn send<W>(context: &Context, write: &mut W, bytes: &[u8]) -> Result<(), Problem>
where
    W: AsyncWrite + Unpin,
{
    let sent = async {
        write.write_all(bytes).await?;
        write.flush().await
    };
    sent.await.map_err(|error| Problem::from_io(&error, &context.mesh))
}

fn accept_frame(number: u64, holds: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    let at = start(&mut out, Kind::Accept, if holds { ACCEPT_HOLDS } else { 0 }, number);
    finish(&mut out, at);
    out
}
