//! Flags that are described only when their command is what was typed.
//!
//! A description of all flags of all commands takes 200 KiB of stack and heap, and a node would hold them for as long
//! as it lives.

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, ValueHint};

/// The flags of a command, described once it is this command that was typed.
#[derive(Clone, Debug)]
pub(super) struct Later<A>(pub A);

impl<A: Args> Args for Later<A> {
    fn augment_args(command: Command) -> Command {
        command.defer(described::<A>)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// The line that describes it in the list of commands is what describes it here.
fn described<A: Args>(command: Command) -> Command {
    let about = command.get_about().cloned().unwrap_or_default();
    let mut command = A::augment_args(command).about(about).long_about(None);
    for flag in super::meaningless(command.get_name()) {
        if command.get_arguments().any(|arg| arg.get_id() == flag) {
            command = command.mut_arg(flag, |arg| arg.hide(true));
        }
    }
    command
}

impl<A: FromArgMatches> FromArgMatches for Later<A> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        A::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

/// `--socket` of the commands that start a node: where its socket will be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppSocket(pub Option<String>);

const SOCKET: &str = "socket";

impl Args for AppSocket {
    fn augment_args(command: Command) -> Command {
        let place = command.get_arguments().filter(|arg| !arg.is_global_set()).count();
        let describe = |arg: Arg| {
            arg.long(SOCKET)
                .value_name("PATH")
                .value_hint(ValueHint::FilePath)
                .help("The app socket [default: MESH/BASE.sock in the local directory]")
                .display_order(place)
        };
        // What every command takes is there already when a description comes later.
        if command.get_arguments().any(|arg| arg.get_id() == SOCKET) {
            command.mut_arg(SOCKET, describe)
        } else {
            command.arg(describe(Arg::new(SOCKET)))
        }
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for AppSocket {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(matches.get_one(SOCKET).cloned()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
