//! `pillion config`: what a file or the flags would mean, without starting anything.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueHint};
use serde_json::{Map, json};

use super::cookie::here;
use super::exit::{Exit, Failure};
use super::up::UpArgs;
use super::{Globals, Output};
use crate::config::{self, Config, Machine, Problems};

const EXAMPLES: &str = "\
Examples:
  pillion config check pillion.toml     everything that is wrong with it, at once
  pillion config print                  what `pillion up` would use here, and why
  pillion config print --name stock > pillion.toml";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum ConfigCommand {
    /// Says whether a file is good, or all that `up` without flags would use
    Check(CheckArgs),
    /// Prints what `up` with the same flags would use, as TOML, each value with its source
    #[command(long_about = None)]
    Print(Box<PrintArgs>),
}

#[derive(Args, Clone, Debug)]
struct CheckArgs {
    /// The file; what `pillion up` alone would use when left out
    #[arg(value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
struct PrintArgs {
    #[command(flatten)]
    up: UpArgs,
}

impl ConfigArgs {
    /// Whether `--socket` is one of its settings.
    pub(super) fn takes_socket(&self) -> bool {
        matches!(self.command, ConfigCommand::Print(_))
    }
}

pub(super) fn run(globals: &Globals, args: &ConfigArgs) -> Result<(), Failure> {
    let output = Output { json: globals.json };
    let machine = here()?;
    match &args.command {
        ConfigCommand::Check(args) => check(&output, args.file.as_deref(), &machine),
        ConfigCommand::Print(args) => {
            let config = args.up.meant(&machine)?;
            output.say(&if output.json { as_json(&config) } else { config::print(&config) })
        }
    }
}

fn check(output: &Output, file: Option<&Path>, machine: &Machine) -> Result<(), Failure> {
    let checked = match file {
        Some(file) => config::check(file, machine),
        None => Config::load(&[], None, machine),
    };
    match checked {
        Ok(_) if output.json => output.say(&json!({ "problems": [] }).to_string()),
        Ok(_) => output.say("good"),
        Err(Problems(problems)) if output.json => {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            output.say(&json!({ "problems": problems }).to_string())?;
            Err(Failure::new(Exit::Data, ""))
        }
        Err(problems) => Err(Failure { exit: Exit::Data, ..problems.into() }),
    }
}

fn as_json(config: &Config) -> String {
    let shown = config.shown.iter().map(|(key, shown)| {
        let value = json!({ "toml": shown.toml, "from": shown.origin.to_string() });
        (key.word().to_owned(), value)
    });
    serde_json::Value::Object(shown.collect::<Map<_, _>>()).to_string()
}
