//! The command line: parse, run one command, say how it went.
//!
//! One file per family of commands. A command writes its answer to standard output through [`output::Output`] and
//! returns a [`Failure`] when there is none; nothing here exits the process. `--json` is for programs: the answer as the
//! JSON dialect of the socket has it, one object per line where more follow.

mod bench;
mod calls;
mod completion;
mod config;
mod connection;
mod cookie;
#[cfg(feature = "admin")]
mod dashboard;
mod doctor;
mod events;
mod exit;
mod host;
#[cfg(feature = "injector")]
mod injector;
mod kv;
mod later;
mod life;
mod messages;
mod nodes;
mod output;
mod peers;
mod presence;
mod processes;
mod pubsub;
mod run;
mod serve;
mod shell;
pub mod up;
mod version;

use std::future::Future;
use std::process::ExitCode;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{CommandFactory, Parser, Subcommand, ValueHint};

pub use connection::Connection;
pub use exit::{Exit, Failure};
use later::Later;
pub use output::{Output, clean, table};

const EXAMPLES: &str = "\
Examples:
  pillion up                          start a node beside your app
  pillion nodes                       who is there, and why somebody is not
  pillion explain b@hal               why that one is not, and what to do
  pillion doctor                      what is wrong with this machine, and what to do
  pillion receive inbox               in one terminal
  pillion send inbox '\"hello\"'        in another, on this machine
  pillion send inbox@b@hal '[1, 2]'   or from another node
  pillion sub 'shop.*'                what is published to topics, on any node
  pillion rpc any stock.count         calls a function, wherever it is served
  pillion host bot -- ./bot           keeps a program up, as a process with a name
  pillion completion zsh > ~/.zfunc/_pillion

";

/// Nodes, processes and messages for programs in any language.
///
/// `pillion up` runs a node beside your app; every other command talks to one. It is found by itself when only one runs
/// on this machine; else name its socket with --socket or PILLION_SOCKET.
#[derive(Debug, Parser)]
#[command(
    name = "pillion",
    disable_help_subcommand = true,
    version,
    arg_required_else_help = true,
    styles = styles(),
    after_help = concat_help()
)]
#[allow(clippy::doc_markdown, reason = "clap prints it as it stands, to people at a terminal")]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Default, clap::Args)]
#[allow(clippy::doc_markdown, reason = "clap prints it as it stands, to people at a terminal")]
pub struct Globals {
    /// Answers in JSON, one object per line where more follow
    #[arg(long, global = true, display_order = 900)]
    pub json: bool,

    // A text, not a path: `up` has a flag of the same name, and clap keeps one type per name.
    /// The node's app socket [default: PILLION_SOCKET, else the only one that answers]
    #[arg(long, global = true, value_name = "PATH", value_hint = ValueHint::FilePath, display_order = 901)]
    pub socket: Option<String>,
}

impl Globals {
    /// A flag that was given and that the command could only pass over.
    fn ignored_by(&self, command: &Command) -> Option<&'static str> {
        let (json, socket) = match command {
            Command::Up(_) | Command::Run(_) => (true, false),
            Command::Completion(_) => (true, true),
            #[cfg(feature = "injector")]
            Command::Injector(_) => (true, true),
            Command::Config(args) => (false, !args.0.takes_socket()),
            Command::Bench(_) | Command::Cookie(_) | Command::Version => (false, true),
            _ => (false, false),
        };
        if json && self.json {
            Some("--json")
        } else if socket && self.socket.is_some() {
            Some("--socket <PATH>")
        } else {
            None
        }
    }
}

/// What of the flags that every command takes is not shown for this one, because it means nothing there.
fn meaningless(command: &str) -> &'static [&'static str] {
    match command {
        "up" | "run" => &["json"],
        "completion" | "injector" => &["json", "socket"],
        "bench" | "config" | "cookie" => &["socket"],
        _ => &[],
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a node beside an app
    #[command(display_order = 1)]
    Up(Box<Later<up::UpArgs>>),
    /// Starts a node and an app beside it, and ends with the app
    #[command(display_order = 2)]
    Run(Box<Later<run::RunArgs>>),
    /// Lists the nodes, with the reason for each that is not connected
    Nodes(Later<nodes::NodesArgs>),
    /// Asks a node for a sign of life; connects to it first if need be
    Ping(Later<nodes::PingArgs>),
    /// Waits until nodes are connected: certain ones, or so many of a role
    WaitFor(Later<nodes::WaitForArgs>),
    /// Connects to a node by its name or address
    Connect(Later<nodes::ConnectArgs>),
    /// Disconnects from a node, and stays away from it
    Disconnect(Later<nodes::DisconnectArgs>),
    /// Says whether the node is ready for work, and why not
    Ready(Later<life::ReadyArgs>),
    /// Lets the node leave: apps hear of it, and other nodes give it nothing new
    Drain(Later<life::DrainArgs>),
    /// Lists everybody known, wanted and connected, and who reports them
    Peers,
    /// Says why a node is connected or not, and what to do
    Explain(Later<peers::ExplainArgs>),
    /// Looks at everything that a mesh needs, and says what to do
    Doctor(Later<doctor::DoctorArgs>),
    /// Shows the node in a browser, live
    #[cfg(feature = "admin")]
    Dashboard(Later<dashboard::DashboardArgs>),
    /// Sends a message to a process, by name or pid
    Send(Later<messages::SendArgs>),
    /// Takes a name and prints what is sent to it
    Receive(Later<messages::ReceiveArgs>),
    /// Calls a process and prints its reply
    Call(Later<calls::CallArgs>),
    /// Sends a request that wants no answer
    Cast(Later<messages::CastArgs>),
    /// Calls a function of a module, on one node, on any or on several
    Rpc(Later<calls::RpcArgs>),
    /// Answers calls of functions, each by a command
    Serve(Later<serve::ServeArgs>),
    /// Publishes a message to a topic, or one for each line of standard input
    #[command(visible_alias = "publish")]
    Pub(Later<pubsub::PubArgs>),
    /// Subscribes to topics and prints what is published to them
    #[command(visible_alias = "subscribe")]
    Sub(Later<pubsub::SubArgs>),
    /// Lists the topics that somebody has subscribed to
    Topics,
    /// Lists who is present under a topic, or is present there
    Presence(Later<presence::PresenceArgs>),
    /// Lists the modules, and which nodes serve them
    Modules,
    /// Lists the groups, or the members of one
    Groups(Later<calls::GroupsArgs>),
    /// Waits for the end of a process and prints why
    Monitor(Later<processes::MonitorArgs>),
    /// Keeps values by keys, in a process of a node
    Kv(Later<kv::KvArgs>),
    /// Runs a program as a process of the node, and keeps it up
    Host(Later<host::HostArgs>),
    /// Ends, restarts or forgets what the node hosts
    Child(Later<host::ChildArgs>),
    /// Starts a program that this node or another one offers
    Spawn(Later<host::SpawnArgs>),
    /// Shows what the node hosts, and who keeps it up
    Tree,
    /// Lists the processes of a node
    Ps(Later<processes::PsArgs>),
    /// Shows what is known of a process
    Info(Later<processes::InfoArgs>),
    /// Lists the registered names
    Names(Later<processes::NamesArgs>),
    /// Types commands one by one, as in iex
    Shell(Later<shell::ShellArgs>),
    /// Prints nodes that come and go and processes that die, as it happens
    Events,
    /// Measures nodes on this machine beside the least that they could cost
    Bench(Later<bench::BenchArgs>),
    /// Makes a cookie, or says where this user's is
    Cookie(Later<cookie::CookieArgs>),
    /// Checks a configuration, or prints what would be used and why
    Config(Later<config::ConfigArgs>),
    /// Puts sidecars into the pods of a Kubernetes cluster that ask for one
    #[cfg(feature = "injector")]
    Injector(Box<Later<injector::InjectorArgs>>),
    /// Prints a completion script for a shell
    Completion(Later<completion::CompletionArgs>),
    /// Prints the version
    Version,
}

fn concat_help() -> String {
    format!("{EXAMPLES}{}", exit::HELP)
}

fn styles() -> Styles {
    Styles::styled()
        .header(AnsiColor::Yellow.on_default().bold())
        .usage(AnsiColor::Yellow.on_default().bold())
        .literal(AnsiColor::Green.on_default())
}

/// The whole program: what was typed, done.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_understood(&error),
    };
    if let Some(flag) = cli.globals.ignored_by(&cli.command) {
        let mut command = Cli::command();
        let words = format!("the argument '{flag}' means nothing to this command");
        return not_understood(&command.error(clap::error::ErrorKind::ArgumentConflict, words));
    }
    match cli.command.run(&cli.globals) {
        Ok(code) => code,
        Err(failure) => failure.tell(),
    }
}

/// Help goes out as it is; a mistake is told in the manner of all others.
fn not_understood(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    if let Some(text) = text.strip_prefix("error: ") {
        return Failure::new(Exit::Usage, text.trim_end()).tell();
    }
    let _ = error.print();
    Exit::Usage.into()
}

impl Command {
    fn run(self, globals: &Globals) -> Result<ExitCode, Failure> {
        let done = match self {
            // The only one whose end is somebody else's.
            Self::Run(args) => return run::run(&args.0),
            Self::Up(args) => up::run(&args.0),
            Self::Nodes(args) => wait(nodes::nodes(globals, &args.0)),
            Self::Ping(args) => wait(nodes::ping(globals, &args.0)),
            Self::WaitFor(args) => wait(nodes::wait_for(globals, &args.0)),
            Self::Connect(args) => wait(nodes::connect(globals, &args.0)),
            Self::Disconnect(args) => wait(nodes::disconnect(globals, &args.0)),
            Self::Ready(args) => wait(life::ready(globals, &args.0)),
            Self::Drain(args) => wait(life::drain(globals, &args.0)),
            Self::Peers => wait(peers::peers(globals)),
            Self::Explain(args) => wait(peers::explain(globals, &args.0)),
            Self::Doctor(args) => wait(doctor::doctor(globals, &args.0)),
            #[cfg(feature = "admin")]
            Self::Dashboard(args) => wait(dashboard::dashboard(globals, &args.0)),
            Self::Send(args) => wait(messages::send(globals, &args.0)),
            Self::Receive(args) => wait(messages::receive(globals, &args.0)),
            Self::Kv(args) => wait(kv::kv(globals, &args.0)),
            Self::Host(args) => wait(host::host(globals, &args.0)),
            Self::Child(args) => wait(host::child(globals, &args.0)),
            Self::Spawn(args) => wait(host::spawn(globals, &args.0)),
            Self::Tree => wait(host::tree(globals)),
            Self::Ps(args) => wait(processes::ps(globals, &args.0)),
            Self::Info(args) => wait(processes::info(globals, &args.0)),
            Self::Names(args) => wait(processes::names(globals, &args.0)),
            Self::Call(args) => wait(calls::call(globals, &args.0)),
            Self::Cast(args) => wait(messages::cast(globals, &args.0)),
            Self::Rpc(args) => wait(calls::rpc(globals, &args.0)),
            Self::Serve(args) => wait(serve::serve(globals, &args.0)),
            Self::Pub(args) => wait(pubsub::publish(globals, &args.0)),
            Self::Sub(args) => wait(pubsub::subscribe(globals, &args.0)),
            Self::Topics => wait(pubsub::topics(globals)),
            Self::Presence(args) => wait(presence::presence(globals, &args.0)),
            Self::Modules => wait(calls::modules(globals)),
            Self::Groups(args) => wait(calls::groups(globals, &args.0)),
            Self::Monitor(args) => wait(processes::monitor(globals, &args.0)),
            Self::Shell(args) => wait(shell::shell(globals, &args.0)),
            Self::Events => wait(events::events(globals)),
            Self::Bench(args) => bench::run(globals, &args.0),
            Self::Cookie(args) => cookie::run(globals, &args.0),
            Self::Config(args) => config::run(globals, &args.0),
            #[cfg(feature = "injector")]
            Self::Injector(args) => injector::run(globals, &args.0),
            Self::Completion(args) => completion::run(&args.0, &mut Cli::command()),
            Self::Version => version::run(globals),
        };
        done.map(|()| ExitCode::SUCCESS)
    }
}

/// Runs one command on a runtime of this thread.
fn wait<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Internal, format!("cannot start: {error}")))?
        .block_on(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_socket_may_be_named_before_and_after_the_command() {
        for line in ["pillion --socket s up", "pillion up --socket s"] {
            let cli = Cli::try_parse_from(line.split(' ')).expect("a good line");
            let Command::Up(up) = cli.command else { panic!("up") };
            assert_eq!(up.0.socket.0.as_deref(), Some("s"), "{line}");
        }
        let cli = Cli::try_parse_from(["pillion", "nodes", "--socket", "s", "--json"]).unwrap();
        assert_eq!((cli.globals.socket.as_deref(), cli.globals.json), (Some("s"), true));
    }

    #[test]
    fn a_flag_that_a_command_could_only_pass_over_is_refused() {
        let ignored = |line: &str| {
            let cli = Cli::try_parse_from(line.split(' ')).expect(line);
            cli.globals.ignored_by(&cli.command).map(|flag| flag[..5].to_owned())
        };
        for line in ["up --json", "run --json -- true", "completion bash --json"] {
            assert_eq!(ignored(&format!("pillion {line}")).as_deref(), Some("--jso"), "{line}");
        }
        for line in ["completion bash", "bench", "cookie path", "config check", "version"] {
            let line = format!("pillion {line} --socket s");
            assert_eq!(ignored(&line).as_deref(), Some("--soc"), "{line}");
        }
        for line in ["config print --socket s", "up --socket s", "bench --json", "version --json"] {
            assert_eq!(ignored(&format!("pillion {line}")), None, "{line}");
        }
    }
}
