//! Quantities of Kubernetes (`100m`, `64Mi`, `1e3`), as far as an annotation has them: read, and compared.
//!
//! Source of the rule: the comment of `Quantity` in `k8s.io/apimachinery/pkg/api/resource`.

use std::cmp::Ordering;

/// More digits than anybody means.
const DIGITS_MAX: usize = 15;
/// A billionth, the finest that Kubernetes keeps.
const NANOS: u128 = 1_000_000_000;

/// An amount of a resource, above zero.
#[derive(Clone, Debug)]
pub struct Quantity {
    text: String,
    nanos: u128,
}

impl Quantity {
    /// Reads a quantity; fractions of a billionth are rounded up. `None` when it is none, or negative, or too long.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = whole.len() + fraction.len();
        if digits == 0 || digits > DIGITS_MAX || fraction.contains('.') {
            return None;
        }
        let mantissa: u128 = format!("{whole}{fraction}").parse().ok()?;
        let (times, over) = scale(suffix)?;
        let over = over.checked_mul(10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
        let nanos = mantissa.checked_mul(times)?.checked_mul(NANOS)?.div_ceil(over);
        Some(Self { text: text.to_owned(), nanos })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// What the number is multiplied with and divided by.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    const K: u128 = 1000;
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, NANOS),
        "u" => (1, K * K),
        "m" => (1, K),
        "k" => (K, 1),
        "M" => (K * K, 1),
        "G" => (K * K * K, 1),
        "T" => (K.pow(4), 1),
        "P" => (K.pow(5), 1),
        "E" => (K.pow(6), 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let ten = 10_u128.checked_pow(power.unsigned_abs()).filter(|_| power.abs() <= 18)?;
            if power < 0 { (1, ten) } else { (ten, 1) }
        }
    })
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_and_compared_as_kubernetes_does() {
        let read = |text| Quantity::parse(text).unwrap_or_else(|| panic!("{text} is a quantity"));
        for (smaller, larger) in [
            ("1n", "1u"),
            ("999u", "1m"),
            ("100m", "0.2"),
            ("0.5", "1"),
            ("1000", "1Ki"),
            ("1M", "1Mi"),
            ("64Mi", "0.1Gi"),
            ("1e3", "1025"),
            ("1E", "2e18"),
            ("5e-1", "1"),
            ("7E", "7Ei"),
        ] {
            assert!(read(smaller) < read(larger), "{smaller} < {larger}");
        }
        for (one, other) in [("1000m", "1"), ("1024Ki", "1Mi"), (".5", "500m"), ("1.", "1")] {
            assert_eq!(read(one), read(other), "{one} = {other}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in [
            "",
            "lots",
            "-1",
            "+1",
            "1.2.3",
            "64MB",
            "64mi",
            "1 Gi",
            "1e",
            "1e99",
            ".",
            "Mi",
            "1e-40",
            "٣",
            "1234567890123456",
            "999999999999999Ei1",
        ] {
            assert_eq!(Quantity::parse(text).map(|q| q.text), None, "{text}");
        }

        assert!(Quantity::parse("15Ei").is_some(), "what Kubernetes calls the largest");
    }
}
