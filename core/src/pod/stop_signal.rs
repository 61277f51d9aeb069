//! The signal that asks a container to end: its manifest's (`lifecycle.stopSignal`), or an image's `STOPSIGNAL`; SIGTERM
//! without either. Pure.

use std::fmt;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::spec::all_containers;

/// By number, 1 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopSignal(i32);

/// Names and numbers of Linux on all architectures that the agent is built for (asm-generic/signal.h).
const NAMED: [(&str, i32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// Of the signals that programs may use as they like, as the C library counts them.
const REAL_TIME: (i32, i32) = (34, 64);

impl StopSignal {
    pub const TERM: StopSignal = StopSignal(15);

    /// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, `RTMAX-1`; nothing at all is SIGTERM. `None`: the runtime may know what it
    /// means.
    #[must_use]
    pub fn parse(written: &str) -> Option<StopSignal> {
        let written = written.trim();
        if written.is_empty() {
            return Some(StopSignal::TERM);
        }
        if let Ok(number) = written.parse() {
            return (1..=REAL_TIME.1).contains(&number).then_some(StopSignal(number));
        }
        let upper = written.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let named = NAMED.iter().find(|(known, _)| *known == name).map(|(_, number)| StopSignal(*number));
        named.or_else(|| real_time(name))
    }

    /// That the container's manifest asks for, whatever its image does.
    #[must_use]
    pub fn of(container: &Container) -> Option<StopSignal> {
        StopSignal::parse(container.lifecycle.as_ref()?.stop_signal.as_deref()?)
    }

    /// Names of the containers that have one of their own: only the agent knows of it.
    pub fn own(pod: &Pod) -> impl Iterator<Item = &str> {
        let containers = pod.spec.iter().flat_map(all_containers);
        containers.filter(|c| StopSignal::of(c).is_some()).map(|c| c.name.as_str())
    }

    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }
}

/// `RTMIN+3`, `RTMAX-1`.
fn real_time(name: &str) -> Option<StopSignal> {
    let (first, last) = REAL_TIME;
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => first,
        (_, Some("")) => last,
        (Some(more), _) => first.checked_add(more.strip_prefix('+')?.parse().ok()?)?,
        (_, Some(less)) => last.checked_sub(less.strip_prefix('-')?.parse().ok()?)?,
        (None, None) => return None,
    };
    (first..=last).contains(&number).then_some(StopSignal(number))
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
            ("SIGRTMIN+3", Some(37)),
            ("SIGRTMAX-4", Some(60)),
            ("RTMIN", Some(34)),
            ("RTMAX+1", None),
            ("RTMIN+31", None),
            ("RTMIN-1", None),
            ("37", Some(37)),
            ("65", None),
            ("0", None),
            ("-1", None),
            ("SIGNOTHING", None),
        ] {
            assert_eq!(StopSignal::parse(written).map(StopSignal::number), expected, "{written}");
        }
        assert_eq!(StopSignal::parse(&StopSignal::TERM.to_string()), Some(StopSignal::TERM));
    }
}
