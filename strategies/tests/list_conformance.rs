//! `list` keeps the promises of every strategy, with a file that names are written into and a resolver from memory.

use std::any::Any;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fs, io};

use pillion_strategies::conformance::{Fault, Place};
use pillion_strategies::list::{List, Resolve};
use pillion_strategies::{Announcement, Strategy, Surroundings};

/// A file of its own. A node is visible while its line is in it.
struct Listed(Arc<Content>);

/// What is in the file, and what is wrong with it or with the resolver.
struct Content {
    file: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lines: Vec<String>,
    fault: Option<Fault>,
}

/// A line in the file, until it is dropped.
struct Line {
    content: Arc<Content>,
    text: String,
}

impl Content {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().expect("whole");
        change(&mut state);
        let whole = state.lines.join("\n").into_bytes();
        let bytes = match state.fault {
            None | Some(Fault::Slow | Fault::Silent) => whole,
            Some(Fault::Error) => {
                let _ = fs::remove_file(&self.file);
                return;
            }
            Some(Fault::Empty) => Vec::new(),
            // In the midst of a line.
            Some(Fault::Partial) => whole[..whole.len() / 2].to_vec(),
            Some(Fault::Malformed) => [0xff, 0, b'\n', 0xfe].repeat(50),
        };
        // The strategies of this test may outlive it by a moment.
        if self.file.parent().is_some_and(std::path::Path::exists) {
            fs::write(&self.file, bytes).expect("the file is written");
        }
    }

    async fn answer(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let fault = self.state.lock().expect("whole").fault;
        match fault {
            Some(Fault::Slow) => tokio::time::sleep(Duration::from_secs(8)).await,
            Some(Fault::Silent) => std::future::pending().await,
            _ => {}
        }
        if host.starts_with("node-") {
            Ok(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))])
        } else {
            Err(io::Error::other("no such name"))
        }
    }
}

impl Listed {
    fn new() -> Result<Self, String> {
        static PLACES: AtomicU32 = AtomicU32::new(0);
        let number = PLACES.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("pillion-listed-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
        let content = Content { file: dir.join("nodes.txt"), state: Mutex::default() };
        content.change(|_| {});
        Ok(Self(Arc::new(content)))
    }
}

impl Place for Listed {
    fn strategy(&self) -> Box<dyn Strategy> {
        let surroundings = Surroundings {
            registry: PathBuf::new(),
            interval: Duration::from_secs(1),
            ..Surroundings::default()
        };
        let content = Arc::clone(&self.0);
        let resolve: Resolve = Arc::new(move |host, port| {
            let content = Arc::clone(&content);
            Box::pin(async move { content.answer(&host, port).await })
        });
        let url = format!("list://?file={}", self.0.file.display());
        Box::new(List::resolving(&url, &surroundings, resolve).expect("a list"))
    }

    fn plant(&self, announcement: &Announcement) -> Option<Box<dyn Any + Send>> {
        let port = announcement.listen[0].port();
        let text = format!("node-{port}.test:{port} # {}", announcement.node);
        self.0.change(|state| state.lines.push(text.clone()));
        Some(Box::new(Line { content: Arc::clone(&self.0), text }))
    }

    fn spoil(&self) {
        self.0.change(|state| {
            state.lines.extend([
                "what is this".into(),
                "\u{0}\u{1b}[2J".into(),
                "host:99999".into(),
                "nobody.test".into(),
                "#".repeat(4000),
            ]);
        });
    }

    fn fault(&self, fault: Fault) -> bool {
        self.0.change(|state| state.fault = Some(fault));
        true
    }

    fn mend(&self) {
        self.0.change(|state| state.fault = None);
    }

    fn hours_pass(&self) -> bool {
        true
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.content.change(|state| state.lines.retain(|line| *line != self.text));
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        if let Some(dir) = self.0.file.parent() {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

pillion_strategies::conformance!(Listed::new(), start_paused = true);
