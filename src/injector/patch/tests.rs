//! What pods become: by example, and for any pod.

use json_patch::Patch;
use k8s_openapi::api::core::v1::Pod as Typed;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde::Deserialize as _;

use super::*;

const ANCHORS: &str = "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n";
const NEWEST: Features = Features { native: true, sleep: true };

/// What the chart renders, in short.
pub(in crate::injector) fn template() -> Template {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let template = json!({
        "container": {
            "name": "pillion", "image": "localhost/pillion:1", "imagePullPolicy": "IfNotPresent", "restartPolicy": "Always",
            "args": ["up", "--socket", "/run/pillion/pillion.sock", "--socket-mode", "0666", "--health=[::]:4471",
                "--strategy", "kubernetes://?service=pillion-default&namespace=pillion"],
            "env": [
                {"name": "PILLION_MESH", "value": "default"}, {"name": "PILLION_APP", "value": ""},
                field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace"),
                {"name": "PILLION_ISSUER", "value": "https://pillion-injector.pillion.svc/v1/certificate"},
                {"name": "PILLION_LOG_FORMAT", "value": "json"}, {"name": "PILLION_GRACE", "value": "15s"},
            ],
            "ports": [{"name": "mesh", "containerPort": 4470}, {"name": "pillion-health", "containerPort": 4471}],
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "128Mi"}},
            "lifecycle": {"preStop": {"exec": {"command": ["/pillion", "drain", "--wait", "15s"]}}},
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumeMounts": [{"name": "pillion-socket", "mountPath": "/run/pillion"}, {"name": "pillion-operator", "mountPath": "/run/operator"}],
        },
        "volumes": [{"name": "pillion-socket", "emptyDir": {"sizeLimit": "16Mi"}}, {"name": "pillion-operator", "emptyDir": {}},
            {"name": "pillion-token", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "audience": "pillion.dev"}}]}}],
        "app": {
            "env": [
                field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace"),
                {"name": "PILLION_SOCKET", "value": "/run/pillion/pillion.sock"}, {"name": "PILLION_MESH", "value": "default"},
            ],
            "volumeMounts": [{"name": "pillion-socket", "mountPath": "/run/pillion", "readOnly": true}],
        },
        "appPreStopSleep": 5, "mesh": "default", "native": true,
    });
    Template::parse(template.to_string().as_bytes()).expect("a good template")
}

fn outcome(pod: &Value, features: Features) -> Result<Outcome, String> {
    decide(pod, &Sidecar { template: &template(), anchors: ANCHORS, features })
}

fn patched(pod: &Value, patch: &[PatchOperation]) -> Value {
    let mut pod = pod.clone();
    json_patch::patch(&mut pod, &Patch(patch.to_vec()).0).expect("the patch fits the pod");
    pod
}

/// A pod that asks, and what it becomes without a warning.
fn injected(pod: &Value) -> Value {
    let outcome = outcome(pod, NEWEST).expect("a pod");
    assert_eq!((outcome.result, outcome.warnings.as_slice()), (Decision::Injected, [].as_slice()));
    patched(pod, &outcome.patch)
}

fn asking(annotations: Value, spec: Value) -> Value {
    let mut all = json!({"pillion.dev/inject": "true"});
    let more = annotations.as_object().expect("an object").clone();
    all.as_object_mut().expect("an object").extend(more);
    json!({"metadata": {"name": "web-0", "annotations": all}, "spec": spec})
}

fn plain() -> Value {
    json!({"containers": [{"name": "web", "image": "web:1"}]})
}

fn env<'a>(container: &'a Value, name: &str) -> Option<&'a str> {
    let entries = list(container.get("env"));
    let mut found = entries.iter().filter(|entry| called(entry) == name);
    let value = found.next()?.get("value").map(|value| value.as_str().expect("a text"));
    assert!(found.next().is_none(), "{name} is there twice");
    value
}

fn names(list_of: &Value) -> Vec<&str> {
    list(Some(list_of)).iter().map(called).collect()
}

#[test]
fn a_pod_that_asks_gets_a_native_sidecar_and_its_app_the_socket() {
    let pod = injected(&asking(json!({}), plain()));
    let sidecar = &pod["spec"]["initContainers"][0];
    assert_eq!((called(sidecar), sidecar["restartPolicy"].as_str()), ("pillion", Some("Always")));
    assert_eq!(
        (env(sidecar, "PILLION_MESH"), env(sidecar, "PILLION_APP")),
        (Some("default"), Some("web"))
    );
    assert_eq!(env(sidecar, "PILLION_ISSUER_CA"), Some(ANCHORS));
    assert_eq!(
        names(&pod["spec"]["volumes"]),
        ["pillion-socket", "pillion-operator", "pillion-token"]
    );
    let web = &pod["spec"]["containers"][0];
    assert_eq!(env(web, "PILLION_SOCKET"), Some("/run/pillion/pillion.sock"));
    assert_eq!(
        (env(web, "PILLION_MESH"), env(web, "PILLION_NODE")),
        (Some("default"), Some("web@$(POD_NAME).$(POD_NAMESPACE)"))
    );
    assert_eq!(
        web["volumeMounts"],
        json!([{"name": "pillion-socket", "mountPath": "/run/pillion", "readOnly": true}])
    );
    assert_eq!(web["lifecycle"], json!({"preStop": {"sleep": {"seconds": 5}}}));
    assert_eq!(
        pod["metadata"]["labels"],
        json!({"pillion.dev/injected": "true", "pillion.dev/mesh": "default"})
    );
    let status: Value =
        serde_json::from_str(pod["metadata"]["annotations"][STATUS].as_str().expect("a text"))
            .expect("JSON");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["hash"].as_str().map(str::len), Some(16));
}

#[test]
fn the_label_asks_as_well_and_the_annotation_overrides_it() {
    let pod = |labels: Value, annotations: Value| json!({"metadata": {"labels": labels, "annotations": annotations}, "spec": plain()});
    let result = |pod: Value| outcome(&pod, NEWEST).expect("a pod").result;
    assert_eq!(result(pod(json!({INJECT: "true"}), Value::Null)), Decision::Injected);
    assert_eq!(result(pod(json!({INJECT: "true"}), json!({INJECT: "false"}))), Decision::NotAsked);
    assert_eq!(result(pod(Value::Null, Value::Null)), Decision::NotAsked);
    assert_eq!(result(json!({"metadata": {}, "spec": plain()})), Decision::NotAsked);
}

#[test]
fn the_sidecar_starts_before_the_apps_init_containers_and_after_those_of_the_network() {
    let mut spec = plain();
    spec["initContainers"] = json!([{"name": "early"}, {"name": "istio-init"}, {"name": "linkerd-init"}, {"name": "migrate"}]);
    let pod = injected(&asking(json!({}), spec));
    let init = &pod["spec"]["initContainers"];
    assert_eq!(names(init), ["early", "istio-init", "linkerd-init", "pillion", "migrate"]);
    let socket = |at: usize| {
        env(&init[at], "PILLION_SOCKET").is_some() && init[at]["volumeMounts"].is_array()
    };
    assert!(socket(4) && !socket(0) && !socket(1) && !socket(2), "{init}");
    assert!(init[4].get("lifecycle").is_none(), "an init container has no preStop");
}

#[test]
fn a_pod_gets_the_kind_that_it_asks_for_whichever_the_chart_has() {
    let mut plain_template = template();
    plain_template.native = false;
    plain_template.container.remove("restartPolicy");
    for (template, asked, kind) in [
        (&plain_template, "true", "initContainers"),
        (&plain_template, "false", "containers"),
        (&template(), "true", "initContainers"),
        (&template(), "false", "containers"),
    ] {
        let pod = asking(json!({"pillion.dev/native": asked}), plain());
        let sidecar = Sidecar { template, anchors: ANCHORS, features: NEWEST };
        let outcome = decide(&pod, &sidecar).expect("a pod");
        let made = patched(&pod, &outcome.patch);
        let container = &made["spec"][kind][0];
        assert_eq!(container["name"], "pillion", "{made}");
        // The API server refuses it in a plain container, and waits for the end of an init container without it.
        let policy = container.get("restartPolicy").and_then(Value::as_str);
        assert_eq!(policy, (asked == "true").then_some("Always"));
        assert!(container["lifecycle"].is_object(), "both drain");
    }
}

#[test]
fn a_plain_container_goes_first_and_kubectl_still_means_the_app() {
    let mut spec = plain();
    spec["initContainers"] = json!([{"name": "migrate"}]);
    let pod = injected(&asking(json!({"pillion.dev/native": "false"}), spec));
    assert_eq!(names(&pod["spec"]["containers"]), ["pillion", "web"]);
    assert_eq!(names(&pod["spec"]["initContainers"]), ["migrate"]);
    assert!(pod["spec"]["initContainers"][0].get("env").is_none(), "there is no socket yet");
    assert!(pod["spec"]["containers"][0].get("restartPolicy").is_none());
    assert!(env(&pod["spec"]["containers"][1], "PILLION_SOCKET").is_some());
    assert_eq!(pod["metadata"]["annotations"][DEFAULT_CONTAINER], "web");
    let chosen =
        asking(json!({"pillion.dev/native": "false", DEFAULT_CONTAINER: "other"}), plain());
    assert_eq!(injected(&chosen)["metadata"]["annotations"][DEFAULT_CONTAINER], "other");
}

#[test]
fn what_the_app_says_itself_stays() {
    let spec = json!({
        "containers": [{"name": "web", "env": [{"name": "PILLION_SOCKET", "value": "/mine"}],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            "lifecycle": {"preStop": {"httpGet": {"path": "/bye", "port": 80}}}},
            {"name": "side", "lifecycle": {"postStart": {"exec": {"command": ["x"]}}}}],
        "volumes": [{"name": "data", "emptyDir": {}}],
    });
    let pod = injected(&asking(json!({}), spec));
    let web = &pod["spec"]["containers"][0];
    assert_eq!(
        (env(web, "PILLION_SOCKET"), env(web, "PILLION_MESH")),
        (Some("/mine"), Some("default"))
    );
    assert_eq!(web["volumeMounts"].as_array().map(Vec::len), Some(2));
    assert_eq!(web["lifecycle"], json!({"preStop": {"httpGet": {"path": "/bye", "port": 80}}}));
    let side = &pod["spec"]["containers"][1]["lifecycle"];
    assert_eq!(
        side,
        &json!({"postStart": {"exec": {"command": ["x"]}}, "preStop": {"sleep": {"seconds": 5}}})
    );
}

#[test]
fn each_annotation_changes_the_sidecar() {
    let annotations = json!({
        "pillion.dev/mesh": "shop", "pillion.dev/image": "example.org/p:2", "pillion.dev/image-pull-policy": "Always",
        "pillion.dev/cpu-limit": "5m", "pillion.dev/memory-request": "256Mi", "pillion.dev/node-name": "stock",
        "pillion.dev/role": "backend", "pillion.dev/labels": "zone=a", "pillion.dev/min-peers": "1",
        "pillion.dev/drain-timeout": "20s", "pillion.dev/app-prestop-sleep": "7", "pillion.dev/mesh-port": "5000",
        "pillion.dev/health-port": "5001", "pillion.dev/log-level": "debug", "pillion.dev/log-format": "text",
        "pillion.dev/env": "PILLION_PROFILE=wan", "pillion.dev/containers": "web",
    });
    let mut spec = json!({"containers": [{"name": "web"}, {"name": "other"}]});
    spec["terminationGracePeriodSeconds"] = json!(60);
    let pod = injected(&asking(annotations, spec));
    let sidecar = &pod["spec"]["initContainers"][0];
    assert_eq!(
        (sidecar["image"].as_str(), sidecar["imagePullPolicy"].as_str()),
        (Some("example.org/p:2"), Some("Always"))
    );
    // The request follows the limit down, the limit the request up.
    let resources = json!({"requests": {"cpu": "5m", "memory": "256Mi"}, "limits": {"cpu": "5m", "memory": "256Mi"}});
    assert_eq!(sidecar["resources"], resources);
    for (name, value) in [
        ("PILLION_MESH", "shop"),
        ("PILLION_APP", "stock"),
        ("PILLION_ROLE", "backend"),
        ("PILLION_LABELS", "zone=a"),
        ("PILLION_MIN_PEERS", "1"),
        ("PILLION_LISTEN", ":5000"),
        ("PILLION_LOG_LEVEL", "debug"),
        ("PILLION_LOG_FORMAT", "text"),
        ("PILLION_PROFILE", "wan"),
        ("PILLION_GRACE", "20s"),
    ] {
        assert_eq!(env(sidecar, name), Some(value), "{name}");
    }
    let args: Vec<&str> = list(sidecar.get("args")).iter().filter_map(Value::as_str).collect();
    assert!(args.contains(&"--health=[::]:5001"), "{args:?}");
    assert!(args.contains(&"kubernetes://?service=pillion-shop&namespace=pillion"), "{args:?}");
    assert_eq!(
        sidecar["lifecycle"]["preStop"]["exec"]["command"],
        json!(["/pillion", "drain", "--wait", "20s"])
    );
    assert_eq!(sidecar::ports(sidecar), [(5000, "mesh"), (5001, "pillion-health")]);
    assert_eq!(pod["metadata"]["labels"][MESH], "shop");
    let (web, other) = (&pod["spec"]["containers"][0], &pod["spec"]["containers"][1]);
    assert_eq!(
        (env(web, "PILLION_MESH"), env(web, "PILLION_NODE")),
        (Some("shop"), Some("stock@$(POD_NAME).$(POD_NAMESPACE)"))
    );
    assert_eq!(web["lifecycle"]["preStop"]["sleep"]["seconds"], 7);
    assert_eq!(other, &json!({"name": "other"}));
}

#[test]
fn a_pod_that_cannot_have_a_sidecar_is_left_as_it_is_and_its_user_told_why() {
    let with = |key: &str, value: Value| {
        let mut spec = plain();
        spec[key] = value;
        asking(json!({}), spec)
    };
    let own = json!([{"name": "web"}, {"name": "pillion"}]);
    for (pod, words) in [
        (with("hostNetwork", json!(true)), "its machine's network"),
        (with("nodeSelector", json!({"kubernetes.io/os": "windows"})), "for Windows"),
        (with("os", json!({"name": "windows"})), "for Windows"),
        (with("volumes", json!([{"name": "pillion-socket"}])), "a volume called pillion-socket"),
        (with("containers", own.clone()), "a container called pillion of its own"),
        (
            with("initContainers", json!([{"name": "pillion"}])),
            "a container called pillion of its own",
        ),
        (asking(json!({MIRROR: "x"}), plain()), "a static pod"),
    ] {
        let outcome = outcome(&pod, NEWEST).expect("a pod");
        assert_eq!((outcome.result, outcome.patch.len()), (Decision::Refused, 0), "{words}");
        let [warning] = outcome.warnings.as_slice() else {
            panic!("{words}: {:?}", outcome.warnings)
        };
        assert!(warning.starts_with(INJECT) && warning.contains(words), "{warning}");
    }
}

#[test]
fn what_will_not_go_as_expected_is_told_with_the_sidecar_in_place() {
    let spec = |change: &dyn Fn(&mut Value)| {
        let mut spec = plain();
        change(&mut spec);
        spec
    };
    let grace =
        |seconds: u64| spec(&|s: &mut Value| s["terminationGracePeriodSeconds"] = json!(seconds));
    let old = Features { native: true, sleep: false };
    let ancient = Features { native: false, sleep: false };
    for (annotations, spec, features, words) in [
        (json!({}), grace(10), NEWEST, "terminationGracePeriodSeconds 10: give it 20"),
        (json!({"pillion.dev/drain-timeout": "40s"}), plain(), NEWEST, "give it 45"),
        (
            json!({"pillion.dev/containers": "nobody"}),
            plain(),
            NEWEST,
            "\"nobody\" is no container",
        ),
        (
            json!({"pillion.dev/app-prestop-sleep": "40"}),
            plain(),
            NEWEST,
            "which is 30: there is no sleep",
        ),
        (json!({"pillion.dev/app-prestop-sleep": "5"}), plain(), old, "needs Kubernetes 1.30"),
        (json!({"pillion.dev/native": "true"}), plain(), ancient, "need Kubernetes 1.29"),
        (
            json!({"pillion.dev/native": "false"}),
            spec(&|s: &mut Value| s["restartPolicy"] = json!("Never")),
            NEWEST,
            "restartPolicy Never from ending",
        ),
        (
            json!({}),
            spec(&|s: &mut Value| s["containers"][0]["ports"] = json!([{"containerPort": 4470}])),
            NEWEST,
            "mesh-port: the container web has the port 4470 too",
        ),
        (
            json!({}),
            spec(&|s: &mut Value| {
                s["containers"][0]["volumeMounts"] =
                    json!([{"name": "x", "mountPath": "/run/pillion"}]);
            }),
            NEWEST,
            "something of its own at /run/pillion",
        ),
        (
            json!({"pillion.dev/log-level": "loud"}),
            plain(),
            NEWEST,
            "pillion.dev/log-level: \"loud\"",
        ),
    ] {
        let pod = asking(annotations, spec);
        let outcome = outcome(&pod, features).expect("a pod");
        assert_eq!(outcome.result, Decision::Injected, "{words}");
        assert!(
            outcome.warnings.iter().any(|warning| warning.contains(words)),
            "{words}: {:?}",
            outcome.warnings
        );
        assert!(
            outcome.warnings.iter().all(|warning| warning.len() <= 256),
            "{:?}",
            outcome.warnings
        );
        patched(&pod, &outcome.patch);
    }
}

#[test]
fn an_older_api_server_gets_only_what_it_knows() {
    assert_eq!(Features::of("1", "34"), NEWEST);
    assert_eq!(Features::of("1", "30+"), NEWEST);
    assert_eq!(Features::of("1", "29"), Features { native: true, sleep: false });
    assert_eq!(Features::of("1", "28"), Features { native: false, sleep: false });
    assert_eq!(Features::of("2", "0"), NEWEST);
    assert_eq!(Features::of("", "x"), Features::default());
    let pod = asking(json!({}), plain());
    let of = |features| patched(&pod, &outcome(&pod, features).expect("a pod").patch);
    let old = of(Features::of("1", "29"));
    assert!(old["spec"]["containers"][0].get("lifecycle").is_none(), "no sleep");
    assert_eq!(names(&old["spec"]["initContainers"]), ["pillion"]);
    let older = of(Features::of("1", "28"));
    assert_eq!(names(&older["spec"]["containers"]), ["pillion", "web"]);
}

#[test]
fn the_same_wish_has_the_same_hash_and_another_one_another() {
    let hash = |annotations: Value| {
        let pod = injected(&asking(annotations, plain()));
        pod["metadata"]["annotations"][STATUS].as_str().expect("a text").to_owned()
    };
    assert_eq!(hash(json!({})), hash(json!({"other": "x"})));
    assert_ne!(hash(json!({})), hash(json!({"pillion.dev/log-level": "debug"})));
}

#[test]
fn what_is_no_pod_is_refused_in_words() {
    for (pod, words) in [
        (json!(null), "metadata is no object"),
        (json!({"metadata": 1}), "metadata is no object"),
        (json!({"metadata": {"labels": []}, "spec": {}}), "metadata.labels"),
        (json!({"metadata": {"annotations": {"a": 1}}, "spec": {}}), "metadata.annotations"),
        (json!({"metadata": {}, "spec": {}}), "spec.containers"),
        (json!({"metadata": {}, "spec": {"containers": [3]}}), "spec.containers"),
        (
            json!({"metadata": {}, "spec": {"containers": [{"name": "a"}], "volumes": {}}}),
            "spec.volumes",
        ),
        (
            json!({"metadata": {}, "spec": {"containers": [{"name": "a", "env": [1]}]}}),
            "spec.containers[0].env",
        ),
        (
            json!({"metadata": {}, "spec": {"containers": [{"name": "a", "lifecycle": 1}]}}),
            "lifecycle",
        ),
    ] {
        let said = outcome(&pod, NEWEST).expect_err(words);
        assert!(said.contains(words), "{said}");
    }
}

// ===== for any pod =====

fn one_of(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(words).prop_map(str::to_owned)
}

fn annotation() -> impl Strategy<Value = (String, String)> {
    let names: Vec<String> =
        super::super::annotations::ALL.iter().map(|a| format!("{PREFIX}{}", a.name)).collect();
    let values = one_of(&[
        "true",
        "false",
        "web",
        "migrate",
        "shop",
        "5",
        "15s",
        "0",
        "64Mi",
        "1",
        "10m",
        "debug",
        "json",
        "a=b",
        "PILLION_PROFILE=wan",
        "1000000",
        "",
        "nonsense!",
        "5000",
        "/run/pillion",
        "3600",
    ]);
    (prop::sample::select(names), values)
}

fn container(name: String) -> impl Strategy<Value = Value> {
    let env = vec(one_of(&["PILLION_SOCKET", "PILLION_NODE", "HOME", "A"]), 0..3);
    let mounts = vec(one_of(&["/run/pillion", "/data", "/tmp"]), 0..3);
    let lifecycle = prop::sample::select(vec![
        Value::Null,
        json!({"preStop": {"exec": {"command": ["x"]}}}),
        json!({"postStart": {"exec": {"command": ["x"]}}}),
        json!({}),
    ]);
    (env, mounts, lifecycle, any::<bool>(), 0..3_u8).prop_map(move |(mut env, mut mounts, lifecycle, port, absent)| {
        env.sort();
        env.dedup();
        mounts.sort();
        mounts.dedup();
        let mut container = json!({
            "name": name, "image": "app:1", "command": ["x", "y"],
            "securityContext": {"runAsNonRoot": true, "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}},
        });
        if port {
            container["ports"] = json!([{"containerPort": 4470}]);
        }
        if !env.is_empty() || absent == 1 {
            container["env"] = env.iter().map(|name| json!({"name": name, "value": "own"})).collect();
        }
        if !mounts.is_empty() || absent == 2 {
            container["volumeMounts"] = mounts.iter().map(|path| json!({"name": "data", "mountPath": path})).collect();
        }
        if !lifecycle.is_null() {
            container["lifecycle"] = lifecycle;
        }
        container
    })
}

fn containers(names: &'static [&'static str], least: usize) -> impl Strategy<Value = Vec<Value>> {
    prop::sample::subsequence(names, least..=names.len()).prop_flat_map(|names| {
        names.into_iter().map(|name| container(name.to_owned())).collect::<Vec<_>>()
    })
}

/// Pods that a namespace with `restricted` Pod Security takes.
fn pod() -> impl Strategy<Value = Value> {
    let apps = containers(&["web", "worker", "cache"], 1);
    let init = containers(&["early", "istio-init", "linkerd-init", "migrate"], 0);
    let odd = prop::sample::select(vec![
        Value::Null,
        json!({"hostNetwork": false}),
        json!({"nodeSelector": {"kubernetes.io/os": "linux"}}),
        json!({"terminationGracePeriodSeconds": 0}),
        json!({"terminationGracePeriodSeconds": 3}),
        json!({"restartPolicy": "Never"}),
        json!({"volumes": []}),
        json!({"volumes": null, "initContainers": null}),
    ]);
    let labels = btree_map(
        one_of(&["app", "app.kubernetes.io/name", INJECT, MESH]),
        one_of(&["true", "web", "Ä b/c"]),
        0..4,
    );
    let annotations =
        btree_map(one_of(&["a", STATUS, DEFAULT_CONTAINER]), one_of(&["x", "web"]), 0..3);
    (apps, init, odd, labels, annotations, vec(annotation(), 0..6), any::<bool>()).prop_map(
        |(apps, init, odd, labels, mut annotations, wishes, empty)| {
            annotations.extend(wishes);
            let mut pod =
                json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": apps}});
            if !init.is_empty() {
                pod["spec"]["initContainers"] = json!(init);
            }
            pod["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
            if let Some(odd) =
                odd.as_object().filter(|odd| init.is_empty() || !odd.contains_key("initContainers"))
            {
                pod["spec"].as_object_mut().expect("an object").extend(odd.clone());
            }
            if !labels.is_empty() || empty {
                pod["metadata"]["labels"] = json!(labels);
            }
            if !annotations.is_empty() || empty {
                pod["metadata"]["annotations"] = json!(annotations);
            }
            pod
        },
    )
}

fn features() -> impl Strategy<Value = Features> {
    (any::<bool>(), any::<bool>()).prop_map(|(native, sleep)| Features { native, sleep })
}

/// Any JSON, of keys that pods have.
fn hostile() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        one_of(&["", "true", "web", "pillion", "Always"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, |inner| {
        let key = one_of(&[
            "metadata",
            "spec",
            "labels",
            "annotations",
            "containers",
            "initContainers",
            "volumes",
            "name",
            "env",
            "volumeMounts",
            "lifecycle",
            "preStop",
            "ports",
            "containerPort",
            INJECT,
            "os",
            "nodeSelector",
            "terminationGracePeriodSeconds",
            "hostNetwork",
            "resources",
        ]);
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(key, inner, 0..6).prop_map(|map| json!(map)),
        ]
    })
}

/// Whether what was there is there, in its order, and says the same. Of ours may be said something else.
fn kept(old: &Value, new: &Value, place: &str) -> Result<(), String> {
    let ours = [INJECTED, MESH, STATUS].iter().any(|key| place.ends_with(key));
    match (old, new) {
        (_, Value::String(_)) if ours => Ok(()),
        (Value::Null, _) => Ok(()),
        (Value::Object(old), Value::Object(new)) => old.iter().try_for_each(|(key, old)| {
            let place = format!("{place}/{key}");
            kept(old, new.get(key).ok_or_else(|| format!("{place} is gone"))?, &place)
        }),
        (Value::Array(old), Value::Array(new)) => {
            let mut rest = new.iter();
            old.iter().enumerate().try_for_each(|(at, old)| {
                let place = format!("{place}/{at}");
                let same =
                    |new: &&Value| called(new) == called(old) && kept(old, new, &place).is_ok();
                rest.find(same)
                    .map(|_| ())
                    .ok_or_else(|| format!("{place} is gone or out of order"))
            })
        }
        (old, new) if old == new => Ok(()),
        _ => Err(format!("{place} was {old} and is {new}")),
    }
}

/// What Pod Security `restricted` asks of a pod, as far as a sidecar could break it; the rules are those of
/// `pod-security-admission/policy` of Kubernetes 1.34.
fn restricted(pod: &Value) -> Result<(), String> {
    let spec = &pod["spec"];
    for key in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[key] == true {
            return Err(key.to_owned());
        }
    }
    let kinds = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    for volume in list(spec.get("volumes")) {
        let good = volume
            .as_object()
            .is_some_and(|v| v.keys().all(|key| key == "name" || kinds.contains(&key.as_str())));
        if !good {
            return Err(format!("volume {volume}"));
        }
    }
    for container in list(spec.get("containers")).iter().chain(list(spec.get("initContainers"))) {
        let context = &container["securityContext"];
        let added = list(context["capabilities"].get("add"));
        let good = context["runAsNonRoot"] == true
            && context["runAsUser"] != 0
            && context["allowPrivilegeEscalation"] == false
            && context["privileged"] != true
            && context["capabilities"]["drop"]
                .as_array()
                .is_some_and(|drop| drop.contains(&json!("ALL")))
            && added.iter().all(|capability| capability == "NET_BIND_SERVICE")
            && ["RuntimeDefault", "Localhost"]
                .iter()
                .any(|kind| context["seccompProfile"]["type"] == *kind)
            && list(container.get("ports")).iter().all(|port| port.get("hostPort").is_none())
            && container.pointer("/lifecycle/preStop/httpGet/host").is_none();
        if !good {
            return Err(format!("container {container}"));
        }
    }
    Ok(())
}

/// What the API server refuses and a patch could bring about.
fn valid(pod: &Value) -> Result<(), String> {
    Typed::deserialize(pod).map_err(|error| error.to_string())?;
    let unique = |mut all: Vec<String>, what: &str| {
        let count = all.len();
        all.sort();
        all.dedup();
        if all.len() == count { Ok(()) } else { Err(format!("{what} twice in {pod}")) }
    };
    let spec = &pod["spec"];
    let both = || list(spec.get("containers")).iter().chain(list(spec.get("initContainers")));
    let names =
        |list_of: &[Value]| list_of.iter().map(|item| called(item).to_owned()).collect::<Vec<_>>();
    unique(both().map(|container| called(container).to_owned()).collect(), "a container")?;
    unique(names(list(spec.get("volumes"))), "a volume")?;
    let grace = spec["terminationGracePeriodSeconds"].as_u64().unwrap_or(GRACE_DEFAULT);
    for container in both() {
        unique(names(list(container.get("env"))), "a variable")?;
        let mounts = list(container.get("volumeMounts")).iter();
        unique(mounts.map(|mount| mount["mountPath"].to_string()).collect(), "a mount")?;
        if container
            .pointer("/lifecycle/preStop/sleep/seconds")
            .is_some_and(|s| s == 0 || s.as_u64() > Some(grace))
        {
            return Err(format!("a sleep beyond the pod's time: {container}"));
        }
        for name in ["cpu", "memory"] {
            let of = |kind: &str| {
                container["resources"][kind][name]
                    .as_str()
                    .and_then(super::super::quantity::Quantity::parse)
            };
            if let (Some(request), Some(limit)) = (of("requests"), of("limits"))
                && request > limit
            {
                return Err(format!("{name}: more is requested than allowed: {container}"));
            }
        }
    }
    Ok(())
}

fn set(pod: &mut Value, kind: &str, key: &str, text: &str) {
    let metadata = pod["metadata"].as_object_mut().expect("an object");
    metadata.entry(kind).or_insert_with(|| json!({}))[key] = json!(text);
}

proptest! {
    #[test]
    fn applying_the_patch_twice_is_applying_it_once(mut pod in pod(), features in features()) {
        set(&mut pod, "annotations", INJECT, "true");
        let first = outcome(&pod, features).expect("a pod");
        prop_assert_eq!(first.result, Decision::Injected);
        let once = patched(&pod, &first.patch);
        let second = outcome(&once, features).expect("a pod");
        prop_assert_eq!(second.result, Decision::Already);
        prop_assert!(second.patch.is_empty() && second.warnings.is_empty());
    }

    #[test]
    fn a_pod_that_it_does_not_concern_is_unchanged(mut pod in pod(), word in "false|False|no|", features in features()) {
        if word.is_empty() {
            for kind in ["labels", "annotations"] {
                if let Some(texts) = pod["metadata"].get_mut(kind).and_then(Value::as_object_mut) {
                    texts.remove(INJECT);
                }
            }
        } else {
            set(&mut pod, "labels", INJECT, &word);
            set(&mut pod, "annotations", INJECT, &word);
        }
        let outcome = outcome(&pod, features).expect("a pod");
        prop_assert_eq!(outcome.result, Decision::NotAsked);
        prop_assert!(outcome.patch.is_empty());
    }

    #[test]
    fn nothing_of_the_pods_own_is_lost(mut pod in pod(), features in features()) {
        set(&mut pod, "annotations", INJECT, "true");
        let outcome = outcome(&pod, features).expect("a pod");
        let new = patched(&pod, &outcome.patch);
        prop_assert_eq!(kept(&pod, &new, ""), Ok(()));
        prop_assert_eq!(outcome.result, Decision::Injected);
    }

    #[test]
    fn the_patched_pod_is_one_that_the_api_server_and_restricted_pod_security_take(mut pod in pod(), features in features()) {
        set(&mut pod, "annotations", INJECT, "true");
        prop_assert_eq!(restricted(&pod), Ok(()));
        let outcome = outcome(&pod, features).expect("a pod");
        let new = patched(&pod, &outcome.patch);
        prop_assert_eq!(restricted(&new), Ok(()));
        prop_assert_eq!(valid(&new), Ok(()));
        prop_assert!(outcome.warnings.iter().all(|warning| warning.chars().count() <= 240), "{:?}", outcome.warnings);
    }

    #[test]
    fn every_operation_of_the_patch_adds_something(mut pod in pod(), features in features()) {
        set(&mut pod, "annotations", INJECT, "true");
        let outcome = outcome(&pod, features).expect("a pod");
        let mut so_far = pod.clone();
        for operation in &outcome.patch {
            let before = so_far.clone();
            so_far = patched(&so_far, std::slice::from_ref(operation));
            prop_assert_ne!(&before, &so_far, "{:?}", operation);
        }
    }

    #[test]
    fn no_json_brings_it_down(mut pod in hostile(), asks in any::<bool>(), features in features()) {
        if asks && pod.is_object() {
            let metadata = pod.as_object_mut().expect("an object").entry("metadata").or_insert_with(|| json!({}));
            if metadata.is_object() {
                metadata["annotations"] = json!({INJECT: "true"});
            }
        }
        if let Ok(outcome) = outcome(&pod, features) {
            patched(&pod, &outcome.patch);
        }
    }
}
