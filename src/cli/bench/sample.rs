//! One measured quantity: a value per round, its median and its spread.

use std::time::Duration;

use serde::Serialize;

/// The values of all rounds, in the order of the rounds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Sample(pub Vec<f64>);

impl Sample {
    /// The middle value, the mean of the middle two when their number is even; `None` when there is none.
    #[must_use]
    pub(super) fn median(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => None,
            n if n % 2 == 1 => Some(sorted[middle]),
            _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        }
    }

    /// The smallest value.
    #[must_use]
    pub(super) fn min(&self) -> Option<f64> {
        self.0.iter().copied().min_by(f64::total_cmp)
    }

    /// The largest value.
    #[must_use]
    pub(super) fn max(&self) -> Option<f64> {
        self.0.iter().copied().max_by(f64::total_cmp)
    }

    /// Round by round, this over `other`. Rounds that one of them lacks are left out.
    #[must_use]
    pub(super) fn over(&self, other: &Self) -> Self {
        let pairs = self.0.iter().zip(&other.0).filter(|(_, below)| **below > 0.0);
        Self(pairs.map(|(above, below)| above / below).collect())
    }

    /// Adds a round.
    pub(super) fn push(&mut self, value: f64) {
        self.0.push(value);
    }
}

impl FromIterator<f64> for Sample {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// What a value counts, which decides how it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Unit {
    /// Things per second.
    PerSecond,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Bytes of one of many.
    BytesEach,
    /// How many there were.
    Count,
    /// One over another.
    Ratio,
    /// Seconds of processor per second.
    Load,
}

impl Unit {
    /// The value for people: three digits that matter and a unit.
    #[must_use]
    pub(super) fn print(self, value: f64) -> String {
        match self {
            Self::PerSecond if value >= 1e6 => format!("{:.2} M/s", value / 1e6),
            Self::PerSecond if value >= 1e3 => format!("{:.1} k/s", value / 1e3),
            Self::PerSecond => format!("{value:.0}/s"),
            Self::Seconds if value >= 1.0 => format!("{value:.2} s"),
            Self::Seconds if value >= 0.1 => format!("{:.0} ms", value * 1e3),
            Self::Seconds if value >= 1e-3 => format!("{:.2} ms", value * 1e3),
            Self::Seconds if value >= 1e-5 => format!("{:.0} us", value * 1e6),
            Self::Seconds => format!("{:.2} us", value * 1e6),
            Self::Bytes => format!("{:.1} MiB", value / f64::from(1u32 << 20)),
            Self::BytesEach => format!("{value:.0} B"),
            Self::Count => format!("{value:.0}"),
            Self::Ratio => format!("{value:.2}x"),
            Self::Load => format!("{:.2} ms/s", value * 1e3),
        }
    }

    /// `median (min-max)`, or only the value when there is one.
    #[must_use]
    pub(super) fn print_sample(self, sample: &Sample) -> String {
        let (Some(median), Some(min), Some(max)) = (sample.median(), sample.min(), sample.max())
        else {
            return "-".to_owned();
        };
        match sample.0.len() {
            1 => self.print(median),
            _ => format!("{} ({} .. {})", self.print(median), self.print(min), self.print(max)),
        }
    }
}

/// Counts as a number that can be divided.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "no count here comes near 2^53")]
pub(super) const fn float(count: u64) -> f64 {
    count as f64
}

/// Nanoseconds as seconds.
#[must_use]
pub(super) fn seconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(Sample(vec![4.0, 1.0, 3.0, 2.0]).median(), Some(2.5));
        assert_eq!(Sample(vec![9.0, 1.0, 3.0]).median(), Some(3.0));
        assert_eq!(Sample::default().median(), None);
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        let above = Sample(vec![1.0, 2.0, 3.0]);
        let below = Sample(vec![2.0, 4.0]);
        assert_eq!(above.over(&below), Sample(vec![0.5, 0.5]));
    }

    #[test]
    fn values_are_printed_in_the_unit_that_a_person_would_choose() {
        assert_eq!(Unit::PerSecond.print(2_512_345.0), "2.51 M/s");
        assert_eq!(Unit::Seconds.print(0.000_000_52), "0.52 us");
        assert_eq!(Unit::Seconds.print(0.000_145), "145 us");
        assert_eq!(Unit::Seconds.print(0.0031), "3.10 ms");
        assert_eq!(Unit::Bytes.print(6_291_456.0), "6.0 MiB");
    }
}
