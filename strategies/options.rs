//! How a strategy is written on a command line: `name://place?option=value&option=value`.
//!
//! Not a general URL: there is no fragment and no user, and `%20` is understood in values and in paths only.

use std::time::Duration;

use crate::StrategyError;
use crate::nearest::nearest;

/// A strategy as it was written, taken apart.
#[derive(Debug)]
pub(crate) struct Url {
    /// The strategy's name.
    pub(crate) scheme: String,
    /// What stands between `://` and `?`.
    pub(crate) place: String,
    options: Vec<(String, String)>,
}

impl Url {
    pub(crate) fn parse(text: &str) -> Result<Self, StrategyError> {
        let (head, query) = text.split_once('?').unwrap_or((text, ""));
        let (scheme, place) = head.split_once("://").unwrap_or((head, ""));
        let mut options: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            options.push((key.to_owned(), decoded(value)?));
        }
        Ok(Self { scheme: scheme.to_ascii_lowercase(), place: place.to_owned(), options })
    }

    /// Refuses every option that is not in `known`, and any that is there twice.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), StrategyError> {
        self.only_and_several(known, &[])
    }

    /// The same; those in `several` may be there as often as they are needed.
    #[cfg_attr(not(feature = "exec"), allow(dead_code, reason = "who has such options"))]
    pub(crate) fn only_and_several(
        &self,
        known: &[&str],
        several: &[&str],
    ) -> Result<(), StrategyError> {
        // One spelling for all, the one of flags and of keys in a file.
        debug_assert!(known.iter().all(|key| !key.contains('_')), "{known:?}");
        for (at, (key, _)) in self.options.iter().enumerate() {
            let is_again = self.options[..at].iter().any(|(earlier, _)| earlier == key);
            if is_again && !several.contains(&key.as_str()) {
                let scheme = &self.scheme;
                return Err(wrong(format!(
                    "{scheme} is given the option `{key}` twice: write it once"
                )));
            }
        }
        match self.options.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some((key, _)) => Err(unknown(&format!("option of {}", self.scheme), key, known)),
        }
    }

    /// Refuses anything between `://` and `?`.
    pub(crate) fn no_place(&self) -> Result<(), StrategyError> {
        if self.place.is_empty() {
            return Ok(());
        }
        let Self { scheme, place, .. } = self;
        Err(wrong(format!("{scheme} takes no address, and `{place}` is one: write {scheme}://")))
    }

    pub(crate) fn option(&self, key: &str) -> Option<&str> {
        self.options.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// All values of an option that may be there several times, in their order.
    #[cfg_attr(not(feature = "exec"), allow(dead_code, reason = "who has such options"))]
    pub(crate) fn several<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let all = self.options.iter().filter(move |(known, _)| known == key);
        all.map(|(_, value)| value.as_str())
    }

    /// What stands between `://` and `?`, with `%20` undone: a path.
    #[cfg_attr(not(feature = "exec"), allow(dead_code, reason = "who has a path there"))]
    pub(crate) fn decoded_place(&self) -> Result<String, StrategyError> {
        decoded(&self.place)
    }

    pub(crate) fn duration(&self, key: &str) -> Result<Option<Duration>, StrategyError> {
        self.option(key).map(|text| duration(key, text)).transpose()
    }
}

/// The URL without what nobody else may read: a password before the `@`, a token.
#[must_use]
pub fn redacted(url: &str) -> String {
    let (head, query) =
        url.split_once('?').map_or((url, None), |(head, query)| (head, Some(query)));
    let place = head.find("://").map_or(0, |at| at + 3);
    let mut text = head.to_owned();
    if let Some(end) = head.rfind('@').filter(|end| *end > place)
        && let Some(colon) = head[place..end].find(':')
    {
        text.replace_range(place + colon + 1..end, "***");
    }
    if let Some(query) = query {
        let pair = |pair: &str| match pair.split_once('=') {
            Some((key @ ("token" | "password"), _)) => format!("{key}=***"),
            _ => pair.to_owned(),
        };
        text.push('?');
        text.push_str(&query.split('&').map(pair).collect::<Vec<_>>().join("&"));
    }
    text
}

/// Options that cannot be meant.
pub(crate) fn wrong(why: impl Into<String>) -> StrategyError {
    StrategyError::Options(why.into())
}

/// `text` is no `what`; these are.
pub(crate) fn unknown(what: &str, text: &str, known: &[&str]) -> StrategyError {
    let nearest = nearest(text, known.iter().copied())
        .map_or(String::new(), |name| format!("; did you mean `{name}`?"));
    let all = if known.is_empty() {
        "it has no options".to_owned()
    } else {
        format!("there are: {}", known.join(", "))
    };
    wrong(format!("`{text}` is no {what}{nearest} ({all})"))
}

/// Reads exactly 16 hex digits.
pub(crate) fn hex_u64(text: &str) -> Option<u64> {
    let good = text.len() == 16 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    good.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

fn duration(key: &str, text: &str) -> Result<Duration, StrategyError> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms)) {
        Some(ms) if (100..=86_400_000).contains(&ms) => Ok(Duration::from_millis(ms)),
        _ => Err(wrong(format!(
            "`{key}={text}` is not a time between 100ms and 24h: write a number and ms, s, m or h, as in {key}=5s"
        ))),
    }
}

/// Undoes `%20`, so that a path may hold `&` and spaces.
fn decoded(value: &str) -> Result<String, StrategyError> {
    let bad =
        || wrong(format!("`{value}` has a % that no two hex digits follow: write %25 for a %"));
    let bytes = value.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let digits = value.get(at + 1..at + 3).ok_or_else(bad)?;
            if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(bad());
            }
            plain.push(u8::from_str_radix(digits, 16).map_err(|_| bad())?);
            at += 3;
        } else {
            plain.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(plain).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_comes_apart_into_name_place_and_options() {
        let url = Url::parse("list://hal:1,[::1]:2?file=/a%20b/c&interval=250ms").expect("good");
        assert_eq!((url.scheme.as_str(), url.place.as_str()), ("list", "hal:1,[::1]:2"));
        assert_eq!(url.option("file"), Some("/a b/c"));
        assert_eq!(url.duration("interval").expect("good"), Some(Duration::from_millis(250)));
        assert!(url.only(&["file", "interval"]).is_ok());
        assert!(url.only(&["file"]).is_err());
    }

    #[test]
    fn what_is_shown_of_a_url_has_no_password_and_no_token() {
        for (url, shown) in [
            (
                "postgres://a:s3cret@db:5432/x?sslmode=require",
                "postgres://a:***@db:5432/x?sslmode=require",
            ),
            ("postgres://a:s3:c/r@e@db/x", "postgres://a:***@db/x"),
            ("postgres://a@db:5432/x", "postgres://a@db:5432/x"),
            ("consul://web?token=s3cret&tag=a", "consul://web?token=***&tag=a"),
            ("list://[fd00::1]:5,hal?file=a@b:c", "list://[fd00::1]:5,hal?file=a@b:c"),
            ("mdns", "mdns"),
        ] {
            assert_eq!(redacted(url), shown);
        }
        let twice = Url::parse("postgres://a:s3cret@db/x?host=1&host=2").expect("good");
        let twice = twice.only(&["host"]).expect_err("twice");
        assert!(!twice.to_string().contains("s3cret"), "{twice}");
    }

    #[test]
    fn nothing_that_can_be_written_panics() {
        for text in [
            "%",
            "@",
            "a:@",
            "://:@",
            "?token",
            "é:é@é?é",
            "a?=",
            "://",
            "x?%",
            "x?a=%e2%28",
            "x?a=%€€",
            "x?interval=99999999999999999999h",
        ] {
            let _ = redacted(text);
            if let Ok(url) = Url::parse(text) {
                let _ = url.duration("interval");
            }
        }
    }
}
