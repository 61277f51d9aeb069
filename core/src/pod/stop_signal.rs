//! The signal that asks a container to end: an image's `STOPSIGNAL`, SIGTERM without one. Pure.

use std::fmt;

/// By number, 1 to 31. Real-time signals are left to the container runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopSignal(i32);

/// Names and numbers of Linux on all architectures that the agent is built for (asm-generic/signal.h), those that
/// images are known to name.
const NAMED: [(&str, i32); 10] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ABRT", 6),
    ("KILL", 9),
    ("USR1", 10),
    ("USR2", 12),
    ("TERM", 15),
    ("WINCH", 28),
    ("PWR", 30),
];

impl StopSignal {
    pub const TERM: StopSignal = StopSignal(15);

    /// `SIGTERM`, `TERM` or `15`; nothing at all is SIGTERM. `None`: the runtime may know what it means.
    #[must_use]
    pub fn parse(written: &str) -> Option<StopSignal> {
        let written = written.trim();
        if written.is_empty() {
            return Some(StopSignal::TERM);
        }
        if let Ok(number) = written.parse() {
            return (1..=31).contains(&number).then_some(StopSignal(number));
        }
        let upper = written.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        NAMED.iter().find(|(known, _)| *known == name).map(|(_, number)| StopSignal(*number))
    }

    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }
}

/// By number, as [`StopSignal::parse`] reads it.
impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_images_write() {
        for (written, expected) in [
            ("", Some(15)),
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("15", Some(15)),
            ("SIGQUIT", Some(3)),
            ("SIGINT", Some(2)),
            ("SIGWINCH", Some(28)),
            ("SIGRTMIN+3", None),
            ("37", None),
            ("0", None),
            ("-1", None),
            ("SIGNOTHING", None),
        ] {
            assert_eq!(StopSignal::parse(written).map(StopSignal::number), expected, "{written}");
        }
        assert_eq!(StopSignal::parse(&StopSignal::TERM.to_string()), Some(StopSignal::TERM));
    }
}
