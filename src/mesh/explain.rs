//! Why a node is connected or not, in plain sentences, for somebody who was woken up for it.
//!
//! Pure: what is known goes in, sentences come out. First what is so, then what was tried, then what happens next; what
//! to do stands by itself.

use std::time::Duration;

use tokio::time::Instant;

use super::attempts::Attempt;
use super::wanted::{Row, RowState};
use crate::peer::Met;
use crate::wire::id::NodeName;
use crate::wire::shown::{IssuedShown, PeerShown, StrategyShown};

/// A clock that differs by more than this is worth a word.
const SKEW_MS: u64 = 5000;
/// Most addresses of which each failure is told.
const FAILURES_MAX: usize = 6;

/// A connection of the node.
pub(super) struct Connected<'a> {
    pub met: &'a Met,
    pub dialled: bool,
}

/// All that is known.
pub(super) struct Case<'a> {
    pub text: &'a str,
    pub is_self: bool,
    pub me: &'a NodeName,
    pub connected: Vec<Connected<'a>>,
    pub rows: &'a [Row<'a>],
    pub peers: &'a [PeerShown],
    pub attempts: &'a [&'a Attempt],
    pub strangers: &'a [&'a Attempt],
    pub strategies: &'a [StrategyShown],
    pub nearest: Option<String>,
    /// The certificate that this node is still without, if it is.
    pub issued: Option<IssuedShown>,
    pub now: Instant,
}

/// `12 s`, `3 min`, `2 h`: one unit is enough for people.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn ms(ms: u64) -> String {
    span(Duration::from_millis(ms))
}

fn times(count: u64) -> String {
    if count == 1 { String::new() } else { format!(", {count} times in a row") }
}

/// The state in a word, what is so, and what to do.
pub(super) fn words(case: &Case<'_>) -> (&'static str, Vec<String>, Vec<String>) {
    let mut told = Told::default();
    if case.is_self {
        told.so(format!("{} is this node itself.", case.me));
        told.clash(case);
        return ("self", told.because, told.advice);
    }
    let state = if !case.connected.is_empty() {
        told.connected(case);
        "connected"
    } else if case.rows.is_empty() {
        told.unknown(case);
        "unknown"
    } else {
        told.rows(case)
    };
    (state, told.because, told.advice)
}

#[derive(Default)]
struct Told {
    because: Vec<String>,
    advice: Vec<String>,
}

impl Told {
    fn so(&mut self, sentence: impl Into<String>) {
        self.because.push(sentence.into());
    }

    fn advise(&mut self, sentence: impl Into<String>) {
        let sentence = sentence.into();
        if !self.advice.contains(&sentence) {
            self.advice.push(sentence);
        }
    }

    /// Another node with our own name has tried.
    fn clash(&mut self, case: &Case<'_>) {
        for attempt in case.attempts.iter().filter(|a| a.result == "name_taken") {
            let ago = span(case.now.saturating_duration_since(attempt.last));
            self.so(format!("Another node at {} {}, {ago} ago.", attempt.address, attempt.words));
            self.advise("Give one of the two another --name.");
        }
    }

    fn connected(&mut self, case: &Case<'_>) {
        for (connected, peer) in case.connected.iter().zip(case.peers) {
            let Met { node, remote, skew_ms, .. } = connected.met;
            let how =
                if connected.dialled { "this node dialled it" } else { "it dialled this node" };
            self.so(format!(
                "{} has been connected for {}, at {remote}: {how}.",
                node.name,
                ms(peer.since_ms)
            ));
            self.sources(peer);
            if peer.sources.is_empty() {
                self.so(
                    "No strategy and no peer reports it; that takes nothing from the connection.",
                );
            }
            if let Some(skew) = skew_ms.filter(|skew| skew.unsigned_abs() > SKEW_MS) {
                let (by, way) =
                    (ms(skew.unsigned_abs()), if skew > 0 { "ahead of" } else { "behind" });
                self.so(format!("Its clock was {by} {way} ours when it joined."));
                self.advise(
                    "Compare the clocks of the two machines with `date -u`, and run NTP on both.",
                );
            }
        }
        let left = case.attempts.iter().filter(|attempt| attempt.result == "left").count();
        if let Some(last) = case.attempts.iter().find(|attempt| attempt.result == "left") {
            let ago = span(case.now.saturating_duration_since(last.last));
            let more =
                if left > 1 { format!(" It has gone {left} times lately.") } else { String::new() };
            self.so(format!("Before that it {}, {ago} ago.{more}", last.words));
        }
    }

    fn sources(&mut self, peer: &PeerShown) {
        for source in &peer.sources {
            let since = ms(source.since_ms);
            self.so(match (source.source.as_str(), source.seen_ms) {
                ("remembered", 0) => "It is remembered, for when nobody reports it.".to_owned(),
                ("remembered", seen) => format!(
                    "It is remembered: this node, or an earlier run of it, was connected to it; it was last there {} ago.",
                    ms(seen)
                ),
                ("lost", seen) => format!("This node was connected to it and lost it {} ago.", ms(seen.max(source.since_ms))),
                ("asked", _) => format!("Somebody asked for it with `connect`, {since} ago."),
                (source, 0) => format!("`{source}` has reported it for {since}."),
                (source, seen) => format!(
                    "`{source}` reported it first {since} ago, and last {} ago.",
                    ms(seen)
                ),
            });
        }
    }

    fn rows(&mut self, case: &Case<'_>) -> &'static str {
        let mut state = "known";
        let others = case.peers.iter();
        let rows = case.rows.iter().filter(|row| row.state != RowState::Connected);
        let mut any = false;
        for (row, peer) in rows.zip(others) {
            any = true;
            let who = match (&peer.node, row.incarnation) {
                (Some(node), Some(run)) => format!("{node} (run {run})"),
                (Some(node), None) => node.clone(),
                (None, _) => format!("Whoever is at {}", peer.addresses.join(", ")),
            };
            self.so(format!("{who} is not connected."));
            self.sources(peer);
            match row.state {
                RowState::Wanted => {
                    state = "wanted";
                    self.wanted(case, row, peer);
                }
                RowState::Barred => {
                    let why = row.reason.as_deref().unwrap_or("is none of ours");
                    self.so(format!("It is not dialled, because it {why}."));
                }
                RowState::Parted => {
                    self.so("It is not dialled, because somebody asked for `disconnect`, here or there.");
                    self.advise(format!("`pillion connect {}` joins it again.", case.text));
                }
                RowState::Stopped => {
                    self.so("It is not dialled, because it said goodbye: it stopped, and nobody has seen a later run.");
                    self.advise("Start it again. Nothing needs to be done here: its next run is dialled at once when it is reported.");
                }
                RowState::Connected => {}
            }
        }
        if !any {
            // Its addresses lead to somebody else.
            for row in case.rows {
                let owners: Vec<String> =
                    row.owners.iter().map(|node| node.name.to_string()).collect();
                let addresses: Vec<String> =
                    row.addresses.iter().map(ToString::to_string).collect();
                self.so(format!("At {} answers {}.", addresses.join(", "), owners.join(", ")));
                if owners.iter().any(|owner| *owner == case.me.to_string()) {
                    self.so("That is this node itself: it is not dialled.");
                }
            }
            self.advise("Ask about the node that answers there.");
        }
        self.strangers(case);
        state
    }

    fn wanted(&mut self, case: &Case<'_>, row: &Row<'_>, peer: &PeerShown) {
        if let Some(IssuedShown { issuer, trouble, ended_ms, .. }) = &case.issued {
            let why = trouble.clone().unwrap_or_else(|| format!("{issuer} is being asked for it"));
            let lacks = match ended_ms {
                None => "This node has no certificate".to_owned(),
                Some(ended) => format!("The certificate of this node ended {} ago", ms(*ended)),
            };
            self.so(format!("{lacks}, so it joins nobody: {why}."));
            self.advise("`pillion doctor` here says more about the certificate.");
        }
        let mut failed = 0;
        for address in &peer.addresses {
            let tried = case.attempts.iter().find(|attempt| {
                attempt.dialled && attempt.failed && attempt.address.to_string() == *address
            });
            if let Some(attempt) = tried {
                failed += 1;
                if failed <= FAILURES_MAX {
                    let ago = span(case.now.saturating_duration_since(attempt.last));
                    self.so(format!(
                        "{address} {} (last {ago} ago{}).",
                        attempt.words,
                        times(attempt.times)
                    ));
                    self.advise_on(attempt);
                }
            }
        }
        if failed > FAILURES_MAX {
            self.so(format!("{} more addresses failed as well.", failed - FAILURES_MAX));
        }
        // What came of connections that it made.
        if let Some(attempt) =
            case.attempts.iter().find(|attempt| !attempt.dialled && attempt.failed)
        {
            let ago = span(case.now.saturating_duration_since(attempt.last));
            self.so(format!(
                "It dialled this node from {} and {}, {ago} ago.",
                attempt.address.ip(),
                attempt.words
            ));
            self.advise_on(attempt);
        }
        if let Some(left) = case.attempts.iter().find(|attempt| attempt.result == "left") {
            let ago = span(case.now.saturating_duration_since(left.last));
            self.so(format!("It was connected until {ago} ago, and {}.", left.words));
        }
        if failed == 0 {
            self.so(if row.dialling {
                format!("It is being dialled for the first time, at {}.", peer.addresses.join(", "))
            } else {
                format!("It has not been dialled yet; it is at {}.", peer.addresses.join(", "))
            });
        }
        match (row.dialling, peer.next_ms) {
            (true, _) if failed > 0 => self.so("It is being dialled again right now."),
            (false, Some(next)) => self.so(format!("The next try is in {}.", ms(next))),
            _ => {}
        }
    }

    /// Those who dialled us from its machine, or from anywhere when nothing is known of it.
    fn strangers(&mut self, case: &Case<'_>) {
        for attempt in case.strangers {
            let ago = span(case.now.saturating_duration_since(attempt.last));
            self.so(format!(
                "Somebody at {} dialled this node and did not get in: it {} (last {ago} ago{}).",
                attempt.address.ip(),
                attempt.words,
                times(attempt.times)
            ));
            self.advise_on(attempt);
        }
    }

    fn unknown(&mut self, case: &Case<'_>) {
        self.so(format!(
            "Nobody has reported {}: no strategy, no peer, and nobody asked for it.",
            case.text
        ));
        if let Some(nearest) = &case.nearest {
            self.so(format!("There is {nearest}."));
            self.advise(format!("If you meant that one: `pillion explain {nearest}`."));
        }
        for strategy in case.strategies {
            let StrategyShown { strategy, health, reason, count, .. } = strategy;
            let nodes = if *count == 1 { "1 node".to_owned() } else { format!("{count} nodes") };
            self.so(match (health.as_str(), reason) {
                ("well", _) => format!("`{strategy}` is well and sees {nodes}."),
                ("unwell", Some(why)) => {
                    format!("`{strategy}` is unwell and saw {nodes} last: {why}.")
                }
                _ => format!("`{strategy}` has not heard from its source yet."),
            });
        }
        if case.strategies.is_empty() {
            self.so("No strategy runs here: this node finds nobody by itself.");
        }
        self.strangers(case);
        let name = if case.text.contains('@') { case.text } else { "that node" };
        self.advise(format!(
            "On the machine of {name}: is it up (`pillion nodes`), in the same --mesh, and what does `pillion explain {}` say there? One side that finds the other is enough.",
            case.me
        ));
        self.advise("Where you know its address: `pillion connect HOST:PORT` here, or start this node with --join HOST:PORT.");
    }

    fn advise_on(&mut self, attempt: &Attempt) {
        let Attempt { address, .. } = attempt;
        match attempt.result {
            "refused" => self.advise(format!(
                "Is pillion up on {}, and does it listen on {address}? `ss -ltnp` there shows its ports; --listen sets them.",
                address.ip()
            )),
            "no_answer" => self.advise(format!(
                "Nothing comes back from {address}: that machine is off, has another address now, or a firewall drops TCP to port {}. Try `nc -vz {} {}` from here.",
                address.port(),
                address.ip(),
                address.port()
            )),
            "unreachable" => self.advise(format!(
                "This machine has no way to {}: `ip route get {}` says what it would do. Is the network up, and is that address right?",
                address.ip(),
                address.ip()
            )),
            "stranger" => self.advise(
                "Compare `pillion cookie show` on both machines: the ids must agree. If they differ, copy the file that `pillion cookie path` names from one to the other. `pillion doctor` looks at clocks and certificates.",
            ),
            "expired" => self.advise(
                "`pillion doctor` on both machines says until when the certificates there count, and what the clocks say: renew the one that has ended (the node reads the files again by itself), or set the clock that is wrong.",
            ),
            "mesh" => self.advise("Start both nodes with the same --mesh."),
            "protocol" => self.advise("Update the older one of the two nodes (`pillion version`)."),
            "certificate" => self.advise("Give each host a certificate of its own, for the host in its node's name."),
            "name_taken" => self.advise("Give one of the two another --name: the node that started first keeps the name."),
            "slow" | "malformed" => self.advise(format!(
                "Is that a mesh port at all? `ss -ltnp` on {} shows what listens on port {}. If it is pillion, that machine is overloaded or stopped.",
                address.ip(),
                address.port()
            )),
            "closed" | "broken" | "turned_away" => {
                self.advise("The log of the other node says why it closed the connection.");
            }
            _ => {}
        }
    }
}
