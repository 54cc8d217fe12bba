//! Clocks that lie, cookies that differ and certificates that end, each with real nodes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

use super::*;

const DAY: i64 = 24 * 60 * 60;

/// A clock that is wrong by as much as its file says, for the programs that are given it.
struct Clock {
    library: PathBuf,
    file: PathBuf,
}

/// What the system's clock is asked through, before the C library is.
const LIAR: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *at) {
    int failed = syscall(SYS_clock_gettime, id, at);
    const char *path = getenv("CLOCK_FILE");
    if (failed || id != CLOCK_REALTIME || !path) return failed;
    char text[32] = {0};
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    if (read(file, text, sizeof text - 1) > 0) at->tv_sec += atol(text);
    close(file);
    return 0;
}
"#;

impl Clock {
    /// None where no C compiler is, or a program here asks for the time in another way.
    fn new(place: &Place, seconds: i64) -> Option<Self> {
        let at = |name: &str| place.path().join(name);
        let clock = Self { library: at("liar.so"), file: at(&format!("clock{seconds}")) };
        fs::write(at("liar.c"), LIAR).expect("written");
        clock.is_off_by(seconds);
        let cc = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&clock.library, &at("liar.c")])
            .output();
        match cc {
            Ok(done) if done.status.success() && cfg!(target_os = "linux") => Some(clock),
            other => {
                println!("SKIPPED: no clock can be made to lie here: {other:?}");
                None
            }
        }
    }

    fn is_off_by(&self, seconds: i64) {
        let beside = self.file.with_extension("new");
        fs::write(&beside, seconds.to_string()).expect("written");
        fs::rename(&beside, &self.file).expect("put in place");
    }

    fn given_to<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("LD_PRELOAD", &self.library).env("CLOCK_FILE", &self.file)
    }

    /// Starts a node that has it.
    fn up(&self, place: &Place, name: &str, more: &[&str]) -> Node {
        let mut command = place.bare(env!("CARGO_BIN_EXE_pillion"));
        command.args(["up", "--name", name, "--listen", "127.0.0.1:0"]).args(more);
        self.given_to(&mut command);
        place.node(command, "default", name.split('@').next().expect("a base"))
    }

    /// Runs a command that has it.
    fn run(&self, place: &Place, arguments: &[&str]) -> Ended {
        let mut command = place.bare(env!("CARGO_BIN_EXE_pillion"));
        Ended::of(self.given_to(command.args(arguments)))
    }
}

macro_rules! clock {
    ($place:expr, $seconds:expr) => {
        match Clock::new($place, $seconds) {
            Some(clock) => clock,
            None => return,
        }
    };
}

#[test]
fn a_peer_whose_clock_lies_is_named_with_by_how_much_and_what_to_do() {
    let place = Place::new();
    let ahead = clock!(&place, 9000);
    let mut a = place.up("a", &["--strategy", "none"]);
    let join = format!("127.0.0.1:{}", a.port(&place));
    let liar = ahead.up(&place, "liar", &["--strategy", "none", "--join", &join]);
    a.says("joined");
    let ended = place.run(&["doctor", "--socket", a.socket()]);
    assert_eq!(ended.code, 1);
    let line = ended.line("failed", "clock");
    for words in ["liar@", "2 h ahead of this one", "`date -u`", "run NTP"] {
        assert!(line.contains(words), "{words}: {line}");
    }
    let explained = place.run(&["explain", "liar", "--socket", a.socket()]);
    explained.has(&["Its clock was 2 h ahead of ours", "run NTP on both"]);
    let peers = place.run(&["peers", "--json", "--socket", a.socket()]).json();
    let skew = peers["peers"][0]["skew_ms"].as_i64().expect("it is known");
    assert!((8_900_000..9_100_000).contains(&skew), "{skew}");
    // Seen from there it is the other way round; with two against one it knows whose clock it is.
    let mut b = place.up("b", &["--strategy", "none", "--join", &join]);
    b.says("joined node=liar@");
    let ended = place.run(&["doctor", "--socket", liar.socket()]);
    let line = ended.line("failed", "clock");
    let words = ["h behind this one", "likely this machine's clock that is wrong"];
    assert!(words.iter().all(|words| line.contains(words)), "{line}");
}

#[test]
fn a_clock_that_is_off_by_less_than_minutes_is_worth_a_look_and_nothing_more() {
    let place = Place::new();
    let behind = clock!(&place, -60);
    let mut a = place.up("a", &["--strategy", "none"]);
    let join = format!("127.0.0.1:{}", a.port(&place));
    let _late = behind.up(&place, "late", &["--strategy", "none", "--join", &join]);
    a.says("joined");
    let ended = place.run(&["doctor", "--socket", a.socket()]);
    let line = ended.line("warning", "clock");
    assert!(line.contains("late@") && line.contains(" s behind this one"), "{line}");
}

/// A cookie of its own in this file.
fn cookie(place: &Place, file: &str) {
    let path = place.path().join(file);
    fs::create_dir_all(path.parent().expect("one")).expect("made");
    fs::write(&path, place.run(&["cookie", "new"]).out).expect("written");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("set");
}

#[test]
fn a_node_that_is_seen_and_has_another_cookie_is_named() {
    let place = Place::new();
    cookie(&place, "other");
    let a = place.up("a", &["--strategy", "local"]);
    let _s = place.up("s", &["--strategy", "local", "--cookie-file", "other"]);
    // It is seen when the directory has been looked at.
    let ended = loop {
        let ended = place.run(&["doctor", "--socket", a.socket()]);
        if ended.out.contains("seen and left alone") {
            break ended;
        }
    };
    assert_eq!(ended.code, 0, "nothing is broken: {}", ended.out);
    let line = ended.line("warning", "peers");
    for words in ["s@", "another cookie", "`pillion cookie show`", "`pillion explain s@"] {
        assert!(line.contains(words), "{words}: {line}");
    }
    let explained = place.run(&["explain", "s", "--socket", a.socket()]);
    explained.has(&["is not connected", "It is not dialled, because it has another cookie"]);
}

#[test]
fn a_cookie_of_this_shell_that_is_not_the_nodes_is_told() {
    let place = Place::new();
    cookie(&place, "other");
    cookie(&place, ".config/pillion/cookie");
    let _a = place.up("a", &["--strategy", "none", "--cookie-file", "other"]);
    let ended = place.run(&["doctor"]);
    assert_eq!(ended.code, 0, "{}", ended.out);
    let line = ended.line("warning", "cookie");
    for words in ["your own cookie", ".config/pillion/cookie", "/other)", "PILLION_COOKIE_FILE="] {
        assert!(line.contains(words), "{words}: {line}");
    }
    // Both commands of the advice say the same ids.
    let shown = place.run(&["cookie", "show", "--json"]).json();
    assert!(line.contains(shown["ids"][0].as_str().expect("an id")), "{line}");
    let mut command = place.bare(env!("CARGO_BIN_EXE_pillion"));
    command.env("PILLION_COOKIE_FILE", place.path().join("other"));
    let ended = Ended::of(command.arg("doctor"));
    assert!(!ended.out.contains("your own cookie"), "{}", ended.out);
}

/// An authority, which counts from yesterday for so many days.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

fn lasts(params: &mut CertificateParams, days: i64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    let day = Duration::from_secs(DAY.unsigned_abs());
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(day);
    params.not_after = epoch + (now + day * u32::try_from(days).expect("some"));
}

impl Authority {
    fn new(days: i64) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "the authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        lasts(&mut params, days);
        Self { params, key: KeyPair::generate().expect("a key") }
    }

    /// Puts files for the host `t` in place, and gives the flags that name them.
    fn issue(&self, place: &Place, directory: &str, days: i64) -> Vec<String> {
        let directory = place.path().join(directory);
        fs::create_dir_all(&directory).expect("made");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a node");
        let uri = "pillion://default/t".try_into().expect("a uri");
        params.subject_alt_names.push(SanType::URI(uri));
        lasts(&mut params, days);
        let issuer = Issuer::from_params(&self.params, &self.key);
        let files = [
            ("ca", self.params.self_signed(&self.key).expect("signed").pem()),
            ("cert", params.signed_by(&key, &issuer).expect("signed").pem()),
            ("key", key.serialize_pem()),
        ];
        let mut flags = Vec::new();
        for (name, text) in files {
            let path = directory.join(format!("{name}.pem"));
            fs::write(&path, text).expect("written");
            flags.extend([format!("--tls-{name}"), path.display().to_string()]);
        }
        flags
    }
}

fn with<'a>(flags: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    more.iter().copied().chain(flags.iter().map(String::as_str)).collect()
}

#[test]
fn certificates_are_told_of_before_they_end_when_they_have_and_when_they_do_not_count_yet() {
    let place = Place::new();
    let clock = clock!(&place, 0);
    let flags = Authority::new(200).issue(&place, "a", 90);
    let a = clock.up(&place, "a@t", &with(&flags, &["--strategy", "none"]));
    let doctor = || clock.run(&place, &["doctor", "--socket", a.socket()]);
    let ended = doctor();
    assert_eq!(ended.code, 0, "{}", ended.out);
    let line = ended.line("ok", "certificate");
    for words in ["own certificate in /", "a/cert.pem", "CN=a node", "counts until", "89 days"] {
        assert!(line.contains(words), "{words}: {line}");
    }
    ended.has(&["the authority's certificate", "CN=the authority"]);

    clock.is_off_by(85 * DAY);
    let ended = doctor();
    assert_eq!(ended.code, 0, "{}", ended.out);
    let line = ended.line("warning", "certificate");
    assert!(line.contains("ends on ") && line.contains("renew it now"), "{line}");

    clock.is_off_by(100 * DAY);
    let ended = doctor();
    assert_eq!(ended.code, 1);
    let line = ended.line("failed", "certificate");
    for words in ["ended on ", "10 days ago", "put a renewed one", "within 5 s", "`date -u`"] {
        assert!(line.contains(words), "{words}: {line}");
    }

    clock.is_off_by(300 * DAY);
    let line = doctor().line("warning", "certificate");
    assert!(line.contains("nodes do not look at its dates"), "{line}");

    clock.is_off_by(-2 * DAY);
    let line = doctor().line("failed", "certificate");
    assert!(line.contains("does not count before ") && line.contains("clock"), "{line}");

    // What a node that is started here would say.
    clock.is_off_by(100 * DAY);
    drop(a);
    let mut command = place.bare(env!("CARGO_BIN_EXE_pillion"));
    command.env("PILLION_NAME", "a@t");
    for pair in flags.chunks(2) {
        let name = pair[0].trim_start_matches("--").replace('-', "_").to_uppercase();
        command.env(format!("PILLION_{name}"), &pair[1]);
    }
    let ended = Ended::of(clock.given_to(command.arg("doctor")));
    let line = ended.line("failed", "certificate");
    assert!(line.contains("expired on ") && line.contains("no node starts with these"), "{line}");
}

#[test]
fn a_peer_that_refuses_a_certificate_for_its_dates_is_told_so_on_both_sides() {
    let place = Place::new();
    let clock = clock!(&place, 100 * DAY);
    let authority = Authority::new(2000);
    let old = authority.issue(&place, "old", 90);
    let young = authority.issue(&place, "young", 1000);
    let a = clock.up(&place, "a@t", &with(&young, &["--strategy", "none"]));
    let port = a.port(&place);
    let join = format!("127.0.0.1:{port}");
    let mut b = place.up("b@t", &with(&old, &["--strategy", "none", "--join", &join]));
    b.says("not connected");
    let ended = place.run(&["explain", &join, "--socket", b.socket()]);
    ended.has(&["our certificate has expired or is not valid yet", "`pillion doctor` on both"]);
    assert!(!ended.out.contains("cookie show"), "it is no matter of cookies: {}", ended.out);
    let peers = place.run(&["peers", "--json", "--socket", b.socket()]).json();
    assert_eq!(peers["peers"][0]["failure"]["result"], "expired", "{peers}");
    let ended = place.run(&["explain", "127.0.0.1", "--socket", a.socket()]);
    ended.has(&["Somebody at 127.0.0.1 dialled this node", "certificate that expired on"]);
}

#[test]
fn files_of_certificates_that_are_not_taken_are_told_and_the_old_ones_stay() {
    let place = Place::new();
    let flags = Authority::new(200).issue(&place, "a", 90);
    let a = place.up("a@t", &with(&flags, &["--strategy", "none"]));
    fs::write(place.path().join("a/cert.pem"), "nonsense").expect("written");
    // The node looks at its files every few seconds.
    let ended = loop {
        let ended = place.run(&["doctor", "--socket", a.socket()]);
        if ended.code == 1 {
            break ended;
        }
    };
    let line = ended.line("failed", "certificate");
    for words in ["what the files hold now is not taken", "cert.pem", "looks at them every 5 s"] {
        assert!(line.contains(words), "{words}: {line}");
    }
    ended.line("ok", "certificate");
}
