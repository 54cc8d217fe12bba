//! A program that is one `GenServer`, as a supervisor wants it: its end is the program's, and the status says how it was.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};

use crate::caught::caught;
use crate::client::{Builder, Client};
use crate::error::{Error, Result};
use crate::gen_server::{self, Context, GenServer};
use crate::op::Op;
use crate::process::Process;
use crate::state::{OWN, Phase, Role, Shared, Want};

/// How long the last words may take.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// What [`run`] makes of a client.
#[derive(Debug, Default)]
pub(crate) struct Program {
    /// A node hosts it: it lasts as long as that node.
    pub(crate) hosted: bool,
    /// The connection is closed for good.
    pub(crate) gone: Notify,
}

/// Is the whole program of one `GenServer`: connects, starts it, and gives the status when it has ended.
///
/// The server is the client's own process, registered under the name, if that is not empty; of a program that a node hosts it is
/// the hosted process, which has its name already. The status is 0 when it ended with `normal`, `shutdown` or `shutdown: ...`,
/// else 1, and a line on standard error has said why. At SIGTERM and SIGINT, and when the node is about to leave, it answers what
/// it was given, `terminate` runs with `shutdown`, and the status is 0. A hosted program whose node is gone ends with
/// `noconnection`. Cancelled, the client is closed without a `terminate`.
///
/// ```no_run
/// use pillion_client::GenServer;
///
/// struct Store;
/// impl GenServer for Store {}
///
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> std::process::ExitCode {
///     pillion_client::run(Store, "primary_store").await
/// }
/// ```
pub async fn run(server: impl GenServer, name: &str) -> ExitCode {
    Client::builder().run(server, name).await
}

impl Builder {
    /// [`run`] with settings. What is to happen when the node is about to leave is decided: [`Builder::on_draining`] is of no use.
    pub async fn run<S: GenServer>(self, server: S, name: &str) -> ExitCode {
        let title = match (name, variable("PILLION_NAME")) {
            ("", Some(hosted_as)) => hosted_as,
            ("", None) => std::any::type_name::<S>().rsplit("::").next().unwrap_or("").to_owned(),
            _ => name.to_owned(),
        };
        match program(self, server, name).await {
            Ok(reason) if is_normal(&reason) => ExitCode::SUCCESS,
            Ok(reason) => failed(&format!("{title} has ended: {reason}")),
            Err(error) => failed(&format!("{title} cannot start: {error}")),
        }
    }
}

fn is_normal(reason: &str) -> bool {
    reason == "normal" || reason == "shutdown" || reason.starts_with("shutdown:")
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn failed(line: &str) -> ExitCode {
    let line: Vec<&str> = line.split_whitespace().collect();
    let _ = writeln!(std::io::stderr(), "{}", line.join(" "));
    ExitCode::FAILURE
}

/// Gives the reason of its end.
async fn program(builder: Builder, server: impl GenServer, name: &str) -> Result<String> {
    let hosted = variable("PILLION_PROCESS").is_some();
    let leaves = Arc::new(Notify::new());
    let draining = Arc::clone(&leaves);
    let builder = builder.on_draining(move || draining.notify_one());
    let listen =
        |kind| signal(kind).map_err(|e| Error::new(crate::Code::Unsupported, false, e.to_string()));
    let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let stopped = async {
        tokio::select! {
            biased;
            _ = term.recv() => {}
            _ = int.recv() => {}
            () = leaves.notified() => {}
        }
    };
    let mut stopped = std::pin::pin!(stopped);
    let is_named = name.is_empty() || (hosted && variable("PILLION_NAME").as_deref() == Some(name));
    let connecting = async {
        let client = builder.connect().await?;
        if !is_named {
            client.register(name).await?;
        }
        Ok(client)
    };
    let client: Client = tokio::select! {
        biased;
        client = connecting => client?,
        () = &mut stopped => return Ok("shutdown".to_owned()),
    };
    let shared = Arc::clone(client.shared());
    let _ = shared.program.set(Program { hosted, gone: Notify::new() });
    {
        let mut state = shared.state();
        state.program = true;
        if let Some(own) = state.processes.get_mut(&OWN) {
            own.role = Role::Server;
        }
    }
    let mut serving = std::pin::pin!(serve(server, &shared));
    let reason = tokio::select! {
        biased;
        reason = &mut serving => reason,
        () = &mut stopped => {
            if shared.state().phase == Phase::Ready {
                let ((), reason) = tokio::join!(client.drain(), serving);
                reason
            } else {
                // There is no node to leave.
                shared.own_is_over("shutdown");
                serving.await
            }
        }
    };
    shared.end_own(&reason);
    if let Some(program) = shared.program.get() {
        let _ = tokio::time::timeout(GONE_WITHIN, program.gone.notified()).await;
    }
    Ok(reason)
}

/// Runs the server until its end, and `terminate`; gives the reason.
async fn serve(mut server: impl GenServer, shared: &Arc<Shared>) -> String {
    let mut context = Context::new(Process::new(Arc::clone(shared), OWN));
    if let Err(failure) = caught(server.init(&mut context)).await {
        return failure.exit_reason();
    }
    let (_stop, mut stopped) = mpsc::channel(1);
    let (Ok(reason) | Err(reason)) =
        gen_server::serve(&mut server, &mut context, &mut stopped).await;
    let ended = async {
        server.terminate(&reason, &mut context).await;
        Ok(())
    };
    if let Err(failure) = caught(ended).await {
        tracing::warn!("terminate failed: {}", failure.exit_reason());
    }
    let mut state = shared.state();
    let leaves = |own: &&mut crate::state::Process| own.ending && reason == "shutdown";
    if let Some(own) = state.processes.get_mut(&OWN).filter(leaves) {
        // A client that leaves need not wait for it any more.
        own.role = Role::Plain;
        drop(state);
        shared.idle.notify_waiters();
    } else {
        drop(state);
        shared.end_own(&reason);
    }
    reason
}

impl Shared {
    /// The own process exits with this reason, of a hosted program too, and the client is closed.
    fn end_own(&self, reason: &str) {
        let mut state = self.state();
        if state.phase == Phase::Ready {
            let exit = Op::new("exit");
            let exit = if reason == "normal" { exit } else { exit.text("reason", reason) };
            let _ = state.write(OWN, &exit, Want::Answer, None);
        }
        self.set_phase(&mut state, Phase::Closed);
        crate::state::release(state);
        self.closing.notify_one();
    }

    /// The process of a program has no node any more: its server ends with this reason.
    pub(crate) fn own_is_over(&self, reason: &str) {
        let mut wakers = Vec::new();
        let mut state = self.state();
        if let Some(own) = state.processes.get_mut(&OWN) {
            own.end(reason, &mut wakers);
        }
        self.set_phase(&mut state, Phase::Closed);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        self.closing.notify_one();
    }
}
