//! What the tutorial shows is what happens: its session is typed into real terminals, and what they print is compared.
//!
//! `PILLION_BLESS=1 cargo test --test tutorial` writes what is printed into the page. What may differ from run to run is in
//! `alike.rs`, how a page is read in `page.rs`.

#![allow(clippy::disallowed_methods, reason = "a test waits for real processes, in real time")]

mod alike;
mod page;
mod session;
mod terminal;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use alike::Alike;
use page::Page;
use session::Place;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A place where nodes meet nobody else's, with this build of `pillion` and what is in the repository.
struct Scratch {
    place: Place,
    directory: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("pu").tempdir().expect("a directory");
        let below = |name: &str| directory.path().join(name);
        for name in ["here", "home"] {
            fs::create_dir(below(name)).expect("a directory");
        }
        for name in ["clients", "examples"] {
            std::os::unix::fs::symlink(root().join(name), below("here").join(name))
                .expect("a link");
        }
        let text = |path: &Path| path.display().to_string();
        let pillion = Path::new(env!("CARGO_BIN_EXE_pillion")).parent().expect("it lies somewhere");
        let mut path = text(pillion);
        let mut variables = vec![
            ("HOME".to_owned(), text(&below("home"))),
            ("PILLION_DIR".to_owned(), text(&below("p"))),
            // On a machine of one's own these are the default; here others may have the ports and the network.
            ("PILLION_LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
            ("PILLION_STRATEGY".to_owned(), "local".to_owned()),
            ("PYTHONPATH".to_owned(), text(&root().join("clients/python/src"))),
            ("PYTHONDONTWRITEBYTECODE".to_owned(), "1".to_owned()),
        ];
        if let Some(python) = python() {
            path = format!("{path}:{}", text(python.parent().expect("a directory")));
        }
        // What builds keeps what it has built and fetched at home.
        let home = std::env::var("HOME").unwrap_or_default();
        for (name, usual) in [
            ("GOPATH", "go"),
            ("GOCACHE", ".cache/go-build"),
            ("CARGO_HOME", ".cargo"),
            ("RUSTUP_HOME", ".rustup"),
        ] {
            let value = std::env::var(name).unwrap_or_else(|_| format!("{home}/{usual}"));
            variables.push((name.to_owned(), value));
        }
        let target = std::env::var("CARGO_TARGET_DIR");
        let target = target.unwrap_or_else(|_| text(&root().join("target")));
        variables.push(("CARGO_TARGET_DIR".to_owned(), target));
        let usual = std::env::var("PATH").unwrap_or_default();
        variables.push(("PATH".to_owned(), format!("{path}:{usual}")));
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let host = name.split('.').next().unwrap_or_default();
        let place = Place {
            directory: below("here"),
            sources: root().to_owned(),
            variables,
            lacking: Vec::new(),
            alike: Alike::new(host, &below("p")),
        };
        Self { place, directory }
    }
}

/// A Python that has what the client needs, as its driver for the conformance kit looks for it.
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("PILLION_PYTHON").map(PathBuf::from);
    let own = root().join("clients/python/.venv/bin/python");
    let candidates = named.into_iter().chain([own, PathBuf::from("python3")]);
    candidates.into_iter().find_map(|python| {
        let mut asked = Command::new(python);
        asked.args(["-c", "import cbor2, sys; print(sys.executable)"]);
        let output = asked.output().ok().filter(|output| output.status.success())?;
        Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
    })
}

/// Builds what a client needs, as its own tests do. Why it cannot be had here, if so; what does not build is a failure.
fn lacks(build: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(root().join(build));
    let output = command.args(arguments).stdin(Stdio::piped()).output();
    let output = output.unwrap_or_else(|error| panic!("{build}: {error}"));
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match output.status.code() {
        Some(0) => None,
        Some(69) => Some(words),
        code => panic!("{build} ended with {code:?}: {words}"),
    }
}

/// Whether this command does well, in a directory of the repository.
fn does(directory: &str, command: &[&str]) -> bool {
    let mut does = Command::new(command[0]);
    does.args(&command[1..]).current_dir(root().join(directory));
    does.output().is_ok_and(|output| output.status.success())
}

#[test]
fn the_session_of_the_tutorial_happens_as_it_is_told() {
    let path: PathBuf = root().join("docs/tutorial.md");
    let page = Page::read(&fs::read_to_string(&path).expect("the tutorial"));
    let page = page.unwrap_or_else(|wrong| panic!("docs/tutorial.md, {wrong}"));
    // The drivers for the conformance kit make what the clients need; without anything to do they end.
    let driver = |name| format!("clients/{name}/conformance");
    let lacks = python().is_none().then(|| lacks(&driver("python"), &[])).flatten();
    if let Some(words) = lacks.or_else(|| self::lacks("clients/typescript/build", &[])) {
        eprintln!("SKIPPED: the tutorial, because it cannot be carried out here: {words}");
        return;
    }
    let mut scratch = Scratch::new();
    if !does("examples/pos/go", &["go", "build", "-o", "/dev/null", "."]) {
        scratch.place.lacking.push("Go".to_owned());
    }
    if !does("", &["cargo", "build", "--offline", "-q", "-p", "pillion-client", "--example", "pos"])
    {
        scratch.place.lacking.push("Rust".to_owned());
    }
    // As whoever starts it does: it looks whether what was built is newer than its sources.
    does("", &["examples/pos/rust/run"]);
    if std::env::var_os("PILLION_BLESS").is_some() {
        let (blessed, result) = session::bless(&page, &mut scratch.place);
        fs::write(path, blessed).expect("the tutorial is written");
        result.unwrap_or_else(|wrong| panic!("docs/tutorial.md, as it was, {wrong}"));
        return;
    }
    if let Err(wrong) = session::check(&page, &mut scratch.place) {
        panic!("docs/tutorial.md, {wrong}\n(PILLION_BLESS=1 writes what is printed into the page)");
    }
}

/// What is wrong with a page, if anything.
fn complaint(page: &str) -> Option<String> {
    let mut scratch = Scratch::new();
    let page = match Page::read(page) {
        Ok(page) => page,
        Err(wrong) => return Some(wrong.to_string()),
    };
    session::check(&page, &mut scratch.place).err().map(|wrong| wrong.to_string())
}

#[test]
fn a_page_that_tells_the_truth_passes() {
    let page = "**Save as `n.txt`**\n\n```text\n7\n```\n\n\
        **Terminal 1**, the first:\n\n```console\n$ echo on; read word\non\n```\n\n\
        **Terminal 2**\n\n```console\n$ cat n.txt; echo 2026-11-21\n7\n2026-01-01\n$ true\n$ seq 9\n1\n...\n8\n9\n```\n\n\
        **Terminal 1**\n\n```console\n^C\n$ cat\n^C\n$ echo $((1 + 1))\n2\n```\n";
    assert_eq!(complaint(page), None);
}

#[test]
fn a_page_that_lies_fails() {
    let told = |body: &str| complaint(&format!("**Terminal 1**\n\n```console\n{body}\n```\n"));
    for (lie, words) in [
        ("$ echo one\ntwo", "line 5: the page says\n  two\nbut what was printed is\n  one"),
        ("$ echo one\none\ntwo", "line 6: not printed: `two`"),
        ("$ seq 2\n1\n$ true", "line 5: behind this, and not on the page, was printed\n  2"),
        ("$ echo one", "line 4: behind this"),
        ("$ echo one\n$ true\none", "line 4: behind this"),
        ("stock@vm> self", "line 4: typed behind the prompt `stock@vm> `, but it is `$ `"),
        ("$ seq 9\n1\n...\n10", "not printed: `10`"),
    ] {
        let said = told(lie).unwrap_or_else(|| panic!("{lie} passes"));
        assert!(said.contains(words), "{lie}: {said}");
    }
    let piece = complaint("**From `Cargo.toml`**\n\n```toml\n[workspace]\nnothing = 1\n```\n");
    assert!(piece.is_some_and(|said| said.contains("nothing = 1")));
    assert!(complaint("```console\n$ true\n```\n").is_some_and(|said| said.contains("terminal")));
    assert!(complaint("```text\nnever ends\n").is_some());
}

#[test]
fn blessing_writes_what_was_printed_and_keeps_what_was_right() {
    let page = "# A\n\n**Terminal 1**\n\n```console\n$ seq 2\n9\n$ echo port 4470\nport 4470\n$ echo\n```\n\nwords\n";
    let mut scratch = Scratch::new();
    let read = Page::read(page).expect("a page");
    let (blessed, result) = session::bless(&read, &mut scratch.place);
    assert!(result.is_ok());
    assert_eq!(blessed, page.replace("9\n", "1\n2\n").replace("$ echo\n", "$ echo\n\n"));
    assert!(scratch.directory.path().exists());
}
