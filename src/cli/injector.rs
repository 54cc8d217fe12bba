//! `pillion injector`: runs in a cluster, beside nobody, and puts sidecars into pods.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueHint};
use tokio::signal::unix::{SignalKind, signal};

use super::exit::{Exit, Failure};
use super::{Globals, Output};
use crate::config::{LogFormat, LogLevel, value};
use crate::injector::{self, InjectorError, Settings, Times, annotations};
use crate::{logging, shutdown};

const EXAMPLES: &str = "\
The chart `pillion` runs it. It talks to the API server as its pod's service account, or as KUBECONFIG says.

Examples:
  pillion injector --namespace pillion --name pillion --template sidecar.json
  pillion injector annotations          what a pod may ask for";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[allow(clippy::doc_markdown, reason = "clap prints it as it stands, to people at a terminal")]
pub(super) struct InjectorArgs {
    #[command(subcommand)]
    command: Option<InjectorCommand>,

    /// The namespace that it runs in
    #[arg(long, value_name = "NAMESPACE", required = true)]
    namespace: Option<String>,

    /// What the names below begin with: the chart's full name
    #[arg(long, value_name = "NAME", required = true)]
    name: Option<String>,

    /// What the sidecar is, as the chart renders it
    #[arg(long, value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    template: Option<PathBuf>,

    /// Where the API server and the sidecars reach it
    #[arg(long, value_name = "ADDR", default_value = "[::]:8443")]
    listen: SocketAddr,

    /// Where /livez, /readyz and /metrics are
    #[arg(long, value_name = "ADDR", default_value = "[::]:4471")]
    health: SocketAddr,

    /// The mesh of pods that name none
    #[arg(long, value_name = "MESH", default_value = "default")]
    mesh: String,

    /// The Secret of the certificate authority [default: NAME-ca]
    #[arg(long, value_name = "SECRET")]
    ca_secret: Option<String>,

    /// The Secret of the certificate that it shows [default: NAME-webhook-tls]
    #[arg(long, value_name = "SECRET")]
    tls_secret: Option<String>,

    /// The Lease by which one of several replicas leads [default: NAME-injector]
    #[arg(long, value_name = "LEASE")]
    lease: Option<String>,

    /// The MutatingWebhookConfiguration [default: NAME]
    #[arg(long, value_name = "WEBHOOK")]
    webhook: Option<String>,

    /// The Service that leads to --listen [default: NAME-injector]
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,

    /// One more name or IP address that the certificate is for; may be repeated
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,

    /// How long a certificate that it makes is good, from 10s; a new one is made at two thirds of it
    #[arg(long, value_name = "DURATION", default_value = "2160h", value_parser = lifetime)]
    tls_lifetime: Duration,

    /// How long a certificate authority is good; it is replaced when a third of that is left
    #[arg(long, value_name = "DURATION", default_value = "87600h", value_parser = lifetime)]
    ca_lifetime: Duration,

    /// How long a new authority is known to all before it signs
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = short)]
    ca_publish: Duration,

    /// How long the certificate of a sidecar is good; sidecars ask for another one at two thirds of it
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = short)]
    leaf_lifetime: Duration,

    /// How long it goes on after it was asked to stop, not ready any more
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = grace)]
    grace: Duration,

    /// How much is logged: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = LogLevel::read)]
    log_level: LogLevel,

    /// How it is logged: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = LogFormat::read)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum InjectorCommand {
    /// Prints the annotations of pods, as a table in Markdown
    Annotations,
}

fn lifetime(text: &str) -> Result<Duration, String> {
    value::parse_duration(text, Duration::from_secs(10), Duration::from_secs(10 * 365 * 24 * 3600))
}

fn short(text: &str) -> Result<Duration, String> {
    value::parse_duration(text, Duration::from_secs(2), Duration::from_secs(365 * 24 * 3600))
}

fn grace(text: &str) -> Result<Duration, String> {
    value::parse_duration(text, Duration::ZERO, Duration::from_secs(3600))
}

impl InjectorArgs {
    fn settings(&self) -> Settings {
        let name = self.name.clone().unwrap_or_default();
        let or = |given: &Option<String>, more: &str| {
            given.clone().unwrap_or_else(|| format!("{name}{more}"))
        };
        Settings {
            namespace: self.namespace.clone().unwrap_or_default(),
            template: self.template.clone().unwrap_or_default(),
            listen: self.listen,
            health: self.health,
            mesh: self.mesh.clone(),
            ca_secret: or(&self.ca_secret, "-ca"),
            tls_secret: or(&self.tls_secret, "-webhook-tls"),
            lease: or(&self.lease, "-injector"),
            webhook: or(&self.webhook, ""),
            service: or(&self.service, "-injector"),
            hosts: self.host.clone(),
            times: Times {
                authority: self.ca_lifetime,
                publish: self.ca_publish,
                leaf: self.leaf_lifetime,
            },
            tls_lifetime: self.tls_lifetime,
            grace: self.grace,
        }
    }
}

pub(super) fn run(globals: &Globals, args: &InjectorArgs) -> Result<(), Failure> {
    if let Some(InjectorCommand::Annotations) = args.command {
        return Output { json: globals.json }.say(&annotations::table());
    }
    logging::start(args.log_level, args.log_format);
    super::wait(async {
        let failed =
            |error| Failure::new(Exit::Internal, format!("cannot listen for signals: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let (trigger, shutdown) = shutdown::channel();
        let mut running = std::pin::pin!(injector::run(args.settings(), shutdown));
        let mut asked = false;
        loop {
            tokio::select! {
                biased;
                ended = &mut running => return Ok(ended?),
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if asked {
                return Ok(());
            }
            asked = true;
            tracing::info!("leaving: going on for {:?}; a second signal stops at once", args.grace);
            trigger.ask();
        }
    })
}

impl From<InjectorError> for Failure {
    fn from(error: InjectorError) -> Self {
        let exit = match &error {
            InjectorError::Template(_) => Exit::Data,
            InjectorError::Times(_) => Exit::Usage,
            InjectorError::NoApiServer(_) => Exit::NoDaemon,
            InjectorError::Listen { .. } => Exit::CannotCreate,
        };
        Self::new(exit, error.to_string())
    }
}
