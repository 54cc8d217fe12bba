//! What processes say to each other: messages, casts, calls and their answers.

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::body::Body;
use crate::call::{Parts, Replies};
use crate::error::{Error, Failure, Result, last, truncate};
use crate::event::Event;
use crate::op::Op;
use crate::process::{Process, millis};
use crate::state::{OWN, Want};

/// How long a call waits for its reply, unless it is told otherwise.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of a stack that is told.
const STACK_BYTES_MAX: usize = 16 * 1024;

impl Process {
    // ===== without an answer =====

    /// Sends a message: to a pid, a name, a name on another node (`stock@store`), `global:NAME` or `group:NAME`.
    ///
    /// Waits while 1 MiB is unwritten: the app feels it here when the node does not keep up. That it was sent does not say
    /// that it arrived; what fails is told to [`Builder::on_failed`](crate::Builder::on_failed).
    ///
    /// # Errors
    /// [`Code::BadBody`](crate::Code::BadBody), [`Code::TooLarge`](crate::Code::TooLarge), and
    /// [`Code::Lost`](crate::Code::Lost) when there is no connection for 10 s. Nothing was sent then.
    pub async fn send(&self, to: &str, body: impl Body) -> Result<()> {
        self.tell(Op::new("send").text("to", to).body(&body)).await
    }

    /// The same, and waits for the node's word that it has taken the message.
    ///
    /// # Errors
    /// Those of [`Process::send`], and [`Code::NoProc`](crate::Code::NoProc) for a name of this node that nobody has.
    pub async fn send_confirmed(&self, to: &str, body: impl Body) -> Result<()> {
        self.ask(&Op::new("send").text("to", to).body(&body), None).await.map(drop)
    }

    /// Sends a request that wants no answer. As [`Process::send`], and a GenServer handles it by `handle_cast`.
    ///
    /// # Errors
    /// Those of [`Process::send`].
    pub async fn cast(&self, to: &str, body: impl Body) -> Result<()> {
        self.tell(Op::new("cast").text("to", to).body(&body)).await
    }

    /// The same, and waits for the node's word that it has taken the request.
    ///
    /// # Errors
    /// Those of [`Process::send_confirmed`].
    pub async fn cast_confirmed(&self, to: &str, body: impl Body) -> Result<()> {
        self.ask(&Op::new("cast").text("to", to).body(&body), None).await.map(drop)
    }

    // ===== with an answer =====

    /// Asks, and waits for the reply for [`CALL_TIMEOUT`].
    ///
    /// Dropped, the reply is lost; the callee may handle the call all the same.
    ///
    /// # Errors
    /// [`Code::Timeout`](crate::Code::Timeout), [`Code::NoProc`](crate::Code::NoProc),
    /// [`Code::Exception`](crate::Code::Exception) when the callee failed, [`Code::Exit`](crate::Code::Exit) when it died,
    /// [`Code::NoConnection`](crate::Code::NoConnection), [`Code::Lost`](crate::Code::Lost);
    /// [`Error::maybe_applied`] says whether the callee may have acted. [`Code::BadBody`](crate::Code::BadBody) when the
    /// reply is no `T`.
    pub async fn call<T: DeserializeOwned>(&self, to: &str, body: impl Body) -> Result<T> {
        self.call_within(CALL_TIMEOUT, to, body).await
    }

    /// The same with another time, of at most a year.
    ///
    /// # Errors
    /// Those of [`Process::call`].
    pub async fn call_within<T: DeserializeOwned>(
        &self,
        timeout: Duration,
        to: &str,
        body: impl Body,
    ) -> Result<T> {
        let op = timed(Op::new("call").text("to", to), timeout).body(&body);
        self.called(&op, timeout).await?.body()
    }

    async fn called(&self, op: &Op, timeout: Duration) -> Result<Event> {
        self.shared().request(self.key(), op, Want::Call(timeout), None).await
    }

    /// Asks, and gives the answer in the parts in which it comes. Each part starts the time anew.
    ///
    /// # Errors
    /// When it cannot be asked; what goes wrong later is the last item.
    pub async fn call_parts<T: DeserializeOwned>(
        &self,
        timeout: Duration,
        to: &str,
        body: impl Body,
    ) -> Result<Replies<T>> {
        let op = timed(Op::new("call").text("to", to), timeout).body(&body);
        let parts = Arc::new(Parts::default());
        let want = Want::Parts(timeout, &parts);
        match self.shared().put(self.key(), &op, want, None).await? {
            Some(end) => Ok(Replies::new(parts, end)),
            None => Err(Error::lost(true)),
        }
    }

    /// Calls a function of a module on a node, or on the nearest that has it with `any`. `args` are a tuple or a list.
    ///
    /// # Errors
    /// Those of [`Process::call`], and [`Code::Undef`](crate::Code::Undef) when there is no such function.
    pub async fn rpc<T: DeserializeOwned>(
        &self,
        node: &str,
        module: &str,
        function: &str,
        args: impl Body,
    ) -> Result<T> {
        self.rpc_within(CALL_TIMEOUT, node, module, function, args).await
    }

    /// The same with another time, of at most a year.
    ///
    /// # Errors
    /// Those of [`Process::rpc`].
    pub async fn rpc_within<T: DeserializeOwned>(
        &self,
        timeout: Duration,
        node: &str,
        module: &str,
        function: &str,
        args: impl Body,
    ) -> Result<T> {
        let op =
            Op::new("rpc").text("node", node).text("module", module).text("function", function);
        self.called(&timed(op, timeout).body(&args), timeout).await?.body()
    }

    /// Calls a function and wants no answer.
    ///
    /// # Errors
    /// Those of [`Process::send`].
    pub async fn rpc_cast(
        &self,
        node: &str,
        module: &str,
        function: &str,
        args: impl Body,
    ) -> Result<()> {
        let op = Op::new("rpc_cast").text("node", node).text("module", module);
        self.tell(op.text("function", function).body(&args)).await
    }

    // ===== answering =====

    /// Answers a call. Any process of this app may, and nobody hears when the caller waits no longer.
    ///
    /// # Errors
    /// Those of [`Process::send`]. A call without a reference wants no answer: then nothing is done.
    pub async fn reply(&self, call: &Event, body: impl Body) -> Result<()> {
        let Some(reference) = call.reference() else { return Ok(()) };
        self.answer(reference, Op::new("reply").uint("ref", reference).body(&body)).await
    }

    /// Sends a part of the answer; others follow, and [`Process::reply`] ends it. Waits while the callee is too far ahead of
    /// what the caller reads.
    ///
    /// # Errors
    /// Those of [`Process::send`].
    pub async fn reply_part(&self, call: &Event, part: impl Body) -> Result<()> {
        let Some(reference) = call.reference() else { return Ok(()) };
        let op = Op::new("reply").uint("ref", reference).bool("more", true).body(&part);
        self.ask(&op, None).await.map(drop)
    }

    /// Ends a call with a failure.
    ///
    /// # Errors
    /// Those of [`Process::send`].
    pub async fn raise(&self, call: &Event, failure: &Failure) -> Result<()> {
        let Some(reference) = call.reference() else { return Ok(()) };
        let mut class = failure.class.clone();
        truncate(&mut class, 255);
        let stack = failure.stack.as_deref().map(|stack| last(stack, STACK_BYTES_MAX));
        let op = Op::new("raise")
            .uint("ref", reference)
            .text("class", &class)
            .text("reason", last(&failure.reason, STACK_BYTES_MAX))
            .maybe_text("stack", stack);
        self.answer(reference, op).await
    }

    /// A reply that is written already, but for whose it is.
    pub(crate) async fn answer_with(&self, call: &Event, reply: Op) -> Result<()> {
        let Some(reference) = call.reference() else { return Ok(()) };
        self.answer(reference, reply.uint("ref", reference)).await
    }

    async fn answer(&self, reference: u64, op: Op) -> Result<()> {
        op.check()?;
        self.shared().put(OWN, &op, Want::Nothing, None).await?;
        self.shared().answered(reference);
        Ok(())
    }
}

/// Says the time where it is not the usual one.
fn timed(op: Op, timeout: Duration) -> Op {
    if timeout == CALL_TIMEOUT { op } else { op.uint("timeout_ms", millis(timeout)) }
}
