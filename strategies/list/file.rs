//! A file of entries that is read again when it changes.
//!
//! There is no notification in this: files are replaced, mounted and synchronised in ways that notifications
//! miss. A stat now and then says whether to read, and what was read counts once it has stayed the same.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags};
use tokio::time::Instant;

use super::entry::{Entry, Target};

/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most entries taken from a file.
const ENTRIES_MAX: usize = 4096;
/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How often it is looked at while it changes.
const LOOK_CHANGING: Duration = Duration::from_millis(250);
/// How long a new content must stay as it is before it counts: editors and copies write in pieces.
const SETTLE: Duration = Duration::from_secs(1);
/// A time stamp younger than this may belong to an earlier write than the last one.
const STAMP_GRAIN: Duration = Duration::from_secs(2);

/// The file and what was last taken from it.
pub(super) struct Watched {
    path: PathBuf,
    stamp: Option<Stamp>,
    read_at: SystemTime,
    taken: Option<Vec<u8>>,
    changing: Option<(Vec<u8>, Instant)>,
    entries: Vec<Entry>,
    bad_lines: Vec<String>,
    trouble: Option<String>,
}

type Stamp = (SystemTime, u64, u64);

impl Watched {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            stamp: None,
            read_at: SystemTime::UNIX_EPOCH,
            taken: None,
            changing: None,
            entries: Vec::new(),
            bad_lines: Vec::new(),
            trouble: None,
        }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    pub(super) fn problems(&self) -> Vec<String> {
        self.trouble.iter().chain(&self.bad_lines).cloned().collect()
    }

    /// Looks at the file, takes its content when that counts, and says when to look again.
    pub(super) fn look(&mut self, now: Instant) -> Duration {
        match self.content() {
            Ok(None) => self.trouble = None,
            Ok(Some(content)) => {
                self.trouble = None;
                self.consider(content, now);
            }
            Err(error) => {
                let kept = if self.taken.is_some() { "; its last lines stay" } else { "" };
                self.trouble = Some(format!("{}: {error}{kept}", self.path.display()));
                self.stamp = None;
                self.changing = None;
            }
        }
        if self.changing.is_some() { LOOK_CHANGING } else { LOOK }
    }

    /// The content, unless it is sure to be the one that was read last.
    fn content(&mut self) -> io::Result<Option<Vec<u8>>> {
        let stamp = stamp(&std::fs::metadata(&self.path)?);
        let settled = stamp.0 + STAMP_GRAIN < self.read_at;
        if self.stamp == Some(stamp) && settled && self.changing.is_none() {
            return Ok(None);
        }
        let read_at = SystemTime::now();
        let content = read(&self.path)?;
        self.stamp = Some(stamp);
        self.read_at = read_at;
        Ok(Some(content))
    }

    fn consider(&mut self, content: Vec<u8>, now: Instant) {
        if self.taken.as_ref() == Some(&content) {
            self.changing = None;
            return;
        }
        let settled = match &self.changing {
            Some((seen, since)) if *seen == content => now >= *since + SETTLE,
            _ => {
                self.changing = Some((content.clone(), now));
                false
            }
        };
        // The first content has nothing before it that could be dropped by mistake.
        if settled || self.taken.is_none() {
            let (entries, bad_lines) = parse(&self.path, &content);
            self.taken = Some(content);
            self.changing = None;
            self.bad_lines = bad_lines;
            // Something else was written there, or what writes it went wrong: that says nothing of who is gone.
            if entries.is_empty() && !self.bad_lines.is_empty() && !self.entries.is_empty() {
                self.bad_lines.insert(
                    0,
                    format!(
                        "{}: no line of it is an address; its last lines stay",
                        self.path.display()
                    ),
                );
                return;
            }
            self.entries = entries;
        }
    }
}

fn stamp(metadata: &Metadata) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    (metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len(), metadata.ino())
}

/// Reads a regular file of bounded size; a pipe or a device is refused and never waited for.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a file: write one address or name per line into a file"));
    }
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("larger than 1 MiB, so not read"));
    }
    Ok(content)
}

fn parse(path: &Path, content: &[u8]) -> (Vec<Entry>, Vec<String>) {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let content = content.strip_prefix("\u{feff}".as_bytes()).unwrap_or(content);
    let mut entries = Vec::new();
    let mut bad_lines = Vec::new();
    for (at, line) in content.split(|byte| *byte == b'\n').enumerate() {
        let line = String::from_utf8_lossy(line);
        let text = line.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        let source = format!("{name} line {}", at + 1);
        if entries.len() == ENTRIES_MAX {
            bad_lines.push(format!(
                "{source}: more than {ENTRIES_MAX} entries; this and the rest do not count"
            ));
            break;
        }
        match Target::parse(text) {
            Ok(target) => entries.push(Entry { target, source }),
            Err(why) => bad_lines.push(format!("{source}: {why}")),
        }
    }
    (entries, bad_lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir =
                std::env::temp_dir().join(format!("pillion-list-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&dir).expect("a scratch directory");
            Self(dir)
        }

        fn file(&self) -> PathBuf {
            self.0.join("nodes.txt")
        }

        fn write(&self, content: impl AsRef<[u8]>) {
            std::fs::write(self.file(), content).expect("a file");
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn targets(watched: &Watched) -> Vec<String> {
        watched
            .entries()
            .map(|entry| match &entry.target {
                Target::Address(address) => address.to_string(),
                Target::Name(host, port) => format!("{host}:{port}"),
            })
            .collect()
    }

    #[test]
    fn lines_comments_blanks_and_bad_lines_are_told_apart() {
        let (entries, bad) = parse(
            Path::new("/x/nodes.txt"),
            "\u{feff}hal # one\r\n\n# two\n10.0.0.1:5\nwhat is this\n\u{fffd}\nida".as_bytes(),
        );
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[2].source, "nodes.txt line 7");
        assert_eq!(bad.len(), 2);
        assert!(bad[0].starts_with("nodes.txt line 5: `what is this`"), "{}", bad[0]);
    }

    #[test]
    fn a_change_counts_once_it_has_stayed_the_same() {
        let scratch = Scratch::new("settles");
        let mut watched = Watched::new(scratch.file());
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        scratch.write("hal\nida\n");
        watched.look(at(0));
        assert_eq!(targets(&watched), ["hal:4470", "ida:4470"]);

        // Truncated, then half of it, then all of it: nothing is dropped on the way.
        scratch.write("");
        watched.look(at(1000));
        scratch.write("hal\nid");
        watched.look(at(1900));
        assert_eq!(targets(&watched), ["hal:4470", "ida:4470"]);
        scratch.write("hal\nida\njoe\n");
        watched.look(at(2800));
        watched.look(at(3700));
        assert_eq!(targets(&watched).len(), 2);
        watched.look(at(3900));
        assert_eq!(targets(&watched), ["hal:4470", "ida:4470", "joe:4470"]);
    }

    #[test]
    fn a_missing_or_unreadable_file_keeps_the_last_lines() {
        let scratch = Scratch::new("missing");
        let mut watched = Watched::new(scratch.file());
        watched.look(Instant::now());
        assert!(watched.problems()[0].contains("nodes.txt"), "{:?}", watched.problems());
        scratch.write("hal");
        watched.look(Instant::now());
        assert!(watched.problems().is_empty());
        std::fs::remove_file(scratch.file()).expect("removed");
        watched.look(Instant::now());
        assert_eq!(targets(&watched), ["hal:4470"]);
        assert!(watched.problems()[0].contains("last lines stay"));
        std::fs::create_dir(scratch.file()).expect("a directory in its place");
        watched.look(Instant::now());
        assert_eq!(targets(&watched), ["hal:4470"]);
        assert!(watched.problems()[0].contains("not a file"), "{:?}", watched.problems());
    }

    #[test]
    fn a_file_without_one_good_line_keeps_the_last_lines_and_an_empty_one_does_not() {
        let scratch = Scratch::new("rubbish");
        let mut watched = Watched::new(scratch.file());
        let mut now = Instant::now();
        let mut take = |content: &[u8]| {
            scratch.write(content);
            watched.look(now);
            now += SETTLE;
            watched.look(now);
            now += SETTLE;
            (targets(&watched), watched.problems().first().cloned().unwrap_or_default())
        };
        assert_eq!(take(b"hal\n").0, ["hal:4470"]);
        for rubbish in [&b"\xff\xfe\0\x01"[..], b"<html>\n<b>502 Bad Gateway</b>\n"] {
            let (targets, problem) = take(rubbish);
            assert_eq!(targets, ["hal:4470"]);
            assert!(problem.contains("last lines stay"), "{problem}");
        }
        assert_eq!(take(b"ida\nwhat is this\n").0, ["ida:4470"]);
        assert!(take(b"# nobody\n").0.is_empty());
    }

    #[test]
    fn a_pipe_is_refused_at_once_and_a_huge_file_is_not_read() {
        let scratch = Scratch::new("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            scratch.file(),
            rustix::fs::FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .expect("a pipe");
        let mut watched = Watched::new(scratch.file());
        watched.look(Instant::now());
        assert!(watched.problems()[0].contains("not a file"));
        std::fs::remove_file(scratch.file()).expect("removed");
        scratch.write(vec![b'\n'; 1 + (1 << 20)]);
        watched.look(Instant::now());
        assert!(watched.problems()[0].contains("1 MiB"));
    }
}
