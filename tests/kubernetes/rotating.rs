//! Cookies and authorities that are replaced under pods that run.

use base64::Engine as _;
use serde_json::{Value, json};

use crate::charts::{App, Release, able, connected, elsewhere, full_mesh, pods, said};
use crate::modes::{COOKIE, library};
use crate::support::{Namespace, eventually};

/// The cookie of afterwards.
const NEXT: &str = "746865206e657874206f66207468652074657374732c206e6f20736563726574";

fn mesh_of(namespace: &Namespace, pods: &[String]) {
    let all: Vec<(&Namespace, &str, &str)> =
        pods.iter().map(|pod| (namespace, "shop", pod.as_str())).collect();
    full_mesh(&all);
}

/// What the node of a pod has logged, line by line.
fn logged(namespace: &Namespace, pod: &str) -> Vec<Value> {
    let log = namespace.try_kubectl(&["logs", pod, "-c", "pillion"]).unwrap_or_default();
    log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// How often that was logged.
fn times(namespace: &Namespace, pod: &str, message: &str) -> usize {
    let lines = logged(namespace, pod);
    lines.iter().filter(|line| line["fields"]["message"] == message).count()
}

#[test]
fn the_cookie_of_running_pods_is_replaced_in_three_steps_and_no_connection_is_cut() {
    let Some((cluster, helm)) = able() else { return };
    let release = library(&cluster, helm, "cookies");
    let place = &release.namespace;
    let first = pods(place, "shop", 2);
    mesh_of(place, &first);

    let give = |cookies: &[&str]| {
        let data = base64::engine::general_purpose::STANDARD.encode(cookies.join("\n"));
        let patch = json!({"data": {"cookie": data}}).to_string();
        place.kubectl(&["patch", "secret", "pillion-cookie", "-p", &patch]);
    };
    // A kubelet brings a changed Secret within a minute, and at once to a pod that has changed.
    let read = |count: usize| {
        let step = format!("step={count}");
        place.kubectl(&["annotate", "pods", "-lapp=shop", "--overwrite", &step]);
        for pod in &first {
            eventually(&format!("{pod} has read its {count}th change"), || {
                times(place, pod, "the keys of the mesh were read again") >= count
            });
        }
    };
    give(&[COOKIE, NEXT]);
    read(1);
    // Who comes now signs with the next one, whether or not the others do already: two are good at once.
    give(&[NEXT, COOKIE]);
    place.kubectl(&["scale", "deployment/shop", "--replicas=3"]);
    mesh_of(place, &pods(place, "shop", 3));
    read(2);
    give(&[NEXT]);
    read(3);
    place.kubectl(&["scale", "deployment/shop", "--replicas=4"]);
    mesh_of(place, &pods(place, "shop", 4));
    for pod in &first {
        assert_eq!(times(place, pod, "left"), 0, "{pod} lost somebody");
    }
}

/// The anchors of a release.
fn anchors(release: &Release) -> Vec<String> {
    let secret = format!("{}-ca", release.name);
    let data = ["get", "secret", &secret, "-o", "jsonpath={.data['ca\\.crt']}"];
    let data = release.namespace.kubectl(&data);
    let pem = base64::engine::general_purpose::STANDARD.decode(data).expect("base64");
    let pem = String::from_utf8(pem).expect("PEM is text");
    pem.split_inclusive("-----END CERTIFICATE-----\n").map(str::to_owned).collect()
}

/// One pod that its node's container can be killed in: they see each other's processes.
fn fragile(place: &Namespace) {
    let mut container =
        App::container(&place.cluster, &["sh", "-c", "trap exit TERM; while :; do sleep 1; done"]);
    // The same user may.
    container["securityContext"]["runAsUser"] = json!(65532);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "fragile", "labels": {"app": "fragile"}, "annotations": {"pillion.dev/inject": "true", "pillion.dev/node-name": "shop"}},
        "spec": {"shareProcessNamespace": true, "containers": [container], "affinity": elsewhere(), "terminationGracePeriodSeconds": 1},
    });
    place.apply(&pod.to_string());
    pods(place, "fragile", 1);
}

#[test]
fn the_authority_is_replaced_under_running_pods_and_neither_parts_them_nor_loses_one_that_crashes()
{
    let Some((cluster, helm)) = able() else { return };
    let short = "injector.args={--leaf-lifetime=18s,--ca-publish=15s,--ca-lifetime=1h}";
    let release = Release::injector(&cluster, helm, "authority", &["--set", short]);
    let place = release.place("authority-apps");
    App::new("shop", 2, "listen").run(&place);
    let shops = pods(&place, "shop", 2);
    fragile(&place);
    let mut all = shops.clone();
    all.push("fragile".to_owned());
    mesh_of(&place, &all);
    let before = anchors(&release);
    assert_eq!(before.len(), 1);

    let secret = format!("{}-ca", release.name);
    release.namespace.kubectl(&["annotate", "secret", &secret, "pillion.dev/rotate=now"]);
    eventually("both are believed", || anchors(&release).len() == 2);
    eventually("the new one alone is believed", || {
        let now = anchors(&release);
        now.len() == 1 && now != before
    });
    for pod in &shops {
        let heard = said(&place, pod);
        assert!(!heard.contains("nodedown"), "{pod} lost somebody: {heard}");
    }
    mesh_of(&place, &all);

    // Its pod's environment names the authority that is believed no more; it has learnt the new one.
    let runs = || {
        let pod = place.kubectl(&["get", "pod", "fragile", "-o", "json"]);
        let pod: Value = serde_json::from_str(&pod).unwrap();
        pod["status"]["initContainerStatuses"][0]["restartCount"].as_u64().unwrap_or_default()
    };
    let kill = "/bin/busybox kill -9 $(/bin/busybox pidof pillion)";
    place.kubectl(&["exec", "fragile", "-c", "app", "--", "sh", "-c", kill]);
    eventually("it was started again", || runs() == 1);
    mesh_of(&place, &all);
    // And who comes now knows the new one only.
    place.kubectl(&["scale", "deployment/shop", "--replicas=3"]);
    let mut all = pods(&place, "shop", 3);
    all.push("fragile".to_owned());
    mesh_of(&place, &all);
    assert_eq!(connected(&place, "fragile").len(), 3);
}
