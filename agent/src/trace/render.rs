//! One line a record, for people.

use std::fmt::Write as _;

use owo_colors::{AnsiColors, OwoColorize as _};

use oomlet_core::trace::record::{Kind, Record};

/// `HH:MM:SS.mmm  Kind  Reason  pod/container [domain] message (numbers)`; the time of day is UTC.
#[must_use]
pub fn line(record: &Record, colour: bool) -> String {
    let mut out = String::with_capacity(160);
    let ms = record.unix_ms;
    let _ = write!(
        out,
        "{:02}:{:02}:{:02}.{:03}  ",
        ms / 3_600_000 % 24,
        ms / 60_000 % 60,
        ms / 1000 % 60,
        ms % 1000
    );
    let kind = format!("{:<9}", record.kind.as_str());
    if colour {
        let _ = write!(out, "{}", kind.color(colour_of(record.kind)).bold());
    } else {
        out.push_str(&kind);
    }
    let _ = write!(out, "{:<20} ", record.reason.as_str());
    if let Some(pod) = &record.pod {
        let _ = write!(out, "{}/{}", pod.namespace, pod.name);
        if let Some(container) = &record.container {
            let _ = write!(out, "/{container}");
        }
        out.push(' ');
    }
    if let Some(domain) = &record.domain {
        let _ = write!(out, "[{domain}] ");
    }
    out.push_str(&record.message);
    if !record.numbers.is_empty() {
        let numbers: Vec<String> = record.numbers.iter().map(|(k, v)| number(k, *v)).collect();
        let numbers = format!("  ({})", numbers.join(", "));
        if colour {
            let _ = write!(out, "{}", numbers.dimmed());
        } else {
            out.push_str(&numbers);
        }
    }
    out
}

const fn colour_of(kind: Kind) -> AnsiColors {
    match kind {
        Kind::OomKill => AnsiColors::Red,
        Kind::Eviction | Kind::Decision | Kind::Brake => AnsiColors::Yellow,
        Kind::Warning => AnsiColors::Magenta,
        Kind::Pod => AnsiColors::Green,
        Kind::Signal | Kind::Forecast => AnsiColors::Cyan,
        Kind::Agent | Kind::Node => AnsiColors::Blue,
    }
}

/// `usage_bytes` of 104857600 reads `usage 100.0 MiB`; other units stay as they are: `lead 12 ms`.
fn number(name: &str, value: i64) -> String {
    let (what, unit) = name.rsplit_once('_').unwrap_or((name, ""));
    let what = what.replace('_', " ");
    match unit {
        "bytes" => format!("{what} {:.1} MiB", value as f64 / f64::from(1 << 20)),
        "ms" | "us" | "ns" | "s" => format!("{what} {value} {unit}"),
        _ => format!("{} {value}", name.replace('_', " ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oomlet_core::clock::Mono;
    use oomlet_core::pod::PodRef;
    use oomlet_core::reason::Reason;

    #[test]
    fn lines() {
        let pod = PodRef { uid: "u".into(), namespace: "default".into(), name: "hog".into() };
        let mut killed =
            Record::new(Mono(1), Kind::OomKill, Reason::OomKilled, "the kernel killed leak (pid 7)")
                .pod(&pod)
                .container("leak")
                .domain("container")
                .number("usage_bytes", 64 << 20)
                .number("victim_pid", 7)
                .number("lead_ms", 12);
        killed.unix_ms = 3_723_004;
        assert_eq!(
            line(&killed, false),
            "01:02:03.004  OomKill  OomKilled            default/hog/leak [container] the kernel killed leak (pid 7)  \
             (lead 12 ms, usage 64.0 MiB, victim pid 7)"
        );
        assert!(line(&killed, true).contains("\u{1b}["), "a terminal gets colour");
        let plain = Record::new(Mono(1), Kind::Agent, Reason::AgentStarted, "tier 2");
        assert_eq!(line(&plain, false), "00:00:00.000  Agent    AgentStarted         tier 2");
    }
}
