//! What the charts render to, held by golden files: one for each mode, and what differs for each choice of security.

use crate::support::{Chart, Helm, case, root, run, sidecar};

/// Renders, and compares with the golden file, or writes it.
fn golden(name: &str, chart: Chart, flags: &[&str]) {
    let Some(helm) = Helm::here() else { return };
    let rendered = helm.template(chart, flags).unwrap();
    let path = root().join("tests/helm/golden").join(format!("{name}.yaml"));
    if std::env::var_os("PILLION_BLESS").is_some() {
        std::fs::write(&path, &rendered).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    if let Some((line, (kept, rendered))) =
        kept.lines().zip(rendered.lines()).enumerate().find(|(_, (kept, now))| kept != now)
    {
        panic!("{name}.yaml:{}: was\n{kept}\nis\n{rendered}\nPILLION_BLESS=1 writes it", line + 1);
    }
    assert_eq!(
        kept.lines().count(),
        rendered.lines().count(),
        "{name}.yaml: PILLION_BLESS=1 writes it"
    );
}

/// Flags that give a file of values.
fn with(name: &str, more: &[&'static str], then: impl FnOnce(&[&str])) {
    let file = case(name);
    let mut flags = vec!["--values", &file];
    flags.extend(more);
    then(&flags);
}

#[test]
fn the_injector_renders_as_before() {
    golden("injector", Chart::Pillion, &["--kube-version", "1.29.0"]);
}

#[test]
fn the_injector_with_everything_renders_as_before() {
    with("everything", &["--kube-version", "1.34.0"], |flags| {
        golden("everything", Chart::Pillion, flags);
    });
}

#[test]
fn the_agent_renders_as_before() {
    with("agent", &["--kube-version", "1.29.0"], |flags| golden("agent", Chart::Pillion, flags));
}

#[test]
fn the_agent_with_certificates_renders_as_before() {
    with("agent-certificates", &["--kube-version", "1.34.0"], |flags| {
        golden("agent-certificates", Chart::Pillion, flags);
    });
}

#[test]
fn a_chart_with_the_library_renders_as_before() {
    golden("library", Chart::Example, &["--kube-version", "1.34.0"]);
}

#[test]
fn a_chart_with_the_library_and_certificates_renders_as_before() {
    with("library-certificates", &["--kube-version", "1.34.0"], |flags| {
        golden("library-certificates", Chart::Example, flags);
    });
}

#[test]
fn a_chart_with_the_library_without_the_api_renders_as_before() {
    with("library-dns", &["--kube-version", "1.29.0"], |flags| {
        golden("library-dns", Chart::Example, flags);
    });
}

#[test]
fn the_charts_render_alike_for_every_version_of_kubernetes_that_is_supported() {
    let Some(helm) = Helm::here() else { return };
    let agent = case("agent");
    for flags in [vec![], vec!["--values", &agent]] {
        let render = |version| {
            let mut flags = flags.clone();
            flags.extend(["--kube-version", version]);
            helm.template(Chart::Pillion, &flags).unwrap()
        };
        assert_eq!(render("1.29.0"), render("1.34.0"));
        // As clouds call theirs.
        assert_eq!(render("1.29.4-gke.1043002"), render("1.34.0"));
    }
    // An older server does not know a preStop that sleeps.
    let example = |version| helm.template(Chart::Example, &["--kube-version", version]).unwrap();
    assert!(!example("1.29.0").contains("sleep:"));
    assert!(example("1.30.0").contains("sleep:"));
}

#[test]
fn a_plain_sidecar_is_a_native_one_but_for_its_restart_policy_so_pods_may_ask_for_the_other_kind() {
    let Some(helm) = Helm::here() else { return };
    let container =
        |set| sidecar(&helm.objects(Chart::Pillion, &["--set", set]))["container"].take();
    let (mut native, plain) = (container("sidecar.native=true"), container("sidecar.native=false"));
    assert_eq!(native["restartPolicy"], "Always");
    assert!(native["startupProbe"].is_object());
    native.as_object_mut().unwrap().remove("restartPolicy");
    assert_eq!(native, plain);
}

#[test]
fn an_older_kubernetes_is_refused() {
    let Some(helm) = Helm::here() else { return };
    let said = helm.template(Chart::Pillion, &["--kube-version", "1.28.9"]).unwrap_err();
    assert!(said.contains(">=1.29.0-0"), "{said}");
}

#[test]
fn two_renders_are_the_same_because_no_secret_is_made_up() {
    let Some(helm) = Helm::here() else { return };
    let file = case("everything");
    for flags in [vec![], vec!["--values", file.as_str()]] {
        let first = helm.template(Chart::Pillion, &flags).unwrap();
        assert_eq!(first, helm.template(Chart::Pillion, &flags).unwrap());
    }
}

#[test]
fn helm_finds_nothing_to_complain_of() {
    let Some(helm) = Helm::here() else { return };
    for chart in [Chart::Pillion, Chart::Library, Chart::Example] {
        let said = run(helm.command("lint").arg("--strict").arg(helm.chart(chart)));
        let said = said.unwrap_or_else(|error| panic!("{chart:?}: {error}"));
        assert!(said.contains("0 chart(s) failed"), "{said}");
    }
}

#[test]
fn charts_image_and_program_have_one_version() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    for (path, lines) in [
        (
            "helm/pillion/Chart.yaml",
            vec![format!("appVersion: {version}"), format!("    version: {version}")],
        ),
        (
            "helm/pillion-lib/Chart.yaml",
            vec![format!("version: {version}"), format!("appVersion: {version}")],
        ),
        (
            "helm/pillion-lib/templates/_names.tpl",
            vec![format!("\"pillion.version\" -}}}}{version}{{{{- end }}}}")],
        ),
        ("helm/pillion-lib/example/Chart.yaml", vec![format!("    version: {version}")]),
        ("Dockerfile", vec![format!("org.opencontainers.image.version=\"{version}\"")]),
    ] {
        let text = read(path);
        for line in lines {
            assert!(text.contains(&line), "{path} does not say {line}");
        }
    }
}
