//! The injector against a real API server: as the service account that the chart makes, asked through a real webhook.

use std::collections::BTreeSet;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::support::{World, kubectl, until};

/// A pod that a `restricted` namespace takes, with these labels and annotations.
fn pod(name: &str, labels: Value, annotations: Value) -> Value {
    let strict = json!({"runAsNonRoot": true, "runAsUser": 1000, "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}});
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels, "annotations": annotations},
        "spec": {
            "initContainers": [{"name": "istio-init", "image": "istio:1", "securityContext": strict}, {"name": "migrate", "image": "app:1", "securityContext": strict}],
            "containers": [{"name": "web", "image": "app:1", "securityContext": strict}, {"name": "worker", "image": "app:1", "securityContext": strict}],
        },
    })
}

fn asking(name: &str, annotations: Value) -> Value {
    let mut all = json!({"pillion.dev/inject": "true"});
    all.as_object_mut()
        .expect("an object")
        .extend(annotations.as_object().expect("an object").clone());
    pod(name, json!({}), all)
}

fn names(containers: &Value) -> Vec<&str> {
    containers
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|container| container["name"].as_str())
        .collect()
}

fn has_socket(container: &Value) -> bool {
    let mounts = container["volumeMounts"].as_array().into_iter().flatten();
    mounts
        .into_iter()
        .any(|mount| mount["mountPath"] == "/run/pillion" && mount["readOnly"] == true)
}

fn is_injected(pod: &Value) -> bool {
    let sidecar = pod["spec"]["initContainers"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|c| c["name"] == "pillion");
    assert_eq!(sidecar, pod["metadata"]["labels"]["pillion.dev/injected"] == "true", "{pod}");
    sidecar
}

/// The certificates of a Secret's text, and of the webhook's `caBundle`.
fn decoded(text: &Value) -> String {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text.as_str().unwrap_or_default());
    String::from_utf8(bytes.expect("base64")).expect("a text")
}

#[test]
fn an_annotated_pod_of_a_restricted_namespace_gets_its_sidecar_and_another_pod_is_not_asked_about()
{
    let Some(world) = World::new("Fail") else { return };
    let injector = world.ready("Fail", &[]);
    for (name, pod) in [
        ("by-annotation", asking("by-annotation", json!({}))),
        ("by-label", pod("by-label", json!({"pillion.dev/inject": "true"}), json!({}))),
        ("plain", asking("plain", json!({"pillion.dev/native": "false"}))),
        (
            "everything",
            asking(
                "everything",
                json!({
                    "pillion.dev/mesh": "shop", "pillion.dev/containers": "web", "pillion.dev/cpu-limit": "1", "pillion.dev/memory-request": "256Mi",
                    "pillion.dev/mesh-port": "5000", "pillion.dev/health-port": "5001", "pillion.dev/drain-timeout": "10s",
                    "pillion.dev/labels": "zone=a", "pillion.dev/env": "PILLION_PROFILE=wan", "pillion.dev/app-prestop-sleep": "3",
                }),
            ),
        ),
    ] {
        for dry in [true, false] {
            let (said, made) = world.create(&pod, dry);
            assert!(said.good && !said.err.contains("Warning"), "{name}: {said:?}");
            let native = name != "plain";
            let init = names(&made["spec"]["initContainers"]);
            let order: &[&str] = if native {
                &["istio-init", "pillion", "migrate"]
            } else {
                &["istio-init", "migrate"]
            };
            assert_eq!(init, order, "{name}");
            let containers: &[&str] =
                if native { &["web", "worker"] } else { &["pillion", "web", "worker"] };
            assert_eq!(names(&made["spec"]["containers"]), containers, "{name}");
            let labels = &made["metadata"]["labels"];
            assert_eq!(labels["pillion.dev/injected"], "true");
            assert_eq!(
                labels["pillion.dev/mesh"],
                if name == "everything" { "shop" } else { "default" }
            );
            let apps = made["spec"]["containers"].as_array().expect("a list");
            for app in apps.iter().filter(|app| app["name"] != "pillion") {
                let wanted = name != "everything" || app["name"] == "web";
                assert_eq!(
                    (has_socket(app), app["lifecycle"]["preStop"]["sleep"].is_object()),
                    (wanted, wanted),
                    "{name}: {app}"
                );
            }
            // The token of the API and that of the mesh are for the sidecar alone.
            let tokens = |app: &Value| app["volumeMounts"].to_string().matches("pillion-").count();
            assert!(
                apps.iter().filter(|app| app["name"] != "pillion").all(|app| tokens(app) <= 1),
                "{apps:?}"
            );
        }
    }
    let counted = injector.metric("pillion_injector_admissions_total{result=\"injected\"}");
    assert!(counted >= 8.0, "{counted}");
    let before = injector.probe("/metrics").1;
    for pod in [
        pod("unasked", json!({}), json!({})),
        pod("declined", json!({"pillion.dev/inject": "false"}), json!({})),
    ] {
        let (said, made) = world.create(&pod, false);
        assert!(said.good && !is_injected(&made), "{said:?}");
        assert_eq!(names(&made["spec"]["initContainers"]), ["istio-init", "migrate"]);
    }
    let admissions = |text: &str| {
        text.lines()
            .filter(|l| l.starts_with("pillion_injector_admissions"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        admissions(&before),
        admissions(&injector.probe("/metrics").1),
        "the webhook was not asked"
    );
    // What has a sidecar keeps it as it is, when it is made once more.
    let text =
        kubectl(&["-n", &world.apps, "get", "pod", "by-annotation", "-o", "json"], None).ok();
    let mut copy: Value = serde_json::from_str(&text).expect("JSON");
    let spec = copy["spec"].clone();
    copy["metadata"] = json!({"name": "copy", "labels": copy["metadata"]["labels"], "annotations": copy["metadata"]["annotations"]});
    let (said, made) = world.create(&copy, true);
    assert!(said.good, "{said:?}");
    assert_eq!(made["spec"]["initContainers"], spec["initContainers"]);
    injector.stop();
}

#[test]
fn a_bad_annotation_admits_with_defaults_and_both_the_user_and_the_pods_owner_are_told() {
    let Some(world) = World::new("Fail") else { return };
    let _injector = world.ready("Fail", &[]);
    let owner = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web", "namespace": world.apps},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "app:1"}]}}},
    });
    kubectl(&["apply", "-f", "-"], Some(&owner)).ok();
    let uid = kubectl(
        &["-n", &world.apps, "get", "replicaset", "web", "-o", "jsonpath={.metadata.uid}"],
        None,
    )
    .ok();
    let mut bad = asking(
        "bad",
        json!({
            "pillion.dev/memory-limit": "lots", "pillion.dev/log-levle": "debug", "pillion.dev/log-level": "loud",
            "pillion.dev/env": "PILLION_GRAEC=1s",
        }),
    );
    bad["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": uid, "controller": true}]);
    let told = [
        "Warning: pillion.dev/memory-limit: \"lots\" is no quantity, such as 16Mi or 1Gi",
        "Warning: pillion.dev/log-levle: \"debug\" is no annotation of ours; did you mean pillion.dev/log-level?",
        "Warning: pillion.dev/log-level: \"loud\" is refused by the node: is one of error, warn, info, debug, trace",
        "Warning: pillion.dev/env: \"PILLION_GRAEC=1s\" is refused by the node: is not known; did you mean `PILLION_GRACE`?",
    ];
    let (said, made) = world.create(&bad, true);
    assert!(said.good && is_injected(&made), "{said:?}");
    for words in told {
        assert!(said.err.contains(words), "{words}\n{}", said.err);
    }
    assert_eq!(made["spec"]["initContainers"][1]["resources"]["limits"]["memory"], "128Mi");
    assert_eq!(world.events("web"), [], "nothing is written for what is only tried");
    let (said, made) = world.create(&bad, false);
    assert!(said.good && is_injected(&made), "{said:?}");
    let events = until("the owner's events", || {
        Some(world.events("web")).filter(|events| events.len() >= told.len())
    });
    for words in told {
        let note = words.trim_start_matches("Warning: ");
        assert!(
            events
                .iter()
                .any(|(reason, said)| reason == "PillionAnnotation" && said.contains(note)),
            "{note}: {events:?}"
        );
    }
    // A pod that cannot have a sidecar is made without it.
    let mut windows = asking("windows", json!({}));
    windows["spec"]["nodeSelector"] = json!({"kubernetes.io/os": "windows"});
    let (said, made) = world.create(&windows, true);
    assert!(said.good && !is_injected(&made) && said.err.contains("it is for Windows"), "{said:?}");
}

#[test]
fn an_expired_certificate_is_replaced_and_a_lost_bundle_written_again() {
    let Some(world) = World::new("Fail") else { return };
    // One that lives twelve seconds, and whose successor nobody makes.
    let first = world.ready("Fail", &["--tls-lifetime", "12s"]);
    let secret = format!("{}-webhook-tls", world.name);
    let ends = first.metric("pillion_injector_certificate_end_timestamp_seconds");
    first.stop();
    until("the certificate has expired", || {
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        (now.as_secs_f64() > ends).then_some(())
    });
    let expired = decoded(&world.get("secret", &secret)["data"]["tls.crt"]);
    assert!(expired.contains("BEGIN CERTIFICATE"), "the old one is still there");
    let injector = world.ready("Fail", &[]);
    let renewed = decoded(&world.get("secret", &secret)["data"]["tls.crt"]);
    assert_ne!(renewed, expired);
    injector.said("a new certificate for");
    let (said, made) = world.create(&asking("after", json!({})), true);
    assert!(said.good && is_injected(&made), "{said:?}");
    // Somebody takes the bundle away: with failurePolicy Fail no pod would be made any more.
    let path = "/webhooks/0/clientConfig/caBundle";
    let patch = json!([{"op": "remove", "path": path}]).to_string();
    kubectl(
        &["patch", "mutatingwebhookconfiguration", &world.name, "--type=json", "-p", &patch],
        None,
    )
    .ok();
    until("pods are made again", || {
        let (said, made) = world.create(&asking("again", json!({})), true);
        (said.good && is_injected(&made)).then_some(())
    });
    injector.until_ready();
}

#[test]
fn a_certificate_is_renewed_before_it_ends_and_no_pod_notices() {
    let Some(world) = World::new("Fail") else { return };
    let injector = world.ready("Fail", &["--tls-lifetime", "24s"]);
    let made = injector.metric("pillion_injector_certificates_made_total");
    until("two more certificates", || {
        let (said, pod) = world.create(&asking("steady", json!({})), true);
        assert!(said.good && is_injected(&pod), "{said:?}");
        (injector.metric("pillion_injector_certificates_made_total") >= made + 2.0).then_some(())
    });
    assert_eq!(injector.probe("/readyz").0, 200);
}

/// What the API server believes, and what there is of the authority.
fn bundle(world: &World) -> String {
    let webhook = world.get("mutatingwebhookconfiguration", &world.name);
    decoded(&webhook["webhooks"][0]["clientConfig"]["caBundle"])
}

#[test]
fn an_authority_is_replaced_while_pods_go_on_being_made() {
    let Some(world) = World::new("Fail") else { return };
    let times = ["--leaf-lifetime", "9s", "--ca-publish", "6s", "--ca-lifetime", "1h"];
    let _injector = world.ready("Fail", &times);
    let before = bundle(&world);
    assert_eq!(before.matches("BEGIN").count(), 1);
    let secret = format!("{}-ca", world.name);
    kubectl(&["-n", &world.home, "annotate", "secret", &secret, "pillion.dev/rotate=now"], None)
        .ok();
    // At no moment is a pod refused, and each believes those that the API server believes.
    let mut both = false;
    until("the new one alone", || {
        let (said, pod) = world.create(&asking("steady", json!({})), true);
        assert!(said.good && is_injected(&pod), "{said:?}");
        let now = bundle(&world);
        both |= now.contains(&before) && now != before;
        (now.matches("BEGIN").count() == 1 && now != before).then_some(())
    });
    assert!(both, "for a while both were believed");
    let authority = decoded(&world.get("secret", &secret)["data"]["ca.crt"]);
    assert_eq!(bundle(&world), authority);
    let (said, pod) = world.create(&asking("after", json!({})), true);
    assert!(said.good && is_injected(&pod), "{said:?}");
}

#[test]
fn an_injector_that_slept_past_the_end_of_its_certificate_makes_another_and_goes_on() {
    let Some(world) = World::new("Fail") else { return };
    let injector = world.ready("Fail", &["--tls-lifetime", "20s"]);
    injector.signal(rustix::process::Signal::STOP);
    let secret = format!("{}-webhook-tls", world.name);
    let expired = decoded(&world.get("secret", &secret)["data"]["tls.crt"]);
    until("its certificate has expired", || {
        let certificate = world.dir.path().join("tls.crt");
        std::fs::write(&certificate, &expired).expect("the file is written");
        let mut check = std::process::Command::new("openssl");
        let check = check.args(["x509", "-noout", "-checkend", "0", "-in"]).arg(certificate);
        (!check.output().expect("openssl runs").status.success()).then_some(())
    });
    injector.signal(rustix::process::Signal::CONT);
    until("pods are made again", || {
        let (said, made) = world.create(&asking("again", json!({})), true);
        (said.good && is_injected(&made)).then_some(())
    });
    assert_ne!(decoded(&world.get("secret", &secret)["data"]["tls.crt"]), expired);
    injector.until_ready();
}

#[test]
fn an_api_server_that_comes_back_finds_the_injector_ready_and_what_went_wrong_told_once() {
    let Some(world) = World::new("Fail") else { return };
    let way = World::way();
    let injector = world.ready_by(Some(&way), "Fail", &["--log-level", "debug"]);
    way.cut();
    for what in ["-ca cannot be read", "-webhook-tls cannot be read", "Configuration inject-"] {
        injector.said(what);
    }
    injector.said("used meanwhile");
    // It goes on answering with what it has.
    assert_eq!(injector.probe("/readyz"), (200, "ok".to_owned()));
    let (said, made) = world.create(&asking("meanwhile", json!({})), true);
    assert!(said.good && is_injected(&made), "{said:?}");
    // One thing is forbidden when it comes back: it is tried again, and told once.
    world.forbid("pods");
    way.heal();
    injector.said("pods cannot be watched, to find those without a sidecar: ");
    until("it was tried again and again", || {
        (injector.lines("watch initlist error with 403").len() >= 4).then_some(())
    });
    for trouble in ["to find those without a sidecar", "cannot be read", "the Lease "] {
        let told = injector.lines(trouble);
        // Behind the time of the day.
        let once: BTreeSet<&str> =
            told.iter().filter_map(|line| line.split_once("Z ")).map(|(_, words)| words).collect();
        assert_eq!(told.len(), once.len(), "{told:#?}");
    }
    assert_eq!(injector.probe("/readyz"), (200, "ok".to_owned()));
    // It sees again what becomes of the webhook.
    let patch = json!([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]).to_string();
    kubectl(
        &["patch", "mutatingwebhookconfiguration", &world.name, "--type=json", "-p", &patch],
        None,
    )
    .ok();
    until("the bundle is written again", || (!bundle(&world).is_empty()).then_some(()));
    injector.until_ready();
}

#[test]
fn two_injectors_that_start_together_agree_on_authority_and_certificate() {
    let Some(world) = World::new("Fail") else { return };
    let (one, other) = (world.injector(&[]), world.injector(&[]));
    one.until_ready();
    other.until_ready();
    let authority = decoded(&world.get("secret", &format!("{}-ca", world.name))["data"]["ca.crt"]);
    let webhook = world.get("mutatingwebhookconfiguration", &world.name);
    assert_eq!(decoded(&webhook["webhooks"][0]["clientConfig"]["caBundle"]), authority);
    let end = "pillion_injector_certificate_end_timestamp_seconds";
    let same = || (one.metric(end).to_bits() == other.metric(end).to_bits()).then_some(());
    until("both show the same certificate", same);
    for injector in [&one, &other] {
        world.webhook(injector.port, "Fail");
        // Applying the chart again takes no bundle away.
        let webhook = world.get("mutatingwebhookconfiguration", &world.name);
        assert_eq!(decoded(&webhook["webhooks"][0]["clientConfig"]["caBundle"]), authority);
        let (said, made) = world.create(&asking("pod", json!({})), true);
        assert!(said.good && is_injected(&made), "{said:?}");
        let sidecar = &made["spec"]["initContainers"][1]["env"];
        let anchors = sidecar
            .as_array()
            .into_iter()
            .flatten()
            .find(|entry| entry["name"] == "PILLION_ISSUER_CA");
        assert_eq!(anchors.and_then(|entry| entry["value"].as_str()), Some(authority.as_str()));
    }
}

#[test]
fn a_pod_that_was_made_while_the_injector_was_away_is_told() {
    let Some(world) = World::new("Ignore") else { return };
    let (said, made) = world.create(&asking("missed", json!({})), false);
    assert!(said.good && !is_injected(&made), "nobody was there: {said:?}");
    let (said, _) = world.create(&pod("unasked", json!({}), json!({})), false);
    assert!(said.good, "{said:?}");
    let injector = world.ready("Ignore", &[]);
    let note = until("the pod's event", || {
        world
            .events("missed")
            .into_iter()
            .find(|(reason, _)| reason == "PillionMissing")
            .map(|(_, note)| note)
    });
    assert!(note.contains("Delete the pod, so that it is made anew"), "{note}");
    injector.said("pod missed in");
    let missed = || injector.metric("pillion_injector_missed_pods");
    until("it is counted", || (missed() > 0.5).then_some(()));
    let (said, made) = world.create(&asking("seen", json!({})), false);
    assert!(said.good && is_injected(&made), "{said:?}");
    kubectl(&["-n", &world.apps, "delete", "pod", "missed", "--grace-period=0", "--force"], None)
        .ok();
    until("it is not counted any more", || (missed() < 0.5).then_some(()));
    assert_eq!((world.events("seen"), world.events("unasked")), (Vec::new(), Vec::new()));
}
