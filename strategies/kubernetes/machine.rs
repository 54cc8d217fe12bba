//! The pods of one machine, for a node that serves the apps of several pods: one per machine, an agent.
//!
//! It needs `list` and `watch` on pods in all namespaces; a role cannot say "of this machine", so the question does
//! (`spec.nodeName`). What is kept of a pod is who it is, and by what its processes can be known.

use tokio::sync::mpsc;
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

use super::cluster::{self, Connect};
use super::follow::{Follow, News, Place};
use super::objects::{ContainerStatus, Pod, PodStatus};
use crate::pods::{MachinePod, PodNews};

/// News on their way.
const NEWS_MAX: usize = 64;
/// Most containers of a pod that it is known by.
const CONTAINERS_MAX: usize = 64;
/// Says what is in a pod, where whoever wrote its manifest did.
const APP: &str = "app.kubernetes.io/name";
/// How the kubelet knows a pod that it runs from a file: its processes carry this, and its object another uid. Of the two
/// annotations that say it this one counts, because the kubelet runs no pod of the API server that has it: so nobody's pod
/// has the name of another.
const HASH: &str = "kubernetes.io/config.mirror";

/// Tells what pods there are on a machine, by the name that Kubernetes has for it, for as long as the future is polled and
/// somebody listens. It asks as a pod, or by the kubeconfig that is usual, and never gives up. Dropping it ends the
/// connection.
pub async fn follow_pods(machine: String, news: mpsc::Sender<PodNews>) {
    follow(cluster::connect(None, None), machine, news).await;
}

pub(super) async fn follow(connect: Connect, machine: String, news: mpsc::Sender<PodNews>) {
    let (tell, mut heard) = mpsc::channel(NEWS_MAX);
    let follow = Follow {
        connect,
        place: Place::Everywhere,
        resource: "pods",
        selector: String::new(),
        fields: format!("spec.nodeName={machine}"),
        index: 0,
        news: tell,
    };
    // What kube logs of an error is told in our words, once.
    let asks = follow.run::<Pod>(read).with_subscriber(Dispatch::none());
    let tells = async {
        while let Some((_, heard)) = heard.recv().await {
            let told = match heard {
                News::Connected { .. } => continue,
                News::Begins => PodNews::Begins,
                News::Listed(name, pod) => PodNews::Listed(name, pod),
                News::Whole => PodNews::Whole,
                News::Put(name, pod) => PodNews::Put(name, pod),
                News::Gone(name) => PodNews::Gone(name),
                News::Failed(why) => PodNews::Failed(why),
            };
            if news.send(told).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = tells => {}
        () = asks => {}
    }
}

/// What is kept of a pod.
fn read(pod: &Pod) -> MachinePod {
    let meta = &pod.metadata;
    let of = |map: &Option<std::collections::BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|map| map.get(key).cloned())
    };
    let PodStatus {
        container_statuses, init_container_statuses, ephemeral_container_statuses, ..
    } = &pod.status;
    let statuses =
        [container_statuses, init_container_statuses, ephemeral_container_statuses].into_iter();
    MachinePod {
        uid: meta.uid.clone().unwrap_or_default(),
        hash: of(&meta.annotations, HASH),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        account: pod.spec.service_account_name.clone().unwrap_or_default(),
        app: of(&meta.labels, APP),
        containers: statuses.flatten().filter_map(id).take(CONTAINERS_MAX).collect(),
    }
}

/// `containerd://0123...` is 0123...
fn id(status: &ContainerStatus) -> Option<String> {
    let (_, id) = status.container_id.as_deref()?.rsplit_once("://")?;
    Some(id.to_owned())
}
