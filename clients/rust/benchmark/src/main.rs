//! Measures the Rust client as `clients/README.md` says, and prints a row of JSON for each measurement.
//!
//! The program starts itself for every end: a caller or sender, and a responder or receiver, each a process of its own.

mod floor;
mod nats;
mod ours;
mod raw;
mod shared;

use std::process::Stdio;

use shared::{Numbers, Setup};
use tokio::process::{Child, Command};

const SIZES: [usize; 2] = [64, 1024];

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [] => measure().await,
        [role, against, size, name] => {
            let setup = Setup::new(size.parse().expect("a size"), name);
            play(role, against, &setup).await;
        }
        _ => eprintln!("it is started without arguments"),
    }
}

/// What is measured: who asks or sends, and who answers or receives.
const ROWS: [(&str, &str, [&str; 2], [&str; 2]); 15] = [
    ("call", "pillion", ["call", "ours"], ["respond", "ours"]),
    ("call", "raw", ["call", "raw"], ["respond", "raw"]),
    ("call", "floor", ["call", "floor"], ["respond", "floor"]),
    ("call", "nats", ["call", "nats"], ["respond", "nats"]),
    ("send", "pillion", ["send", "ours"], ["receive", "raw"]),
    ("send", "raw", ["send", "raw"], ["receive", "raw"]),
    ("send", "floor", ["send", "floor"], ["receive", "floor"]),
    ("send", "nats", ["send", "nats"], ["receive", "nats"]),
    ("receive", "pillion", ["send", "raw"], ["receive", "ours"]),
    ("receive", "raw", ["send", "raw"], ["receive", "raw"]),
    ("receive", "floor", ["send", "floor"], ["receive", "floor"]),
    ("receive", "nats", ["send", "nats"], ["receive", "nats"]),
    ("publish", "pillion", ["publish", "ours"], ["subscribe", "ours"]),
    ("publish", "floor", ["send", "floor"], ["receive", "floor"]),
    ("publish", "nats", ["send", "nats"], ["receive", "nats"]),
];

async fn measure() {
    let has_nats = std::env::var_os("NATS_A").is_some() && std::env::var_os("NATS_B").is_some();
    if !has_nats {
        eprintln!("rust: there is no NATS to compare with (NATS_A and NATS_B); its rows are left out");
    }
    let place = tempfile::tempdir().expect("a directory for the floor's socket");
    let mut number = 0;
    for size in SIZES {
        for (what, against, asks, answers) in ROWS {
            if against == "nats" && !has_nats {
                continue;
            }
            number += 1;
            // A name of its own: what an earlier row left under way does not count.
            let name = place.path().join(format!("row{number}"));
            let name = name.to_str().expect("a path in UTF-8");
            let mut other = begin(answers, size, name);
            shared::ready(&mut other).await;
            let mut ours = begin(asks, size, name);
            let counted = if what == "call" { &mut ours } else { &mut other };
            match shared::numbers(counted).await {
                Some(numbers) => println!("{}", row(what, size, against, &numbers)),
                None => eprintln!("rust: {what} against {against} gave no numbers"),
            }
            for mut child in [ours, other] {
                let _ = child.kill().await;
            }
        }
    }
}

fn begin([role, against]: [&str; 2], size: usize, name: &str) -> Child {
    Command::new(std::env::current_exe().expect("this program has a path"))
        .args([role, against, &size.to_string(), name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("this program can be started")
}

fn row(what: &str, size: usize, against: &str, numbers: &Numbers) -> String {
    let shown = |number: Option<f64>| number.map_or("null".to_owned(), |n| format!("{n:.1}"));
    format!(
        r#"{{"client":"rust","what":"{what}","size":{size},"against":"{against}","p50_us":{},"p99_us":{},"per_s":{:.0}}}"#,
        shown(numbers.p50_us),
        shown(numbers.p99_us),
        numbers.per_s
    )
}

async fn play(role: &str, against: &str, setup: &Setup) {
    match (against, role) {
        ("ours", "call") => ours::call(setup).await,
        ("ours", "respond") => ours::respond(setup).await,
        ("ours", "send") => ours::send(setup).await,
        ("ours", "receive") => ours::receive(setup).await,
        ("ours", "publish") => ours::publish(setup).await,
        ("ours", "subscribe") => ours::subscribe(setup).await,
        ("raw", "call") => raw::call(setup),
        ("raw", "respond") => raw::respond(setup),
        ("raw", "send") => raw::send(setup),
        ("raw", "receive") => raw::receive(setup),
        ("floor", "call") => floor::call(setup).await,
        ("floor", "respond") => floor::respond(setup).await,
        ("floor", "send") => floor::send(setup).await,
        ("floor", "receive") => floor::receive(setup).await,
        ("nats", "call") => nats::call(setup).await,
        ("nats", "respond") => nats::respond(setup).await,
        ("nats", "send") => nats::send(setup).await,
        ("nats", "receive") => nats::receive(setup).await,
        _ => eprintln!("there is no {role} against {against}"),
    }
}
