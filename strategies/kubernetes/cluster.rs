//! The way to the API server: as a pod, or by a kubeconfig.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::guard::Guard;
use super::words;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// A client, and where it was led to.
pub(super) struct Cluster {
    pub(super) client: Client,
    /// The namespace of this pod, or of the kubeconfig's context.
    pub(super) namespace: String,
    /// Whether this is a pod of that cluster.
    pub(super) inside: bool,
    /// For people.
    pub(super) url: String,
}

/// Makes a client, anew each time: certificates, tokens and addresses may have changed.
pub(super) type Connect =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Cluster, String>> + Send>> + Send + Sync>;

/// The way that the options say.
pub(super) fn connect(kubeconfig: Option<PathBuf>, context: Option<String>) -> Connect {
    Arc::new(move || {
        let (kubeconfig, context) = (kubeconfig.clone(), context.clone());
        Box::pin(async move {
            let inside = kubeconfig.is_none()
                && context.is_none()
                && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
            let mut config = if inside {
                Config::incluster().map_err(|error| {
                    format!(
                        "this pod has no service account to ask the API server with: {}. Set automountServiceAccountToken: true in the pod, or write kubeconfig=PATH",
                        words::chain(&error)
                    )
                })?
            } else {
                outside(kubeconfig, context).await?
            };
            // Trying again is ours, and told.
            config.default_retry = false;
            config.connect_timeout = Some(CONNECT);
            let (namespace, url) =
                (config.default_namespace.clone(), config.cluster_url.to_string());
            let client = client(config).await.map_err(|error| {
                format!("the API server at {url} cannot be asked: {}", words::chain(&error))
            })?;
            Ok(Cluster { client, namespace, inside, url })
        })
    })
}

async fn outside(kubeconfig: Option<PathBuf>, context: Option<String>) -> Result<Config, String> {
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    let Some(path) = kubeconfig else {
        return Config::from_kubeconfig(&options).await.map_err(|error| {
            format!(
                "this is no pod (there is no KUBERNETES_SERVICE_HOST), and the kubeconfig cannot be used: {}. Write kubeconfig=PATH",
                words::chain(&error)
            )
        });
    };
    let unusable = |error: &dyn std::error::Error| {
        format!(
            "the kubeconfig {} cannot be used: {}. Check the path and the context",
            path.display(),
            words::chain(error)
        )
    };
    let read = Kubeconfig::read_from(&path).map_err(|error| unusable(&error))?;
    Config::from_custom_kubeconfig(read, &options).await.map_err(|error| unusable(&error))
}

/// A kubeconfig may name a program that has to be run for a token; it must not hold up everything else.
async fn client(config: Config) -> Result<Client, kube::Error> {
    let build = |config| Ok(ClientBuilder::try_from(config)?.with_layer(&Guard).build());
    if config.auth_info.exec.is_none() && config.auth_info.auth_provider.is_none() {
        return build(config);
    }
    match tokio::task::spawn_blocking(move || build(config)).await {
        Ok(built) => built,
        Err(error) => Err(kube::Error::Service(error.into())),
    }
}
