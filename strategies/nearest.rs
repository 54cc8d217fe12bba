//! The word that was meant, when one that is not known is close to it.
//!
//! The one list of what is near, for options here, and for settings, commands and operations elsewhere: this crate
//! stands lowest, so everybody may use it.

/// Nobody mistypes a longer word; and comparing takes time by its length.
const WORD_CHARS_MAX: usize = 64;

/// The candidate that `word` was most likely meant to be: at most a third of the letters are wrong, missing, too many
/// or exchanged with their neighbours.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: String = word.chars().take(WORD_CHARS_MAX).collect();
    let length = word.chars().count();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, candidate), candidate))
        .filter(|(wrong, candidate)| *wrong <= length.max(candidate.chars().count()).div_ceil(3))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_of_the_finger_finds_its_word_and_nonsense_finds_none() {
        let words = ["register", "unregister", "flush", "mailbox-entries", "strategy", "name"];
        for (typed, meant) in [
            ("regsiter", Some("register")),
            ("fulsh", Some("flush")),
            ("mailbox-entires", Some("mailbox-entries")),
            ("strategies", Some("strategy")),
            ("nam", Some("name")),
            ("qqqq", None),
            ("frobnicate", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, words), meant, "{typed}");
        }
        assert_eq!(nearest(&"x".repeat(1_000_000), words), None);
    }
}
