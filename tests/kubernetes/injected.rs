//! Apps that know nothing of pillion, in namespaces that enforce `restricted`: one annotation, and they are a mesh.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::charts::{App, connected, elsewhere, full_mesh, pods, said, shared, tell};
use crate::support::{Namespace, eventually, runs};

fn mesh_of(namespace: &Namespace, app: &str, count: usize) -> Vec<String> {
    let pods = pods(namespace, app, count);
    let all: Vec<(&Namespace, &str, &str)> =
        pods.iter().map(|pod| (namespace, app, pod.as_str())).collect();
    full_mesh(&all);
    pods
}

/// An annotation that keeps a test's nodes to themselves: others of the release are in other meshes.
fn alone<'a>(app: App<'a>, mesh: &str) -> App<'a> {
    App { annotations: json!({"pillion.dev/inject": "true", "pillion.dev/mesh": mesh}), ..app }
}

/// A place for a test whose nodes are a mesh of their own.
fn place(test: &str) -> Option<(std::sync::Arc<crate::charts::Release>, Namespace)> {
    let release = shared()?;
    let place = release.place(test);
    Some((release, place))
}

#[test]
fn an_annotated_app_without_a_line_of_pillion_sends_and_receives_through_its_socket() {
    let Some((_release, place)) = place("talks") else { return };
    alone(App::new("shop", 2, "listen"), "talks").run(&place);
    let pods = mesh_of(&place, "shop", 2);
    for pod in &pods {
        let pod: Value =
            serde_json::from_str(&place.kubectl(&["get", "pod", pod, "-o", "json"])).unwrap();
        let sidecar = &pod["spec"]["initContainers"][0];
        assert_eq!(
            (sidecar["name"].as_str(), sidecar["restartPolicy"].as_str()),
            (Some("pillion"), Some("Always"))
        );
        assert_eq!(pod["metadata"]["labels"]["pillion.dev/mesh"], "talks");
    }
    let to = format!("inbox@shop@{}.{}", pods[1], place.name);
    let answer =
        tell(&place, &pods[0], &json!({"op": "send", "id": 7, "to": to, "body": "good morning"}));
    assert!(answer.contains("\"ev\":\"ok\""), "{answer}");
    eventually("the other app has the message", || said(&place, &pods[1]).contains("good morning"));
    assert!(!said(&place, &pods[0]).contains("good morning"));
}

#[test]
fn a_deployment_that_is_scaled_is_a_mesh_of_as_many_nodes() {
    let Some((_release, place)) = place("scales") else { return };
    alone(App::new("shop", 2, "listen"), "scales").run(&place);
    mesh_of(&place, "shop", 2);
    place.kubectl(&["scale", "deployment/shop", "--replicas=8"]);
    mesh_of(&place, "shop", 8);
    place.kubectl(&["scale", "deployment/shop", "--replicas=2"]);
    mesh_of(&place, "shop", 2);
}

/// What the calls of an app came to, in the order in which it asked; it asked for nothing twice.
fn answers(log: &str) -> Vec<(u64, Result<String, String>)> {
    let mut answers: Vec<(u64, Result<String, String>)> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|event| {
            let id = event["id"].as_u64()?;
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            Some((
                id,
                if event["ev"] == "ok" { Ok(text(&event["body"])) } else { Err(event.to_string()) },
            ))
        })
        .collect();
    answers.sort();
    answers
}

#[test]
fn a_rolling_restart_under_steady_calls_loses_none() {
    let Some((_release, place)) = place("rolls") else { return };
    alone(App::new("stock", 3, "serve"), "rolls").run(&place);
    let before: BTreeSet<String> = mesh_of(&place, "stock", 3).into_iter().collect();
    alone(App::new("till", 1, "call"), "rolls").run(&place);
    let till = pods(&place, "till", 1).remove(0);
    let ask = || answers(&said(&place, &till));
    eventually("calls are answered", || ask().iter().any(|(_, answer)| answer.is_ok()));

    place.kubectl(&["rollout", "restart", "deployment/stock"]);
    place.kubectl(&["rollout", "status", "deployment/stock", "--timeout=180s"]);
    let after: BTreeSet<String> = pods(&place, "stock", 3).into_iter().collect();
    assert!(before.is_disjoint(&after));
    let seen = ask().len();
    eventually("calls go on being answered", || ask().len() > seen + 20);

    let answers = ask();
    // Before the first answer nobody served.
    let served: Vec<_> = answers.iter().skip_while(|(_, answer)| answer.is_err()).collect();
    let lost: Vec<_> = served.iter().filter(|(_, answer)| answer.is_err()).collect();
    assert!(lost.is_empty(), "{} of {} calls were lost: {lost:?}", lost.len(), served.len());
    let ids: BTreeSet<u64> = served.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids.len(), served.len(), "each call has one answer");
    let by: BTreeSet<&str> =
        served.iter().filter_map(|(_, answer)| answer.as_deref().ok()).collect();
    assert!(after.iter().any(|pod| by.contains(pod.as_str())), "new pods answer: {by:?}");
    println!("{} calls in a rolling restart of {}, none lost", served.len(), before.len());
}

#[test]
fn a_pod_that_is_deleted_by_force_is_a_nodedown_and_no_hang() {
    let Some((_release, place)) = place("forced") else { return };
    alone(App::new("shop", 2, "listen"), "forced").run(&place);
    let pods = mesh_of(&place, "shop", 2);
    let gone = format!("shop@{}.{}", pods[0], place.name);
    eventually("the app watches", || said(&place, &pods[1]).contains("\"id\":1"));
    place.kubectl(&["delete", "pod", &pods[0], "--grace-period=0", "--force"]);
    eventually("the app beside the other hears of it", || {
        said(&place, &pods[1]).lines().any(|line| line.contains("nodedown") && line.contains(&gone))
    });
    assert!(!connected(&place, &pods[1]).contains(&gone));
    mesh_of(&place, "shop", 2);
}

#[test]
fn a_job_with_the_sidecar_completes() {
    let Some((_release, place)) = place("done") else { return };
    let line =
        "(echo '{\"op\":\"self\",\"id\":1}'; sleep 1) | socat -t 1 - UNIX-CONNECT:$PILLION_SOCKET";
    let container = App::container(&place.cluster, &["sh", "-c", line]);
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once"},
        "spec": {
            "backoffLimit": 0,
            "template": {
                "metadata": {"labels": {"app": "once"}, "annotations": {"pillion.dev/inject": "true", "pillion.dev/mesh": "done"}},
                "spec": {"restartPolicy": "Never", "containers": [container], "affinity": elsewhere()},
            },
        },
    });
    place.apply(&job.to_string());
    place.kubectl(&["wait", "--for=condition=Complete", "job/once", "--timeout=120s"]);
    let log = place.kubectl(&["logs", "job/once", "-c", "app"]);
    assert!(log.contains("\"ev\":\"ok\"") && log.contains("once@"), "{log}");
}

#[test]
fn a_bad_annotation_is_a_warning_that_its_author_sees_and_a_sidecar_all_the_same() {
    let Some((_release, place)) = place("warned") else { return };
    let container = App::container(&place.cluster, &["sh", "-c", "sleep 3600"]);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "app", "labels": {"app": "app"}, "annotations": {
            "pillion.dev/inject": "true", "pillion.dev/mesh": "warned", "pillion.dev/log-level": "loud",
        }},
        "spec": {"containers": [container], "affinity": elsewhere(), "terminationGracePeriodSeconds": 1},
    });
    let mut command = place.cluster.command(&["-n", &place.name, "create", "-f", "-"]);
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), pod.to_string().as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("Warning") && said.contains("pillion.dev/log-level") && said.contains("loud"),
        "{said}"
    );
    eventually("the pod runs with its sidecar", || place.pods(Some("app")).iter().all(runs));
}
