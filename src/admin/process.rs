//! What the system says of this process. Linux says it in files; elsewhere these metrics are left out.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit};

/// How many ticks of `/proc` are a second: Linux tells programs 100, whatever it counts itself.
const TICKS: f64 = 100.0;

/// This process, as far as the system says.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    /// Seconds of processors that it has used.
    pub(super) cpu: Option<f64>,
    /// Bytes of memory that it has in use.
    pub(super) resident: Option<u64>,
    /// Files that it has open.
    pub(super) files: Option<u64>,
    /// Most of those.
    pub(super) files_max: Option<u64>,
}

impl Process {
    pub(super) fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").ok();
        let stat = fs::read_to_string("/proc/self/stat").ok();
        let files = fs::read_dir("/proc/self/fd").ok();
        Self {
            cpu: stat.as_deref().and_then(cpu),
            resident: status.as_deref().and_then(resident),
            // The directory that is being read is one of them.
            files: files.map(|entries| (entries.count() as u64).saturating_sub(1)),
            files_max: getrlimit(Resource::Nofile).current,
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "ticks of a process stay far below 2^52")]
fn cpu(stat: &str) -> Option<f64> {
    // The name in brackets may hold anything; what follows the last one is numbers.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS)
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The time by the machine's clock.
pub(super) fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_whatever_the_program_is_called() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 5 0 0";
        assert_eq!(cpu(stat), Some(3.0));
        assert_eq!(cpu("7 (a"), None);
        assert_eq!(resident("Name:\tx\nVmRSS:\t    6024 kB\n"), Some(6_168_576));
    }
}
