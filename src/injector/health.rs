//! Whether the injector is ready, why it is not, and what it counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

/// One label.
pub(crate) type Label = [(&'static str, &'static str); 1];

/// What has to be there before it is ready, each told until it is.
const AWAITED: [(&str, &str); 3] = [
    ("authority", "the certificate authority was not read yet"),
    ("certificate", "there is no certificate to show yet"),
    ("webhook", "the webhook's configuration was not read yet"),
];

/// The state of the injector, for probes and for collectors.
#[derive(Debug)]
pub(crate) struct Health {
    /// Why it is not ready, by the part that says so.
    missing: Mutex<BTreeMap<&'static str, String>>,
    leaving: AtomicBool,
    registry: Mutex<Registry>,
    /// Pods that came by, by `result`: `injected`, `already`, `refused`, `not_asked`, `unreadable`.
    pub admissions: Family<Label, Counter>,
    /// Annotations that made no sense.
    pub warnings: Counter,
    /// Annotated pods that run without a sidecar.
    pub missed: Gauge<i64, AtomicI64>,
    /// When the certificate that is shown ends, in seconds since 1970.
    pub certificate_ends: Gauge<i64, AtomicI64>,
    /// Connections by `end`: `served`, `refused` because too many were there, `failed` before a request.
    pub connections: Family<Label, Counter>,
    /// Certificates made for `listen`.
    pub certificates: Counter<u64, AtomicU64>,
}

fn add(registry: &mut Registry, name: &str, help: &str, metric: &(impl Metric + Clone)) {
    registry.register(name, help, metric.clone());
}

impl Health {
    pub(crate) fn new() -> Self {
        let health = Self {
            missing: Mutex::new(AWAITED.map(|(part, why)| (part, why.to_owned())).into()),
            leaving: AtomicBool::new(false),
            registry: Mutex::new(Registry::with_prefix("pillion_injector")),
            admissions: Family::default(),
            warnings: Counter::default(),
            missed: Gauge::default(),
            certificate_ends: Gauge::default(),
            connections: Family::default(),
            certificates: Counter::default(),
        };
        health.register(|registry| {
            add(registry, "admissions", "Pods that came by, by result", &health.admissions);
            add(
                registry,
                "annotation_warnings",
                "Annotations that made no sense",
                &health.warnings,
            );
            add(registry, "missed_pods", "Annotated pods without a sidecar", &health.missed);
            let help = "When the certificate that is shown ends, in seconds since 1970";
            add(registry, "certificate_end_timestamp_seconds", help, &health.certificate_ends);
            add(registry, "connections", "Connections, by how they ended", &health.connections);
            let help = "Certificates made for the webhook";
            add(registry, "certificates_made", help, &health.certificates);
        });
        health
    }

    /// Adds what another part counts; its names begin with `pillion_injector_`.
    pub(crate) fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    fn missing(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.missing.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// This part has what it needs.
    pub(crate) fn well(&self, part: &'static str) {
        let mut missing = self.missing();
        if missing.remove(part).is_some() {
            tracing::info!("{part}: well");
            if missing.is_empty() {
                tracing::info!("ready");
            }
        }
    }

    /// This part has not what it needs, and the injector is not ready. Told in the log when it is news.
    pub(crate) fn unwell(&self, part: &'static str, why: String) {
        let mut missing = self.missing();
        if missing.get(part) != Some(&why) {
            tracing::warn!("{part}: {why}");
            missing.insert(part, why);
        }
    }

    /// From now on it is not ready, because it ends.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Why it is not ready; nothing when it is.
    pub(crate) fn not_ready(&self) -> Option<String> {
        if self.leaving.load(Ordering::Relaxed) {
            return Some("leaving".to_owned());
        }
        let missing = self.missing();
        let lines: Vec<String> =
            missing.iter().map(|(part, why)| format!("{part}: {why}")).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// What is counted, as `OpenMetrics` text.
    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Writing to a text cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_once_every_part_is_well_and_says_what_is_missing_until_then() {
        let health = Health::new();
        for (part, why) in AWAITED {
            let said = health.not_ready().expect("a part is missing");
            assert!(said.contains(&format!("{part}: {why}")), "{said}");
            health.well(part);
        }
        assert_eq!(health.not_ready(), None);
        health.unwell("webhook", "it is gone".to_owned());
        assert_eq!(health.not_ready().as_deref(), Some("webhook: it is gone"));
        health.well("webhook");
        health.leave();
        assert_eq!(health.not_ready().as_deref(), Some("leaving"));
    }

    #[test]
    fn what_happened_is_counted_under_its_name() {
        let health = Health::new();
        health.admissions.get_or_create(&[("result", "injected")]).inc();
        health.missed.set(3);
        let text = health.metrics();
        assert!(
            text.contains("pillion_injector_admissions_total{result=\"injected\"} 1"),
            "{text}"
        );
        assert!(text.contains("pillion_injector_missed_pods 3"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
