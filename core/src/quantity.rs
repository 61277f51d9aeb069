//! Kubernetes quantities (`100Mi`, `0.5`, `250m`, `1e3`) as plain integers. Core: reads strings, emits numbers.
//!
//! The arithmetic is exact decimal (`rust_decimal`): going through `f64` would turn `1.1` CPUs into 1101
//! millicores, and cutting the fraction before the suffix would turn `1.5Gi` into `1Gi`. What does not come
//! out whole is rounded up, as apimachinery's `Quantity.Value()` and `MilliValue()` do.

use std::collections::BTreeMap;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error(
        "quantity {0:?} is not a number with an optional suffix (write it like \"100Mi\", \"0.5\", \"250m\" or \"1e3\")"
    )]
    Syntax(String),
    #[error("quantity {0:?} is negative; resources are counted from 0")]
    Negative(String),
    #[error("quantity {0:?} is too large (the most is 2^63-1)")]
    TooLarge(String),
}

/// Bytes, rounded up: `"1.5Gi"` → 1610612736, `"100m"` → 1.
///
/// # Errors
/// Not a quantity, negative, or beyond 2^63-1.
pub fn parse_bytes(text: &str) -> Result<u64, QuantityError> {
    scaled(text, 1)
}

/// Thousandths of a CPU, rounded up: `"0.5"` → 500, `"250m"` → 250, `"100u"` → 1.
///
/// # Errors
/// As [`parse_bytes`].
pub fn parse_milli_cpu(text: &str) -> Result<u64, QuantityError> {
    scaled(text, 1000)
}

/// One quantity of a resource list (`requests`, `limits`, `overhead`), in bytes. `Ok(None)`: not listed.
///
/// # Errors
/// The listed quantity does not parse.
pub fn bytes_of(list: Option<&BTreeMap<String, Quantity>>, key: &str) -> Result<Option<u64>, QuantityError> {
    list.and_then(|l| l.get(key)).map(|q| parse_bytes(&q.0)).transpose()
}

/// As [`bytes_of`], in thousandths of a CPU.
///
/// # Errors
/// The listed quantity does not parse.
pub fn milli_cpu_of(
    list: Option<&BTreeMap<String, Quantity>>,
    key: &str,
) -> Result<Option<u64>, QuantityError> {
    list.and_then(|l| l.get(key)).map(|q| parse_milli_cpu(&q.0)).transpose()
}

/// The shortest exact form with a binary suffix: `104857600` → `"100Mi"`, `1000` → `"1000"`.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    const SUFFIXES: [(&str, u32); 6] =
        [("Ei", 60), ("Pi", 50), ("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
    for (suffix, shift) in SUFFIXES {
        let unit = 1u64 << shift;
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{suffix}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// The same with a decimal suffix, as Kubernetes writes counts: `5000` → `"5k"`, `1500` → `"1500"`.
#[must_use]
pub fn format_count(count: u64) -> String {
    const SUFFIXES: [(&str, u32); 6] = [("E", 18), ("P", 15), ("T", 12), ("G", 9), ("M", 6), ("k", 3)];
    for (suffix, exponent) in SUFFIXES {
        let unit = 10u64.pow(exponent);
        if count >= unit && count.is_multiple_of(unit) {
            return format!("{}{suffix}", count / unit);
        }
    }
    count.to_string()
}

fn scaled(text: &str, per_unit: u32) -> Result<u64, QuantityError> {
    let syntax = || QuantityError::Syntax(text.to_owned());
    let too_large = || QuantityError::TooLarge(text.to_owned());
    let end_of_number = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end_of_number);
    let digits = number.strip_prefix(['+', '-']).unwrap_or(number);
    if !digits.contains(|c: char| c.is_ascii_digit()) || digits.contains(['+', '-']) {
        return Err(syntax());
    }
    let value = Decimal::from_str(digits)
        .map_err(|_| if digits.matches('.').count() > 1 { syntax() } else { too_large() })?;
    if value.is_zero() {
        multiplier(suffix).ok_or_else(syntax)?;
        return Ok(0);
    }
    if number.starts_with('-') {
        return Err(QuantityError::Negative(text.to_owned()));
    }
    let value = match multiplier(suffix).ok_or_else(syntax)? {
        Multiplier::Times(factor) => value.checked_mul(Decimal::from(factor)),
        Multiplier::TenTo(exponent) => match u32::try_from(exponent) {
            Ok(up) => 10u64.checked_pow(up).and_then(|f| value.checked_mul(Decimal::from(f))),
            // Anything below 10^-18 rounds up to the same 1 as 10^-18 does.
            Err(_) => {
                let down = exponent.unsigned_abs().min(18);
                value.checked_div(Decimal::from(10u64.pow(down)))
            }
        },
    };
    value
        .and_then(|v| v.checked_mul(Decimal::from(per_unit)))
        .map(|v| v.ceil().max(Decimal::ONE))
        .and_then(|v| v.to_u64())
        .filter(|&v| i64::try_from(v).is_ok())
        .ok_or_else(too_large)
}

enum Multiplier {
    Times(u64),
    TenTo(i32),
}

/// apimachinery's suffixer: binary SI, decimal SI, decimal exponent.
fn multiplier(suffix: &str) -> Option<Multiplier> {
    Some(match suffix {
        "Ki" => Multiplier::Times(1 << 10),
        "Mi" => Multiplier::Times(1 << 20),
        "Gi" => Multiplier::Times(1 << 30),
        "Ti" => Multiplier::Times(1 << 40),
        "Pi" => Multiplier::Times(1 << 50),
        "Ei" => Multiplier::Times(1 << 60),
        "n" => Multiplier::TenTo(-9),
        "u" => Multiplier::TenTo(-6),
        "m" => Multiplier::TenTo(-3),
        "" => Multiplier::TenTo(0),
        "k" => Multiplier::TenTo(3),
        "M" => Multiplier::TenTo(6),
        "G" => Multiplier::TenTo(9),
        "T" => Multiplier::TenTo(12),
        "P" => Multiplier::TenTo(15),
        "E" => Multiplier::TenTo(18),
        _ => Multiplier::TenTo(suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes() {
        for (text, want) in [
            ("0", 0),
            ("1", 1),
            ("+5", 5),
            ("5.", 5),
            (".5k", 500),
            ("67108864", 64 << 20),
            ("1Ki", 1 << 10),
            ("100Mi", 100 << 20),
            ("1.5Gi", 3 << 29),
            ("2Ti", 2 << 40),
            ("3Pi", 3 << 50),
            ("1Ei", 1 << 60),
            ("1k", 1000),
            ("128M", 128_000_000),
            ("1G", 1_000_000_000),
            ("9E", 9_000_000_000_000_000_000),
            ("1e3", 1000),
            ("1E3", 1000),
            ("1.25e3", 1250),
            ("5e-1", 1),
            ("1e-40", 1),
            ("0e400", 0),
            ("-0", 0),
            ("1100m", 2),
            ("100m", 1),
            ("1n", 1),
            ("9223372036854775807", i64::MAX as u64),
        ] {
            assert_eq!(parse_bytes(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn millicores() {
        for (text, want) in [
            ("1", 1000),
            ("0.5", 500),
            ("250m", 250),
            ("1.1", 1100),
            ("1.005", 1005),
            ("100u", 1),
            ("2e1", 20_000),
        ] {
            assert_eq!(parse_milli_cpu(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn refused() {
        for text in [
            "", "Mi", "m", "inf", "NaN", "1 Gi", " 1", "1gi", "1GB", "1.2.3", "5..", "--1", "1-2", "+", ".",
            "e3", "1e", "1e1.5", "ä",
        ] {
            assert_eq!(parse_bytes(text), Err(QuantityError::Syntax(text.to_owned())), "{text}");
        }
        for text in ["8Ei", "10E", "9223372036854775808", "1e30", "1e999", "99999999999999999999999999999999"]
        {
            assert_eq!(parse_bytes(text), Err(QuantityError::TooLarge(text.to_owned())), "{text}");
        }
        assert_eq!(parse_bytes("-1"), Err(QuantityError::Negative("-1".to_owned())));
    }

    #[test]
    fn formatted() {
        for (bytes, want) in [
            (0, "0"),
            (1000, "1000"),
            (1024, "1Ki"),
            (1536, "1536"),
            (100 << 20, "100Mi"),
            (3 << 29, "1536Mi"),
            ((100 << 20) + 4096, "102404Ki"),
            (1 << 60, "1Ei"),
            (u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!(format_bytes(bytes), want);
        }
    }

    #[test]
    fn counts() {
        for (count, want) in [
            (0, "0"),
            (999, "999"),
            (5000, "5k"),
            (1500, "1500"),
            (2_000_000, "2M"),
            (u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!(format_count(count), want);
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = parse_bytes(&text);
            let _ = parse_milli_cpu(&text);
        }

        #[test]
        fn formatted_bytes_parse_back(bytes in 0..=i64::MAX as u64) {
            prop_assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes));
        }
    }
}
