//! Links the unwinder in, where the C compiler has it as an archive: a node then loads one shared library less, which is
//! time at its start and memory while it idles, and asks for nothing but the C library where it is installed.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CC");
    let is = |key: &str, value: &str| env::var(key).is_ok_and(|found| found == value);
    let gnu = is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu");
    let native = env::var("HOST").ok() == env::var("TARGET").ok();
    if !gnu || !native || !is("PROFILE", "release") {
        return;
    }
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let Ok(output) = Command::new(compiler).arg("-print-file-name=libgcc_eh.a").output() else {
        return;
    };
    let answer = String::from_utf8_lossy(&output.stdout);
    // A compiler that does not have it gives the name back.
    if let Some(directory) = Path::new(answer.trim()).parent().filter(|path| path.is_absolute()) {
        println!("cargo::rustc-link-search=native={}", directory.display());
        println!("cargo::rustc-link-lib=static:-bundle=gcc_eh");
    }
}
