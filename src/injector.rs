//! `pillion injector`: what makes pods of a Kubernetes cluster nodes of a mesh, when they ask for it by an annotation.
//!
//! ```text
//! API server --AdmissionReview--> server -> webhook -> annotations, template -> patch --> the pod, with a sidecar
//! sidecar ----CSR, token--------> server -> issuing -> authority
//!                                 serving: the certificate that the server shows, the webhook's caBundle
//!                                 lease: the one replica that does what only one does
//!                                 slices: where the pods of a mesh find each other, kept by that one
//!                                 missed: annotated pods that came in while nobody was here
//! ```
//!
//! Several replicas run side by side; what they share lies in Secrets of the API server. Whatever fails is tried again;
//! `/readyz` says what is missing. Nothing here is used, made or started by `pillion up`.

pub mod annotations;
mod authority;
mod events;
mod health;
mod issuing;
mod lease;
mod missed;
mod patch;
mod quantity;
mod server;
mod serving;
mod sidecar;
mod slices;
mod store;
mod template;
mod told;
mod webhook;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kube::client::ClientBuilder;
use kube::{Client, Config};
use pillion_strategies::problems;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::shutdown::Shutdown;
use authority::Authority;
pub use authority::Times;
use events::Events;
use health::Health;
use template::Template;
pub use template::TemplateError;

/// How long a connection to the API server may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer of the API server may take, a watch apart.
pub(crate) const ANSWER: Duration = Duration::from_secs(15);

/// Longest text of somebody else's that is told.
const TOLD_MAX: usize = 300;

/// What the injector is told to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The namespace that it runs in: its Secrets, Service and Lease are there.
    pub namespace: String,
    /// What the sidecar is, as the chart rendered it.
    pub template: PathBuf,
    /// Where the API server and the sidecars reach it, with TLS.
    pub listen: SocketAddr,
    /// Where probes and metrics are, without TLS.
    pub health: SocketAddr,
    /// The mesh of pods that name none; the template has to agree.
    pub mesh: String,
    /// The Secret of the certificate authority.
    pub ca_secret: String,
    /// The Secret of the certificate that is shown on `listen`.
    pub tls_secret: String,
    /// The Lease of the one replica that does what only one does.
    pub lease: String,
    /// The `MutatingWebhookConfiguration`.
    pub webhook: String,
    /// The Service that leads to `listen`.
    pub service: String,
    /// More names that the certificate is for: DNS names or IP addresses.
    pub hosts: Vec<String>,
    /// How long authorities and the certificates of nodes are good.
    pub times: Times,
    /// How long a certificate made here is good; a new one is made at two thirds of it.
    pub tls_lifetime: Duration,
    /// How long it goes on, not ready any more, after it was asked to stop: so long may others still come here.
    pub grace: Duration,
}

/// Why the injector cannot start. What happens later is tried again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InjectorError {
    /// The template cannot be meant.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// What lasts how long does not fit together.
    #[error("{0}")]
    Times(String),
    /// There is no way to an API server.
    #[error(
        "there is no API server to talk to: {0}. In a pod the service account's token has to be mounted; elsewhere KUBECONFIG says where it is"
    )]
    NoApiServer(String),
    /// An address is taken, or is none of this machine's.
    #[error("cannot listen on {address}: {source}. Choose another {flag}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Which flag says so.
        flag: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// What the parts of the injector share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Injector {
    pub settings: Arc<Settings>,
    pub client: Client,
    /// Whom the sidecars believe, and who signs; nothing until it was read or made.
    pub authority: watch::Receiver<Option<Arc<Authority>>>,
    /// Whether this replica does what only one does.
    pub leading: watch::Receiver<bool>,
    pub health: Arc<Health>,
    /// Room for the bodies of requests, in KiB.
    pub room: Arc<Semaphore>,
    pub events: Events,
    pub template: Arc<Template>,
    /// What the API server can do; nothing until it was asked.
    pub features: watch::Receiver<Option<patch::Features>>,
}

#[cfg(test)]
impl Injector {
    /// One that nobody runs, for an API server that does not exist, with this template and an authority of its own.
    pub(crate) fn alone(template: Template) -> Self {
        let at = SocketAddr::from(([127, 0, 0, 1], 0));
        let text = |text: &str| text.to_owned();
        let settings = Settings {
            namespace: text("pillion"),
            template: PathBuf::new(),
            listen: at,
            health: at,
            mesh: text("default"),
            ca_secret: text("pillion-ca"),
            tls_secret: text("pillion-webhook-tls"),
            lease: text("pillion-injector"),
            webhook: text("pillion"),
            service: text("pillion-injector"),
            hosts: Vec::new(),
            times: Times::default(),
            tls_lifetime: Duration::from_secs(3600),
            grace: Duration::ZERO,
        };
        let config = Config::new("http://127.0.0.1:1".parse().expect("a URL"));
        let client = Client::try_from(config).expect("a client");
        let authority = Authority::new("test").expect("an authority");
        Self {
            settings: Arc::new(settings),
            client: client.clone(),
            authority: watch::channel(Some(Arc::new(authority))).1,
            leading: watch::channel(true).1,
            health: Arc::new(Health::new()),
            room: server::room(),
            events: events::channel(client).0,
            template: Arc::new(template),
            features: watch::channel(Some(patch::Features { native: true, sleep: true })).1,
        }
    }
}

/// Runs the injector until it is asked to stop and has finished what was under way.
///
/// # Errors
/// [`InjectorError`], before anything was started.
pub async fn run(settings: Settings, shutdown: Shutdown) -> Result<(), InjectorError> {
    settings.times.check().map_err(InjectorError::Times)?;
    let template = Arc::new(Template::read(&settings.template, &settings.mesh)?);
    let client = connect().await?;
    let webhook = listen(settings.listen, "--listen").await?;
    let probes = listen(settings.health, "--health").await?;
    let (tls, resolver) = server::tls();

    let (authority_is, authority) = watch::channel(None);
    let (features_are, features) = watch::channel(None);
    let (leads, leading) = watch::channel(false);
    let health = Arc::new(Health::new());
    let (events, told) = events::channel(client.clone());
    let settings = Arc::new(settings);
    let room = server::room();
    let at = |listener: &TcpListener| {
        listener.local_addr().map_or_else(|_| "?".to_owned(), |at| at.to_string())
    };
    tracing::info!("the webhook is on {}, probes and metrics on {}", at(&webhook), at(&probes));
    let injector =
        Injector { settings, client, authority, leading, health, room, events, template, features };

    let mut tasks = JoinSet::new();
    tasks.spawn(told.run(shutdown.clone()));
    tasks.spawn(authority::keep(injector.clone(), authority_is, shutdown.clone()));
    tasks.spawn(serving::keep(injector.clone(), resolver, shutdown.clone()));
    tasks.spawn(webhook::ask_features(injector.clone(), features_are, shutdown.clone()));
    let candidate = lease::Candidate::of(&injector.settings);
    tasks.spawn(lease::stand(injector.client.clone(), candidate, leads, shutdown.clone()));
    let place = slices::Place {
        namespace: injector.settings.namespace.clone(),
        lease: injector.settings.lease.clone(),
    };
    let (client, leading) = (injector.client.clone(), injector.leading.clone());
    tasks.spawn(slices::keep(client, place, leading, shutdown.clone()));
    tasks.spawn(missed::watch(injector.clone(), shutdown.clone()));
    let probe_routes = server::probe_routes(Arc::clone(&injector.health));
    let serving =
        server::Serving { health: Arc::clone(&injector.health), grace: injector.settings.grace };
    tasks.spawn(server::serve(serving.clone(), probes, None, probe_routes, shutdown.clone()));
    let routes = server::routes(injector);
    tasks.spawn(server::serve(serving, webhook, Some(tls), routes, shutdown));
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    Ok(())
}

/// A client of the cluster that this is a pod of, or of the one that KUBECONFIG names.
async fn connect() -> Result<Client, InjectorError> {
    let failed = |error: &dyn std::error::Error| InjectorError::NoApiServer(chain(error));
    let mut config = Config::infer().await.map_err(|error| failed(&error))?;
    config.connect_timeout = Some(CONNECT);
    // Trying again is ours, and told.
    config.default_retry = false;
    Ok(ClientBuilder::try_from(config).map_err(|error| failed(&error))?.build())
}

async fn listen(address: SocketAddr, flag: &'static str) -> Result<TcpListener, InjectorError> {
    let mut bound = TcpListener::bind(address).await;
    if let Err(error) = &bound
        && error.kind() != io::ErrorKind::AddrInUse
        && address.ip() == SocketAddr::from(([0_u16; 8], 0)).ip()
    {
        // A machine without IPv6.
        bound = TcpListener::bind(SocketAddr::from(([0_u8; 4], address.port()))).await;
    }
    bound.map_err(|source| InjectorError::Listen { address, flag, source })
}

/// Makes a certificate good for this long from now, and from a minute ago, since clocks differ; a short one from a tenth
/// of its time ago.
pub(crate) fn lasts(params: &mut rcgen::CertificateParams, lifetime: Duration) {
    let now = since_1970();
    let start = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = start + now.saturating_sub((lifetime / 10).min(Duration::from_secs(60)));
    params.not_after = start + now + lifetime;
}

/// What the clock says.
pub(crate) fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    problems::line(&problems::chain(error), TOLD_MAX)
}
