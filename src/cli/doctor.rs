//! `pillion doctor`: looks at everything that a mesh needs, and says in plain words what to do.
//!
//! It asks the node what only the node knows, and tries the rest itself: the machine, not the configuration, is what
//! breaks at night. Without a node it looks at what it can.

#[cfg(feature = "kubernetes")]
mod cluster;
mod findings;
mod machine;
mod multicast;
mod names;
mod node;
mod trust;

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value as Json, json};

use self::findings::{Finding, State};
use super::connection::Connection;
use super::cookie::here;
use super::exit::{Exit, Failure};
use super::{Globals, Output};
use crate::client::Op;
use crate::config::Config;
use crate::wire::command::Delivery;

const EXAMPLES: &str = "\
Each line is ok, a warning or failed: what was looked at, what was found, what to do.
Ends with 1 when something failed. It works without a node too, and checks what it can.

Examples:
  pillion doctor
  pillion doctor --json | jq '.findings[] | select(.state != \"ok\")'
  pillion explain b@hal              why one node is not connected";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct DoctorArgs {}

pub(super) async fn doctor(globals: &Globals, _: &DoctorArgs) -> Result<(), Failure> {
    let output = Output { json: globals.json };
    let machine = here()?;
    let mut findings = Vec::new();
    // A wrong configuration is a finding, not the end: what it says of the node is not needed while one runs.
    let config = match Config::load(&[], None, &machine) {
        Ok(config) => Some(config),
        Err(problems) => {
            let found = format!("the environment of this shell is wrong: {problems}");
            findings.push(Finding::failed("config", found, "mend that first"));
            None
        }
    };
    let socket = globals.socket.as_ref().map(PathBuf::from);
    let path = node::socket(socket, machine.uid, &mut findings);
    let diagnosis = match &path {
        Some(path) => match ask(path).await {
            Ok(diagnosis) => Some(diagnosis),
            Err(failure) => {
                let advice = "is it stopped (SIGSTOP) or out of processor time? Its log says more; restarting it costs its peers nothing but a nodedown";
                findings.push(Finding::failed("socket", failure.words, advice));
                None
            }
        },
        None => None,
    };
    if let Some(path) = &path {
        node::answers(path, diagnosis.as_ref(), &mut findings);
    }
    let dir = diagnosis.as_ref().and_then(|diagnosis| diagnosis["dir"].as_str()).map(PathBuf::from);
    let dir = dir.or_else(|| config.as_ref().map(|config| config.dir.clone()));
    if let Some(dir) = dir {
        machine::local_dir(&dir, machine.uid, diagnosis.is_some(), &mut findings);
    }
    trust::cookie(diagnosis.as_ref(), config.as_ref(), &mut findings);
    trust::certificates(diagnosis.as_ref(), config.as_ref(), &mut findings);
    machine::clock(diagnosis.as_ref(), &mut findings);
    machine::ports(diagnosis.as_ref(), &mut findings).await;
    if let Some(diagnosis) = &diagnosis {
        node::pods(diagnosis, &mut findings);
        node::strategies(diagnosis, &mut findings);
        node::ignored(diagnosis, &mut findings);
        node::peers(diagnosis, &mut findings);
    }
    machine::multicast(diagnosis.as_ref(), &mut findings).await;
    names::names(diagnosis.as_ref(), config.as_ref(), &mut findings).await;
    #[cfg(feature = "kubernetes")]
    cluster::access(diagnosis.as_ref(), config.as_ref(), &mut findings).await;
    machine::files(diagnosis.as_ref(), &mut findings);
    tell(&output, &findings, diagnosis.is_some())
}

/// What only the node knows.
async fn ask(path: &std::path::Path) -> Result<Json, Failure> {
    let socket = Some(path.display().to_string());
    let connection =
        Connection::open(&Globals { json: true, socket }, "doctor", Delivery::Pull).await?;
    let answer = connection.request(Op::new("doctor")).await?;
    let mut diagnosis = answer.to_value()["diagnosis"].take();
    let answer = connection.request(Op::new("peers")).await?;
    diagnosis["peers"] = answer.to_value()["peers"].take();
    if diagnosis["node"].is_string() {
        Ok(diagnosis)
    } else {
        Err(Failure::new(Exit::Internal, "the node has no diagnosis of itself"))
    }
}

fn tell(output: &Output, findings: &[Finding], runs: bool) -> Result<(), Failure> {
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    let (failed, warnings) = (count(State::Failed), count(State::Warning));
    if output.json {
        let all: Vec<Json> = findings.iter().map(Finding::json).collect();
        let shown = json!({
            "findings": all, "failed": failed, "warnings": warnings, "node": runs
        });
        output.say(&shown.to_string())?;
    } else {
        let mut text: String = findings.iter().map(Finding::line).collect();
        let sum = match (failed, warnings) {
            (0, 0) => "all is well".to_owned(),
            (0, n) => format!("nothing failed, {n} worth a look"),
            (n, 0) => format!("{n} failed"),
            (n, m) => format!("{n} failed, {m} worth a look"),
        };
        text.push('\n');
        text.push_str(&sum);
        output.say(&text)?;
    }
    if failed == 0 { Ok(()) } else { Err(Failure::no()) }
}
