//! A container's termination message from the end of its log. Pure.

/// kubelet's `MaxContainerTerminationMessageLength`.
pub const MAX_MESSAGE_BYTES: usize = 4096;
/// Of the log, kubelet takes at most this much (`MaxContainerTerminationMessageLogLength`, `…LogLines`).
pub const MAX_LOG_BYTES: usize = 2048;
const MAX_LOG_LINES: usize = 80;

/// `log`: the end of a log in CRI format, `<time> <stream> <F|P> <text>` a line; its first line may be cut.
#[must_use]
pub fn from_log(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let last = &lines[lines.len().saturating_sub(MAX_LOG_LINES)..];
    let mut text = String::new();
    for line in last {
        let mut fields = line.splitn(4, ' ');
        let (Some(_time), Some("stdout" | "stderr"), Some(tag), Some(content)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        text.push_str(content);
        // P: the line goes on in the next record.
        if tag.split(':').next() == Some("F") {
            text.push('\n');
        }
    }
    tail(&text, MAX_LOG_BYTES).to_owned()
}

/// At most the last `max` bytes, at a character's edge.
fn tail(text: &str, max: usize) -> &str {
    let mut start = text.len().saturating_sub(max);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_ends() {
        let many = |n: usize| (0..n).map(|i| format!("t stdout F {i}\n")).collect::<String>();
        for (log, expected) in [
            (String::new(), String::new()),
            ("cut off\n2026-01-01T00:00:00Z stderr F boom\n".into(), "boom\n".into()),
            ("t stdout P par\nt stdout F tial\n".into(), "partial\n".into()),
            ("t stdout F two words  kept\n".into(), "two words  kept\n".into()),
            (many(100), (20..100).map(|i| format!("{i}\n")).collect()),
        ] {
            assert_eq!(from_log(&log), expected);
        }
        assert_eq!(from_log(&format!("t stdout F {}", "é".repeat(4000))).len(), MAX_LOG_BYTES - 1);
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(log in ".{0,5000}") {
            proptest::prop_assert!(from_log(&log).len() <= MAX_LOG_BYTES);
        }
    }
}
