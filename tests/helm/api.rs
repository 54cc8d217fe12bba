//! What an API server says of the charts: it takes every object, in a namespace that enforces `restricted` the pods too; each
//! account may what it needs and nothing beside it; an upgrade keeps what the injector wrote, and an uninstall leaves nothing.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Chart, Helm, case, containers, objects, pod, run, sidecar, title};

/// An API server, and helm.
struct Api {
    helm: &'static Helm,
}

impl Api {
    fn here() -> Option<Self> {
        let helm = Helm::here()?;
        if std::env::var_os("KUBECONFIG").is_none_or(|value| value.is_empty()) {
            println!(
                "SKIPPED: there is no API server here; `tests/kubernetes/cluster test` brings one up, or give KUBECONFIG"
            );
            return None;
        }
        Some(Self { helm })
    }

    fn try_kubectl(args: &[&str], input: Option<&str>) -> Result<String, String> {
        let mut command = Command::new("kubectl");
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.spawn().map_err(|error| format!("kubectl: {error}"))?;
        if let Some(input) = input {
            child.stdin.take().expect("piped").write_all(input.as_bytes()).unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            // Warnings count: of Pod Security they are what an app's author sees.
            Ok(format!("{}{said}", String::from_utf8_lossy(&output.stdout)))
        } else {
            Err(format!("kubectl {args:?}: {said}"))
        }
    }

    fn kubectl(args: &[&str]) -> String {
        Self::try_kubectl(args, None).unwrap()
    }

    fn json(args: &[&str]) -> Value {
        let mut args = args.to_vec();
        args.extend(["-o", "json"]);
        serde_json::from_str(&Self::kubectl(&args)).unwrap()
    }

    /// A namespace that is gone with the value, with the account that pods have and no controller makes here.
    fn namespace(test: &str, level: &str) -> Place {
        let name = format!("pillion-{test}-{}", std::process::id());
        Self::kubectl(&["create", "namespace", &name]);
        let place = Place { name };
        let level = format!("pod-security.kubernetes.io/enforce={level}");
        Self::kubectl(&["label", "namespace", &place.name, &level]);
        let _ =
            Self::try_kubectl(&["-n", &place.name, "create", "serviceaccount", "default"], None);
        place
    }
}

struct Place {
    name: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = Api::try_kubectl(&["delete", "namespace", &self.name, "--wait=false"], None);
    }
}

/// Objects of kinds that the server does not know are left out: monitors and certificates have their definitions from others.
fn known(objects: Vec<Value>) -> Vec<Value> {
    let foreign = ["monitoring.coreos.com/", "cert-manager.io/"];
    let own = |object: &Value| {
        !foreign
            .iter()
            .any(|group| object["apiVersion"].as_str().unwrap_or_default().starts_with(group))
    };
    objects.into_iter().filter(own).collect()
}

/// What the server has against an object, though it would take it, or why it refuses.
fn dry_run(namespace: &str, object: &Value) -> Result<String, String> {
    let args = ["-n", namespace, "apply", "--dry-run=server", "--validate=strict", "-f", "-"];
    Api::try_kubectl(&args, Some(&object.to_string()))
}

/// The server takes every object of a mode, and the pods that they would make.
fn taken(test: &str, level: &str, chart: Chart, flags: &[&str]) {
    let Some(api) = Api::here() else { return };
    let place = Api::namespace(test, level);
    let mut all = vec!["--namespace", place.name.as_str()];
    all.extend(flags);
    let objects = known(objects(&api.helm.template(chart, &all).unwrap()));
    assert!(!objects.is_empty());
    for object in &objects {
        let said = dry_run(&place.name, object)
            .unwrap_or_else(|error| panic!("{}: {error}", title(object)));
        assert!(!said.contains("Warning"), "{}: {said}", title(object));
        let Some(spec) = pod(object).filter(|_| object["kind"] != "Pod") else { continue };
        let mut spec = spec.clone();
        // The account is one of the objects, and none of them is there.
        spec["serviceAccountName"] = json!("default");
        let pod =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec});
        dry_run(&place.name, &pod)
            .unwrap_or_else(|error| panic!("a pod of {}: {error}", title(object)));
    }
}

#[test]
fn the_server_takes_the_injector_in_a_restricted_namespace() {
    taken("injector", "restricted", Chart::Pillion, &[]);
}

#[test]
fn the_server_takes_the_injector_with_everything() {
    let file = case("everything");
    // A pod in its machine's network is no restricted one.
    taken(
        "everything",
        "privileged",
        Chart::Pillion,
        &["--values", &file, "--set", "networkPolicy.namespaces=null"],
    );
}

#[test]
fn the_server_takes_the_agent_in_a_privileged_namespace_and_no_other() {
    let file = case("agent");
    taken("agent", "privileged", Chart::Pillion, &["--values", &file]);
    let Some(api) = Api::here() else { return };
    let place = Api::namespace("agent-restricted", "baseline");
    let objects =
        api.helm.objects(Chart::Pillion, &["--values", &file, "--namespace", &place.name]);
    let set = objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
    let said = dry_run(&place.name, set).unwrap();
    assert!(said.contains("hostPath"), "{said}");
}

#[test]
fn the_server_takes_a_chart_with_the_library_in_a_restricted_namespace() {
    taken("library", "restricted", Chart::Example, &[]);
    let file = case("library-dns");
    taken("library-dns", "restricted", Chart::Example, &["--values", &file]);
}

#[test]
fn the_server_takes_a_pod_with_what_the_injector_adds_in_a_restricted_namespace() {
    let Some(api) = Api::here() else { return };
    let place = Api::namespace("injected", "restricted");
    let added = sidecar(&api.helm.objects(Chart::Pillion, &[]));
    let mut sidecar = added["container"].clone();
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app"},
        "spec": {
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "app", "image": "app",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "env": added["app"]["env"], "volumeMounts": added["app"]["volumeMounts"],
            }],
            "initContainers": [sidecar],
            "volumes": added["volumes"],
        },
    });
    let said = dry_run(&place.name, &pod).unwrap();
    assert!(!said.contains("Warning"), "{said}");
    // The other choice is a plain container.
    let added = crate::support::sidecar(
        &api.helm.objects(Chart::Pillion, &["--set", "sidecar.native=false"]),
    );
    sidecar = added["container"].clone();
    assert!(sidecar.get("restartPolicy").is_none());
    pod["spec"]["initContainers"] = json!([]);
    pod["spec"]["containers"].as_array_mut().unwrap().push(sidecar);
    dry_run(&place.name, &pod).unwrap();
    // The server gives the app its own token, as it would without a sidecar, and leaves the sidecar's mount alone.
    let made = Api::try_kubectl(
        &["-n", &place.name, "create", "--dry-run=server", "-o", "json", "-f", "-"],
        Some(&pod.to_string()),
    );
    let made: Value = serde_json::from_str(&made.unwrap()).unwrap();
    let account = "/var/run/secrets/kubernetes.io/serviceaccount";
    for container in containers(&made["spec"]) {
        let mounts = container["volumeMounts"].as_array().unwrap();
        let token: Vec<&Value> =
            mounts.iter().filter(|mount| mount["mountPath"] == account).collect();
        assert_eq!(token.len(), 1, "{container}");
        assert_eq!(token[0]["name"] == "pillion-api", container["name"] == "pillion");
    }
}

/// Whether an account may; the server's own answer.
fn may(account: &str, namespace: &str, what: &[&str]) -> bool {
    let mut args = vec!["auth", "can-i", "--quiet", "--as", account, "-n", namespace];
    args.extend(what);
    Api::try_kubectl(&args, None).is_ok()
}

#[test]
fn an_agents_account_may_look_at_pods_and_at_slices_of_its_namespace_and_nothing_else() {
    let Some(api) = Api::here() else { return };
    let place = Api::namespace("agent-rights", "privileged");
    let elsewhere = Api::namespace("agent-elsewhere", "restricted");
    let (here, there) = (place.name.as_str(), elsewhere.name.as_str());
    let file = case("agent");
    let release = Release::install(&api, &place, &["--values", &file]);
    let agent = format!("system:serviceaccount:{here}:{}-agent", release.name);
    for (namespace, what) in [
        (there, ["list", "pods"]),
        (there, ["watch", "pods"]),
        (here, ["list", "endpointslices"]),
        (here, ["watch", "endpointslices"]),
    ] {
        assert!(may(&agent, namespace, &what), "an agent may {what:?} in {namespace}");
    }
    for (namespace, what) in [
        (there, ["get", "pods"]),
        (there, ["patch", "pods"]),
        (there, ["create", "pods"]),
        (there, ["list", "endpointslices"]),
        (here, ["list", "secrets"]),
        (here, ["get", "secrets/pillion-cookie"]),
        (here, ["list", "nodes"]),
        (here, ["create", "tokenreviews"]),
    ] {
        assert!(!may(&agent, namespace, &what), "an agent may not {what:?} in {namespace}");
    }
    // Not only said.
    let question = ["get", "pods", "-A", "--field-selector", "spec.nodeName=node-1"];
    Api::kubectl(&[&["--as", &agent][..], &question].concat());
}

#[test]
fn each_account_may_what_it_needs_and_nothing_beside_it() {
    let Some(api) = Api::here() else { return };
    let place = Api::namespace("rights", "restricted");
    let elsewhere = Api::namespace("elsewhere", "restricted");
    let (here, there) = (place.name.as_str(), elsewhere.name.as_str());
    let release = Release::install(&api, &place, &[]);
    let name = release.name.as_str();

    let injector = format!("system:serviceaccount:{here}:{name}-injector");
    let (ca, tls, lease) = (
        format!("secrets/{name}-ca"),
        format!("secrets/{name}-webhook-tls"),
        format!("leases/{name}-injector"),
    );
    let webhook = format!("mutatingwebhookconfigurations/{name}");
    let allowed: &[(&str, &[&str])] = &[
        (here, &["get", &ca]),
        (here, &["update", &ca]),
        (here, &["watch", &ca]),
        (here, &["update", &tls]),
        (here, &["update", &lease]),
        (here, &["get", &lease]),
        (here, &["watch", "services"]),
        (here, &["create", "services"]),
        (here, &["create", "endpointslices"]),
        (here, &["delete", "endpointslices"]),
        (here, &["watch", "endpointslices"]),
        (there, &["list", "pods"]),
        (there, &["watch", "pods"]),
        (there, &["create", "events.events.k8s.io"]),
        (there, &["create", "tokenreviews"]),
        (there, &["list", "nodes"]),
        (there, &["watch", "nodes"]),
        (there, &["patch", &webhook]),
    ];
    for (namespace, what) in allowed {
        assert!(may(&injector, namespace, what), "the injector may {what:?} in {namespace}");
    }
    let refused: &[(&str, &[&str])] = &[
        (here, &["list", "secrets"]),
        (here, &["get", "secrets/other"]),
        (here, &["delete", &ca]),
        (here, &["create", "secrets"]),
        (here, &["create", "leases"]),
        (here, &["update", "services"]),
        (here, &["create", "pods"]),
        (here, &["create", "roles"]),
        (there, &["get", &ca]),
        (there, &["list", "secrets"]),
        (there, &["create", "endpointslices"]),
        (there, &["create", "services"]),
        (there, &["patch", "nodes"]),
        (there, &["list", "endpointslices"]),
        (there, &["create", "pods"]),
        (there, &["delete", "pods"]),
        (there, &["patch", "pods"]),
        (there, &["get", "pods", "--subresource=log"]),
        (there, &["create", "pods", "--subresource=exec"]),
        (there, &["patch", "mutatingwebhookconfigurations/other"]),
        (there, &["create", "mutatingwebhookconfigurations"]),
        (there, &["impersonate", "users"]),
        (there, &["patch", "namespaces"]),
    ];
    for (namespace, what) in refused {
        assert!(!may(&injector, namespace, what), "the injector may not {what:?} in {namespace}");
    }

    // Any pod may have a sidecar, so any account may look for nodes, where the injector is, and do nothing else there.
    let app = format!("system:serviceaccount:{there}:default");
    for verb in ["list", "watch"] {
        assert!(may(&app, here, &[verb, "endpointslices"]), "an app may {verb} slices");
        assert!(!may(&app, there, &[verb, "endpointslices"]), "elsewhere it may not {verb} slices");
    }
    for what in [
        ["create", "endpointslices"],
        ["get", &ca],
        ["list", "secrets"],
        ["list", "pods"],
        ["update", &lease],
        ["create", "tokenreviews"],
    ] {
        assert!(!may(&app, here, &what), "an app may not {what:?}");
    }

    // Not only said: done and refused.
    Api::kubectl(&["--as", &app, "-n", here, "get", "endpointslices"]);
    let said = Api::try_kubectl(
        &["--as", &app, "-n", here, "get", "secrets", &format!("{name}-ca")],
        None,
    )
    .unwrap_err();
    assert!(said.contains("forbidden"), "{said}");
    replace(&injector, here, "secret", &format!("{name}-ca"), "data", json!({"ca.crt": "b25l"}));
    drop(release);
}

/// Sets one member of an object, with the rights of an account that may read and update it.
fn replace(account: &str, namespace: &str, kind: &str, object: &str, member: &str, value: Value) {
    let get = ["--as", account, "-n", namespace, "get", kind, object, "-o", "json"];
    let mut object: Value = serde_json::from_str(&Api::kubectl(&get)).unwrap();
    object[member] = value;
    let put = ["--as", account, "-n", namespace, "replace", "-f", "-"];
    Api::try_kubectl(&put, Some(&object.to_string())).unwrap();
}

/// A release that is uninstalled with the value.
struct Release<'a> {
    api: &'a Api,
    name: String,
    namespace: String,
}

impl<'a> Release<'a> {
    fn install(api: &'a Api, place: &Place, flags: &[&str]) -> Self {
        // Cluster-wide objects have the release's name.
        let release = Self { api, name: place.name.clone(), namespace: place.name.clone() };
        release.helm("install", flags);
        release
    }

    fn helm(&self, subcommand: &str, flags: &[&str]) {
        let mut command = self.api.helm.command(subcommand);
        command.arg(&self.name).arg(self.api.helm.chart(Chart::Pillion));
        command.args(["--namespace", &self.namespace]).args(flags);
        // Its webhook, which nobody answers here, is asked about pods of this test only.
        let labels = "injector.namespaceSelector.matchLabels.kubernetes\\.io/metadata\\.name";
        command.args(["--set", &format!("{labels}={}", self.namespace)]);
        run(&mut command).unwrap();
    }

    fn uninstall(&self) {
        let mut command = self.api.helm.command("uninstall");
        run(command.arg(&self.name).args(["--namespace", &self.namespace])).unwrap();
    }
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        let mut command = self.api.helm.command("uninstall");
        let _ = run(command.arg(&self.name).args([
            "--ignore-not-found",
            "--namespace",
            &self.namespace,
        ]));
    }
}

/// Everything that is there in a namespace.
fn all(namespace: &str) -> BTreeSet<String> {
    let kinds = Api::kubectl(&["api-resources", "--verbs=list", "--namespaced", "-o", "name"]);
    // What happened is no object, and is told for an hour.
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
    let listed = Api::kubectl(&[
        "get",
        &kinds.join(","),
        "-n",
        namespace,
        "-o",
        "name",
        "--ignore-not-found",
    ]);
    listed.lines().filter(|line| line.contains('/')).map(str::to_owned).collect()
}

#[test]
fn an_upgrade_keeps_what_the_injector_wrote_and_an_uninstall_leaves_nothing() {
    let Some(api) = Api::here() else { return };
    let place = Api::namespace("kept", "restricted");
    let namespace = place.name.as_str();
    let before = all(namespace);
    let release = Release::install(&api, &place, &[]);
    let name = release.name.as_str();
    let injector = format!("system:serviceaccount:{namespace}:{name}-injector");

    // As the injector does, with its own rights.
    let write = |kind: &str, object: &str, member: &str, value: Value| {
        replace(&injector, namespace, kind, object, member, value);
    };
    write("secret", &format!("{name}-ca"), "data", json!({"ca.crt": "b25l", "ca.key": "dHdv"}));
    write(
        "secret",
        &format!("{name}-webhook-tls"),
        "data",
        json!({"tls.crt": "b25l", "tls.key": "dHdv"}),
    );
    write(
        "lease",
        &format!("{name}-injector"),
        "spec",
        json!({"holderIdentity": "one", "leaseDurationSeconds": 15}),
    );
    // A certificate of nobody; the server only looks whether it is one.
    let bundle =
        json!([{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": certificate()}])
            .to_string();
    Api::kubectl(&[
        "--as",
        &injector,
        "patch",
        "mutatingwebhookconfiguration",
        name,
        "--type=json",
        "-p",
        &bundle,
    ]);
    let service = Api::json(&["-n", namespace, "get", "service", "pillion-default"]);
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [],
        "metadata": {
            "name": "pillion-default-1", "labels": {"kubernetes.io/service-name": "pillion-default"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "pillion-default", "uid": service["metadata"]["uid"]}],
        },
    });
    Api::try_kubectl(
        &["--as", &injector, "-n", namespace, "create", "-f", "-"],
        Some(&slice.to_string()),
    )
    .unwrap();

    release.helm(
        "upgrade",
        &["--set", "injector.replicas=1,injector.failurePolicy=Fail,sidecar.mesh=main"],
    );
    let upgraded = Api::json(&["-n", namespace, "get", "deployment", &format!("{name}-injector")]);
    assert_eq!(upgraded["spec"]["replicas"], 1);
    let secret = Api::json(&["-n", namespace, "get", "secret", &format!("{name}-ca")]);
    assert_eq!(secret["data"], json!({"ca.crt": "b25l", "ca.key": "dHdv"}));
    let secret = Api::json(&["-n", namespace, "get", "secret", &format!("{name}-webhook-tls")]);
    assert_eq!(secret["data"]["tls.key"], "dHdv");
    let lease = Api::json(&["-n", namespace, "get", "lease", &format!("{name}-injector")]);
    assert_eq!(lease["spec"]["holderIdentity"], "one");
    let webhook = &Api::json(&["get", "mutatingwebhookconfiguration", name])["webhooks"][0];
    assert_eq!(webhook["failurePolicy"], "Fail");
    assert_eq!(webhook["clientConfig"]["caBundle"], certificate());
    // The Service of the mesh that is gone went with it; its slices follow where there is a garbage collector.
    assert!(
        Api::try_kubectl(&["-n", namespace, "get", "service", "pillion-default"], None).is_err()
    );
    Api::kubectl(&["-n", namespace, "delete", "endpointslice", "pillion-default-1"]);

    release.uninstall();
    assert_eq!(all(namespace), before);
    for kind in ["mutatingwebhookconfigurations", "clusterroles", "clusterrolebindings"] {
        let left = Api::kubectl(&["get", kind, "-o", "name"]);
        assert!(!left.contains(name), "{kind}: {left}");
    }
}

#[test]
fn the_webhook_is_asked_about_annotated_and_labelled_pods_and_no_others() {
    let Some(api) = Api::here() else { return };
    let place = Api::namespace("asked", "restricted");
    // Nobody answers: whoever is asked about is refused.
    let release = Release::install(&api, &place, &["--set", "injector.failurePolicy=Fail"]);
    let refused = |metadata: Value| {
        let secure = json!({
            "runAsNonRoot": true, "runAsUser": 1000, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        });
        let containers = json!([{"name": "app", "image": "app", "securityContext": secure}]);
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": containers}});
        pod["metadata"]["name"] = json!("app");
        match dry_run(&place.name, &pod) {
            Ok(_) => false,
            Err(said) if said.contains("failed calling webhook \"injector.pillion.dev\"") => true,
            Err(said) => panic!("{said}"),
        }
    };
    // The server learns of a webhook a moment after it was made.
    let asks = json!({"annotations": {"pillion.dev/inject": "true"}});
    let waited = std::iter::repeat_with(|| refused(asks.clone())).take(200).any(|is| is);
    assert!(waited, "an annotated pod is asked about");
    assert!(refused(json!({"labels": {"pillion.dev/inject": "true"}})));
    // To be warned of.
    assert!(refused(json!({"annotations": {"pillion.dev/inject": "yes"}})));
    assert!(!refused(json!({})));
    assert!(!refused(
        json!({"labels": {"pillion.dev/inject": "false"}, "annotations": {"pillion.dev/mesh": "shop"}})
    ));
    // What the injector needs to start does not need it.
    let objects = api.helm.objects(Chart::Pillion, &["--namespace", &place.name]);
    let injector = objects
        .iter()
        .find(|object| object["kind"] == "Deployment" && title(object).ends_with("-injector"));
    assert!(!refused(
        json!({"labels": injector.unwrap()["spec"]["template"]["metadata"]["labels"]})
    ));
    Api::kubectl(&["label", "namespace", &place.name, "pillion.dev/inject=disabled"]);
    let waited = std::iter::repeat_with(|| refused(asks.clone())).take(200).any(|is| !is);
    assert!(waited, "a namespace that is labelled disabled is left alone");
    drop(release);
}

/// A certificate in PEM, in base64, as a webhook's caBundle has it.
fn certificate() -> &'static str {
    include_str!("certificate.b64")
}
