//! What a file says of programs, and what it may not say.

use std::path::PathBuf;

use super::*;
use crate::config::{Config, Problems, print};

fn load(text: &str) -> Result<Config, Problems> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("p.toml");
    std::fs::write(&path, text).unwrap();
    let machine = Machine {
        environment: vec![("HOME".into(), "/home/gus".into())],
        directory: PathBuf::from("/src/stock"),
        name: "hal".to_owned(),
        uid: 501,
        namespace: None,
    };
    Config::load(&[], Some(&path), &machine)
}

const ALL: &str = r#"
[[supervisor]]
name = "shop"
strategy = "rest_for_one"
max-restarts = 10
max-seconds = 60
auto-shutdown = "any_significant"

[[process]]
name = "bot"
command = "python3"
args = ["bot.py", "a b"]
env = { LEVEL = "7" }
cwd = "/srv/bot"
restart = "transient"
shutdown = "30s"
supervisor = "shop"
significant = true
register = false

[[factory]]
name = "worker"
command = "./bin/worker"
max-children = 7
max-restarts = 20
max-seconds = 30
shutdown = "brutal_kill"
"#;

#[test]
fn a_file_says_what_is_hosted_and_what_it_leaves_out_is_as_in_otp() {
    let hosting = load(ALL).unwrap().hosting;
    let shop = &hosting.supervisors[0];
    assert_eq!(
        (shop.strategy, shop.max_restarts, shop.max_seconds),
        (Strategy::RestForOne, 10, 60)
    );
    assert_eq!(shop.auto_shutdown, AutoShutdown::AnySignificant);
    let bot = &hosting.processes[0];
    assert_eq!(
        (bot.restart, bot.shutdown),
        (Restart::Transient, Shutdown::Within(Duration::from_secs(30)))
    );
    assert_eq!((bot.supervisor.as_str(), bot.significant, bot.register), ("shop", true, false));
    assert_eq!(
        (bot.program.command.as_str(), &*bot.program.args),
        ("python3", &["bot.py".to_owned(), "a b".to_owned()][..])
    );
    assert_eq!(
        (bot.program.env["LEVEL"].as_str(), bot.program.cwd.as_deref()),
        ("7", Some("/srv/bot"))
    );
    let worker = &hosting.factories[0];
    assert_eq!((worker.max_children, worker.restart), (7, Restart::Temporary));
    assert_eq!(worker.shutdown, Shutdown::BrutalKill);
    assert_eq!((worker.max_restarts, worker.max_seconds), (20, 30));
    // A path starts at the file.
    assert!(
        worker.program.command.starts_with('/') && worker.program.command.ends_with("/bin/worker")
    );

    let usual = load("[[process]]\nname = \"a\"\ncommand = \"a\"\n[[supervisor]]\nname = \"b\"\n")
        .unwrap()
        .hosting;
    let a = &usual.processes[0];
    assert_eq!(
        (a.restart, a.shutdown),
        (Restart::Permanent, Shutdown::Within(Duration::from_secs(5)))
    );
    assert_eq!((a.supervisor.as_str(), a.significant, a.register), ("default", false, true));
    assert_eq!(usual.supervisors[0], SupervisorSpec::new("b"));
    assert!(load("").unwrap().hosting.is_empty());
}

#[test]
fn what_is_hosted_is_printed_as_a_file_that_means_the_same() {
    let config = load(ALL).unwrap();
    let again = load(&print(&config)).unwrap();
    assert_eq!(again.hosting, config.hosting);
}

#[test]
fn everything_that_is_wrong_with_what_is_hosted_is_told_at_once_with_its_line() {
    let wrong = r#"
[[supervisor]]
name = "shop"
stratgy = "one_for_one"
max-seconds = 0

[[process]]
name = "a b"
command = ""
args = "x"
restart = "always"
supervisor = "shpo"

[[process]]
name = "shop"
shutdown = "soon"
significant = true

[[factory]]
command = "x"
max-children = 1000
restart = "never"
env = { a = 1 }
"#;
    let problems = load(wrong).expect_err("refused").0;
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let expected = [
        ":4: supervisor.stratgy: is not known; did you mean `strategy`?",
        ":5: supervisor.max-seconds: is a whole number from 1 to 86400",
        ":8: process.name: `a b` is not a name",
        ":9: process.command: the command is empty",
        ":10: process.args: is a list of texts",
        ":11: process.restart: is one of permanent, transient, temporary",
        ":7: process: the supervisor `shpo` of `a b` is not there: add a [[supervisor]] of that name; did you mean `shop`?",
        ": process.command: is missing",
        ":16: process.shutdown: ",
        ":17: process.significant: is for transient and temporary",
        ":14: process: `shop` is there twice, first as a supervisor",
        ": factory.name: is missing",
        ":21: factory.max-children: is a whole number from 1 to 500",
        ":22: factory.restart: is one of",
        ":23: factory.env: is a table of texts, but `a` is none",
    ];
    for words in expected {
        assert!(told.iter().any(|told| told.contains(words)), "{words} in {told:#?}");
    }
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    let told = load("[[process]]\nname = \"default\"\ncommand = [\"x\"]\n").expect_err("refused").0;
    let told: Vec<String> = told.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].ends_with(":3: process.command: is a text in quotes"), "{told:?}");
    assert!(told[1].contains(":1: process: `default` is the supervisor of those"), "{told:?}");
    let told = load("process = 1\nfactroy = 1\n").expect_err("refused").0;
    let told: Vec<String> = told.iter().map(ToString::to_string).collect();
    assert!(told.iter().any(|told| told.contains("is a list of tables: [[process]]")), "{told:?}");
    assert!(told.iter().any(|told| told.contains("did you mean `factory`?")), "{told:?}");
}
