//! Whom a running node trusts: certificates from files, and cookies and certificates that change under it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

use crate::mesh::refusal;
use crate::support::{Daemon, Place, eventually, json};

/// An authority as an operator has one.
pub(crate) struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { params, key: KeyPair::generate().unwrap() }
    }

    fn pem(&self) -> String {
        self.params.self_signed(&self.key).unwrap().pem()
    }

    /// A certificate for the nodes of host `t`, and its key.
    fn issue(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(SanType::URI("pillion://default/t".try_into().unwrap()));
        let issuer = Issuer::from_params(&self.params, &self.key);
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// The three files of a node.
pub(crate) struct Files(PathBuf);

impl Files {
    pub(crate) fn new(place: &Place, name: &str, authority: &Authority) -> Self {
        let directory = place.path().join(name);
        fs::create_dir(&directory).unwrap();
        let files = Self(directory);
        files.replace(authority);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What `authority` issued takes the place of what was there.
    fn replace(&self, authority: &Authority) {
        let (cert, key) = authority.issue();
        for (name, text) in [("ca.pem", authority.pem()), ("cert.pem", cert), ("key.pem", key)] {
            put(&self.path(name), &text);
        }
    }

    /// Starts a node with them that dials `join`.
    fn start(&self, place: &Place, base: &str, join: &[&str]) -> Daemon {
        let mut args = vec!["--strategy", "none"];
        for address in join {
            args.extend(["--join", address]);
        }
        let args: Vec<String> = args.into_iter().map(str::to_owned).chain(self.flags()).collect();
        place.start(base, &args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The flags that name them.
    pub(crate) fn flags(&self) -> [String; 6] {
        let path = |name: &str| self.path(name).to_str().unwrap().to_owned();
        let (ca, cert, key) = (path("ca.pem"), path("cert.pem"), path("key.pem"));
        ["--tls-ca".into(), ca, "--tls-cert".into(), cert, "--tls-key".into(), key]
    }
}

/// Puts a private file in place whole: a reader sees the old or the new one.
pub(crate) fn put(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&beside, path).unwrap();
}

/// Waits until a node has read its keys again this often.
pub(crate) fn has_read_again(node: &Daemon, times: usize) {
    eventually("the keys are read again", || {
        node.logged().matches("the keys of the mesh were read again").count() >= times
    });
}

#[test]
fn nodes_with_certificates_join_and_those_of_another_authority_are_told_why_not() {
    let place = Place::new();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let a = Files::new(&place, "fa", &ours).start(&place, "a", &[]);
    let address = a.address();
    let b = Files::new(&place, "fb", &ours).start(&place, "b", &[&address]);
    b.json().meets(&[&a]);
    a.json().meets(&[&b]);
    let stranger = Files::new(&place, "fc", &theirs).start(&place, "c", &[&address]);
    let reason = refusal(&mut stranger.json(), &["(or ca)"]);
    assert!(!reason.contains("Error(") && !reason.contains("UnknownIssuer"), "debris: {reason}");
    // A node with a cookie is a stranger as well, and finds out in the same way. Those with certificates made none.
    assert!(!place.path().join("h/.config/pillion/cookie").exists());
    let cookie = place.start("d", &["--strategy", "none", "--join", &address]);
    refusal(&mut cookie.json(), &["(or ca)"]);
    assert_eq!(stranger.json().connected(), Vec::<String>::new());
    assert_eq!(a.json().connected(), ["b@t"]);
}

#[test]
fn certificates_that_do_not_fit_are_refused_at_start_with_the_file_to_change() {
    let place = Place::new();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let files = Files::new(&place, "files", &ours);
    let text = |name: &str| files.path(name).to_str().unwrap().to_owned();
    let (ca, cert, key) = (text("ca.pem"), text("cert.pem"), text("key.pem"));
    let all = ["--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key];
    let (status, said) = place.refused("a", &all[..4]);
    assert!(!status.success() && said.contains("tls-key"), "{said}");
    // Of another host.
    let (status, said) = place.refused("a", &[&["--name", "a@u"], &all[..]].concat());
    assert!(!status.success() && said.contains("pillion://default/u"), "{said}");
    // Of another authority.
    put(&files.path("ca.pem"), &theirs.pem());
    let (status, said) = place.refused("a", &all);
    assert!(!status.success() && said.contains(&ca) && said.contains(&cert), "{said}");
    fs::remove_file(files.path("ca.pem")).unwrap();
    let (status, said) = place.refused("a", &all);
    assert!(!status.success() && said.contains(&ca), "{said}");
}

#[test]
fn a_certificate_that_is_replaced_on_disk_is_used_without_a_restart() {
    let place = Place::new();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let files = Files::new(&place, "fa", &old);
    let a = files.start(&place, "a", &[]);
    let address = a.address();
    let b = Files::new(&place, "fb", &old).start(&place, "b", &[&address]);
    let mut app = a.json();
    app.meets(&[&b]);
    app.ok(json!({"op": "monitor_nodes", "on": true}));
    let c = Files::new(&place, "fc", &new).start(&place, "c", &[&address]);
    refusal(&mut c.json(), &["(or ca)"]);
    // A set that does not fit together is told of, and what was read before stays in use.
    put(&files.path("key.pem"), &old.issue().1);
    eventually("what is wrong is told", || {
        let log = a.logged();
        log.contains("key.pem") && log.contains("the keys that were read before stay in use")
    });
    let d = Files::new(&place, "fd", &old).start(&place, "d", &[&address]);
    d.json().meets(&[&a]);
    assert_eq!(app.event()["node"], "d@t");
    files.replace(&new);
    has_read_again(&a, 1);
    assert_eq!(c.json().ok(json!({"op": "connect", "to": address}))["result"], true);
    let up = app.event();
    assert_eq!((&up["ev"], &up["node"]), (&json!("nodeup"), &json!("c@t")));
    // Connections that exist are not cut.
    app.nothing();
    assert_eq!(app.connected(), ["b@t", "c@t", "d@t"]);
}

#[test]
fn a_cookie_that_changes_under_running_nodes_interrupts_nothing() {
    let place = Place::new();
    let (old, new) = ("11".repeat(32), "22".repeat(32));
    let files = ["a", "b"].map(|base| place.path().join(format!("{base}.cookie")));
    let start = |base: &str, cookie: &Path, join: &[&str]| {
        let mut args = vec!["--strategy", "none", "--cookie-file", cookie.to_str().unwrap()];
        for address in join {
            args.extend(["--join", address]);
        }
        place.start(base, &args)
    };
    for file in &files {
        put(file, &old);
    }
    let a = start("a", &files[0], &[]);
    let address = a.address();
    let b = start("b", &files[1], &[&address]);
    let mut app = a.json();
    app.meets(&[&b]);
    app.ok(json!({"op": "monitor_nodes", "on": true}));
    let steps = [format!("{old}\n{new}\n"), format!("{new}\n{old}\n"), format!("{new}\n")];
    for (step, text) in steps.iter().enumerate() {
        for (node, file) in [&a, &b].into_iter().zip(&files) {
            put(file, text);
            has_read_again(node, step + 1);
        }
    }
    // The old one opens nothing any more, the new one does.
    let (with_old, with_new) = (place.path().join("old"), place.path().join("new"));
    put(&with_old, &old);
    put(&with_new, &new);
    let stranger = start("s", &with_old, &[&address]);
    refusal(&mut stranger.json(), &["cookie"]);
    let c = start("c", &with_new, &[&address]);
    c.json().meets(&[&a, &b]);
    assert_eq!(app.event()["node"], "c@t");
    // A file that holds no cookie any more changes nothing, and the log never shows what was in it.
    put(&files[0], "hunter2\n");
    eventually("what is wrong is told", || a.logged().contains("stay in use"));
    let d = start("d", &with_new, &[&address]);
    d.json().meets(&[&a]);
    assert_eq!(app.event()["node"], "d@t");
    app.nothing();
    for secret in [old.as_str(), &new, "hunter2"] {
        assert!(!a.logged().contains(secret), "{}", a.logged());
    }
}
