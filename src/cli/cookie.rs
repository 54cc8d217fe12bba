//! `pillion cookie`: make one, and say where this user's is. A cookie in use is never printed.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::exit::{Exit, Failure};
use super::{Globals, Output};
use crate::config::{Config, Key, Machine, Trust};
use crate::tls::cookie::{Cookie, CookieError, hex, read};

const EXAMPLES: &str = "\
Whoever has the cookie can be any node of the mesh: pass the file on as you would a private key.

Examples:
  (umask 077; pillion cookie new > cookie)      a new one, for --cookie-file
  pillion cookie path                           where yours is
  scp \"$(pillion cookie path)\" hal:.config/pillion/cookie";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct CookieArgs {
    #[command(subcommand)]
    command: Option<CookieCommand>,
    /// The file [default: what `pillion up` would use]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, global = true)]
    cookie_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum CookieCommand {
    /// Prints a new one; changes nothing
    New,
    /// Says what is in the file, without the secret
    Show,
    /// Prints where the file is
    Path,
}

pub(super) fn run(globals: &Globals, args: &CookieArgs) -> Result<(), Failure> {
    let output = Output { json: globals.json };
    match args.command.unwrap_or(CookieCommand::Show) {
        CookieCommand::New => {
            let text = Cookie::random()?.reveal();
            output.say(&if output.json {
                serde_json::json!({ "cookie": text }).to_string()
            } else {
                text
            })
        }
        CookieCommand::Path => {
            let (path, _) = file(args)?;
            let path = path.display().to_string();
            output.say(&if output.json {
                serde_json::json!({ "path": path }).to_string()
            } else {
                path
            })
        }
        CookieCommand::Show => show(&output, args),
    }
}

fn show(output: &Output, args: &CookieArgs) -> Result<(), Failure> {
    let (path, mesh) = file(args)?;
    let ids: Vec<String> = read(&path)?.iter().map(|cookie| hex(&cookie.id(&mesh))).collect();
    let path = path.display().to_string();
    if output.json {
        let shown = serde_json::json!({ "path": path, "mesh": mesh, "ids": ids });
        return output.say(&shown.to_string());
    }
    let mut text = format!("file  {path}\n");
    for (index, id) in ids.iter().enumerate() {
        let use_of_it = if index == 0 { "signs and verifies" } else { "verifies" };
        let _ = writeln!(text, "id    {id} in the mesh {mesh}; {use_of_it}");
    }
    output.say(&text)
}

/// The file, and the mesh that `up` would join with it.
fn file(args: &CookieArgs) -> Result<(PathBuf, String), Failure> {
    let given = args.cookie_file.as_ref().map(|path| path.to_string_lossy().into_owned());
    let flags: Vec<_> = given.map(|path| (Key::CookieFile, vec![path])).into_iter().collect();
    let config = Config::load(&flags, None, &here()?)?;
    match config.trust {
        Trust::Cookie { file, .. } => Ok((file, config.mesh.as_str().to_owned())),
        Trust::Certificates { .. } | Trust::Issued { .. } => Err(Failure::new(
            Exit::No,
            "there is no cookie: this mesh is held together by certificates",
        )),
    }
}

pub(super) fn here() -> Result<Machine, Failure> {
    Machine::here().map_err(|error| {
        Failure::new(Exit::Internal, format!("cannot look at the working directory: {error}"))
    })
}

impl From<CookieError> for Failure {
    fn from(error: CookieError) -> Self {
        let exit = match &error {
            CookieError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Exit::No
            }
            CookieError::Read { .. } | CookieError::Mode { .. } | CookieError::Owner { .. } => {
                Exit::Denied
            }
            CookieError::Write { .. } => Exit::CannotCreate,
            CookieError::Random => Exit::Internal,
            _ => Exit::Data,
        };
        Self::new(exit, error.to_string())
    }
}
