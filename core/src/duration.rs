//! Go's duration syntax (`5m30s`, `1.5h`, `300ms`), as `metav1.Duration` reads it. Core.
//!
//! Own code: the general duration parsers at hand accept words and blanks that kubelet refuses or refuse
//! fractions that it accepts, and the crates made for Go's syntax are not maintained.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a duration of 0 or more (write it like \"20s\", \"5m30s\" or \"1.5h\"; units ns, us, ms, s, m, h)"
)]
pub struct DurationError(pub String);

/// # Errors
/// Not in Go's syntax, negative, or beyond 290 years (what Go can hold).
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    nanoseconds(text)
        .filter(|ns| i64::try_from(*ns).is_ok())
        .map(Duration::from_nanos)
        .ok_or_else(|| DurationError(text.to_owned()))
}

fn nanoseconds(text: &str) -> Option<u64> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let number_ends = rest.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(number_ends);
        let unit_ends = tail.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_ends);
        let unit_ns: u64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        total = total.checked_add(scaled(number, unit_ns)?)?;
        rest = tail;
    }
    Some(total)
}

/// `1.5` × unit; digits beyond a nanosecond are cut, as Go does.
fn scaled(number: &str, unit_ns: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole_ns = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()?.checked_mul(unit_ns)? };
    // 18 places are more than any unit has; scaled by 10^18 so that nothing is lost before the cut.
    let digits = fraction.bytes().take(18).fold(0u128, |sum, digit| sum * 10 + u128::from(digit - b'0'));
    let missing = 18 - u32::try_from(fraction.len().min(18)).ok()?;
    let below_ns = digits * 10u128.pow(missing) * u128::from(unit_ns) / 10u128.pow(18);
    whole_ns.checked_add(u64::try_from(below_ns).ok()?)
}

/// A `metav1.Duration` in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GoDuration(pub Duration);

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).map(GoDuration).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::parse;

    #[test]
    fn durations() {
        for (text, want_ns) in [
            ("0", 0),
            ("0s", 0),
            ("+0", 0),
            ("20s", 20_000_000_000),
            ("5m30s", 330_000_000_000),
            ("1h2m3s4ms5us6ns", 3_723_004_005_006),
            ("1.5h", 5_400_000_000_000),
            ("1.5h30m", 7_200_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("300ms", 300_000_000),
            ("2µs", 2_000),
            ("1.9ns", 1),
            ("0.3333333333333333333h", 1_199_999_999_999),
        ] {
            assert_eq!(parse(text).map(|d| d.as_nanos()), Ok(want_ns), "{text}");
        }
    }

    #[test]
    fn refused() {
        for text in
            ["", "5", "s", ".s", "5 s", "5min", "-5s", "1..5s", "1s2", "5d", "9999999h", "5m 30s", "+"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[0-9.hmsuµn+-]{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn whole_seconds(s in 0u64..1_000_000) {
            let text = format!("{}h{}m{}s", s / 3600, s / 60 % 60, s % 60);
            prop_assert_eq!(parse(&text).unwrap().as_secs(), s);
        }
    }
}
