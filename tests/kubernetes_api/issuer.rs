//! The identity of injected pods, and where they find each other: real tokens, real pods (which nobody runs), real
//! injectors, and real nodes that join with what they were issued.

mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use pillion::issuer::IssuerError;
use serde_json::json;
use tokio::time::Instant;

use self::world::{Node, World, eventually};

/// The world of a test, or nothing after it was said why.
async fn world() -> Option<World> {
    World::new().await.map_err(|why| println!("SKIPPED: {why}")).ok()
}

fn code(answer: Result<pillion::issuer::Answer, IssuerError>) -> String {
    match answer {
        Ok(_) => "issued".to_owned(),
        Err(IssuerError::Refused { code, .. }) => code,
        Err(error) => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_gets_a_certificate_for_itself_by_its_own_token_and_by_no_other() {
    let Some(world) = world().await else { return };
    let injector = world.injector(&["--log-level", "debug"]).await;
    world.pod("web-0").await;
    world.pod_in("web-1", "other").await;
    let ask = async |token: &str, mesh: &str| code(injector.ask(token, mesh).await);
    let good = world.token("web-0", "pillion.dev").await;
    assert_eq!(ask(&good, &world.mesh).await, "issued");
    assert_eq!(ask(&good, "other").await, "mesh");
    let other = world.token("web-1", "pillion.dev").await;
    assert_eq!(ask(&other, &world.mesh).await, "mesh");
    assert_eq!(ask(&other, "other").await, "issued");
    // Good for the API server, and not for us.
    let api = world.token("web-0", "https://kubernetes.default.svc.cluster.local").await;
    assert_eq!(ask(&api, &world.mesh).await, "audience");
    let unbound = world.unbound_token("pillion.dev").await;
    assert_eq!(ask(&unbound, &world.mesh).await, "unbound");
    assert_eq!(ask("no.such.token", &world.mesh).await, "unauthorized");
    let mut forged = good.clone();
    forged.replace_range(good.len() - 8.., "AAAAAAAA");
    assert_eq!(ask(&forged, &world.mesh).await, "unauthorized");
    // A pod that is gone takes its token with it, also when another one has its name.
    world.delete_pod("web-0").await;
    let gone = ask(&good, &world.mesh).await;
    assert!(["unauthorized", "noproc"].contains(&gone.as_str()), "{gone}");
    world.pod("web-0").await;
    let gone = ask(&good, &world.mesh).await;
    assert!(["unauthorized", "noproc"].contains(&gone.as_str()), "{gone}");
    let log = injector.log();
    for token in [&good, &other, &api, &unbound] {
        assert!(!log.contains(&token[..40]), "a token is in the log");
    }
    assert!(!log.contains("PRIVATE"), "a key is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_with_what_it_was_issued_waits_for_an_injector_that_is_away_and_is_no_other_host()
 {
    let Some(world) = world().await else { return };
    for pod in ["web-0", "web-1"] {
        world.pod(pod).await;
    }
    let first = world.injector(&[]).await;
    let at = first.at;
    let a = world.node("a", "web-0", &first, &world.token("web-0", "pillion.dev").await);
    a.until("its certificate", |doctor| doctor["issued"]["ends_ms"].is_u64()).await;
    drop(first);
    // Its apps are served while nobody issues anything, and it says why it joins nobody.
    let waiting = world.node_at("b", "web-1", at, &world.token("web-1", "pillion.dev").await);
    let doctor =
        waiting.until("its trouble", |doctor| doctor["issued"]["trouble"].is_string()).await;
    assert!(doctor["issued"]["ends_ms"].is_null(), "{doctor}");
    let why = doctor["issued"]["trouble"].as_str().expect("a text");
    assert!(why.contains("cannot be reached"), "{why}");
    assert_eq!(waiting.nodes().await, BTreeSet::new());
    assert_eq!(waiting.ask(json!({"op": "ping", "node": a.name})).await["result"], "pang");

    let _second = world.injector_at(at, &[]).await;
    waiting.joined(&[&a]).await;
    a.joined(&[&waiting]).await;
    // Of the name that its pod does not have it gets no certificate that it could use.
    let token = world.token("web-1", "pillion.dev").await;
    let odd = world.node_at("c", "web-9", at, &token);
    let doctor = odd.until("its trouble", |doctor| doctor["issued"]["trouble"].is_string()).await;
    let why = doctor["issued"]["trouble"].as_str().expect("a text");
    assert!(why.contains("PILLION_NAME") && why.contains("web-1."), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_injectors_that_start_on_an_empty_secret_have_one_authority() {
    let Some(world) = world().await else { return };
    world.pod("web-0").await;
    let token = world.token("web-0", "pillion.dev").await;
    let (one, two) = tokio::join!(world.injector(&[]), world.injector(&[]));
    let (of_one, of_two) = (one.ask(&token, &world.mesh).await, two.ask(&token, &world.mesh).await);
    let (of_one, of_two) = (of_one.expect("issued"), of_two.expect("issued"));
    assert_eq!(of_one.anchors, of_two.anchors);
    assert_eq!(of_one.anchors.matches("BEGIN").count(), 1);
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.release);
    let secret = secrets.get("pillion-ca").await.expect("the Secret");
    let data = secret.data.expect("data");
    assert_eq!(data["ca.crt"].0, of_one.anchors.as_bytes());

    // Whoever empties it parts nobody.
    let empty = json!({"data": null});
    secrets
        .patch("pillion-ca", &PatchParams::default(), &Patch::Merge(empty))
        .await
        .expect("emptied");
    eventually("it is filled again", async || {
        let secret = secrets.get("pillion-ca").await.expect("the Secret");
        secret.data.is_some_and(|again| again["ca.crt"] == data["ca.crt"])
    })
    .await;
    assert_eq!(one.ask(&token, &world.mesh).await.expect("issued").anchors, of_one.anchors);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_replaced_while_two_nodes_stay_connected_all_the_time() {
    let Some(world) = world().await else { return };
    for pod in ["web-0", "web-1", "web-2"] {
        world.pod(pod).await;
    }
    let times = ["--leaf-lifetime", "12s", "--ca-publish", "10s", "--ca-lifetime", "1h"];
    let injector = world.injector(&times).await;
    let before = injector.anchors();
    let a = world.node("a", "web-0", &injector, &world.token("web-0", "pillion.dev").await);
    let b = world.node("b", "web-1", &injector, &world.token("web-1", "pillion.dev").await);
    a.joined(&[&b]).await;
    let mut watch = a.monitor_nodes().await;
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.release);
    let wish = json!({"metadata": {"annotations": {"pillion.dev/rotate": "now"}}});
    secrets.patch("pillion-ca", &PatchParams::default(), &Patch::Merge(wish)).await.expect("asked");
    let anchors = async |node: &Node| node.ids().await;
    let old = anchors(&a).await;
    assert_eq!(old.len(), 1);
    for node in [&a, &b] {
        eventually("both anchors", async || anchors(node).await.len() == 2).await;
    }
    for node in [&a, &b] {
        eventually("the new one alone", async || {
            let ids = anchors(node).await;
            ids.len() == 1 && ids != old
        })
        .await;
    }
    assert_eq!(watch.all().await, Vec::<String>::new(), "somebody was parted");
    assert_ne!(world.anchors().await, before);
    // The injector showed a certificate of the new one while both were believed.
    assert!(injector.log().contains("signs no more"), "{}", injector.log());
    // Whoever comes now knows the new authority only, and joins both.
    let token = world.token("web-2", "pillion.dev").await;
    let c = world.node_at("c", "web-2", injector.at, &token);
    c.joined(&[&a, &b]).await;
    a.joined(&[&b, &c]).await;
    // One that is started again with the anchor of its pod's beginning has learnt the new one.
    let token = world.token("web-1", "pillion.dev").await;
    let again = b.again(&world, &before, &token);
    again.joined(&[&a, &c]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoints_of_250_pods_are_written_as_their_status_changes_and_a_node_finds_them() {
    const PODS: usize = 250;
    let Some(world) = world().await else { return };
    let _injector = world.injector(&[]).await;
    let zone = world.zone().await;
    for number in 0..PODS {
        world.pod_on(&format!("web-{number}"), &zone).await;
    }
    let slices: Api<EndpointSlice> = Api::namespaced(world.client.clone(), &world.release);
    let labels =
        ListParams::default().labels(&format!("kubernetes.io/service-name=pillion-{}", world.mesh));
    let list = async || slices.list(&labels).await.expect("slices").items;
    assert_eq!(list().await.len(), 0, "nobody has an address yet");
    for number in 0..PODS {
        let ip = format!("10.9.{}.{}", number / 200, number % 200 + 1);
        world
            .status(&format!("web-{number}"), "Running", &[&ip, &format!("fd00::{number:x}")], true)
            .await;
    }
    let count = async |family: &str| -> usize {
        let of = |slice: &&EndpointSlice| slice.address_type == family;
        list().await.iter().filter(of).map(|slice| slice.endpoints.len()).sum()
    };
    eventually("every pod in both families", async || {
        count("IPv4").await == PODS && count("IPv6").await == PODS
    })
    .await;
    let found = list().await;
    assert!(found.iter().all(|slice| slice.endpoints.len() <= 100), "too many in one");
    assert!(found.len() <= 8, "{} slices", found.len());
    let services: Api<Service> = Api::namespaced(world.client.clone(), &world.release);
    let service = services.get(&format!("pillion-{}", world.mesh)).await.expect("the Service");
    for slice in &found {
        let owner = &slice.metadata.owner_references.as_ref().expect("an owner")[0];
        assert_eq!(Some(&owner.uid), service.metadata.uid.as_ref());
        for endpoint in &slice.endpoints {
            assert_eq!(endpoint.zone.as_deref(), Some(zone.as_str()));
            assert_eq!(endpoint.conditions.as_ref().and_then(|c| c.serving), Some(true));
        }
    }

    // What the strategy makes of them.
    let url = format!(
        "kubernetes://?kubeconfig={}&namespace={}&node=pod&base=app",
        world.kubeconfig.display(),
        world.release
    );
    let node = world.node_with_cookie("finder", &url);
    let doctor = node.until("all of them", |doctor| doctor["strategies"][0]["count"] == PODS).await;
    assert_eq!(doctor["strategies"][0]["health"], "well", "{doctor}");
    let peers = node.ask(json!({"op": "peers"})).await;
    let peers = peers["peers"].as_array().expect("a list");
    let name = format!("app@web-7.{}", world.apps);
    let seven = peers.iter().find(|peer| peer["node"] == name.as_str()).expect("the seventh");
    assert_eq!(seven["labels"]["zone"], zone.as_str());
    let addresses = seven["addresses"].as_array().expect("a list").iter();
    let addresses: BTreeSet<&str> = addresses.filter_map(serde_json::Value::as_str).collect();
    assert_eq!(addresses, BTreeSet::from(["10.9.0.8:4470", "[fd00::7]:4470"]));

    // One that ends, one that is not ready, one that has ended, one that is gone.
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), &world.apps);
    world.status("web-1", "Running", &["10.9.0.2", "fd00::1"], false).await;
    world.status("web-2", "Succeeded", &["10.9.0.3", "fd00::2"], false).await;
    world.delete_pod("web-3").await;
    let finalizer = json!({"metadata": {"finalizers": ["pillion.dev/test"]}});
    pods.patch("web-4", &PatchParams::default(), &Patch::Merge(finalizer)).await.expect("held");
    pods.delete("web-4", &DeleteParams::default().grace_period(0)).await.expect("deleted");
    let of = async |pod: &str| {
        let all = list().await;
        let all = all.iter().flat_map(|slice| &slice.endpoints);
        let mut own =
            all.filter(|e| e.target_ref.as_ref().and_then(|t| t.name.as_deref()) == Some(pod));
        own.next().and_then(|endpoint| endpoint.conditions.clone())
    };
    eventually("the four", async || {
        count("IPv4").await == PODS - 2
            && of("web-1").await.and_then(|c| c.serving) == Some(false)
            && of("web-2").await.is_none()
            && of("web-3").await.is_none()
            && of("web-4").await.and_then(|c| c.terminating) == Some(true)
    })
    .await;
    let free = json!({"metadata": {"finalizers": null}});
    pods.patch("web-4", &PatchParams::default(), &Patch::Merge(free)).await.expect("let go");
    eventually("it is gone", async || count("IPv4").await == PODS - 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_that_the_chart_does_not_know_gets_a_service_for_as_long_as_pods_are_in_it() {
    let Some(world) = world().await else { return };
    // One that may not look at nodes knows no zones, and that is all.
    world.forbid_nodes().await;
    let injector = world.injector(&[]).await;
    let staging = format!("{}-staging", world.mesh);
    world.pod_in("web-0", &staging).await;
    world.status("web-0", "Running", &["10.9.1.1"], true).await;
    let services: Api<Service> = Api::namespaced(world.client.clone(), &world.release);
    let slices: Api<EndpointSlice> = Api::namespaced(world.client.clone(), &world.release);
    let labels =
        ListParams::default().labels(&format!("kubernetes.io/service-name=pillion-{staging}"));
    eventually("its slice", async || !slices.list(&labels).await.expect("slices").items.is_empty())
        .await;
    assert_eq!(injector.log().matches("nodes cannot be watched").count(), 1, "{}", injector.log());
    let service = services.get(&format!("pillion-{staging}")).await.expect("the Service");
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), &world.release);
    let lease = leases.get("pillion-injector").await.expect("the Lease");
    let owner = &service.metadata.owner_references.expect("an owner")[0];
    assert_eq!(Some(&owner.uid), lease.metadata.uid.as_ref(), "an uninstall takes it along");
    world.delete_pod("web-0").await;
    eventually("both are gone", async || {
        slices.list(&labels).await.expect("slices").items.is_empty()
            && services.get_opt(&format!("pillion-{staging}")).await.expect("an answer").is_none()
    })
    .await;
    services.get(&format!("pillion-{}", world.mesh)).await.expect("the chart's stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_of_the_lease_that_is_killed_is_replaced_and_one_that_stops_hands_over_at_once() {
    let Some(world) = world().await else { return };
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), &world.release);
    let holder = async || {
        let lease = leases.get("pillion-injector").await.expect("the Lease");
        lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default()
    };
    let slices: Api<EndpointSlice> = Api::namespaced(world.client.clone(), &world.release);
    let own =
        ListParams::default().labels(&format!("kubernetes.io/service-name=pillion-{}", world.mesh));
    let named = async |pod: &str| {
        let all = slices.list(&own).await.expect("slices").items;
        let of = |e: &k8s_openapi::api::discovery::v1::Endpoint| {
            e.target_ref.as_ref().and_then(|t| t.name.as_deref()) == Some(pod)
        };
        all.iter().flat_map(|slice| &slice.endpoints).any(of)
    };
    let mut one = world.injector(&[]).await;
    eventually("somebody holds it", async || !holder().await.is_empty()).await;
    let first = holder().await;
    let two = world.injector(&[]).await;
    world.pod("web-0").await;
    world.status("web-0", "Running", &["10.9.2.1"], true).await;
    eventually("the first pod", async || named("web-0").await).await;

    one.kill();
    let killed = Instant::now();
    world.pod("web-1").await;
    world.status("web-1", "Running", &["10.9.2.2"], true).await;
    eventually("the second pod", async || named("web-1").await).await;
    let second = holder().await;
    assert!(!second.is_empty() && second != first);
    assert!(
        killed.elapsed() >= Duration::from_secs(10),
        "it was taken from a holder that may live"
    );
    println!("after kill -9 the endpoints were kept again within {:?}", killed.elapsed());
    let names: BTreeSet<_> = slices
        .list(&own)
        .await
        .expect("slices")
        .items
        .into_iter()
        .map(|s| s.metadata.name)
        .collect();
    assert_eq!(names.len(), 1, "the next holder goes on with what was there");

    let _three = world.injector(&[]).await;
    two.terminate();
    let stopped = Instant::now();
    eventually("the third holds it", async || {
        let now = holder().await;
        !now.is_empty() && now != second
    })
    .await;
    assert!(
        stopped.elapsed() < Duration::from_secs(12),
        "it waited for the Lease to lapse: {:?}",
        stopped.elapsed()
    );
}
