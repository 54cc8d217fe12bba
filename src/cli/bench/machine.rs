//! What a figure was measured on, in a line, and how much of it others took meanwhile.

use std::fs;

/// Processors, their model and the system.
#[must_use]
pub(super) fn describe() -> String {
    let system = rustix::system::uname();
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(':'))
        .map_or_else(
            || system.machine().to_string_lossy().into_owned(),
            |(_, m)| m.trim().to_owned(),
        );
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    let release = system.release().to_string_lossy().into_owned();
    let version: Vec<&str> = release.splitn(3, '.').take(2).collect();
    let version = version.join(".");
    format!("{count} x {model}, {} {version}", system.sysname().to_string_lossy())
}

/// Ticks since boot: those that the hypervisor gave to others, and all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticks {
    stolen: u64,
    all: u64,
}

impl Ticks {
    /// Now; `None` where the system does not tell.
    #[must_use]
    pub(super) fn now() -> Option<Self> {
        let text = fs::read_to_string("/proc/stat").ok()?;
        let fields: Vec<u64> =
            text.lines().next()?.split_whitespace().skip(1).flat_map(str::parse).collect();
        // user nice system idle iowait irq softirq steal; guest time is in user already.
        Some(Self { stolen: *fields.get(7)?, all: fields.iter().take(8).sum() })
    }

    /// The share that was stolen since `before`.
    #[must_use]
    pub(super) fn stolen_since(self, before: Self) -> f64 {
        let all = super::sample::float(self.all.saturating_sub(before.all));
        if all > 0.0 {
            super::sample::float(self.stolen.saturating_sub(before.stolen)) / all
        } else {
            0.0
        }
    }
}

/// Whether some interface that is up, other than loopback, does multicast; true where the system does not tell.
#[must_use]
pub(super) fn has_multicast() -> bool {
    const UP: u32 = 0x1;
    const LOOPBACK: u32 = 0x8;
    const MULTICAST: u32 = 0x1000;
    let Ok(interfaces) = fs::read_dir("/sys/class/net") else { return true };
    interfaces.flatten().any(|interface| {
        let text = fs::read_to_string(interface.path().join("flags")).unwrap_or_default();
        let flags = u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap_or(0);
        flags & UP != 0 && flags & MULTICAST != 0 && flags & LOOPBACK == 0
    })
}
