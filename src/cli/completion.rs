//! `pillion completion`: a script that teaches a shell the commands.

use clap::Args;
use clap_complete::Shell;

use super::Output;
use super::exit::Failure;

const EXAMPLES: &str = "\
Examples:
  pillion completion bash > ~/.local/share/bash-completion/completions/pillion
  pillion completion zsh > ~/.zfunc/_pillion
  pillion completion fish > ~/.config/fish/completions/pillion.fish";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct CompletionArgs {
    /// Which shell
    shell: Shell,
}

pub(super) fn run(args: &CompletionArgs, command: &mut clap::Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "pillion", &mut script);
    Output { json: false }.say(&String::from_utf8_lossy(&script))
}
