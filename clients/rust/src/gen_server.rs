//! A `GenServer`: a process with callbacks, which handles one event at a time.

use std::ops::Deref;
use std::sync::Arc;

use crate::body::Body;
use crate::caught::caught;
use crate::error::{Error, Failure, Result};
use crate::event::{Event, Kind};
use crate::op::Op;
use crate::pid::Pid;
use crate::process::{Process, Spawn};
use crate::state::{Key, Phase, Role, Shared};

/// A process with callbacks. It handles one event at a time, in their order, with `&mut self` for its state.
///
/// An error of a callback ends it, after [`GenServer::terminate`], with the reason `CLASS: TEXT`; that of `handle_call` is
/// raised to the caller first. Links and monitors hear the reason, and a supervisor can start it anew.
///
/// ```no_run
/// use pillion_client::{Client, Context, Event, Failure, GenServer, Reply, Spawn};
///
/// struct Counter(u64);
///
/// impl GenServer for Counter {
///     async fn handle_call(&mut self, call: Event, _: &mut Context) -> Result<Reply, Failure> {
///         self.0 += call.body::<u64>()?;
///         Ok(Reply::now(self.0))
///     }
/// }
///
/// # async fn example() -> pillion_client::Result<()> {
/// let client = Client::connect().await?;
/// let server = client.start(Counter(0), Spawn::new().name("counter")).await?;
/// let count: u64 = client.call("counter", 3).await?;
/// server.stop("normal").await;
/// # Ok(()) }
/// ```
pub trait GenServer: Send + 'static {
    /// Runs before anything else, and again when the app has left a node and is at another one.
    fn init(&mut self, _context: &mut Context) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Ok(()) }
    }

    /// Somebody wants an answer. With [`Reply::later`] it is given by [`Process::reply`] some other time.
    fn handle_call(
        &mut self,
        call: Event,
        _context: &mut Context,
    ) -> impl Future<Output = Result<Reply, Failure>> + Send {
        async move {
            let words = format!("this server answers no calls, such as {:?}", call.bytes());
            Err(Failure::new("FunctionClauseError", words))
        }
    }

    /// A request that wants no answer.
    fn handle_cast(
        &mut self,
        _cast: Event,
        _context: &mut Context,
    ) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Ok(()) }
    }

    /// Everything else: messages, `down`, `exit`, `gap` ...
    fn handle_info(
        &mut self,
        _event: Event,
        _context: &mut Context,
    ) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Ok(()) }
    }

    /// Runs last: with `normal` or what it was stopped with, `shutdown` when the app leaves its node, or why it failed. Not when
    /// the whole app or its client ends.
    fn terminate(
        &mut self,
        _reason: &str,
        _context: &mut Context,
    ) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// The answer to a call.
#[derive(Debug)]
#[must_use = "the caller waits for it"]
pub struct Reply(Option<Op>);

impl Reply {
    /// This one, now. One that cannot be written is a failure of the callback.
    pub fn now(body: impl Body) -> Self {
        Self(Some(Op::new("reply").body(&body)))
    }

    /// None yet: [`Process::reply`] gives it, with the call, which is kept until then.
    pub fn later() -> Self {
        Self(None)
    }
}

/// What a GenServer's callbacks act by: its process, which this derefs to.
#[derive(Debug)]
pub struct Context {
    process: Process,
    stop: Option<String>,
}

impl Context {
    pub(crate) fn new(process: Process) -> Self {
        Self { process, stop: None }
    }

    /// The server ends once the callback has returned and its reply is given.
    pub fn stop(&mut self, reason: &str) {
        self.stop = Some(reason.to_owned());
    }
}

impl Deref for Context {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

/// A GenServer that runs. It goes on when this is dropped.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
    key: Key,
    process: std::sync::Weak<()>,
    stop: tokio::sync::mpsc::Sender<String>,
}

impl Server {
    /// Its pid, as it is now; empty once it has ended.
    #[must_use]
    pub fn pid(&self) -> Pid {
        let state = self.shared.state();
        let pid = state.processes.get(&self.key).and_then(|process| process.pid.clone());
        pid.unwrap_or_else(|| Pid::from(""))
    }

    /// Whether it runs still.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.strong_count() > 0
    }

    /// Ends it with this reason, after `terminate` and what it handles just now; what else lies in its mailbox is lost. Returns
    /// once it has ended. Cancelled, it ends all the same. Its own callbacks say [`Context::stop`] instead: here they would wait for
    /// themselves.
    pub async fn stop(&self, reason: &str) {
        let _ = self.stop.send(reason.to_owned()).await;
        self.stop.closed().await;
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Server").field(&self.pid()).finish()
    }
}

impl Process {
    /// Starts a GenServer: a process with this state and its callbacks. Returns once `init` has.
    ///
    /// # Errors
    /// [`Code::Taken`](crate::Code::Taken) when somebody has the name; [`Code::Exception`](crate::Code::Exception) when `init`
    /// failed. It does not run then.
    pub async fn start(&self, mut server: impl GenServer, how: Spawn) -> Result<Server> {
        let process = self.spawn_as(how, Role::Server, false).await?;
        let (shared, key) = (Arc::clone(process.shared()), process.key());
        let alive = Arc::new(());
        let (stop, stopped) = tokio::sync::mpsc::channel(1);
        let handle =
            Server { shared: Arc::clone(&shared), key, process: Arc::downgrade(&alive), stop };
        let mut context = Context::new(process);
        if let Err(failure) = caught(server.init(&mut context)).await {
            let _ = context.exit(&failure.exit_reason()).await;
            return Err(Error::failed(&failure));
        }
        shared.run(async move {
            run(server, context, stopped).await;
            drop(alive);
        });
        Ok(handle)
    }
}

/// Handles events until the server ends. At another node it begins anew.
async fn run(
    mut server: impl GenServer,
    mut context: Context,
    mut stopped: tokio::sync::mpsc::Receiver<String>,
) {
    loop {
        let (reason, over) = match serve(&mut server, &mut context, &mut stopped).await {
            Ok(reason) => (reason, false),
            Err(reason) => (reason, true),
        };
        let ended = async {
            server.terminate(&reason, &mut context).await;
            Ok(())
        };
        if let Err(failure) = caught(ended).await {
            tracing::warn!("terminate failed: {}", failure.exit_reason());
        }
        let shared = Arc::clone(context.shared());
        let leaving = over && {
            let state = shared.state();
            let process = state.processes.get(&context.key());
            process.is_some_and(|process| process.ending && process.ended.is_none())
        };
        if !leaving {
            let _ = context.exit(&reason).await;
            return;
        }
        if !left(&shared, &context, &reason).await {
            return;
        }
        if let Err(failure) = caught(server.init(&mut context)).await {
            tracing::error!("init failed at the new node: {}", failure.exit_reason());
            let _ = context.exit(&failure.exit_reason()).await;
            return;
        }
    }
}

/// Exits here, and waits until the process is there again at another node.
async fn left(shared: &Arc<Shared>, context: &Context, reason: &str) -> bool {
    let epoch = shared.state().epoch;
    let key = context.key();
    let then: crate::state::Then = Box::new(move |state, _| {
        if let Some(process) = state.processes.get_mut(&key) {
            process.pid = None;
        }
    });
    // It is declared again: so this is no end of the process in the client's eyes.
    let _ = context.ask(&Op::new("exit").text("reason", reason), Some(then)).await;
    shared.idle.notify_waiters();
    let mut phase = shared.phase.subscribe();
    loop {
        {
            let state = shared.state();
            let gone = state.processes.get(&key).is_none_or(|process| process.ended.is_some());
            if state.phase == Phase::Closed || gone {
                return false;
            }
            if state.phase == Phase::Ready && state.epoch != epoch {
                return true;
            }
        }
        if phase.changed().await.is_err() {
            return false;
        }
    }
}

/// Handles events until there is a reason to end, or the mailbox gives nothing any more (`Err`).
pub(crate) async fn serve(
    server: &mut impl GenServer,
    context: &mut Context,
    stopped: &mut tokio::sync::mpsc::Receiver<String>,
) -> Result<String, String> {
    loop {
        let event = {
            let process = &context.process;
            tokio::select! {
                biased;
                Some(reason) = stopped.recv() => return Ok(reason),
                event = process.receive() => event,
            }
        };
        let event = match event {
            Ok(event) => event,
            Err(error) => return Err(error.reason().unwrap_or("shutdown").to_owned()),
        };
        let handled = match event.kind() {
            Kind::Call => call(server, context, event).await,
            Kind::Cast => caught(server.handle_cast(event, context)).await,
            _ => caught(server.handle_info(event, context)).await,
        };
        if let Err(failure) = handled {
            return Ok(failure.exit_reason());
        }
        if let Some(reason) = context.stop.take() {
            return Ok(reason);
        }
    }
}

async fn call(
    server: &mut impl GenServer,
    context: &mut Context,
    event: Event,
) -> Result<(), Failure> {
    let answered = caught(server.handle_call(event.clone(), context)).await;
    let answered = match answered {
        Ok(Reply(None)) => return Ok(()),
        Ok(Reply(Some(op))) => match op.check() {
            Ok(()) => Ok(op),
            Err(error) => Err(Failure::from(error)),
        },
        Err(failure) => Err(failure),
    };
    match answered {
        Ok(op) => {
            // Nobody waits for the answer where it cannot be given.
            let _ = context.answer_with(&event, op).await;
            Ok(())
        }
        Err(failure) => {
            let _ = context.raise(&event, &failure).await;
            Err(failure)
        }
    }
}
