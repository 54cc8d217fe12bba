//! What a whole configuration promises, from what was typed to what it means.

use super::*;

fn machine() -> Machine {
    Machine {
        environment: vec![("HOME".into(), "/home/gus".into())],
        directory: "/src/product-stock".into(),
        name: "hal.local".to_owned(),
        uid: 501,
        namespace: None,
    }
}

fn load(flags: &[(Key, &str)]) -> Result<Config, Problems> {
    let mut given: Vec<(Key, Vec<String>)> = Vec::new();
    for (key, text) in flags {
        match given.iter_mut().find(|(known, _)| known == key) {
            Some((_, texts)) => texts.push((*text).to_owned()),
            None => given.push((*key, vec![(*text).to_owned()])),
        }
    }
    Config::load(&given, None, &machine())
}

fn load_file(text: &str, flags: &[(Key, &str)]) -> Result<Config, Problems> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("p.toml");
    std::fs::write(&path, text).unwrap();
    let flags: Vec<_> = flags.iter().map(|(key, text)| (*key, vec![(*text).to_owned()])).collect();
    Config::load(&flags, Some(&path), &machine())
}

fn words(result: Result<Config, Problems>) -> Vec<String> {
    result.expect_err("refused").0.iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_typed_is_a_node_of_the_directory_on_this_machine() {
    let config = load(&[]).unwrap();
    assert_eq!(config.base, WantedBase { text: "product-stock".to_owned(), explicit: false });
    assert_eq!(config.host, "hal");
    assert_eq!(config.mesh.as_str(), "default");
    assert_eq!(config.listen, Listen { host: Host::Any, port: None });
    assert_eq!(config.dir, Path::new("/tmp/pillion-501"));
    assert_eq!(config.socket, None);
    assert_eq!(config.socket_mode, 0o600);
    assert_eq!(config.strategies.first().map(String::as_str), Some("local://"));
    assert_eq!(config.strategies.contains(&"mdns://".to_owned()), cfg!(feature = "mdns"));
    assert_eq!(
        config.trust,
        Trust::Cookie { file: "/home/gus/.config/pillion/cookie".into(), explicit: false }
    );
    assert_eq!(config.profile.silence(), Duration::from_secs(5));
    assert_eq!(config.grace, Duration::from_secs(10));
    assert_eq!(config.body_bytes_max, 1 << 20);
    assert_eq!((config.mailbox_entries_max, config.mailbox_bytes_max), (65_536, 8 << 20));
    assert_eq!(config.queue_bytes_max, 32 << 20);
    assert_eq!(config.send_timeout, Duration::from_secs(1));
    assert_eq!((config.log_level, config.log_format), (LogLevel::Info, LogFormat::Text));
}

#[test]
fn flags_beat_the_environment_which_beats_the_file_which_beats_the_defaults() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("p.toml");
    std::fs::write(&path, "mesh = \"file\"\ngrace = \"1s\"\nname = \"file\"\n").unwrap();
    let mut machine = machine();
    machine.environment.push(("PILLION_MESH".into(), "variable".into()));
    machine.environment.push(("PILLION_NAME".into(), "variable".into()));
    machine.environment.push(("PILLION_CONFIG".into(), path.clone().into()));
    let flags = [(Key::Name, vec!["flag".to_owned()])];
    let config = Config::load(&flags, None, &machine).unwrap();
    assert_eq!(config.base.text, "flag");
    assert_eq!(config.mesh.as_str(), "variable");
    assert_eq!(config.grace, Duration::from_secs(1));
    assert_eq!(config.profile, Profile::Lan);
    let origin = |key: Key| config.shown[&key].origin.to_string();
    assert_eq!(origin(Key::Name), "--name");
    assert_eq!(origin(Key::Mesh), "PILLION_MESH");
    assert_eq!(origin(Key::Grace), format!("{}:2", path.display()));
}

#[test]
fn everything_that_is_wrong_is_told_at_once_each_with_its_place_and_what_would_be_right() {
    let mut machine = machine();
    machine.environment.push(("PILLION_BODY_MAX".into(), "1MB".into()));
    machine.environment.push(("PILLION_GRAEC".into(), "1s".into()));
    let flags = [
        (Key::Name, vec!["product stock".to_owned()]),
        (Key::Join, vec!["hal".to_owned(), "hal:x".to_owned()]),
        (Key::Profile, vec!["lann".to_owned()]),
    ];
    let told = words(Config::load(&flags, None, &machine));
    let begins = [
        "PILLION_GRAEC: is not known; did you mean `PILLION_GRACE`?",
        "--name = \"product stock\": a node is called base or base@host",
        "--join = \"hal:x\": `x` is not a port",
        "--profile = \"lann\": is one of local, lan, wan; did you mean lan?",
        "PILLION_BODY_MAX = \"1MB\": write 1MiB",
    ];
    assert_eq!(told.len(), begins.len(), "{told:#?}");
    for (told, begin) in told.iter().zip(begins) {
        assert!(told.starts_with(begin), "{told}");
    }
}

#[test]
fn a_long_name_may_have_an_address_for_a_host() {
    let config = load(&[(Key::Name, "gus@10.0.0.5")]).unwrap();
    assert_eq!(config.base, WantedBase { text: "gus".to_owned(), explicit: true });
    assert_eq!(config.host, "10.0.0.5");
}

#[test]
fn joining_adds_a_list_to_the_strategies_that_are_there() {
    let config = load(&[(Key::Join, "hal"), (Key::Join, "[::1]:9")]).unwrap();
    assert_eq!(config.strategies.first().map(String::as_str), Some("local://"));
    assert_eq!(config.strategies.last().map(String::as_str), Some("list://hal:4470,[::1]:9"));
    let config = load(&[(Key::Join, "hal"), (Key::Strategy, "mdns")]).unwrap();
    assert_eq!(config.strategies, ["mdns://", "list://hal:4470"]);
}

#[test]
fn a_node_may_look_for_nobody() {
    assert_eq!(load(&[(Key::Strategy, "none")]).unwrap().strategies, [""; 0]);
    assert_eq!(words(load(&[(Key::Strategy, "none"), (Key::Strategy, "mdns")])).len(), 1);
}

#[test]
fn a_strategy_that_cannot_be_meant_is_told_with_all_else_that_is_wrong() {
    for wrong in ["mnds", "list://", "list://hal?intervall=5s", "local://hal"] {
        let told = words(load(&[(Key::Strategy, wrong), (Key::Mesh, "a b")]));
        assert_eq!(told.len(), 2, "{wrong}: {told:#?}");
    }
}

#[test]
fn a_cookie_and_certificates_together_are_refused() {
    let told = words(load(&[
        (Key::CookieFile, "/c"),
        (Key::TlsCa, "/ca"),
        (Key::TlsCert, "/cert"),
        (Key::TlsKey, "/key"),
    ]));
    assert_eq!(
        told,
        [
            "--cookie-file = \"/c\": a mesh is held together by a cookie or by certificates, not by both: --tls-ca gives \
          the other"
        ]
    );
}

#[test]
fn a_part_of_the_three_certificates_is_refused_and_the_missing_ones_named() {
    let told = words(load(&[(Key::TlsCert, "/cert")]));
    assert_eq!(
        told,
        ["--tls-cert = \"/cert\": certificates come in three: give `tls-ca` and `tls-key` too"]
    );
    let config = load(&[(Key::TlsCa, "ca"), (Key::TlsCert, "/cert"), (Key::TlsKey, "~/key")]);
    assert_eq!(
        config.unwrap().trust,
        Trust::Certificates {
            ca: "/src/product-stock/ca".into(),
            cert: "/cert".into(),
            key: "/home/gus/key".into()
        }
    );
}

const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
const ISSUER: &str = "https://pillion-injector.pillion.svc/v1/certificate";

#[cfg(feature = "kubernetes")]
#[test]
fn an_issuer_is_known_by_pem_or_by_a_file_and_has_a_token_where_the_injector_mounts_it() {
    let config = load(&[(Key::Issuer, ISSUER), (Key::IssuerCa, PEM)]).unwrap();
    let Trust::Issued { issuer, ca, token } = config.trust.clone() else { panic!("issued") };
    assert_eq!(issuer.to_string(), ISSUER);
    assert_eq!(ca, Anchor::Text(PEM.to_owned()));
    assert_eq!(token, Path::new("/var/run/secrets/pillion.dev/token"));
    // What is printed means the same.
    let again = load_file(&print(&config), &[]).unwrap();
    assert_eq!(again.trust, config.trust);

    let file = [(Key::Issuer, ISSUER), (Key::IssuerCa, "ca.pem"), (Key::IssuerToken, "/t")];
    let Trust::Issued { ca, token, .. } = load(&file).unwrap().trust else { panic!("issued") };
    assert_eq!(ca, Anchor::File("/src/product-stock/ca.pem".into()));
    assert_eq!(token, Path::new("/t"));
}

#[test]
fn an_issuer_stands_alone_and_whole() {
    let told = words(load(&[(Key::Issuer, ISSUER)]));
    assert!(told[0].contains("needs `issuer-ca`"), "{told:?}");
    let told = words(load(&[(Key::IssuerCa, PEM)]));
    assert!(told[0].contains("no use without `issuer`"), "{told:?}");
    for other in [Key::CookieFile, Key::TlsCa] {
        let told = words(load(&[(Key::Issuer, ISSUER), (Key::IssuerCa, PEM), (other, "/x")]));
        assert!(told[0].contains(&other.flag()), "{told:?}");
    }
}

#[test]
fn in_a_pod_a_node_that_nobody_named_is_the_app_at_its_pod_and_namespace() {
    let variables = [
        ("HOME", "/home/gus"),
        ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
        ("POD_NAME", "web-0"),
        ("POD_NAMESPACE", "shop"),
        ("PILLION_APP", "till"),
    ];
    let environment = variables.iter().map(|(key, value)| (key.into(), value.into())).collect();
    let pod = Machine { environment, ..machine() };
    let named = |name: &str| {
        let flags = [(Key::Name, vec![name.to_owned()])];
        let flags = if name.is_empty() { &flags[..0] } else { &flags };
        let config = Config::load(flags, None, &pod).unwrap();
        (config.base.text, config.base.explicit, config.host)
    };
    assert_eq!(named(""), ("till".to_owned(), false, "web-0.shop".to_owned()));
    assert_eq!(named("stock"), ("stock".to_owned(), true, "web-0.shop".to_owned()));
    assert_eq!(named("stock@hal"), ("stock".to_owned(), true, "hal".to_owned()));
    let config = Config::load(&[], None, &pod).unwrap();
    let printed = print(&config);
    assert!(
        printed.contains("till@web-0.shop") && printed.contains("app in this pod"),
        "{printed}"
    );
}

#[test]
fn without_a_home_a_cookie_must_be_named() {
    let machine = Machine { environment: Vec::new(), ..machine() };
    assert_eq!(words(Config::load(&[], None, &machine)).len(), 1);
    let flags = [(Key::CookieFile, vec!["/c".to_owned()])];
    assert!(Config::load(&flags, None, &machine).is_ok());
}

#[test]
fn bounds_that_were_asked_for_must_fit_into_each_other_and_defaults_give_way() {
    let config = load(&[(Key::QueueBytes, "4MiB")]).unwrap();
    assert_eq!(config.mailbox_bytes_max, 4 << 20);
    let told = words(load(&[(Key::BodyMax, "16MiB")]));
    assert_eq!(
        told,
        [
            "--body-max = \"16MiB\": does not fit `mailbox-bytes`, which is 8MiB: raise that, or lower this"
        ]
    );
    let config = load(&[(Key::BodyMax, "16MiB"), (Key::MailboxBytes, "16MiB")]).unwrap();
    assert_eq!(config.body_bytes_max, 16 << 20);
}

#[test]
fn a_role_is_a_label_and_is_given_once() {
    let config = load(&[(Key::Role, "web"), (Key::Labels, "zone=a")]).unwrap();
    let labels: Vec<_> = config.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(labels, [("role", "web"), ("zone", "a")]);
    assert_eq!(words(load(&[(Key::Role, "web"), (Key::Labels, "role=db")])).len(), 1);
    assert_eq!(words(load(&[(Key::Labels, "zone=a"), (Key::Labels, "zone=b")])).len(), 1);
    let config = load_file("[labels]\nrole = \"db\"\n", &[(Key::Role, "web")]).unwrap();
    assert_eq!(config.labels["role"], "web");
}

#[test]
fn a_path_in_a_file_starts_at_the_file() {
    let config = load_file("cookie-file = \"cookie\"\n", &[]).unwrap();
    let Trust::Cookie { file, .. } = config.trust else { panic!("a cookie was given") };
    assert!(file.is_absolute() && file.parent() != Some(&machine().directory), "{file:?}");
}

#[test]
fn a_file_that_is_not_there_is_told_with_who_named_it() {
    let told = words(Config::load(&[], Some(Path::new("/nowhere/p.toml")), &machine()));
    assert!(told[0].starts_with("--config = \"/nowhere/p.toml\": cannot be read: "), "{told:?}");
}

#[test]
fn a_socket_path_that_is_too_long_is_told_before_anything_starts() {
    let long = format!("/{}", "a".repeat(120));
    assert!(words(load(&[(Key::Socket, &long)]))[0].contains("choose a shorter"));
    assert!(words(load(&[(Key::Dir, &long)]))[0].starts_with("--dir"));
}

#[test]
fn a_mesh_whose_name_is_not_safe_in_a_path_is_refused() {
    for mesh in ["", "../x", "a/b", "a b", "ä"] {
        assert_eq!(words(load(&[(Key::Mesh, mesh)])).len(), 1, "{mesh}");
    }
}

#[test]
fn what_is_printed_is_a_file_that_means_the_same() {
    let config = load(&[
        (Key::Name, "stock@hal"),
        (Key::Listen, "[::1]:5000"),
        (Key::SocketMode, "666"),
        (Key::Join, "hal"),
        (Key::Strategy, "local"),
        (Key::Role, "web"),
        (Key::Labels, "zone=a \"b\""),
        (Key::Labels, "x.y/z=1"),
        (Key::Hidden, "true"),
        (Key::CookieFile, "/c"),
        (Key::Grace, "1500ms"),
        (Key::MailboxEntries, "1_000"),
        (Key::LogFormat, "json"),
    ])
    .unwrap();
    let printed = print(&config);
    assert!(printed.contains("# --socket-mode"), "{printed}");
    let plain = |config: Config| Config { shown: BTreeMap::new(), ..config };
    let again = load_file(&printed, &[]).unwrap_or_else(|told| panic!("{told}\n{printed}"));
    assert_eq!(plain(again), plain(config), "{printed}");

    let defaults = print(&load(&[]).unwrap());
    assert!(defaults.lines().all(|line| line.starts_with('#')), "{defaults}");
    assert!(defaults.contains("# default"), "{defaults}");
}

#[test]
fn a_file_is_checked_without_flags_and_environment() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("p.toml");
    std::fs::write(&path, "mesh = \"a\"\n").unwrap();
    let mut machine = machine();
    machine.environment.push(("PILLION_MESH".into(), "b".into()));
    assert_eq!(check(&path, &machine).unwrap().mesh.as_str(), "a");
    std::fs::write(&path, "mesh = \"a b\"\nnam = \"a\"\n").unwrap();
    let told: Vec<String> =
        check(&path, &machine).unwrap_err().0.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
}

#[test]
fn every_key_is_in_the_manual() {
    let manual = include_str!("../../docs/configuration.md");
    for key in Key::ALL {
        let row = format!("`{key}`");
        assert!(
            manual.lines().any(|line| line.starts_with("| `") && line.contains(&row)),
            "docs/configuration.md has no row for {row}"
        );
    }
}

#[test]
fn what_is_advertised_comes_from_a_flag_the_environment_or_a_file() {
    let shown = |config: &Config| -> Vec<String> {
        config.advertise.iter().map(ToString::to_string).collect()
    };
    let two = ["203.0.113.7:9", "2001:db8::7"];
    let config = load(&[(Key::Advertise, two[0]), (Key::Advertise, two[1])]).unwrap();
    assert_eq!(shown(&config), two);
    assert!(print(&config).contains("advertise = [\"203.0.113.7:9\", \"2001:db8::7\"]"));
    let mut machine = machine();
    machine.environment.push(("PILLION_ADVERTISE".into(), two.join(",").into()));
    assert_eq!(shown(&Config::load(&[], None, &machine).unwrap()), two);
    let config = load_file("advertise = [\"203.0.113.7:9\", \"2001:db8::7\"]", &[]).unwrap();
    assert_eq!(shown(&config), two);
    assert!(load(&[]).unwrap().advertise.is_empty());
    let words = words(load(&[(Key::Advertise, "hal:4470")]));
    assert!(words[0].starts_with("--advertise = \"hal:4470\": write an IP address"), "{words:?}");
    let many = vec![two[1].to_owned(); 9];
    let refused = Config::load(&[(Key::Advertise, many)], None, &self::machine());
    assert!(refused.unwrap_err().0[0].to_string().contains("at most 8"));
}

#[test]
fn a_strategy_may_be_a_table_that_means_what_its_url_means() {
    let file = "strategy = [\"local\", { kind = \"list\", place = [\"hal\", \"ida:5000\"] }]\n";
    let config = load_file(file, &[]).unwrap();
    assert_eq!(config.strategies, ["local://", "list://hal,ida:5000"]);
    let file = "[[strategy]]\nkind = \"local\"\n\n[[strategy]]\nkind = \"list\"\nplace = \"hal\"\nfile = \"a b&c\"\ninterval = \"30s\"\n";
    let config = load_file(file, &[]).unwrap();
    assert_eq!(config.strategies, ["local://", "list://hal?file=a%20b%26c&interval=30s"]);
    // What is printed means the same.
    let again = load_file(&print(&config), &[]).unwrap();
    assert_eq!(again.strategies, config.strategies);
}

#[test]
fn a_strategy_as_a_table_is_refused_with_its_line_and_what_would_be_right() {
    let told = |file: &str| words(load_file(file, &[])).join("; ");
    let said = told("[[strategy]]\nkind = \"lits\"\n");
    assert!(said.contains("p.toml:1") && said.contains("did you mean `list`"), "{said}");
    let said = told("[[strategy]]\nkind = \"list\"\nplace = \"hal\"\nfille = \"x\"\n");
    assert!(said.contains("did you mean `file`"), "{said}");
    let said = told("name = \"a\"\n[[strategy]]\nplace = \"hal\"\n");
    assert!(said.contains("p.toml:2") && said.contains("needs `kind`"), "{said}");
    let said = told("[[strategy]]\nkind = \"list\"\nplace = 1.5\n");
    assert!(said.contains("p.toml:3") && said.contains("not a float"), "{said}");
    let said = told("[[strategy]]\nkind = \"list://hal\"\n");
    assert!(said.contains("`place`"), "{said}");
}

#[test]
fn what_is_remembered_may_be_turned_off_and_pruning_on() {
    let config = load(&[]).unwrap();
    assert_eq!((config.remember, config.prune), (Duration::from_secs(24 * 60 * 60), None));
    assert_eq!((config.min_peers, &config.state_dir), (0, &None));
    let flags = [(Key::Remember, "off"), (Key::Prune, "10m"), (Key::MinPeers, "2")];
    let config = load(&[&flags[..], &[(Key::StateDir, "state")]].concat()).unwrap();
    assert_eq!((config.remember, config.prune), (Duration::ZERO, Some(Duration::from_secs(600))));
    assert_eq!(config.min_peers, 2);
    assert_eq!(config.state_dir, Some("/src/product-stock/state".into()));
    let said = words(load(&[(Key::Prune, "soon"), (Key::MinPeers, "-1")]));
    assert!(said.iter().any(|said| said.contains("--prune") && said.contains("off")), "{said:?}");
}

#[test]
fn the_pods_that_are_served_come_with_their_machine_or_it_is_said_what_is_missing() {
    let flags = [(Key::Pods, vec!["shop".to_owned(), "till/cashier".to_owned()])];
    let told: Vec<String> = Config::load(&flags, None, &machine())
        .unwrap_err()
        .0
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(told[0].contains("NODE_NAME") && told[0].contains("spec.nodeName"), "{told:?}");
    let mut agent = machine();
    for (key, value) in
        [("NODE_NAME", "node-1"), ("POD_NAME", "agent-x7x2k"), ("POD_NAMESPACE", "mesh")]
    {
        agent.environment.push((key.into(), value.into()));
    }
    let config = Config::load(&flags, None, &agent).unwrap();
    assert!(print(&config).contains("pods = [\"shop\", \"till/cashier\"]"), "{}", print(&config));
    let pods = config.pods.expect("they are served");
    assert_eq!(
        (pods.machine.as_str(), pods.shown().join(" ")),
        ("node-1", "shop till/cashier".into())
    );
    assert_eq!(pods.own.expect("it is in one").to_string(), "mesh/agent-x7x2k");
    assert_eq!(load(&[]).unwrap().pods, None);
    assert!(words(load(&[(Key::Pods, "Shop")]))[0].contains("namespace/service-account"));
    agent.environment.push(("PILLION_PODS".into(), "*".into()));
    let pods = Config::load(&[], None, &agent).unwrap().pods.expect("they are served");
    assert_eq!(pods.allowed, [PodRule::All]);
}

#[test]
fn topics_are_counted_one_by_one_up_to_a_thousand_and_not_unless_asked_for() {
    assert_eq!(load(&[]).unwrap().metrics_topics, 0);
    assert_eq!(load(&[(Key::MetricsTopics, "20")]).unwrap().metrics_topics, 20);
    assert!(words(load(&[(Key::MetricsTopics, "1001")]))[0].contains("from 0 to 1000"));
}
