//! Every metric: its name, what it says, and where its value comes from. `docs/metrics.md` is made from what stands here.
//!
//! Names follow Prometheus: base units, `_total` for what only grows. Labels have few values, and none that an app or
//! another node makes up, but for the names of strategies, which whoever runs the node wrote down.

use std::fmt::{Error, Result};
use std::time::{Duration, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::process::Process;
use crate::hub::Observed;
use crate::router::tally::{ARRIVALS, CALL_ENDS, Durations, RANGES};
use crate::wire::id::Node;

/// One look at everything.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) node: Node,
    pub(super) mesh: String,
    pub(super) observed: Observed,
    pub(super) lag: Durations,
    pub(super) process: Process,
    /// The time by the machine's clock.
    pub(super) unix: Duration,
}

/// A sample as OpenMetrics text.
pub(super) fn encode(sample: Sample) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(sample));
    let mut text = String::with_capacity(16 * 1024);
    // Writing to a text does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

/// Where metrics are written, one family after the other.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: usize) -> Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&whole(value))
    }

    fn gauge_f64(&mut self, name: &str, help: &str, value: Option<f64>) -> Result {
        let Some(value) = value else { return Ok(()) };
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauges<'v>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'v str, usize)>,
    ) -> Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        values.into_iter().try_for_each(|(of, value)| {
            family.encode_family(&[(label, of)])?.encode_gauge(&whole(value))
        })
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        count(&mut family, value)
    }

    fn counters<'v>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'v str, u64)>,
    ) -> Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        values
            .into_iter()
            .try_for_each(|(of, value)| count(&mut family.encode_family(&[(label, of)])?, value))
    }

    fn durations(&mut self, name: &str, help: &str, durations: &Durations) -> Result {
        let ends = RANGES.iter().map(|ns| seconds(Duration::from_nanos(*ns)));
        let ends = ends.chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = ends.zip(durations.counts).collect();
        let sum = seconds(Duration::from_nanos(durations.sum_ns));
        let count = durations.counts.iter().sum();
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        family.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

fn count(family: &mut MetricEncoder<'_>, value: u64) -> std::result::Result<(), Error> {
    family.encode_counter::<NoLabelSet, u64, f64>(&value, None)
}

fn whole(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

impl Collector for Sample {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result {
        let mut families = Families(encoder);
        self.node(&mut families)?;
        self.mesh(&mut families)?;
        self.strategies(&mut families)?;
        self.apps(&mut families)?;
        self.messages(&mut families)?;
        self.calls(&mut families)?;
        self.process(&mut families)
    }
}

impl Sample {
    fn node(&self, families: &mut Families<'_>) -> Result {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        families
            .0
            .encode_descriptor("pillion_build", "What was built.", None, MetricType::Info)?
            .encode_info(&version)?;
        let (name, incarnation) = (self.node.name.to_string(), self.node.incarnation.to_string());
        let who =
            [("node", name.as_str()), ("incarnation", &incarnation), ("mesh", self.mesh.as_str())];
        families
            .0
            .encode_descriptor("pillion_node", "Who it is.", None, MetricType::Info)?
            .encode_info(&who)?;
        let Observed { tally, readiness, .. } = &self.observed;
        let ready = usize::from(readiness.ready().is_ok());
        families.gauge(
            "pillion_ready",
            "Whether it is ready for work, as `/readyz` says.",
            ready,
        )?;
        let draining = usize::from(tally.draining);
        families.gauge("pillion_draining", "Whether it is about to leave.", draining)?;
        let ends = self.observed.notes.certificate_ends;
        let ends = ends.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map(seconds);
        families.gauge_f64(
            "pillion_certificate_end_timestamp_seconds",
            "When the certificate ends, or has ended, that it was issued: after that it keeps the connections that it has and joins nobody. Left out before it has one, and where nobody issues one.",
            ends,
        )
    }

    fn mesh(&self, families: &mut Families<'_>) -> Result {
        let Observed { tally, notes, .. } = &self.observed;
        families.gauges(
            "pillion_peers",
            "Other nodes: those that are connected, and those that are known and not.",
            "state",
            [("connected", tally.connected), ("known", tally.known)],
        )?;
        families.counter(
            "pillion_dials",
            "Addresses of other nodes that were dialled.",
            notes.dials,
        )?;
        let help = "Connections to other nodes, by who dialled and by what came of it: `joined`, or why not. `stranger` is a TLS handshake that failed.";
        let mut family = families.0.encode_descriptor(
            "pillion_peer_connections",
            help,
            None,
            MetricType::Counter,
        )?;
        for (joining, times) in &notes.joinings {
            let direction = if joining.dialled { "out" } else { "in" };
            let labels = [("direction", direction), ("result", joining.result)];
            count(&mut family.encode_family(&labels)?, *times)?;
        }
        families.counters(
            "pillion_peers_gone",
            "Nodes that were connected and are not any more: with a `goodbye`, or `lost`.",
            "how",
            [("goodbye", notes.left), ("lost", notes.lost)],
        )?;
        let observed = &self.observed;
        families.counters(
            "pillion_peer_frames",
            "Frames from and to other nodes, signs of life among them.",
            "direction",
            [("in", observed.peer_frames_in), ("out", tally.peer_frames)],
        )?;
        families.counters(
            "pillion_peer_bytes",
            "Bytes of them, before TLS.",
            "direction",
            [("in", observed.peer_bytes_in), ("out", observed.peer_bytes_out)],
        )
    }

    fn strategies(&self, families: &mut Families<'_>) -> Result {
        let strategies = &self.observed.notes.strategies;
        let heard = strategies.iter().filter_map(|(name, note)| Some((&**name, note.well?)));
        families.gauges(
            "pillion_strategy_up",
            "Whether the source of a strategy answers; left out before it has answered or failed.",
            "strategy",
            heard.map(|(name, well)| (name, usize::from(well))),
        )?;
        families.gauges(
            "pillion_strategy_sightings",
            "Nodes and addresses that a strategy sees.",
            "strategy",
            strategies.iter().map(|(name, note)| (&**name, note.sightings)),
        )?;
        families.counters(
            "pillion_strategy_failures",
            "Reports of a strategy that its source fails.",
            "strategy",
            strategies.iter().map(|(name, note)| (&**name, note.failures)),
        )?;
        let now = Instant::now();
        let help =
            "When the source of a strategy was last known to answer; left out where it never has.";
        let name = "pillion_strategy_last_success_timestamp_seconds";
        let mut family = families.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (name, note) in strategies {
            let Some(at) = note.well_at else { continue };
            let ago = match note.well {
                Some(true) => Duration::ZERO,
                _ => now.saturating_duration_since(at),
            };
            let at = seconds(self.unix.saturating_sub(ago));
            family.encode_family(&[("strategy", name.as_str())])?.encode_gauge(&at)?;
        }
        Ok(())
    }

    fn apps(&self, families: &mut Families<'_>) -> Result {
        let Observed { tally, .. } = &self.observed;
        families.gauge(
            "pillion_app_connections",
            "Apps that are connected, hosted programs among them.",
            self.observed.connections,
        )?;
        families.gauge(
            "pillion_sessions",
            "Sessions, those that wait to be resumed among them.",
            tally.sessions,
        )?;
        families.counter("pillion_commands", "Commands of apps.", self.observed.commands)?;
        families.counters(
            "pillion_app_bytes",
            "Bytes from and to apps, as CBOR frames, whatever dialect they speak.",
            "direction",
            [("in", self.observed.app_bytes_in), ("out", self.observed.app_bytes_out)],
        )?;
        families.gauge("pillion_processes", "Processes of this node.", tally.processes)?;
        families.counter(
            "pillion_processes_died",
            "Processes that have died.",
            tally.counters.died,
        )?;
        families.gauge("pillion_names", "Local names.", tally.names)?;
        families.gauge("pillion_global_names", "Global names, of any node.", tally.global_names)?;
        families.gauge("pillion_groups", "Groups, with members on any node.", tally.groups)?;
        families.gauge("pillion_modules", "Modules, served on any node.", tally.modules)?;
        families.gauge(
            "pillion_topics",
            "Topics and patterns that anybody on any node has subscribed to, and those with a retained value.",
            tally.topics,
        )?;
        families.gauge("pillion_timers", "Messages that are to be sent later.", tally.timers)
    }

    fn messages(&self, families: &mut Families<'_>) -> Result {
        let Observed { tally, survey, .. } = &self.observed;
        let counters = &tally.counters;
        families.counters(
            "pillion_arrivals",
            "What has arrived for processes of apps, what was lost to a full mailbox included: `message` (casts too), `topic` (once per subscription), `call` (rpc too), `signal` (all else).",
            "kind",
            ARRIVALS.into_iter().zip(counters.arrived),
        )?;
        families.counters(
            "pillion_messages_lost",
            "Messages that were lost, each told of by a `gap` or an error where somebody is to be told: `overflow` of a mailbox; `congested`, which were refused or dropped because a connection was; `too_large` for this node; `no_member` left in a queue group.",
            "reason",
            [
                ("overflow", counters.shed),
                ("congested", counters.congested),
                ("too_large", counters.too_large),
                ("no_member", counters.no_member),
            ],
        )?;
        families.gauge("pillion_mailbox_events", "Events in all mailboxes.", survey.events)?;
        families.gauge(
            "pillion_mailbox_events_most",
            "Events in the mailbox that has most.",
            survey.events_most,
        )?;
        families.gauge(
            "pillion_mailbox_bytes_most",
            "Bytes in the mailbox that has most.",
            survey.bytes_most,
        )?;
        families.gauges(
            "pillion_waiting_bytes",
            "Bytes that wait, by where: what several have together counts for each, so the sum may be more than `pillion_queue_bytes`.",
            "place",
            [
                ("mailboxes", tally.mailbox_bytes),
                ("apps", tally.lane_bytes),
                ("partial", tally.partial_bytes),
                ("timers", tally.timer_bytes),
            ],
        )?;
        families.gauge(
            "pillion_queue_bytes",
            "Bytes of all that waits in this node.",
            tally.queued_bytes,
        )?;
        families.gauge(
            "pillion_queue_bytes_max",
            "Most of that: `queue-bytes`.",
            tally.queued_bytes_max,
        )
    }

    fn calls(&self, families: &mut Families<'_>) -> Result {
        let Observed { tally, .. } = &self.observed;
        families.gauge(
            "pillion_calls_open",
            "Calls of apps here that have not ended.",
            tally.calls,
        )?;
        families.gauge(
            "pillion_calls_served_open",
            "Calls to processes here that have not ended.",
            tally.served,
        )?;
        families.counters(
            "pillion_calls",
            "Calls of apps here that have ended, rpc among them, by how: `ok`, or the code of the error.",
            "end",
            CALL_ENDS.into_iter().zip(tally.counters.calls),
        )?;
        families.durations(
            "pillion_call_duration_seconds",
            "How long calls of apps here took that were answered.",
            &tally.counters.answered,
        )?;
        families.durations(
            "pillion_event_loop_lag_seconds",
            "How long the node's main task took to answer, once per scrape and per `/livez`.",
            &self.lag,
        )
    }

    fn process(&self, families: &mut Families<'_>) -> Result {
        #[allow(clippy::cast_precision_loss, reason = "bytes and files stay far below 2^52")]
        let float = |value: Option<u64>| value.map(|value| value as f64);
        if let Some(cpu) = self.process.cpu {
            let help = "Seconds of processors that it has used.";
            families
                .0
                .encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, f64, f64>(&cpu, None)?;
        }
        families.gauge_f64(
            "process_resident_memory_bytes",
            "Bytes of memory that it has in use.",
            float(self.process.resident),
        )?;
        families.gauge_f64(
            "process_open_fds",
            "Files that it has open.",
            float(self.process.files),
        )?;
        families.gauge_f64("process_max_fds", "Most of those.", float(self.process.files_max))?;
        let began = seconds(Duration::from_millis(self.node.incarnation.0 >> 20));
        families.gauge_f64("process_start_time_seconds", "When it started.", Some(began))
    }
}
