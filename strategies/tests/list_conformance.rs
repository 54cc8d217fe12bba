//! `list` keeps the promises of every strategy, with a file that the nodes are written into.

use std::any::Any;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pillion_strategies::conformance::{Fault, Place};
use pillion_strategies::{Announcement, Strategy, Surroundings, build};

/// A file of its own. A node is visible while its line is in it.
struct Listed {
    file: PathBuf,
    lines: Arc<Mutex<Vec<String>>>,
}

/// A line in the file, until it is dropped.
struct Line {
    file: PathBuf,
    lines: Arc<Mutex<Vec<String>>>,
    text: String,
}

fn write(file: &PathBuf, lines: &[String]) {
    // Not where a place has failed: the line is written when it is mended.
    if file.parent().is_some_and(std::path::Path::exists) {
        fs::write(file, lines.join("\n")).expect("the file is written");
    }
}

impl Listed {
    fn new() -> Result<Self, String> {
        static PLACES: AtomicU32 = AtomicU32::new(0);
        let number = PLACES.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("pillion-listed-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
        let place = Self { file: dir.join("nodes.txt"), lines: Arc::default() };
        write(&place.file, &[]);
        Ok(place)
    }
}

impl Place for Listed {
    fn strategy(&self) -> Box<dyn Strategy> {
        let surroundings = Surroundings {
            registry: PathBuf::new(),
            interval: Duration::from_secs(1),
            ..Surroundings::default()
        };
        build(&format!("list://?file={}", self.file.display()), &surroundings).expect("a list")
    }

    fn plant(&self, announcement: &Announcement) -> Option<Box<dyn Any + Send>> {
        let line = format!("127.0.0.1:{} # {}", announcement.listen[0].port(), announcement.node);
        let mut lines = self.lines.lock().expect("whole");
        lines.push(line.clone());
        write(&self.file, &lines);
        Some(Box::new(Line { file: self.file.clone(), lines: self.lines.clone(), text: line }))
    }

    fn spoil(&self) {
        let mut lines = self.lines.lock().expect("whole");
        lines.extend([
            "what is this".into(),
            "\u{0}\u{1b}[2J".into(),
            "host:99999".into(),
            "#".repeat(4000),
        ]);
        write(&self.file, &lines);
    }

    fn fault(&self, fault: Fault) -> bool {
        if fault != Fault::Error {
            return false;
        }
        fs::rename(&self.file, self.file.with_extension("away")).expect("renamed");
        true
    }

    fn mend(&self) {
        fs::rename(self.file.with_extension("away"), &self.file).expect("renamed back");
    }

    fn hours_pass(&self) -> bool {
        true
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut lines = self.lines.lock().expect("whole");
        lines.retain(|line| *line != self.text);
        write(&self.file, &lines);
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        if let Some(dir) = self.file.parent() {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

pillion_strategies::conformance!(Listed::new(), start_paused = true);
