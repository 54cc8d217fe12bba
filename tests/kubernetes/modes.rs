//! The other two ways to have a node beside an app: one per machine, and the library in a chart of one's own.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::charts::{App, Release, able, elsewhere, full_mesh, image_flags, pods, said, tell};
use crate::helm::Chart;
use crate::support::{Cluster, Namespace, eventually};

/// A cookie for tests.
pub const COOKIE: &str = "6e6f7420612073656372657420627574206f6620746865207465737473202d2d";

fn cookie(namespace: &Namespace) {
    let cookie = format!("cookie={COOKIE}");
    namespace.kubectl(&[
        "create",
        "secret",
        "generic",
        "pillion-cookie",
        "--from-literal",
        &cookie,
    ]);
}

/// The chart of a user with the library: two pods `shop`, whose nodes share a cookie.
pub fn library(cluster: &Cluster, helm: &crate::helm::Helm, test: &str) -> Release {
    let place = cluster.empty_namespace(test, "restricted");
    cookie(&place);
    let (path, tag) = cluster.image.rsplit_once(':').unwrap();
    let (registry, repository) = path.split_once('/').unwrap_or(("", path));
    let image = format!(
        "image={},pillion.image.registry={registry},pillion.image.repository={repository},pillion.image.tag={tag}",
        cluster.app.as_deref().unwrap()
    );
    let command = format!("command={}", json!(App::new("shop", 2, "listen").command()));
    let affinity = format!("affinity={}", elsewhere());
    let flags = ["--set", &image, "--set-json", &command, "--set-json", &affinity];
    Release::install(cluster, helm, Chart::Example, place, &flags)
}

/// Two machines that are not cut off.
fn machines(cluster: &Cluster) -> Option<[String; 2]> {
    let nodes = cluster.try_kubectl(&["get", "nodes", "-o", "json"], None).unwrap();
    let nodes: Value = serde_json::from_str(&nodes).unwrap();
    let names = nodes["items"].as_array().unwrap().iter();
    let mut names = names.map(|node| {
        node["metadata"]["labels"]["kubernetes.io/hostname"].as_str().unwrap().to_owned()
    });
    Some([names.next()?, names.next()?])
}

#[test]
fn apps_on_two_machines_talk_through_the_agents_of_their_machines() {
    let Some((cluster, helm)) = able() else { return };
    let Some(machines) = machines(&cluster) else {
        return println!(
            "SKIPPED: this cluster has one machine; `tests/kubernetes/cluster up 3` has more"
        );
    };
    // Machines that are namespaces have one file system: a release and a directory for each, which tell each other by name.
    let places = ["agent-one", "agent-two"].map(|name| cluster.empty_namespace(name, "privileged"));
    let services =
        places.each_ref().map(|place| format!("dns://pillion-default.{}.svc", place.name));
    let directories = places.each_ref().map(|place| format!("/run/{}", place.name));
    let mut releases = Vec::new();
    for (at, place) in places.into_iter().enumerate() {
        cookie(&place);
        let mut flags = image_flags(&cluster);
        // The second serves the pods of its own namespace only.
        let namespaces = if at == 0 { json!([]) } else { json!([place.name]) };
        let machine = json!({"kubernetes.io/hostname": machines[at]});
        let values = json!({
            "injector": {"enabled": false},
            "agent": {"enabled": true, "nodeSelector": machine, "namespaces": namespaces},
            "sidecar": {
                "trust": {"cookieSecret": "pillion-cookie"},
                "socket": {"dir": directories[at]},
                "discovery": {"more": [services[1 - at]]},
            },
        });
        for (key, value) in values.as_object().unwrap() {
            flags.extend(["--set-json".to_owned(), format!("{key}={value}")]);
        }
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        releases.push(Release::install(&cluster, helm, Chart::Pillion, place, &flags));
    }
    let agent = |at: usize| format!("daemonset/{}-agent", releases[at].name);
    for (at, release) in releases.iter().enumerate() {
        release.namespace.kubectl(&["rollout", "status", &agent(at), "--timeout=180s"]);
        let command = App::new("shop", 1, "listen").command();
        let command = command.each_ref().map(String::as_str);
        app_of_agent(&release.namespace, "shop", &command, &machines[at], &directories[at]);
    }
    let node = |at: usize| {
        let place = &releases[at].namespace;
        let pod = place.kubectl(&[
            "get",
            "pods",
            "-lapp.kubernetes.io/component=agent",
            "-o",
            "jsonpath={.items[0].metadata.name}",
        ]);
        format!("pillion@{pod}.{}", place.name)
    };
    let other = node(1);
    eventually("the agents are connected", || {
        let nodes =
            releases[0].namespace.try_kubectl(&["exec", &agent(0), "--", "/pillion", "nodes"]);
        nodes
            .unwrap_or_default()
            .lines()
            .any(|line| line.contains(&other) && line.contains("connected"))
    });
    tell(
        &releases[0].namespace,
        "shop",
        &json!({"op": "send", "id": 1, "to": format!("inbox@{other}"), "body": "good evening"}),
    );
    eventually("the app on the other machine has it", || {
        said(&releases[1].namespace, "shop").contains("good evening")
    });
    // Each knows of which pod its apps are, and who runs in none, or in one that may not come.
    for release in &releases {
        let told = tell(&release.namespace, "shop", &json!({"op": "processes", "id": 2}));
        let pod = format!("\"pod\":\"{}/shop\"", release.namespace.name);
        // The app that listens, and the one that asks.
        assert!(told.matches(&pod).count() >= 2, "{told}");
    }
    let (place, stranger) = (&releases[0].namespace, "stranger");
    app_of_agent(place, stranger, &["sleep", "3600"], &machines[1], &directories[1]);
    let told = tell(place, stranger, &json!({"op": "self", "id": 3}));
    assert!(told.contains("\"code\":\"denied\""), "{told}");
    assert!(told.contains(&format!("the pod {}/{stranger}", place.name)), "{told}");
    let Ok(mut socket) = UnixStream::connect(format!("{}/pillion.sock", directories[0])) else {
        return println!("SKIPPED: the machines of this cluster are not this one");
    };
    socket.write_all(b"{\"op\":\"self\",\"id\":4}\n").unwrap();
    let mut told = String::new();
    socket.read_to_string(&mut told).unwrap();
    assert!(told.contains("\"code\":\"denied\"") && told.contains("runs in no pod"), "{told}");
}

/// A pod that uses the agent of a machine.
fn app_of_agent(place: &Namespace, name: &str, command: &[&str], machine: &str, directory: &str) {
    let mut container = App::container(&place.cluster, command);
    container["env"] =
        json!([{"name": "PILLION_SOCKET", "value": format!("{directory}/pillion.sock")}]);
    container["volumeMounts"] =
        json!([{"name": "pillion", "mountPath": directory, "readOnly": true}]);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": machine}, "containers": [container],
            "volumes": [{"name": "pillion", "hostPath": {"path": directory}}],
        },
    });
    place.apply(&pod.to_string());
    pods(place, name, 1);
}

#[test]
fn a_chart_with_the_library_is_a_mesh_without_any_webhook() {
    let Some((cluster, helm)) = able() else { return };
    let release = library(&cluster, helm, "library");
    let shops = pods(&release.namespace, "shop", 2);
    let all: Vec<(&Namespace, &str, &str)> =
        shops.iter().map(|pod| (&release.namespace, "shop", pod.as_str())).collect();
    full_mesh(&all);
    let to = format!("inbox@shop@{}.{}", shops[1], release.namespace.name);
    let container = tell_library(
        &release.namespace,
        &shops[0],
        &json!({"op": "send", "id": 1, "to": to, "body": "good night"}),
    );
    assert!(container.contains("\"ev\":\"ok\""), "{container}");
    eventually("the other app has it", || {
        release
            .namespace
            .try_kubectl(&["logs", &shops[1], "-c", "shop"])
            .unwrap_or_default()
            .contains("good night")
    });
}

/// As [`tell`], in the chart's own container.
fn tell_library(namespace: &Namespace, pod: &str, line: &Value) -> String {
    let script = "(echo \"$0\"; sleep 1) | socat -t 1 - UNIX-CONNECT:$PILLION_SOCKET";
    namespace.kubectl(&["exec", pod, "-c", "shop", "--", "sh", "-c", script, &line.to_string()])
}
