//! What was found, as a table for people and as JSON for programs, and whether it is good enough.

use std::fmt::Write as _;

use serde::Serialize;

use super::sample::{Sample, Unit};

/// What a row has to reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Target {
    /// The median of the value itself.
    AtMost(f64),
    /// The median of the ratios to the floor.
    RatioAtMost(f64),
    /// The same, the other way round.
    RatioAtLeast(f64),
}

/// One measured quantity.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    /// Which.
    pub what: String,
    /// Of what kind.
    pub unit: Unit,
    /// Of the daemons.
    pub pillion: Sample,
    /// Of the floor, where there is one.
    pub floor: Sample,
    /// Round by round, the one over the other.
    pub ratio: Sample,
    /// What it has to reach.
    pub target: Option<Target>,
    /// Whether it does; none when there is nothing to reach or it was not measured here.
    pub reached: Option<bool>,
    /// What a reader must know, such as why there is no value.
    pub note: Option<String>,
}

impl Row {
    /// A quantity without a floor.
    #[must_use]
    pub(super) fn plain(
        what: impl Into<String>,
        unit: Unit,
        pillion: Sample,
        target: Option<Target>,
    ) -> Self {
        Self::beside(what, unit, pillion, Sample::default(), target)
    }

    /// A quantity beside its floor.
    #[must_use]
    pub(super) fn beside(
        what: impl Into<String>,
        unit: Unit,
        pillion: Sample,
        floor: Sample,
        target: Option<Target>,
    ) -> Self {
        let ratio = pillion.over(&floor);
        let reached = target.map(|target| match target {
            Target::AtMost(bound) => pillion.median().is_some_and(|value| value <= bound),
            Target::RatioAtMost(bound) => ratio.median().is_some_and(|value| value <= bound),
            Target::RatioAtLeast(bound) => ratio.median().is_some_and(|value| value >= bound),
        });
        Self { what: what.into(), unit, pillion, floor, ratio, target, reached, note: None }
    }

    /// A quantity that could not be measured although it should have been.
    #[must_use]
    pub(super) fn failed(what: impl Into<String>, note: &impl ToString) -> Self {
        let row = Self::plain(what, Unit::Ratio, Sample::default(), None);
        Self { reached: Some(false), note: Some(note.to_string()), ..row }
    }

    /// A quantity that has no meaning on this machine.
    #[must_use]
    pub(super) fn skipped(what: impl Into<String>, note: &impl ToString) -> Self {
        let row = Self::plain(what, Unit::Ratio, Sample::default(), None);
        Self { note: Some(note.to_string()), ..row }
    }

    fn cells(&self) -> [String; 6] {
        let target = match self.target {
            None => String::new(),
            Some(Target::AtMost(bound)) => format!("<= {}", self.unit.print(bound)),
            Some(Target::RatioAtMost(bound)) => format!("<= {bound}x"),
            Some(Target::RatioAtLeast(bound)) => format!(">= {bound}x"),
        };
        let verdict = match self.reached {
            None => "",
            Some(true) => "ok",
            Some(false) => "MISSED",
        };
        let floor = if self.floor.0.is_empty() {
            String::new()
        } else {
            self.unit.print_sample(&self.floor)
        };
        let ratio = if self.ratio.0.is_empty() {
            String::new()
        } else {
            Unit::Ratio.print_sample(&self.ratio)
        };
        let pillion = self.unit.print_sample(&self.pillion);
        [self.what.clone(), pillion, floor, ratio, target, verdict.to_owned()]
    }
}

/// All of one run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    /// Where it ran.
    pub machine: String,
    /// How.
    pub settings: String,
    /// What it found.
    pub rows: Vec<Row>,
}

impl Report {
    /// The rows that have a target and do not reach it.
    pub(super) fn missed(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.reached == Some(false))
    }

    /// All of it for programs, on one line, seconds and bytes as they are.
    ///
    /// # Panics
    /// Never: plain data becomes JSON.
    #[must_use]
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("plain data becomes JSON")
    }

    /// The table.
    #[must_use]
    pub(super) fn table(&self) -> String {
        let titles = ["", "pillion", "floor", "ratio", "target", ""].map(str::to_owned);
        let lines: Vec<[String; 6]> =
            std::iter::once(titles).chain(self.rows.iter().map(Row::cells)).collect();
        let mut widths = [0; 6];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut out = format!("{}\n{}\n\n", self.machine, self.settings);
        let notes = std::iter::once(None).chain(self.rows.iter().map(|row| row.note.as_deref()));
        for (line, note) in lines.iter().zip(notes) {
            let mut text = String::new();
            for (cell, width) in line.iter().zip(widths) {
                let _ = write!(text, "{cell:width$}  ");
            }
            let _ = writeln!(out, "{}", text.trim_end());
            if let Some(note) = note {
                let _ = writeln!(out, "    {note}");
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_judged_by_the_median_of_the_paired_ratios() {
        let pillion = Sample(vec![1.0, 9.0, 5.0]);
        let floor = Sample(vec![2.0, 10.0, 10.0]);
        let row = |target| {
            Row::beside("x", Unit::PerSecond, pillion.clone(), floor.clone(), Some(target)).reached
        };
        assert_eq!(row(Target::RatioAtLeast(0.5)), Some(true));
        assert_eq!(row(Target::RatioAtLeast(0.6)), Some(false));
        assert_eq!(row(Target::RatioAtMost(0.5)), Some(true));
        assert_eq!(row(Target::AtMost(4.0)), Some(false));
    }

    #[test]
    fn what_could_not_be_measured_is_missed_and_what_was_skipped_is_not() {
        let report = Report {
            machine: String::new(),
            settings: String::new(),
            rows: vec![Row::failed("a", &"broken"), Row::skipped("b", &"no multicast here")],
        };
        let missed: Vec<_> = report.missed().map(|row| row.what.as_str()).collect();
        assert_eq!(missed, ["a"]);
        assert!(report.table().contains("no multicast here"));
    }
}
