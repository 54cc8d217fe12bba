//! What the linker of a release on Linux is told, so that a node idles in little memory.
//!
//! It links the unwinder in, where the C compiler has it as an archive: a node then loads one shared library less, which is
//! time at its start too. It puts side by side what a node runs (`link/order.ld`), because the system keeps 64 KiB of
//! the program in memory around each page that was touched. And it packs the list of addresses that are put right at each
//! start, all of which is read then and stays in memory, where the C library knows the packed form (glibc 2.36, musl 1.2.4).

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=link/order.ld");
    println!("cargo::rerun-if-env-changed=CC");
    println!("cargo::rerun-if-env-changed=PILLION_UNORDERED");
    let is = |key: &str, value: &str| env::var(key).is_ok_and(|found| found == value);
    if !is("CARGO_CFG_TARGET_OS", "linux") || !is("PROFILE", "release") {
        return;
    }
    // A linker that somebody chose may not know this kind of script, as mold does not.
    let chosen = env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("link"));
    if !chosen
        && env::var_os("RUSTC_LINKER").is_none()
        && env::var_os("PILLION_UNORDERED").is_none()
    {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("link/order.ld");
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", script.display());
    }
    if is("CARGO_CFG_TARGET_ENV", "musl") && !chosen && rustc().is_some_and(|minor| minor >= 93) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    let native = env::var("HOST").ok() == env::var("TARGET").ok();
    if !is("CARGO_CFG_TARGET_ENV", "gnu") || !native {
        return;
    }
    if glibc().is_some_and(|version| version >= (2, 36)) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
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

/// The minor version of the compiler: since 1.93 it brings musl 1.2.5, which knows the packed form.
fn rustc() -> Option<u32> {
    let compiler = env::var_os("RUSTC")?;
    let output = Command::new(compiler).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.strip_prefix("rustc 1.")?.split('.').next()?.parse().ok()
}

/// The version of the C library that is here, and that the program will need at least.
fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
