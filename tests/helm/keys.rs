//! Every key of the values does something: with another value the charts render to something else.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{Chart, Helm};
use crate::values::leaves_of;

/// What the agent needs.
const AGENT: &str = "injector.enabled=false,agent.enabled=true,sidecar.trust.cookieSecret=a";
const FILES: &str = "injector.enabled=false,agent.enabled=true,sidecar.trust.tlsSecret=a";
const ISSUER: &str =
    "injector.enabled=false,agent.enabled=true,sidecar.trust.certManager.issuerRef.name=a";

/// Keys of the sidecar, which both charts have: the key, another value for it as JSON, and what has to be set with it, in a chart
/// that includes the library and in this one, where that is not the injector as it comes.
const SIDECAR: [(&str, &str, &str, &str); 54] = [
    ("image.registry", r#""r.example""#, "", ""),
    ("image.repository", r#""p""#, "", ""),
    ("image.tag", r#""9""#, "", ""),
    (
        "image.digest",
        r#""sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef""#,
        "",
        "",
    ),
    ("image.pullPolicy", r#""Always""#, "", ""),
    ("mesh", r#""shop""#, "", ""),
    ("port", "5470", "", ""),
    ("healthPort", "5471", "", ""),
    ("native", "false", "", ""),
    ("name", r#""n""#, "", ""),
    ("role", r#""r""#, "", ""),
    ("labels", r#"{"a":"b"}"#, "", ""),
    ("minPeers", "2", "", ""),
    ("profile", r#""wan""#, "", ""),
    ("trust.cookieSecret", r#""b""#, "", AGENT),
    ("trust.tlsSecret", r#""b""#, "trust.cookieSecret=,trust.tlsSecret=a", FILES),
    ("trust.tlsHost", r#""h""#, "trust.cookieSecret=,trust.tlsSecret=a", FILES),
    (
        "trust.certManager.issuerRef",
        r#"{"name":"b"}"#,
        "trust.cookieSecret=,trust.certManager.issuerRef.name=a",
        ISSUER,
    ),
    (
        "trust.certManager.duration",
        r#""48h""#,
        "trust.cookieSecret=,trust.certManager.issuerRef.name=a",
        ISSUER,
    ),
    (
        "trust.certManager.renewBefore",
        r#""9h""#,
        "trust.cookieSecret=,trust.certManager.issuerRef.name=a",
        ISSUER,
    ),
    ("discovery.strategy", r#""dns""#, "", ""),
    ("discovery.service", r#""s""#, "", AGENT),
    ("discovery.namespace", r#""n""#, "", AGENT),
    ("discovery.more", r#"["dns://a.example"]"#, "", ""),
    ("socket.dir", r#""/run/other""#, "", ""),
    ("socket.mode", r#""0660""#, "", ""),
    ("socket.sizeLimit", r#""17Mi""#, "", ""),
    ("log.level", r#""debug""#, "", ""),
    ("log.format", r#""text""#, "", ""),
    ("drain.preStop", "false", "", ""),
    ("drain.timeout", r#""16s""#, "", ""),
    ("appPreStopSleep", "6", "", ""),
    ("resources.requests.cpu", r#""11m""#, "", ""),
    ("resources.requests.memory", r#""17Mi""#, "", ""),
    ("resources.limits.memory", r#""129Mi""#, "", ""),
    ("probes.startup.periodSeconds", "7", "", ""),
    ("probes.startup.failureThreshold", "7", "", ""),
    ("probes.startup.timeoutSeconds", "7", "", ""),
    ("probes.readiness.periodSeconds", "7", "", ""),
    ("probes.readiness.failureThreshold", "7", "", ""),
    ("probes.readiness.timeoutSeconds", "7", "", ""),
    ("probes.liveness.initialDelaySeconds", "7", "", ""),
    ("probes.liveness.periodSeconds", "7", "", ""),
    ("probes.liveness.failureThreshold", "7", "", ""),
    ("probes.liveness.timeoutSeconds", "7", "", ""),
    ("securityContext.runAsNonRoot", "false", "", ""),
    ("securityContext.runAsUser", "7", "", ""),
    ("securityContext.runAsGroup", "7", "", ""),
    ("securityContext.allowPrivilegeEscalation", "true", "", ""),
    ("securityContext.readOnlyRootFilesystem", "false", "", ""),
    ("securityContext.capabilities.drop", r#"["CHOWN"]"#, "", ""),
    ("securityContext.seccompProfile.type", r#""Unconfined""#, "", ""),
    ("env", r#"[{"name":"A","value":"b"}]"#, "", ""),
    ("args", r#"["--hidden"]"#, "", ""),
];

/// The other keys of the chart: the key, another value for it as JSON, and what has to be set with it.
const CHART: [(&str, &str, &str); 54] = [
    ("nameOverride", r#""other""#, ""),
    ("fullnameOverride", r#""other""#, ""),
    ("commonLabels", r#"{"a":"b"}"#, ""),
    ("imagePullSecrets", r#"[{"name":"a"}]"#, ""),
    ("global.imageRegistry", r#""r.example""#, ""),
    ("injector.enabled", "false", "agent.enabled=true,sidecar.trust.cookieSecret=a"),
    ("injector.replicas", "3", ""),
    ("injector.failurePolicy", r#""Fail""#, ""),
    ("injector.timeoutSeconds", "6", ""),
    ("injector.reinvocationPolicy", r#""Never""#, ""),
    ("injector.namespaceSelector", r#"{"matchLabels":{"a":"b"}}"#, ""),
    ("injector.port", "9443", ""),
    ("injector.hostNetwork", "true", ""),
    ("injector.logLevel", r#""debug""#, ""),
    ("injector.args", r#"["--leaf-lifetime=12h"]"#, ""),
    ("injector.resources.requests.cpu", r#""11m""#, ""),
    ("injector.resources.requests.memory", r#""25Mi""#, ""),
    ("injector.resources.limits.memory", r#""129Mi""#, ""),
    ("injector.pdb.enabled", "false", ""),
    ("injector.podLabels", r#"{"a":"b"}"#, ""),
    ("injector.podAnnotations", r#"{"a":"b"}"#, ""),
    ("injector.priorityClassName", r#""a""#, ""),
    ("injector.nodeSelector", r#"{"a":"b"}"#, ""),
    ("injector.tolerations", r#"[{"operator":"Exists"}]"#, ""),
    ("injector.affinity", r#"{"nodeAffinity":{}}"#, ""),
    ("injector.topologySpreadConstraints", r#"[{"maxSkew":1}]"#, ""),
    ("agent.enabled", "true", "injector.enabled=false,sidecar.trust.cookieSecret=a"),
    ("agent.namespaces", r#"["a"]"#, AGENT),
    ("agent.maxUnavailable", "2", AGENT),
    ("agent.podLabels", r#"{"a":"b"}"#, AGENT),
    ("agent.podAnnotations", r#"{"a":"b"}"#, AGENT),
    ("agent.priorityClassName", r#""a""#, AGENT),
    ("agent.nodeSelector", r#"{"a":"b"}"#, AGENT),
    ("agent.tolerations", r#"[{"operator":"Exists"}]"#, AGENT),
    ("agent.terminationGracePeriodSeconds", "31", AGENT),
    ("serviceAccount.create", "false", "serviceAccount.name=a"),
    ("serviceAccount.name", r#""a""#, ""),
    ("serviceAccount.annotations", r#"{"a":"b"}"#, ""),
    ("rbac.create", "false", ""),
    ("networkPolicy.enabled", "true", ""),
    ("networkPolicy.apiServerCIDR", r#""10.0.0.1/32""#, "networkPolicy.enabled=true"),
    ("networkPolicy.namespaces", r#"["a"]"#, ""),
    ("monitoring.podMonitor.enabled", "true", ""),
    ("monitoring.podMonitor.labels", r#"{"a":"b"}"#, "monitoring.podMonitor.enabled=true"),
    ("monitoring.podMonitor.interval", r#""31s""#, "monitoring.podMonitor.enabled=true"),
    ("monitoring.serviceMonitor.enabled", "true", ""),
    ("monitoring.serviceMonitor.labels", r#"{"a":"b"}"#, "monitoring.serviceMonitor.enabled=true"),
    ("monitoring.serviceMonitor.interval", r#""31s""#, "monitoring.serviceMonitor.enabled=true"),
    ("monitoring.prometheusRule.enabled", "true", ""),
    ("monitoring.prometheusRule.labels", r#"{"a":"b"}"#, "monitoring.prometheusRule.enabled=true"),
    ("monitoring.dashboard.enabled", "true", ""),
    (
        "monitoring.dashboard.labels.grafana_dashboard",
        r#""2""#,
        "monitoring.dashboard.enabled=true",
    ),
    ("tests.enabled", "false", ""),
    ("extraResources", r#"[{"kind":"ConfigMap"}]"#, ""),
];

/// What a chart renders to, kept for each set of values.
struct Renders {
    helm: &'static Helm,
    chart: Chart,
    kept: BTreeMap<String, Option<String>>,
}

impl Renders {
    /// None when they are refused, as two modes at once are: then the key is what lets them through.
    fn of(&mut self, set: &str) -> Option<String> {
        let Self { helm, chart, kept } = self;
        let render = || helm.template(*chart, &["--kube-version", "1.34.0", "--set", set]).ok();
        kept.entry(set.to_owned()).or_insert_with(render).clone()
    }

    /// Sets one key, to which this goes, and finds the render changed.
    fn changes(&mut self, key: &str, value: &str, set: &str) {
        let before = self.of(set);
        // What is set by `--set` beats what is set as JSON.
        let own =
            |one: &&str| one.strip_prefix(key).is_some_and(|rest| rest.starts_with(['=', '.']));
        let others: Vec<&str> = set.split(',').filter(|one| !own(one)).collect();
        let (others, value) = (others.join(","), format!("{key}={value}"));
        let flags = ["--kube-version", "1.34.0", "--set", &others, "--set-json", &value];
        let after = self.helm.template(self.chart, &flags);
        let after = after.unwrap_or_else(|said| panic!("{value} with {set:?}: {said}"));
        assert_ne!(before, Some(after), "{value} with {set:?} changes nothing");
    }
}

fn complete(keys: impl Iterator<Item = &'static str>, leaves: &[String]) {
    let (keys, leaves) = (keys.collect::<Vec<_>>(), leaves.iter().map(String::as_str));
    let (rows, leaves) = (keys.iter().copied().collect::<BTreeSet<_>>(), leaves.collect());
    assert_eq!(rows.len(), keys.len(), "a key has two rows");
    let lacking: Vec<_> = rows.symmetric_difference(&leaves).collect();
    assert!(
        lacking.is_empty(),
        "keys of values.yaml without a row here, or the reverse: {lacking:?}"
    );
}

#[test]
fn every_key_of_the_chart_changes_what_it_renders_to() {
    let Some(helm) = Helm::here() else { return };
    let mut renders = Renders { helm, chart: Chart::Pillion, kept: BTreeMap::new() };
    let leaves = leaves_of("pillion");
    let (inner, own): (Vec<String>, _) =
        leaves.into_iter().partition(|leaf| leaf.starts_with("sidecar."));
    let inner: Vec<String> =
        inner.iter().filter_map(|leaf| leaf.strip_prefix("sidecar.")).map(str::to_owned).collect();
    complete(SIDECAR.into_iter().map(|row| row.0), &inner);
    complete(CHART.into_iter().map(|row| row.0), &own);
    for (key, value, _, set) in SIDECAR {
        renders.changes(&format!("sidecar.{key}"), value, set);
    }
    for (key, value, set) in CHART {
        renders.changes(key, value, set);
    }
}

#[test]
fn every_key_of_the_library_changes_what_a_chart_with_it_renders_to() {
    let Some(helm) = Helm::here() else { return };
    let mut renders = Renders { helm, chart: Chart::Example, kept: BTreeMap::new() };
    complete(SIDECAR.into_iter().map(|row| row.0), &leaves_of("pillion-lib"));
    for (key, value, set, _) in SIDECAR {
        let set = set.split(',').filter(|one| !one.is_empty()).map(|one| format!("pillion.{one}"));
        let set: Vec<String> = set.collect();
        renders.changes(&format!("pillion.{key}"), value, &set.join(","));
    }
}
