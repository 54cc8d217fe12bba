//! The invariants that the text can show: who names whom, what the core may not touch, what nobody writes.
//!
//! Comments, texts and `#[cfg(test)]` items are taken out of the sources before most rules look at them. A rule that
//! stands in the way of something right is changed here, in the same commit, with the reason.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Most lines of one source file: beyond it, it is two nouns.
const LINES_MAX: usize = 900;

/// Directories that hold what was built or fetched, not what was written.
const FOREIGN: [&str; 7] =
    ["target", ".git", "node_modules", "__pycache__", ".venv", "dist", "_build"];

// ===== the tree =====

/// One file of the repository.
struct Text {
    /// Its path from the root, with `/`.
    path: String,
    /// As it was written.
    raw: String,
    /// Without comments, texts and characters: blanks instead, so that lines stay where they are.
    code: String,
    /// Also without `#[cfg(test)]` items; empty for a file that is all test.
    shipped: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut entries: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_symlink() || FOREIGN.contains(&name) {
            continue;
        }
        if path.is_dir() {
            walk(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// Every file whose path from the root `wanted` says yes to. Files that are no UTF-8 are pictures and the like.
fn texts(wanted: impl Fn(&str) -> bool) -> Vec<Text> {
    let mut paths = Vec::new();
    walk(root(), &mut paths);
    let mut texts = Vec::new();
    for path in paths {
        let inner = path.strip_prefix(root()).expect("walked from the root");
        let name = inner.to_string_lossy().replace('\\', "/");
        if !wanted(&name) {
            continue;
        }
        let Ok(raw) = fs::read_to_string(&path) else { continue };
        let is_rust = has_ending(&name, &["rs"]);
        let code = if is_rust { blank_texts(&raw) } else { String::new() };
        let shipped = if is_test_file(&name) { String::new() } else { blank_tests(&code) };
        texts.push(Text { path: name, raw, code, shipped });
    }
    texts
}

fn rust() -> Vec<Text> {
    texts(|path| has_ending(path, &["rs"]))
}

fn has_ending(path: &str, endings: &[&str]) -> bool {
    Path::new(path).extension().is_some_and(|ending| endings.iter().any(|e| ending == *e))
}

fn is_test_file(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
}

/// Whether `path` is the file of `module` or one below it: `src/router.rs`, `src/router/names.rs`.
fn is_module(path: &str, module: &str) -> bool {
    path.strip_prefix("src/")
        .and_then(|path| path.strip_prefix(module))
        .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

// ===== reading Rust by hand =====

/// Puts blanks where comments, texts and characters stand; line breaks stay.
fn blank_texts(raw: &str) -> String {
    let bytes = raw.as_bytes();
    let mut out = bytes.to_vec();
    let blank = |out: &mut Vec<u8>, from: usize, to: usize| {
        for byte in &mut out[from..to] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let word_before = at > 0 && is_word(bytes[at - 1]);
        let length = if rest.starts_with(b"//") {
            rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            comment_length(rest)
        } else if rest[0] == b'"' {
            text_length(rest)
        } else if let Some(length) = raw_text_length(rest).filter(|_| !word_before) {
            length
        } else if rest[0] == b'\'' {
            character_length(rest)
        } else {
            at += 1;
            continue;
        };
        // A lifetime has no length here: it stays.
        blank(&mut out, at, at + length);
        at += length.max(1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn comment_length(rest: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at.min(rest.len())
}

fn text_length(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != b'"' {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// `r"..."`, `br#"..."#` and the like.
fn raw_text_length(rest: &[u8]) -> Option<usize> {
    let letters = if rest.starts_with(b"br") || rest.starts_with(b"cr") { 2 } else { 1 };
    if letters == 1 && rest[0] != b'r' {
        return None;
    }
    let hashes = rest[letters..].iter().take_while(|b| **b == b'#').count();
    let start = letters + hashes;
    if rest.get(start) != Some(&b'"') {
        return None;
    }
    let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    let body = &rest[start + 1..];
    let end = body.windows(close.len()).position(|window| window == close);
    Some(end.map_or(rest.len(), |end| start + 1 + end + close.len()))
}

/// `'a'`, `'\n'`, `'\u{1f}'`; 0 for a lifetime.
fn character_length(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        let end = rest.iter().skip(3).position(|b| *b == b'\'');
        return end.map_or(1, |end| end + 4);
    }
    let text = String::from_utf8_lossy(&rest[1..rest.len().min(8)]);
    match text.chars().next() {
        Some(c) if rest.get(1 + c.len_utf8()) == Some(&b'\'') => 2 + c.len_utf8(),
        _ => 0,
    }
}

/// Puts blanks where `#[cfg(test)]` items stand.
fn blank_tests(code: &str) -> String {
    let mut out = code.to_owned();
    for marker in ["#[cfg(test)]", "#[cfg(any(test", "#[cfg(all(test"] {
        while let Some(start) = out.find(marker) {
            let end = item_end(&out, start + marker.len());
            let blanks: String =
                out[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
            out.replace_range(start..end, &blanks);
        }
    }
    out
}

/// Where the item ends that begins behind `start`: at its closing brace, or at a `;` or `,` before any brace.
fn item_end(code: &str, start: usize) -> usize {
    let mut depth = 0;
    let mut braced = false;
    for (offset, c) in code[start..].char_indices() {
        match c {
            '{' | '(' | '[' => {
                depth += 1;
                braced |= c == '{' && depth == 1;
            }
            '}' | ')' | ']' => {
                depth -= 1;
                if depth < 0 || depth == 0 && braced && c == '}' {
                    return start + offset + usize::from(depth == 0);
                }
            }
            ';' | ',' if depth == 0 => return start + offset + 1,
            _ => {}
        }
    }
    code.len()
}

/// Where `needle` stands in `text` as a whole word (or path): no letter, digit or `_` before it or behind it.
fn words(text: &str, needle: &str) -> Vec<usize> {
    let bytes = text.as_bytes();
    let closed = |at: usize| bytes.get(at).is_none_or(|byte| !is_word(*byte));
    let starts_with_word = needle.as_bytes().first().is_some_and(|byte| is_word(*byte));
    let ends_with_word = needle.as_bytes().last().is_some_and(|byte| is_word(*byte));
    text.match_indices(needle)
        .map(|(at, _)| at)
        .filter(|at| !starts_with_word || *at == 0 || closed(*at - 1))
        .filter(|at| !ends_with_word || closed(*at + needle.len()))
        .collect()
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text[..at].matches('\n').count()
}

/// The modules that `code` names through `crate::`, groups taken apart, with where they stand.
fn modules_named(code: &str) -> Vec<(String, usize)> {
    let mut named = Vec::new();
    for at in words(code, "crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            named.push((first_word(rest), at));
            continue;
        };
        let mut depth = 0;
        let mut begins = true;
        for (offset, c) in group.char_indices() {
            if begins && is_word(c as u8) {
                named.push((first_word(&group[offset..]), at));
                begins = false;
            }
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                _ => {}
            }
        }
    }
    named
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

// ===== telling =====

#[derive(Default)]
struct Complaints(Vec<String>);

impl Complaints {
    fn at(&mut self, text: &str, path: &str, at: usize, words: &str) {
        self.0.push(format!("{path}:{}: {words}", line_of(text, at)));
    }

    fn whole(&mut self, path: &str, words: &str) {
        self.0.push(format!("{path}: {words}"));
    }

    /// Complains of every place where one of `needles` stands in the shipped code.
    fn shipped(&mut self, text: &Text, needles: &[&str], words_said: &str) {
        for needle in needles {
            for at in words(&text.shipped, needle) {
                self.at(&text.shipped, &text.path, at, &format!("`{needle}`: {words_said}"));
            }
        }
    }

    fn tell(mut self) {
        self.0.sort();
        let mut all = String::new();
        for complaint in &self.0 {
            let _ = writeln!(all, "  {complaint}");
        }
        assert!(self.0.is_empty(), "{} places are not as they should be:\n{all}", self.0.len());
    }
}

// ===== the rules: direction =====

#[test]
fn the_router_does_no_io_awaits_nothing_reads_no_clock_and_draws_no_randomness() {
    let banned = [
        "tokio",
        "Instant::now",
        "SystemTime",
        "rand",
        "fastrand",
        "getrandom",
        "async",
        "await",
        "std::fs",
        "std::io",
        "std::env",
        "std::process",
        "std::thread",
        "UnixStream",
        "TcpStream",
    ];
    let mut complaints = Complaints::default();
    for text in rust().iter().filter(|text| is_module(&text.path, "router")) {
        complaints.shipped(text, &banned, "the router is plain and synchronous; pass it in");
    }
    complaints.tell();
}

#[test]
fn names_point_inward_only() {
    // Who stands above whom; equals do not name each other.
    let levels: [&[&str]; 6] = [
        &["wire"],
        &["router"],
        &["hub"],
        &["session", "peer"],
        // `node` starts `admin` as it starts the socket.
        &["socket", "mesh", "hosting", "admin"],
        &["node", "cli", "main", "injector"],
    ];
    // Tools of the edges: they name the words on the wire and each other, never who uses them.
    let tools = ["backoff", "frame", "dialect", "transport", "tls", "shutdown", "config", "client"];
    let mut complaints = Complaints::default();
    for text in rust() {
        for (level, modules) in levels.iter().enumerate() {
            for module in modules.iter().filter(|module| is_module(&text.path, module)) {
                for (named, at) in modules_named(&text.shipped) {
                    let above = levels[level + 1..].iter().any(|m| m.contains(&named.as_str()));
                    let beside =
                        level < 5 && named != **module && modules.contains(&named.as_str());
                    let tool = level < 2 && tools.contains(&named.as_str());
                    if above || beside || tool {
                        let words = format!("{module} does not name {named}");
                        complaints.at(&text.shipped, &text.path, at, &words);
                    }
                }
            }
        }
        for tool in tools.iter().filter(|tool| is_module(&text.path, tool)) {
            for (named, at) in modules_named(&text.shipped) {
                if levels[1..].iter().any(|modules| modules.contains(&named.as_str())) {
                    let words = format!("{tool} does not name {named}");
                    complaints.at(&text.shipped, &text.path, at, &words);
                }
            }
        }
    }
    complaints.tell();
}

#[test]
fn strategies_name_nothing_of_ours() {
    let mut complaints = Complaints::default();
    for text in rust().iter().filter(|text| text.path.starts_with("strategies/")) {
        for at in words(&text.code, "pillion") {
            complaints.at(&text.code, &text.path, at, "strategies know nothing of pillion");
        }
    }
    for text in texts(|path| path == "strategies/Cargo.toml") {
        if text.raw.lines().any(|line| line.trim_start().starts_with("pillion ")) {
            complaints.whole(&text.path, "strategies do not depend on pillion");
        }
    }
    complaints.tell();
}

// ===== the rules: what nobody writes =====

#[test]
fn nothing_is_unsafe() {
    let mut complaints = Complaints::default();
    for text in rust() {
        for at in words(&text.code, "unsafe") {
            complaints.at(&text.code, &text.path, at, "safe Rust is enough here");
        }
    }
    complaints.tell();
}

#[test]
fn there_are_no_statics_because_fifty_nodes_fit_in_one_process() {
    let mut complaints = Complaints::default();
    for text in rust() {
        for at in words(&text.shipped, "static") {
            if at > 0 && text.shipped.as_bytes()[at - 1] != b'\'' {
                complaints.at(&text.shipped, &text.path, at, "no statics; pass it in");
            }
        }
        complaints.shipped(&text, &["thread_local!", "lazy_static!"], "no statics; pass it in");
    }
    complaints.tell();
}

#[test]
fn nothing_is_left_for_later() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let mut complaints = Complaints::default();
    let sources = ["rs", "py", "ts", "js", "go", "ex", "exs", "rb", "java", "sh"];
    for text in texts(|path| has_ending(path, &sources)) {
        for mark in marks {
            for at in words(&text.raw, mark) {
                complaints.at(&text.raw, &text.path, at, "do it, or open an issue");
            }
        }
        for needle in ["todo!", "unimplemented!", "#[ignore"] {
            for at in words(&text.code, needle) {
                let said = format!("`{needle}`: nothing is left out or ignored");
                complaints.at(&text.code, &text.path, at, &said);
            }
        }
    }
    complaints.tell();
}

#[test]
fn tasks_are_spawned_where_they_are_joined() {
    let owners = ["node", "socket", "mesh", "hosting", "admin", "injector", "cli", "client"];
    let mut complaints = Complaints::default();
    for text in rust() {
        if owners.iter().any(|owner| is_module(&text.path, owner)) {
            continue;
        }
        // Programs that are no node: a client's tasks end with the client, and an example's with its process.
        if text.path.starts_with("clients/rust/") || text.path.starts_with("examples/") {
            continue;
        }
        let spawns = ["tokio::spawn", "task::spawn", "spawn_local", "thread::spawn"];
        complaints.shipped(&text, &spawns, "node, socket, mesh and hosting own the tasks");
        // A strategy's set of tasks ends when its future is dropped, a client's reader with the client.
        if text.path.starts_with("src/") && !is_module(&text.path, "client") {
            complaints.shipped(&text, &["JoinSet"], "node, socket, mesh and hosting own the tasks");
        }
    }
    complaints.tell();
}

#[test]
fn every_select_is_biased() {
    let mut complaints = Complaints::default();
    for text in rust() {
        for at in words(&text.code, "select!") {
            let rest = text.code[at + "select!".len()..].trim_start();
            let body = rest.strip_prefix(['{', '(']).unwrap_or(rest).trim_start();
            if !body.starts_with("biased;") {
                let said = "write `biased;` first, and shutdown as the first branch";
                complaints.at(&text.code, &text.path, at, said);
            }
        }
    }
    complaints.tell();
}

#[test]
fn no_file_names_a_machine_or_a_private_registry() {
    // Composed, so that this file does not name them either.
    let places = [
        concat!("/ro", "ot/"),
        concat!("/wo", "rk/wt"),
        concat!("/wo", "rk/shared"),
        concat!("/wo", "rk/main"),
        concat!("/Us", "ers/"),
        concat!(".cargo/regis", "try"),
        concat!("artifac", "tory"),
        concat!("registry.int", "ernal"),
    ];
    let mut complaints = Complaints::default();
    for text in texts(|_| true) {
        for place in places {
            for (at, _) in text.raw.match_indices(place) {
                complaints.at(&text.raw, &text.path, at, "a path or host of somebody's machine");
            }
        }
    }
    // Lock files say where a package came from.
    let public = [
        ("Cargo.lock", "source = \"", "registry+https://github.com/rust-lang/crates.io-index\""),
        ("package-lock.json", "\"resolved\": \"", "https://registry.npmjs.org/"),
        ("uv.lock", "registry = \"", "https://pypi.org/simple\""),
    ];
    for text in texts(|path| public.iter().any(|(name, ..)| path.ends_with(name))) {
        for (_, before, registry) in public.iter().filter(|(name, ..)| text.path.ends_with(name)) {
            for (at, _) in text.raw.match_indices(before) {
                let source = &text.raw[at + before.len()..];
                // `..` is a package of this repository, by which an example names its client.
                if !source.starts_with(registry) && !source.starts_with("../") {
                    let said = format!("packages come from {registry}");
                    complaints.at(&text.raw, &text.path, at, &said);
                }
            }
        }
    }
    complaints.tell();
}

// ===== the rules: files and documents =====

#[test]
fn every_source_file_says_what_it_is_and_is_one_noun_long() {
    let mut complaints = Complaints::default();
    for text in rust() {
        if !text.raw.starts_with("//! ") {
            complaints.whole(&text.path, "begins with `//!` and a sentence of what it is");
        }
        let lines = text.raw.lines().count();
        if lines > LINES_MAX {
            let said = format!("has {lines} lines, more than {LINES_MAX}: it is two nouns");
            complaints.whole(&text.path, &said);
        }
    }
    complaints.tell();
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut complaints = Complaints::default();
    for text in texts(|path| has_ending(path, &["md"])) {
        let folder = root().join(&text.path);
        let folder = folder.parent().expect("a file lies in a folder");
        let mut fenced = false;
        for (number, line) in text.raw.lines().enumerate() {
            fenced ^= line.trim_start().starts_with("```");
            if fenced {
                continue;
            }
            for (at, _) in line.match_indices("](") {
                let target = line[at + 2..].split([')', ' ']).next().unwrap_or_default();
                let file = target.split('#').next().unwrap_or_default();
                let elsewhere = target.contains("://") || target.starts_with("mailto:");
                if !elsewhere && !file.is_empty() && !folder.join(file).exists() {
                    let said = format!("{}:{}: no file {file}", text.path, number + 1);
                    complaints.0.push(said);
                }
            }
        }
    }
    complaints.tell();
}

#[test]
fn every_test_that_the_semantics_name_exists() {
    let mut complaints = Complaints::default();
    let mut sources = String::new();
    for text in texts(|path| has_ending(path, &["rs", "py", "ts"])) {
        sources.push_str(&text.raw);
    }
    for text in texts(|path| path == "docs/semantics.md") {
        for (at, name) in test_names(&text.raw) {
            let last = name.rsplit("::").next().unwrap_or(name);
            let known = ["fn ", "def "].iter().any(|word| {
                words(&sources, &format!("{word}{last}"))
                    .iter()
                    .any(|at| sources[at + word.len() + last.len()..].starts_with(['(', '<']))
            });
            if !known {
                complaints.at(&text.raw, &text.path, at, &format!("there is no test `{name}`"));
            }
        }
    }
    complaints.tell();
}

/// What looks like a test's name between backticks: a promise has at least four words.
fn test_names(text: &str) -> Vec<(usize, &str)> {
    let mut names = Vec::new();
    for line in text.split_inclusive('\n') {
        let start = line.as_ptr() as usize - text.as_ptr() as usize;
        for (index, piece) in line.split('`').enumerate() {
            let at = start + (piece.as_ptr() as usize - line.as_ptr() as usize);
            let good = piece.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':');
            let last = piece.rsplit("::").next().unwrap_or(piece);
            if index % 2 == 1 && good && last.matches('_').count() >= 3 {
                names.push((at, piece));
            }
        }
    }
    names
}

#[test]
fn every_module_has_its_line_in_the_code_map() {
    let map = texts(|path| path == "docs/architecture.md");
    let map = map.first().map_or("", |text| text.raw.as_str());
    let mut complaints = Complaints::default();
    for text in rust() {
        let is_top =
            |folder: &str| text.path.strip_prefix(folder).is_some_and(|rest| !rest.contains('/'));
        let name = text.path.rsplit('/').next().unwrap_or_default();
        if (is_top("src/") || is_top("strategies/")) && words(map, name).is_empty() {
            complaints.whole(&text.path, "has no line in docs/architecture.md");
        }
    }
    complaints.tell();
}

// ===== the reader of Rust, itself =====

#[test]
fn what_is_no_code_is_not_read_as_code() {
    let raw = "let a = \"unsafe \\\" {\"; // unsafe\nlet b = r#\"unsafe \" }\"#; /* /* unsafe */ */ let c = '{'; \
               let d: &'static str = b\"x\"; let e = '\\''; let f = '\\u{1f}'; fn g<'a>() {}";
    let code = blank_texts(raw);
    assert!(words(&code, "unsafe").is_empty(), "{code}");
    assert!(code.contains("&'static str") && code.contains("fn g<'a>() {}"), "{code}");
    assert_eq!(code.matches(['{', '}']).count(), 2, "{code}");
    assert_eq!(code.len(), raw.len());

    let code = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() {} }\nfn c() {}\n#[cfg(test)]\nuse x::{y, z};\nfn d() {}";
    let shipped = blank_tests(code);
    assert!(shipped.contains("fn a") && shipped.contains("fn c") && shipped.contains("fn d"));
    assert!(!shipped.contains("fn b") && !shipped.contains('y'), "{shipped}");

    let named = modules_named("use crate::{hub::{Hub, x}, wire::id}; crate::peer::run()");
    let named: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(named, ["hub", "wire", "peer"]);
    assert_eq!(words("a static b 'static statics", "static").len(), 2);
    let promised: Vec<&str> =
        test_names("x `a_b_c_d` `a_b` y\n`m::a_b_c_e`").iter().map(|n| n.1).collect();
    assert_eq!(promised, ["a_b_c_d", "m::a_b_c_e"]);
}
