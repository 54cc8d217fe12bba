//! The pods of a machine, as an API server tells of them.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::machine::follow;
use super::script::{Mood, Script};
use crate::pods::{MachinePod, PodNews};

fn pod(namespace: &str, name: &str, uid: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": namespace, "uid": uid,
            "labels": {"app.kubernetes.io/name": "cart"}, "annotations": {"kubernetes.io/config.mirror": "0f".repeat(16), "kubernetes.io/config.hash": "1e".repeat(16)}},
        "spec": {"serviceAccountName": "till", "nodeName": "node-1", "containers": [{"name": "app"}]},
        "status": {
            "phase": "Running",
            "containerStatuses": [{"containerID": "containerd://aa11"}, {"containerID": null}, {}],
            "initContainerStatuses": [{"containerID": "cri-o://bb22"}],
            "ephemeralContainerStatuses": null,
        },
    })
}

struct Heard {
    news: mpsc::Receiver<PodNews>,
    _task: JoinSet<()>,
}

impl Heard {
    fn of(script: &Script) -> Self {
        let (tell, news) = mpsc::channel(8);
        let mut task = JoinSet::new();
        task.spawn(follow(script.connect(), "node-1".to_owned(), tell));
        Self { news, _task: task }
    }

    async fn next(&mut self) -> PodNews {
        timeout(Duration::from_secs(300), self.news.recv()).await.expect("news").expect("it runs")
    }
}

#[tokio::test(start_paused = true)]
async fn the_pods_of_a_machine_are_told_of_all_namespaces_with_what_their_processes_are_known_by() {
    let script = Script::default();
    script.put("pods", pod("shop", "cart-0", "u-0"));
    // One that the kubelet runs, whatever its manifest says of a file.
    let mut thief = pod("till", "cart-0", "u-1");
    thief["metadata"]["annotations"] = json!({"kubernetes.io/config.hash": "0f".repeat(16)});
    script.put("pods", thief);
    let mut heard = Heard::of(&script);
    assert!(matches!(heard.next().await, PodNews::Begins));
    let PodNews::Listed(key, first) = heard.next().await else { panic!("a list") };
    assert_eq!(key, "shop/cart-0");
    assert_eq!(
        first,
        MachinePod {
            uid: "u-0".into(),
            hash: Some("0f".repeat(16)),
            namespace: "shop".into(),
            name: "cart-0".into(),
            account: "till".into(),
            app: Some("cart".into()),
            containers: vec!["aa11".into(), "bb22".into()],
        }
    );
    let PodNews::Listed(key, second) = heard.next().await else { panic!("a list") };
    assert_eq!((key.as_str(), second.uid.as_str()), ("till/cart-0", "u-1"));
    assert_eq!(second.hash, None);
    assert!(matches!(heard.next().await, PodNews::Whole));
    script.watched(1).await;
    script.put("pods", pod("shop", "cart-1", "u-2"));
    let PodNews::Put(key, _) = heard.next().await else { panic!("a new one") };
    assert_eq!(key, "shop/cart-1");
    script.delete("pods", "till", "cart-0");
    let PodNews::Gone(key) = heard.next().await else { panic!("one less") };
    assert_eq!(key, "till/cart-0");
    for asked in script.asked() {
        assert_eq!(asked.query["fieldSelector"], "spec.nodeName%3Dnode-1");
        assert_eq!((asked.collection.as_str(), asked.namespace.as_str()), ("pods", ""));
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_refuses_is_told_of_with_the_role_that_is_missing_and_asked_again() {
    let script = Script::default();
    script.put("pods", pod("shop", "cart-0", "u-0"));
    script.mood(Mood::Answers(403));
    let mut heard = Heard::of(&script);
    let told = loop {
        match heard.next().await {
            PodNews::Failed(why) => break why,
            PodNews::Begins => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(told.contains("kubectl create clusterrole pillion-agent"), "{told}");
    script.mood(Mood::Well);
    while !matches!(heard.next().await, PodNews::Whole) {}
}
