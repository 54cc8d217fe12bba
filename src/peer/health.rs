//! When is a silent peer down, and how far do we trust our own clock?
//!
//! After Lifeguard (Dadgar, Phillips, Currey, 2018): a node whose own timers run late is likely to be the reason why
//! it hears nothing, so it waits longer before it blames the other. Pure: the owner says what time it is.

use std::time::Duration;

use tokio::time::Instant;

/// How far apart the nodes of a mesh are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// One machine: a peer that is silent for 2 s is down.
    Local,
    /// One site: 5 s.
    #[default]
    Lan,
    /// Anywhere: 15 s.
    Wan,
}

impl Profile {
    /// A peer that is silent for this long is down.
    #[must_use]
    pub const fn silent(self) -> Duration {
        match self {
            Self::Local => Duration::from_secs(2),
            Self::Lan => Duration::from_secs(5),
            Self::Wan => Duration::from_secs(15),
        }
    }

    /// A beat is sent at the latest when nothing else was for this long. The same in every profile, because the
    /// listener's profile may be shorter than ours.
    #[must_use]
    pub const fn beat(self) -> Duration {
        match self {
            Self::Local | Self::Lan | Self::Wan => Duration::from_secs(1),
        }
    }

    /// How long a probed peer has to show life.
    #[must_use]
    pub const fn probe(self) -> Duration {
        match self {
            Self::Local | Self::Lan => Duration::from_millis(500),
            Self::Wan => Duration::from_millis(1500),
        }
    }
}

/// When beats go out: at whole seconds of the machine's clock, together.
///
/// A wake costs more than a beat. Connections that each counted their own second would wake a node once for each beat
/// that it sends, and their far ends at as many other times; so all connections of a node share a second, and all
/// nodes of a machine, as far as their clocks agree all machines, share it too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pulse {
    /// Some whole second.
    second: Instant,
}

impl Pulse {
    pub(crate) const EVERY: Duration = Duration::from_secs(1);

    pub(crate) fn new(second: Instant) -> Self {
        Self { second }
    }

    /// When a connection on which something was written at `wrote` needs a beat: half a second to a second later.
    pub(crate) fn beat_after(self, wrote: Instant, profile: Profile) -> Instant {
        let late = wrote + profile.beat();
        let early = wrote + profile.beat() / 2;
        let into = late.saturating_duration_since(self.second).as_nanos() % Self::EVERY.as_nanos();
        let whole = late - Duration::from_nanos(u64::try_from(into).unwrap_or(0));
        // Where no second begins in time, the next beat comes early enough to find one.
        if whole >= early { whole } else { early }
    }
}

/// How late our own timers are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LocalHealth {
    stretch: Duration,
}

/// Timers are that late on a healthy machine.
const LATE: Duration = Duration::from_millis(50);
/// The limit is stretched to at most this multiple.
const MULTIPLE_MAX: u32 = 8;

impl LocalHealth {
    /// A timer that was due at `due` fires at `now`. Lateness adds up; each timely tick halves it.
    pub(crate) fn tick(&mut self, due: Instant, now: Instant, profile: Profile) {
        let late = now.saturating_duration_since(due);
        self.stretch = if late > LATE {
            (self.stretch + late).min(profile.silent() * (MULTIPLE_MAX - 1))
        } else {
            self.stretch / 2
        };
        if self.stretch < LATE {
            self.stretch = Duration::ZERO;
        }
    }

    /// A peer that is silent for this long is down.
    pub(crate) fn limit(&self, profile: Profile) -> Duration {
        profile.silent() + self.stretch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_beat_is_never_late_and_soon_falls_on_a_whole_second() {
        let second = Instant::now();
        let pulse = Pulse::new(second);
        for start in 0..1000 {
            let mut wrote = second + start * MS;
            for beat in 0..10 {
                let due = pulse.beat_after(wrote, Profile::Lan);
                assert!(due >= wrote + 500 * MS && due <= wrote + 1000 * MS, "{start}, {beat}");
                // A timer is late by a little.
                wrote = due + MS;
            }
            let into = (wrote - MS - second).as_millis() % 1000;
            assert_eq!(into, 0, "{start}");
        }
    }

    #[test]
    fn a_healthy_node_waits_for_the_profiles_time() {
        let (mut health, now) = (LocalHealth::default(), Instant::now());
        health.tick(now, now + 20 * MS, Profile::Lan);
        assert_eq!(health.limit(Profile::Lan), Duration::from_secs(5));
        assert_eq!(health.limit(Profile::Local), Duration::from_secs(2));
        assert_eq!(health.limit(Profile::Wan), Duration::from_secs(15));
    }

    #[test]
    fn a_stalled_node_never_blames_others_for_its_own_stall() {
        for stall in [100 * MS, 4000 * MS, 20_000 * MS, 34_000 * MS] {
            let (mut health, heard) = (LocalHealth::default(), Instant::now());
            let now = heard + 1000 * MS + stall;
            health.tick(heard + 1000 * MS, now, Profile::Lan);
            assert!(now - heard < health.limit(Profile::Lan), "stalled for {stall:?}");
        }
    }

    #[test]
    fn the_stretch_is_bounded_and_decays() {
        let (mut health, now) = (LocalHealth::default(), Instant::now());
        for _ in 0..100 {
            health.tick(now, now + 60_000 * MS, Profile::Lan);
        }
        assert_eq!(health.limit(Profile::Lan), Profile::Lan.silent() * MULTIPLE_MAX);
        for _ in 0..12 {
            health.tick(now, now, Profile::Lan);
        }
        assert_eq!(health.limit(Profile::Lan), Profile::Lan.silent());
    }
}
