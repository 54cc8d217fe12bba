//! `mdns`: the nodes on the same network, by multicast DNS (RFC 6762 and 6763), without any configuration.
//!
//! Each node announces itself as an instance of `_pillion._tcp.local.` on every interface and listens for the
//! others, over IPv4 and IPv6. Everything that is announced is public to the network and nothing of it is
//! secret: the mesh's name, the node's name and incarnation, and the `id`s, by which those who share a
//! cookie recognise each other. It proves nothing; the TLS hello does.
//!
//! ```text
//! --strategy mdns                         # every interface but loopback
//! --strategy 'mdns://?interface=eth0'     # only this one, or several: eth0,wlan0
//!
//! $ avahi-browse -rt _pillion._tcp
//! = eth0 IPv4 stock-19b3f0c2a4e5f3c9   _pillion._tcp   local
//!   txt = ["id=5f1d..." "proto=1" "inc=19b3f0c2a4e5f3c9" "node=stock@hal" "mesh=default"]
//! ```
//!
//! | option | default | |
//! | --- | --- | --- |
//! | `interface` | all that are up, have an address and are not loopback, point to point or one end of a container's `veth` | names or addresses, separated by commas; `lo` and bridges of containers can be asked for |
//! | `port` | 5353 | another port makes a group of its own that the system's tools do not see |
//!
//! - A node is heard of within about a tenth of a second of its start, and forgotten one second after it said
//!   goodbye; one that was killed is forgotten after two minutes, or as soon as it has been started again.
//! - An address that changes is followed within five seconds, right after the start too: all is said twice, the second time
//!   when the caches of others replace what they have (RFC 6762 section 10.2).
//! - Instance and host name carry the incarnation; the machine's own host name is never announced, so no
//!   machine is ever renamed because of us.
//! - Each interface hears only its own addresses. A node that listens on loopback only announces nothing.
//! - On the bridges of containers and virtual machines (`docker0`, `cni0`, `virbr0` ...) it listens and announces
//!   nothing: who is in there is found and dialled. [`interfaces`](crate::interfaces) has the rule.
//! - A network that is not there at the start, an interface that goes and comes, and a machine that slept
//!   are noticed within four seconds: everything starts afresh, and what was seen stays until the new start
//!   has had its time.
//!
//! **What failure looks like.** *No multicast*: our own announcement is not heard back within three seconds.
//! That is a warning in the log and in the strategy's health, with what to do, until it is heard. The usual
//! causes are a cloud network, a container without host networking, a firewall that drops UDP port 5353, or a
//! program that keeps that port for itself. It is tried afresh every minute.
//! *No network*: no interface is usable; the health lists those that there are. Answers that make no sense
//! are ignored and counted; `pillion doctor` shows how many there were, and who announced the last one.

mod daemon;
mod record;

use std::collections::BTreeMap;
use std::time::Duration;

use mdns_sd::{Receiver, ServiceEvent};
use tokio::time::{Instant, sleep, sleep_until};

use self::daemon::Daemon;
use self::record::{Found, Record};
use crate::interfaces::{Choice, Network};
use crate::options::{Url, wrong};
use crate::pace::{Clocks, until_next};
use crate::runs::newest;
use crate::{Announcement, Reporter, Running, Sighting, Strategy, StrategyError, Why};

/// How often the interfaces and the clocks are compared with what they were.
const LOOK: Duration = Duration::from_secs(4);
/// How often the interfaces are looked at while none can be used.
const LOOK_OFFLINE: Duration = Duration::from_secs(2);
/// How long our own announcement may take to come back.
const ECHO: Duration = Duration::from_secs(3);
/// How long a session that hears no echo goes on before another one is tried.
const ECHO_RETRY: Duration = Duration::from_secs(60);
/// How long what an earlier session saw stays without being seen again.
const GRACE: Duration = Duration::from_secs(5);
/// The longest pause before another session, when one after the other fails.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A session that lasted this long was no failure.
const LASTED: Duration = Duration::from_secs(10);
/// Most instances that are remembered.
const SEEN_MAX: usize = 1024;

/// The strategy `mdns`. See the [module](self).
#[derive(Debug)]
pub struct Mdns {
    choice: Choice,
    port: u16,
}

impl Mdns {
    pub(crate) fn from_url(url: &Url) -> Result<Self, StrategyError> {
        url.only(&["interface", "port"])?;
        url.no_place()?;
        let choice = Choice::parse(url.option("interface").unwrap_or_default());
        let port = match url.option("port") {
            None => mdns_sd::MDNS_PORT,
            Some(text) => text.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
                wrong(format!("`port={text}` is not a port: write a number from 1 to 65535, or leave it out for 5353"))
            })?,
        };
        Ok(Self { choice, port })
    }

    async fn watch(&self, record: &Record, reporter: &Reporter) {
        let mut view = View::new(reporter, record);
        let mut pause = Duration::ZERO;
        loop {
            let started = Instant::now();
            let network = self.network(&mut view).await;
            let end = match Daemon::start(self.port, &self.choice, record) {
                Ok((daemon, events)) => {
                    view.session += 1;
                    let end = self.session(&events, &network, &mut view).await;
                    drop(daemon);
                    end
                }
                Err(error) => End::Failed(error.to_string()),
            };
            tracing::debug!(strategy = "mdns", ?end, "starts afresh");
            if let End::Failed(why) = end {
                view.unwell(format!(
                    "mdns: {why}; it is tried again, and until then nothing new is found"
                ));
            }
            pause = if started.elapsed() >= LASTED {
                Duration::ZERO
            } else {
                (pause * 2).clamp(Duration::from_millis(250), PAUSE_MAX)
            };
            sleep(pause).await;
        }
    }

    /// Waits until there is an interface to use.
    async fn network(&self, view: &mut View<'_>) -> Network {
        loop {
            match self.choice.network() {
                Ok(network) if !network.is_empty() => return network,
                Ok(_) => view.unwell(self.choice.nothing_to_use()),
                Err(error) => {
                    view.unwell(format!("the network interfaces cannot be listed: {error}"));
                }
            }
            until_next(LOOK_OFFLINE).await;
        }
    }

    fn has_changed(&self, network: &Network) -> bool {
        self.choice.network().is_ok_and(|now| now != *network)
    }

    /// Listens until the network, the clock or the daemon make it pointless.
    async fn session(
        &self,
        events: &Receiver<ServiceEvent>,
        network: &Network,
        view: &mut View<'_>,
    ) -> End {
        let started = Instant::now();
        let mut clocks = Clocks::now();
        view.tells = network.tells();
        let mut echo = view.expects_echo().then_some(started + ECHO);
        let mut grace = Some(started + GRACE);
        let mut hears = !view.expects_echo();
        if !view.expects_echo() {
            view.well();
        }
        loop {
            tokio::select! {
                biased;
                event = events.recv_async() => match event {
                    // Whoever was heard on an interface is said to have gone when that goes: nobody has.
                    Ok(ServiceEvent::ServiceRemoved(..)) if self.has_changed(network) => {
                        return End::NetworkChanged;
                    }
                    Ok(event) => if view.on_event(event) == Heard::Ourselves {
                        echo = None;
                        hears = true;
                    },
                    Err(_) => return End::Failed("its thread ended or could not keep up".into()),
                },
                () = until(echo) => {
                    if started.elapsed() >= ECHO_RETRY {
                        return End::Silent;
                    }
                    view.unwell(format!(
                        "our own announcement was not heard back in {} s: no multicast on this network ({network}), or UDP port {} is dropped by a firewall or kept by another program. Use --join HOST:PORT on one side",
                        ECHO.as_secs(),
                        self.port
                    ));
                    echo = Some(started + ECHO_RETRY);
                }
                () = until(grace) => {
                    // Who is deaf, or is about to notice that the network has gone, has heard nothing of anybody's end.
                    if hears && !self.has_changed(network) {
                        grace = None;
                        view.forget_earlier_sessions();
                    } else {
                        grace = Some(Instant::now() + GRACE);
                    }
                }
                () = until_next(LOOK) => {
                    let now = Clocks::now();
                    if now.jumped_since(&clocks) {
                        return End::Slept;
                    }
                    clocks = now;
                    if self.has_changed(network) {
                        return End::NetworkChanged;
                    }
                }
            }
        }
    }
}

impl Strategy for Mdns {
    fn name(&self) -> &'static str {
        "mdns"
    }

    fn run<'a>(&'a self, announcement: Announcement, reporter: &'a Reporter) -> Running<'a> {
        Box::pin(async move {
            let record = Record::of(&announcement).map_err(wrong)?;
            self.watch(&record, reporter).await;
            Ok(())
        })
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Why a session ended.
#[derive(Debug)]
enum End {
    NetworkChanged,
    Slept,
    Silent,
    Failed(String),
}

/// Whom an event was about.
#[derive(PartialEq, Eq)]
enum Heard {
    Ourselves,
    Somebody,
}

/// Everybody seen, across sessions, and what was reported of it.
struct View<'a> {
    reporter: &'a Reporter,
    own: String,
    own_node: &'a str,
    own_incarnation: u64,
    /// There is an address that others could dial ...
    is_announced: bool,
    /// ... and an interface where they are told.
    tells: bool,
    session: u64,
    seen: BTreeMap<String, Seen>,
    trouble: Option<String>,
}

struct Seen {
    session: u64,
    found: Found,
}

impl<'a> View<'a> {
    fn new(reporter: &'a Reporter, record: &'a Record) -> Self {
        Self {
            reporter,
            own: record.full_name().to_ascii_lowercase(),
            own_node: record.node(),
            own_incarnation: record.incarnation(),
            is_announced: record.is_announced(),
            tells: true,
            session: 0,
            seen: BTreeMap::new(),
            trouble: None,
        }
    }

    const fn expects_echo(&self) -> bool {
        self.is_announced && self.tells
    }

    fn on_event(&mut self, event: ServiceEvent) -> Heard {
        match event {
            ServiceEvent::ServiceResolved(service) => {
                let name = service.get_fullname().to_ascii_lowercase();
                if name == self.own {
                    self.well();
                    return Heard::Ourselves;
                }
                let Some(found) = Found::read(&service) else {
                    self.reporter.ignored(Why::Malformed, service.get_fullname());
                    return Heard::Somebody;
                };
                let is_own = found.node.as_deref() == Some(self.own_node)
                    && found.incarnation == self.own_incarnation;
                if is_own || (self.seen.len() >= SEEN_MAX && !self.seen.contains_key(&name)) {
                    return Heard::Somebody;
                }
                self.seen.insert(name, Seen { session: self.session, found });
                self.report();
            }
            ServiceEvent::ServiceRemoved(_, name) => {
                self.seen.remove(&name.to_ascii_lowercase());
                self.report();
            }
            _ => {}
        }
        Heard::Somebody
    }

    fn forget_earlier_sessions(&mut self) {
        let before = self.seen.len();
        self.seen.retain(|_, seen| seen.session == self.session);
        if self.seen.len() != before {
            self.report();
        }
    }

    /// Our own announcement was heard, or there is none and hearing is all there is to it.
    fn well(&mut self) {
        let deaf = if !self.is_announced {
            Some("nothing is announced, because the mesh port listens on loopback only: others are seen but cannot see this node".to_owned())
        } else if !self.tells {
            Some("nothing is announced, because only bridges of containers are up here: nodes in the containers are seen and dialled, and do not see this node. interface=NAME announces it there".to_owned())
        } else {
            None
        };
        if self.trouble.is_some() && deaf.is_none() {
            tracing::info!(strategy = "mdns", "hears its own announcement again");
        }
        self.trouble = deaf;
        self.report();
    }

    fn unwell(&mut self, why: String) {
        if self.trouble.as_ref() != Some(&why) {
            tracing::warn!(strategy = "mdns", "{why}");
            self.trouble = Some(why);
            self.report();
        }
    }

    fn report(&self) {
        let sightings = sightings(self.seen.values().map(|seen| &seen.found));
        match &self.trouble {
            None => self.reporter.visible(sightings),
            Some(why) => self.reporter.visible_but(sightings, why.clone()),
        }
    }
}

fn sightings<'a>(found: impl Iterator<Item = &'a Found>) -> Vec<Sighting> {
    newest(found.map(Found::sighting).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Report;

    fn found(node: &str, incarnation: u64, addresses: &[&str]) -> Found {
        Found {
            node: Some(node.into()),
            incarnation,
            mesh: "default".into(),
            ids: Vec::new(),
            addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
            interface: "eth0".into(),
        }
    }

    #[test]
    fn a_restarted_node_replaces_the_run_that_was_killed() {
        let old = found("a@hal", 1, &["10.0.0.1:4470", "[fd00::1]:4470"]);
        let new = found("a@hal", 2, &["10.0.0.1:4470", "[fd00::1]:4470"]);
        let all = sightings([&old, &new].into_iter());
        assert_eq!(all.iter().map(|s| s.incarnation).collect::<Vec<_>>(), [Some(2)]);
    }

    #[test]
    fn two_nodes_of_one_name_at_two_places_are_both_reported() {
        let here = found("a@hal", 1, &["10.0.0.1:4470"]);
        let there = found("a@hal", 2, &["10.0.0.2:4470"]);
        let other_at_same_address = found("b@hal", 3, &["10.0.0.1:4470"]);
        assert_eq!(sightings([&here, &there, &other_at_same_address].into_iter()).len(), 3);
    }

    #[test]
    fn the_first_echo_after_a_silence_makes_it_well_and_is_nobody_seen() {
        let (reporter, reports) = Reporter::new();
        let record = Record::of(&record::tests::announcement()).expect("a record");
        let mut view = View::new(&reporter, &record);
        view.unwell("no echo".into());
        assert!(matches!(reports.borrow().health, crate::Health::Unwell(_)));
        let own = record
            .service(&Choice::default())
            .expect("good")
            .expect("announced")
            .as_resolved_service();
        let heard = view.on_event(ServiceEvent::ServiceResolved(Box::new(own)));
        assert!(heard == Heard::Ourselves);
        assert_eq!(*reports.borrow(), Report { health: crate::Health::Well, ..Report::default() });
    }

    #[tokio::test(start_paused = true)]
    async fn an_announcement_that_is_not_heard_back_is_told_in_words_and_tried_afresh() {
        // Somebody's daemon that hears nothing of ours, on a port where nothing is.
        let daemon = mdns_sd::ServiceDaemon::new_with_port(15_353).expect("a daemon");
        let events = daemon.browse("_nobody._tcp.local.").expect("it listens");
        let mdns = Mdns { choice: Choice::parse("lo"), port: 15_353 };
        let network = mdns.choice.network().expect("the interfaces");
        let (reporter, mut reports) = Reporter::new();
        let record = Record::of(&record::tests::announcement()).expect("a record");
        let mut view = View::new(&reporter, &record);
        let started = Instant::now();
        let told = async {
            let unwell = |report: &Report| matches!(report.health, crate::Health::Unwell(_));
            let report = reports.wait_for(unwell).await.expect("alive").clone();
            (report, started.elapsed())
        };
        let (end, (report, when)) = tokio::join!(mdns.session(&events, &network, &mut view), told);
        let crate::Health::Unwell(why) = report.health else { panic!("waited for") };
        assert!(why.starts_with("our own announcement was not heard back in 3 s"), "{why}");
        assert!(why.contains("UDP port 15353") && why.contains("--join HOST:PORT"), "{why}");
        assert!((3..=4).contains(&when.as_secs()), "{when:?}");
        assert!(matches!(end, End::Silent), "{end:?}");
        assert!((ECHO_RETRY..ECHO_RETRY + 2 * ECHO).contains(&started.elapsed()));
        let _ = daemon.shutdown();
    }

    #[test]
    fn what_an_earlier_session_saw_stays_until_the_next_has_had_its_time() {
        let (reporter, reports) = Reporter::new();
        let record = Record::of(&record::tests::announcement()).expect("a record");
        let mut view = View::new(&reporter, &record);
        let seen = |report: &Report| report.sightings.len();
        view.seen
            .insert("old".into(), Seen { session: 0, found: found("a@x", 1, &["10.0.0.1:1"]) });
        view.session = 1;
        view.seen
            .insert("new".into(), Seen { session: 1, found: found("b@x", 1, &["10.0.0.2:1"]) });
        view.unwell("no network".into());
        assert_eq!(seen(&reports.borrow()), 2);
        view.forget_earlier_sessions();
        assert_eq!(seen(&reports.borrow()), 1);
        assert!(matches!(reports.borrow().health, crate::Health::Unwell(_)));
    }
}
