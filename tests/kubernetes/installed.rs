//! What a release does over its life: it is tested by helm, upgraded, away for a while, and gone without a trace.

use serde_json::{Value, json};

use crate::charts::{App, Release, able, full_mesh, left, pods, shared};
use crate::support::{Namespace, eventually};

/// Has helm test a release, and shows what its pods printed.
fn tested(release: &Release) {
    let (name, namespace) = (release.name.as_str(), release.namespace.name.as_str());
    let flags = ["--namespace", namespace, "--timeout", "180s", "--logs"];
    let said = release.cluster.helm(&[&["test", name][..], &flags].concat()).unwrap();
    assert!(said.contains("Phase:          Succeeded"), "{said}");
    // The answer of the other pod.
    let version = format!("pillion {}", env!("CARGO_PKG_VERSION"));
    assert!(said.contains("POD LOGS: ") && said.contains(&version), "{said}");
    let deployments = release.namespace.kubectl(&["get", "deployments", "-o", "name"]);
    assert!(!deployments.lines().any(|name| name.ends_with("-test")), "{deployments}");
}

#[test]
fn helm_test_sends_a_message_between_two_pods_and_shows_what_they_printed() {
    let Some(release) = shared() else { return };
    tested(&release);
}

#[test]
fn helm_test_works_where_the_charts_sidecar_is_a_plain_container() {
    let Some((cluster, helm)) = able() else { return };
    tested(&Release::injector(&cluster, helm, "plain", &["--set", "sidecar.native=false"]));
}

/// A field of a Secret.
fn secret(namespace: &Namespace, name: &str, key: &str) -> String {
    let secret: Value =
        serde_json::from_str(&namespace.kubectl(&["get", "secret", name, "-o", "json"])).unwrap();
    secret["data"][key].as_str().unwrap_or_default().to_owned()
}

#[test]
fn an_upgrade_breaks_nothing_and_an_uninstall_leaves_nothing() {
    let Some((cluster, helm)) = able() else { return };
    let mut release = Release::injector(&cluster, helm, "upgraded", &[]);
    let place = release.place("upgraded-apps");
    App::new("shop", 2, "listen").run(&place);
    let shops = pods(&place, "shop", 2);
    let all: Vec<(&Namespace, &str, &str)> =
        shops.iter().map(|pod| (&place, "shop", pod.as_str())).collect();
    full_mesh(&all);
    let (ca, tls) = (format!("{}-ca", release.name), format!("{}-webhook-tls", release.name));
    let before =
        (secret(&release.namespace, &ca, "ca.crt"), secret(&release.namespace, &tls, "tls.crt"));
    assert!(!before.0.is_empty() && !before.1.is_empty());

    release.upgrade(&["--set", "sidecar.log.level=debug,injector.failurePolicy=Fail"]);
    assert_eq!(
        secret(&release.namespace, &ca, "ca.crt"),
        before.0,
        "the authority is the one of before"
    );
    full_mesh(&all);
    // Pods of before and of after the upgrade are one mesh.
    place.kubectl(&["scale", "deployment/shop", "--replicas=3"]);
    let shops = pods(&place, "shop", 3);
    let all: Vec<(&Namespace, &str, &str)> =
        shops.iter().map(|pod| (&place, "shop", pod.as_str())).collect();
    full_mesh(&all);

    release.uninstall();
    // Apps go on without it.
    full_mesh(&all);
    let mut kept = left(&release);
    // What every namespace has, whoever made it.
    kept.retain(|object| {
        !["configmap/kube-root-ca.crt", "serviceaccount/default"].contains(&object.as_str())
    });
    kept.retain(|object| *object != format!("namespace/{}", release.namespace.name));
    eventually("nothing is left", || {
        let now = left(&release);
        kept.retain(|object| now.contains(object));
        kept.is_empty()
    });
}

/// Whether a pod has the sidecar.
fn injected(pod: &Value) -> bool {
    pod["metadata"]["labels"]["pillion.dev/injected"] == "true"
}

#[test]
fn while_the_injector_is_away_pods_start_without_and_are_reported_later_or_wait_as_was_chosen() {
    let Some((cluster, helm)) = able() else { return };
    let release =
        Release::injector(&cluster, helm, "away", &["--set", "injector.timeoutSeconds=2"]);
    let place = release.place("away-apps");
    let deployment = format!("deployment/{}-injector", release.name);
    let away = |replicas: &str| {
        release.namespace.kubectl(&["scale", &deployment, &format!("--replicas={replicas}")]);
    };
    away("0");
    eventually("the injector is gone", || {
        let pods = release.namespace.kubectl(&[
            "get",
            "pods",
            "-lapp.kubernetes.io/component=injector",
            "-o",
            "name",
        ]);
        pods.is_empty()
    });
    // This app needs no node to start.
    let container =
        App::container(&cluster, &["sh", "-c", "trap exit TERM; while :; do sleep 1; done"]);
    let pod = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name}, "annotations": {"pillion.dev/inject": "true"}},
            "spec": {"containers": [container.clone()], "affinity": crate::charts::elsewhere(), "terminationGracePeriodSeconds": 1},
        })
    };
    place.apply(&pod("ignored").to_string());
    let found = pods(&place, "ignored", 1);
    assert!(!injected(&place.pods(Some("ignored"))[0]));
    away("2");
    release.ready();
    eventually("the missed pod is reported", || {
        let events = place.kubectl(&["get", "events", "-o", "json"]);
        let events: Value = serde_json::from_str(&events).unwrap();
        let mut events = events["items"].as_array().unwrap().iter();
        events.any(|event| {
            event["type"] == "Warning"
                && event["involvedObject"]["name"] == found[0].as_str()
                && event["reason"] == "PillionMissing"
        })
    });

    release.upgrade(&["--set", "injector.failurePolicy=Fail"]);
    away("0");
    eventually("the injector is gone", || {
        release
            .namespace
            .kubectl(&["get", "pods", "-lapp.kubernetes.io/component=injector", "-o", "name"])
            .is_empty()
    });
    let refused = ["-n", &place.name, "create", "-f", "-"];
    let said = cluster.try_kubectl(&refused, Some(&pod("refused").to_string())).unwrap_err();
    assert!(said.contains("injector.pillion.dev"), "{said}");
    away("2");
    release.ready();
    place.apply(&pod("refused").to_string());
    assert!(injected(&place.pods(Some("refused"))[0]));
}

#[test]
fn the_certificate_of_the_webhook_is_renewed_before_it_ends_and_after_and_pods_go_on_being_injected()
 {
    let Some((cluster, helm)) = able() else { return };
    // It ends during the test.
    let short = ["--set", "injector.args={--tls-lifetime=15s}"];
    let release = Release::injector(&cluster, helm, "renewed", &short);
    let place = release.place("renewed-apps");
    let tls = format!("{}-webhook-tls", release.name);
    let deployment = format!("deployment/{}-injector", release.name);
    let mut seen = std::collections::BTreeSet::new();
    eventually("three certificates", || {
        seen.insert(secret(&release.namespace, &tls, "tls.crt"));
        seen.remove("");
        seen.len() >= 3
    });
    App::new("shop", 1, "listen").run(&place);
    pods(&place, "shop", 1);
    assert!(injected(&place.pods(Some("shop"))[0]));

    // And one that ended while nobody was there to renew it.
    let injectors = ["get", "pods", "-lapp.kubernetes.io/component=injector", "-o", "name"];
    release.namespace.kubectl(&["scale", &deployment, "--replicas=0"]);
    eventually("the injector is gone", || release.namespace.kubectl(&injectors).is_empty());
    let last = secret(&release.namespace, &tls, "tls.crt");
    eventually("its certificate has ended", || has_ended(&last));
    release.namespace.kubectl(&["scale", &deployment, "--replicas=1"]);
    release.ready();
    assert_ne!(secret(&release.namespace, &tls, "tls.crt"), last);
    place.kubectl(&["scale", "deployment/shop", "--replicas=2"]);
    pods(&place, "shop", 2);
    assert!(place.pods(Some("shop")).iter().all(injected));
}

/// Whether a certificate, as a Secret holds it, is good no more.
fn has_ended(pem: &str) -> bool {
    use base64::Engine as _;
    let pem = base64::engine::general_purpose::STANDARD.decode(pem).expect("base64");
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).expect("PEM");
    !pem.parse_x509().expect("X.509").validity().is_valid()
}
