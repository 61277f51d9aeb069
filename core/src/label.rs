//! What may be a label's or a taint's key and value (k8s.io/apimachinery/pkg/util/validation). Core.
//!
//! - [`selector`]: which labels a selector chooses.

pub mod selector;

/// # Errors
/// What is wrong with `[prefix/]name`.
pub fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix
        && !is_subdomain(prefix)
    {
        return Err(format!("the prefix of {key:?} must be a DNS-1123 subdomain: a-z, 0-9, - and ."));
    }
    if name.is_empty() || !is_name(name) {
        return Err(format!(
            "{key:?} must be a name of at most 63 characters out of A-Z, a-z, 0-9, -, _ and ., with a letter or digit at its ends, after a prefix and / where it has one"
        ));
    }
    Ok(())
}

/// # Errors
/// What is wrong with the value of a label.
pub fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_name(value) {
        return Ok(());
    }
    Err(format!(
        "the value {value:?} must be at most 63 characters out of A-Z, a-z, 0-9, -, _ and ., with a letter or digit at its ends"
    ))
}

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()].into_iter().flatten().all(u8::is_ascii_alphanumeric);
    let all = bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b));
    ends && all && bytes.len() <= 63
}

fn is_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        let bytes = part.as_bytes();
        let allowed = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        bytes.first().is_some_and(allowed)
            && bytes.last().is_some_and(allowed)
            && bytes.iter().all(|b| allowed(b) || *b == b'-')
    };
    text.len() <= 253 && text.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values() {
        let long = "x".repeat(64);
        for key in ["a", "A-1_b.c", "example.com/role", "node.kubernetes.io/x"] {
            assert_eq!(check_key(key), Ok(()), "{key}");
        }
        for key in ["", "/a", "a/", "a/b/c", "-a", "a-", "Upper.Case/x", "a b", "x..y/z", long.as_str()] {
            assert!(check_key(key).is_err(), "{key}");
        }
        for value in ["", "v", "1.2-3_x"] {
            assert_eq!(check_value(value), Ok(()), "{value}");
        }
        for value in ["-v", "a/b", "ü", long.as_str()] {
            assert!(check_value(value).is_err(), "{value}");
        }
    }
}
