//! Many problems as one sentence.

use crate::{Reporter, Sighting};

/// Most problems told in one sentence of health.
const PROBLEMS_TOLD_MAX: usize = 3;

/// Reports what is visible, and what is wrong with the source, if anything is.
pub(crate) fn report(reporter: &Reporter, sightings: Vec<Sighting>, mut problems: Vec<String>) {
    problems.dedup();
    let more = problems.len().saturating_sub(PROBLEMS_TOLD_MAX);
    problems.truncate(PROBLEMS_TOLD_MAX);
    match (problems.is_empty(), more) {
        (true, _) => reporter.visible(sightings),
        (false, 0) => reporter.visible_but(sightings, problems.join("; ")),
        (false, _) => {
            reporter.visible_but(sightings, format!("{}; and {more} more", problems.join("; ")));
        }
    }
}

/// What becomes of what was found before, for the end of a sentence.
pub(crate) fn kept(addresses: usize) -> String {
    match addresses {
        0 => String::new(),
        1 => "; its last address stays".to_owned(),
        n => format!("; its last {n} addresses stay"),
    }
}
