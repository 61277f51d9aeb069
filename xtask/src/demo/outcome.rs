//! What came of one part: from the trace and what was seen from outside to the figures of the table.

use serde::Serialize;

use crate::node::manifest::is_pod_of;
use crate::node::trace::TraceRecord;

const MIB: i64 = 1 << 20;

pub const HOG: &str = "hog";
pub const NEIGHBOURS: [&str; 3] = ["guaranteed", "burstable", "best-effort"];

/// The keys are the demo's interface: scripts read them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    pub kernel_oom_kills: usize,
    /// Pods that the kernel killed in.
    pub died: Vec<String>,
    pub evicted: Vec<String>,
    /// The hog's handler ran to its end.
    pub sigterm_handled: bool,
    /// The same containers as before the hog, never restarted.
    pub neighbours_alive: bool,
    /// From the hog's SIGTERM to its end; 0 when it had none.
    pub warning_ms: i64,
    pub signal_to_decision_us: Option<i64>,
    /// Of kubepods: when the eviction was decided, or when the kernel killed.
    pub usage_at_decision_mib: Option<i64>,
    pub cap_mib: u64,
}

/// What the demo saw besides the trace.
#[derive(Clone, Debug)]
pub struct Seen {
    pub neighbours_alive: bool,
    /// The text of the hog's mark file; empty when there is none.
    pub mark: String,
    /// Milliseconds of CLOCK_MONOTONIC when the hog was first seen gone.
    pub hog_gone_ms: i64,
    pub cap_mib: u64,
}

impl Outcome {
    pub fn of(trace: &[TraceRecord], seen: &Seen) -> Outcome {
        let (kills, evictions) = (oom_kills(trace), evictions(trace));
        let known = [&NEIGHBOURS[..], &[HOG]].concat();
        let first = evictions.iter().find(|r| is_pod_of(r.pod_name(), HOG)).or(evictions.first()).copied();
        let usage = first.or(kills.first().copied()).and_then(|r| r.number("usage_bytes"));
        let received_ms = mark_ms(&seen.mark, "sigterm received");
        let handled_ms = mark_ms(&seen.mark, "sigterm handled");
        Outcome {
            kernel_oom_kills: kills.len(),
            died: names(&kills, &known),
            evicted: names(&evictions, &known),
            sigterm_handled: handled_ms.is_some(),
            neighbours_alive: seen.neighbours_alive,
            warning_ms: received_ms.map_or(0, |from| handled_ms.unwrap_or(seen.hog_gone_ms) - from),
            signal_to_decision_us: first.and_then(|r| r.number("signal_to_decision_us")),
            usage_at_decision_mib: usage.map(|bytes| bytes / MIB),
            cap_mib: seen.cap_mib,
        }
    }

    /// Why this is not what part B promises; empty when it is.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let mut want = |holds: bool, what: String| {
            if !holds {
                failures.push(what);
            }
        };
        want(self.kernel_oom_kills == 0, format!("the kernel killed in {:?}", self.died));
        want(self.evicted == [HOG], format!("evicted were {:?}", self.evicted));
        want(self.sigterm_handled, "the hog's SIGTERM handler did not run to its end".to_owned());
        want(self.neighbours_alive, "not all neighbours live on".to_owned());
        want(
            self.signal_to_decision_us.is_some(),
            "the trace tells no time from signal to decision".to_owned(),
        );
        match self.usage_at_decision_mib {
            Some(usage) => {
                want(
                    usage < self.cap_mib as i64,
                    format!("{usage} MiB were in use at the decision, the cap and more"),
                );
            }
            None => want(false, "the trace tells no usage at the decision".to_owned()),
        }
        failures
    }
}

/// The kernel's, within the cap: a limit elsewhere on the machine has nothing to do with this node.
pub fn oom_kills(trace: &[TraceRecord]) -> Vec<&TraceRecord> {
    let elsewhere = |r: &TraceRecord| r.domain.as_deref() == Some("other");
    trace.iter().filter(|r| r.kind == "OomKill" && !elsewhere(r)).collect()
}

/// The decisions to evict a pod for memory.
pub fn evictions(trace: &[TraceRecord]) -> Vec<&TraceRecord> {
    let for_memory = |r: &TraceRecord| matches!(r.reason.as_str(), "ThresholdMet" | "ForecastOutOfMemory");
    trace.iter().filter(|r| r.kind == "Decision" && for_memory(r) && r.pod.is_some()).collect()
}

/// What the pods are of, without repetition, in order of appearance; a pod of none of the known keeps its own name.
pub fn names(records: &[&TraceRecord], known: &[&str]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for record in records {
        let pod = record.pod_name();
        let known = known.iter().copied().find(|name| is_pod_of(pod, name));
        let name = known.unwrap_or(if pod.is_empty() { "(no pod)" } else { pod });
        if !names.iter().any(|n| n == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// The time of a line `WHAT MS` of the mark file.
pub fn mark_ms(mark: &str, what: &str) -> Option<i64> {
    mark.lines().find_map(|line| line.strip_prefix(what)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: &str, reason: &str, pod: &str, numbers: &str) -> TraceRecord {
        let pod = if pod.is_empty() {
            "null".to_owned()
        } else {
            format!(r#"{{"namespace":"default","name":"{pod}","uid":"u"}}"#)
        };
        serde_json::from_str(&format!(
            r#"{{"monotonic_ns":1,"kind":"{kind}","reason":"{reason}","pod":{pod},"message":"","numbers":{{{numbers}}}}}"#
        ))
        .unwrap()
    }

    fn seen(alive: bool, mark: &str) -> Seen {
        Seen { neighbours_alive: alive, mark: mark.to_owned(), hog_gone_ms: 1300, cap_mib: 400 }
    }

    #[test]
    fn the_kernel_kills() {
        let trace = [
            record("Signal", "KernelSignal", "", ""),
            record("OomKill", "OomKilled", "hog-node", r#""usage_bytes":419430400,"limit_bytes":419430400"#),
        ];
        let outcome = Outcome::of(&trace, &seen(true, ""));
        assert_eq!(outcome.died, ["hog"]);
        assert_eq!(
            (outcome.kernel_oom_kills, outcome.warning_ms, outcome.usage_at_decision_mib),
            (1, 0, Some(400))
        );
        assert!(!outcome.sigterm_handled && outcome.evicted.is_empty());
        assert!(!outcome.failures().is_empty());
    }

    #[test]
    fn the_agent_evicts() {
        let mut elsewhere = record("OomKill", "OomKilled", "", "");
        elsewhere.domain = Some("other".to_owned());
        let decision = record(
            "Decision",
            "ForecastOutOfMemory",
            "hog-node",
            r#""usage_bytes":314572800,"limit_bytes":419430400,"signal_to_decision_us":220"#,
        );
        let trace = [elsewhere, decision];
        let outcome = Outcome::of(&trace, &seen(true, "sigterm received 700\nsigterm handled 1201\n"));
        assert_eq!(outcome.failures(), Vec::<String>::new());
        assert_eq!((outcome.warning_ms, outcome.signal_to_decision_us), (501, Some(220)));
    }

    #[test]
    fn each_way_to_fail_is_named() {
        let good = Outcome {
            kernel_oom_kills: 0,
            died: vec![],
            evicted: vec![HOG.to_owned()],
            sigterm_handled: true,
            neighbours_alive: true,
            warning_ms: 500,
            signal_to_decision_us: Some(1),
            usage_at_decision_mib: Some(300),
            cap_mib: 400,
        };
        for (outcome, said) in [
            (Outcome { kernel_oom_kills: 1, died: vec!["hog".to_owned()], ..good.clone() }, "kernel"),
            (
                Outcome { evicted: vec!["hog".to_owned(), "burstable".to_owned()], ..good.clone() },
                "burstable",
            ),
            (Outcome { sigterm_handled: false, ..good.clone() }, "handler"),
            (Outcome { neighbours_alive: false, ..good.clone() }, "neighbours"),
            (Outcome { signal_to_decision_us: None, ..good.clone() }, "signal"),
            (Outcome { usage_at_decision_mib: Some(400), ..good.clone() }, "400 MiB"),
            (Outcome { usage_at_decision_mib: None, ..good.clone() }, "usage"),
        ] {
            let failures = outcome.failures();
            assert!(failures.len() == 1 && failures[0].contains(said), "{failures:?}");
        }
    }

    #[test]
    fn a_handler_that_was_cut_short_counts_until_the_end() {
        let outcome = Outcome::of(&[], &seen(true, "sigterm received 1000\n"));
        assert_eq!((outcome.sigterm_handled, outcome.warning_ms), (false, 300));
    }
}
