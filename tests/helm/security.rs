//! What may not slip in: rights, secrets, tokens and limits, in whatever mode.

use serde_json::{Value, json};

use crate::support::{Chart, Helm, case, containers, find, pod, sidecar, title};

/// Every mode with its objects.
fn modes(helm: &Helm) -> Vec<(&'static str, Vec<Value>)> {
    let file = case("agent");
    let certificates = case("library-certificates");
    vec![
        ("injector", helm.objects(Chart::Pillion, &[])),
        ("agent", helm.objects(Chart::Pillion, &["--values", &file])),
        ("library", helm.objects(Chart::Example, &[])),
        ("library with certificates", helm.objects(Chart::Example, &["--values", &certificates])),
    ]
}

/// A pod with nothing but what the injector adds to it.
fn injected(objects: &[Value]) -> Value {
    let added = sidecar(objects);
    json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "initContainers": [added["container"]],
        "containers": [],
        "volumes": added["volumes"],
    })
}

/// What the level `restricted` of Pod Security has against a pod; where it can be seen without a server.
fn not_restricted(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut against = |what: String| found.push(what);
    for key in ["hostNetwork", "hostPID", "hostIPC"] {
        if pod[key] == true {
            against(key.into());
        }
    }
    for volume in pod["volumes"].as_array().into_iter().flatten() {
        let kinds = ["configMap", "downwardAPI", "emptyDir", "projected", "secret"];
        if !kinds.iter().any(|kind| volume.get(kind).is_some()) {
            against(format!("volume {}", volume["name"]));
        }
    }
    for container in containers(pod) {
        let (own, whole) = (&container["securityContext"], &pod["securityContext"]);
        let either = |key: &str| if own[key].is_null() { &whole[key] } else { &own[key] };
        let mut must = |holds: bool, what: &str| {
            if !holds {
                against(format!("{what} of {}", container["name"]));
            }
        };
        must(own["allowPrivilegeEscalation"] == false, "allowPrivilegeEscalation");
        must(own["capabilities"]["drop"] == json!(["ALL"]), "capabilities");
        must(own["capabilities"].get("add").is_none(), "capabilities added");
        must(own["privileged"] != true, "privileged");
        must(either("runAsNonRoot") == true, "runAsNonRoot");
        must(either("runAsUser") != 0, "runAsUser");
        must(either("seccompProfile")["type"] == "RuntimeDefault", "seccompProfile");
        for port in container["ports"].as_array().into_iter().flatten() {
            must(port.get("hostPort").is_none(), "hostPort");
        }
    }
    found
}

#[test]
fn pods_fit_the_level_restricted_without_an_annotation() {
    let Some(helm) = Helm::here() else { return };
    for (mode, objects) in modes(helm) {
        for object in &objects {
            let Some(pod) = pod(object) else { continue };
            let found = not_restricted(pod);
            if mode == "agent" {
                // A directory of the machine is what an agent is, and it tells the machine's processes apart.
                assert!(!found.is_empty(), "{}", title(object));
                assert!(pod["hostPID"] == true || pod["containers"][0]["name"] == "nodes");
            } else {
                assert!(found.is_empty(), "{mode}, {}: {found:?}", title(object));
            }
        }
        if mode == "injector" {
            assert_eq!(not_restricted(&injected(&objects)), Vec::<String>::new());
        }
    }
}

#[test]
fn a_root_file_system_is_never_written_to_and_the_cpu_never_limited() {
    let Some(helm) = Helm::here() else { return };
    for (mode, objects) in modes(helm) {
        let added = if mode == "injector" { Some(injected(&objects)) } else { None };
        for pod in objects.iter().filter_map(pod).chain(added.as_ref()) {
            for container in containers(pod).filter(|container| container["name"] != "shop") {
                let what = format!("{mode}: {}", container["name"]);
                assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true, "{what}");
                assert!(container["resources"]["limits"]["memory"].is_string(), "{what}");
                assert!(container["resources"]["limits"].get("cpu").is_none(), "{what}");
            }
        }
    }
}

/// Whether a volume of a pod holds a token.
fn holds_token(volume: &Value) -> bool {
    let sources = volume["projected"]["sources"].as_array().into_iter().flatten();
    sources.into_iter().any(|source| source.get("serviceAccountToken").is_some())
}

#[test]
fn only_the_sidecar_mounts_tokens_secrets_and_the_socket_of_operators() {
    let Some(helm) = Helm::here() else { return };
    for (mode, objects) in modes(helm) {
        let mut pods: Vec<Value> = objects.iter().filter_map(pod).cloned().collect();
        if mode == "injector" {
            let mut pod = injected(&objects);
            pod["containers"] =
                json!([{"name": "app", "volumeMounts": sidecar(&objects)["app"]["volumeMounts"]}]);
            pods.push(pod);
        }
        for pod in &pods {
            let volumes = pod["volumes"].as_array().into_iter().flatten();
            let secret: Vec<&Value> = volumes
                .filter(|volume| {
                    holds_token(volume)
                        || volume.get("secret").is_some()
                        || volume["name"] == "pillion-operator"
                })
                .map(|volume| &volume["name"])
                .collect();
            for container in containers(pod).filter(|container| container["name"] != "pillion") {
                for mount in container["volumeMounts"].as_array().into_iter().flatten() {
                    assert!(
                        !secret.contains(&&mount["name"]),
                        "{mode}: {} mounts {mount}",
                        container["name"]
                    );
                    assert_eq!(mount["readOnly"], true, "{mode}: {mount}");
                }
            }
        }
    }
}

#[test]
fn an_injected_pod_holds_no_secret_but_tokens_of_its_own_account() {
    let Some(helm) = Helm::here() else { return };
    let added = sidecar(&helm.objects(Chart::Pillion, &[]));
    for volume in added["volumes"].as_array().unwrap() {
        assert!(volume.get("secret").is_none() && volume.get("hostPath").is_none(), "{volume}");
    }
    let token = &added["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|volume| volume["name"] == "pillion-token")
        .unwrap()["projected"]["sources"][0]["serviceAccountToken"];
    assert_eq!(token["audience"], "pillion.dev");
}

#[test]
fn what_the_injector_writes_is_shipped_empty() {
    let Some(helm) = Helm::here() else { return };
    let objects = helm.objects(Chart::Pillion, &[]);
    for secret in objects.iter().filter(|object| object["kind"] == "Secret") {
        assert!(
            secret.get("data").is_none() && secret.get("stringData").is_none(),
            "{}",
            title(secret)
        );
    }
    for secret in ["Secret pillion-ca", "Secret pillion-webhook-tls"] {
        find(&objects, secret);
    }
    assert!(find(&objects, "Lease pillion-injector").get("spec").is_none());
    let webhook = &find(&objects, "MutatingWebhookConfiguration pillion")["webhooks"][0];
    assert!(webhook["clientConfig"].get("caBundle").is_none());
    assert!(
        webhook.get("objectSelector").is_none(),
        "it is asked together with an annotation that it cannot see"
    );
}

#[test]
fn every_role_names_what_it_may_and_nothing_may_everything() {
    let Some(helm) = Helm::here() else { return };
    for (mode, objects) in modes(helm) {
        for object in objects.iter().filter(|object| object["rules"].is_array()) {
            for rule in object["rules"].as_array().unwrap() {
                let all = rule.to_string();
                assert!(!all.contains("\"*\""), "{mode}, {}: {all}", title(object));
                let writes = ["create", "update", "patch", "delete"];
                let verbs = rule["verbs"].as_array().unwrap();
                let secrets = rule["resources"] == json!(["secrets"]);
                if secrets {
                    assert!(rule["resourceNames"].is_array(), "{mode}, {}: {all}", title(object));
                }
                if object["metadata"]["name"].as_str().unwrap().ends_with("-discovery") {
                    assert!(
                        !verbs.iter().any(|verb| writes.contains(&verb.as_str().unwrap())),
                        "{all}"
                    );
                }
            }
        }
    }
}

#[test]
fn services_take_both_families_of_addresses() {
    let Some(helm) = Helm::here() else { return };
    for (mode, objects) in modes(helm) {
        for service in objects.iter().filter(|object| object["kind"] == "Service") {
            assert_eq!(
                service["spec"]["ipFamilyPolicy"],
                "PreferDualStack",
                "{mode}, {}",
                title(service)
            );
        }
    }
}
