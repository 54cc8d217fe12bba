//! The headless Service's name, looked up while the API server does not answer.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout};

use crate::hosts;
use crate::list::{Answer, Resolve};

/// How long a lookup may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most addresses of one answer.
const ADDRESSES_MAX: usize = 1024;

/// One that is under way; it does not wait for ever.
type Question = Pin<Box<dyn Future<Output = Result<Answer, Elapsed>> + Send>>;

/// The name servers of `/etc/resolv.conf`, which the kubelet writes for each pod, asked as the strategy `dns` asks them: it
/// takes no thread, and finds them also where the program is linked statically.
pub(super) fn servers() -> Resolve {
    Arc::new(|host, port| Box::pin(async move { hosts::ask_servers(&host, port).await }))
}

/// A name, and what it led to when it was last looked up.
pub(super) struct Fallback {
    name: String,
    port: u16,
    interval: Duration,
    resolve: Resolve,
    next: Option<Instant>,
    /// The question that is under way: one at a time.
    question: Option<Question>,
    pub(super) addresses: Vec<SocketAddr>,
    /// Why the last lookup gave nothing.
    problem: Option<String>,
}

impl Fallback {
    pub(super) fn new(name: String, port: u16, interval: Duration, resolve: Resolve) -> Self {
        Self {
            name,
            port,
            interval,
            resolve,
            next: None,
            question: None,
            addresses: Vec::new(),
            problem: None,
        }
    }

    /// Whether it is needed now. It is not asked otherwise, and what it answered is forgotten.
    pub(super) fn needed(&mut self, needed: bool) {
        match (needed, self.next) {
            (true, None) => self.next = Some(Instant::now()),
            (true, Some(_)) => {}
            (false, _) => {
                self.next = None;
                self.question = None;
                self.addresses.clear();
                self.problem = None;
            }
        }
    }

    /// Looks the name up when it is time; never, where it is not needed. What it led to before stays when there is no
    /// answer.
    pub(super) async fn look(&mut self) {
        match self.next {
            Some(next) => sleep_until(next).await,
            None => std::future::pending().await,
        }
        let question = self.question.get_or_insert_with(|| {
            Box::pin(timeout(PATIENCE, (self.resolve)(self.name.clone(), self.port)))
        });
        let answer = question.await;
        self.question = None;
        self.next = Some(Instant::now() + self.interval);
        self.problem = match answer {
            Ok(Ok(mut addresses)) if !addresses.is_empty() => {
                addresses.sort_unstable();
                addresses.dedup();
                addresses.truncate(ADDRESSES_MAX);
                self.addresses = addresses;
                None
            }
            Ok(Ok(_)) => Some("has no address".to_owned()),
            Ok(Err(error)) => Some(format!("has no answer: {error}")),
            Err(_) => Some(format!("has no answer within {} s", PATIENCE.as_secs())),
        };
    }

    /// Where its addresses come from, for people.
    pub(super) fn source(&self) -> String {
        format!("dns {}", self.name)
    }

    /// How it does, as the rest of a sentence.
    pub(super) fn told(&self) -> String {
        let Self { name, addresses, .. } = self;
        match (&self.problem, addresses.len()) {
            (Some(problem), 0) => format!("the name {name} {problem}"),
            (Some(problem), n) => format!("the name {name} {problem}; its last {n} addresses stay"),
            (None, 0) => format!("the name {name} is being looked up"),
            (None, n) => format!("until then the name {name} leads to {n} addresses"),
        }
    }
}
