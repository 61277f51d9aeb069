//! What came of a run: from the trace, the leak's mark and what was seen from outside to its figures. Pure.

use serde::{Deserialize, Serialize};

use super::matrix::{Shape, THRESHOLD_MIB};
use super::watch::Watched;
use crate::node::manifest::is_pod_of;
use crate::node::trace::TraceRecord;

const MIB: i64 = 1 << 20;

/// What is known of the kernel's OOM kills during a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kills {
    /// By a counter of what runs here alone.
    Here(u64),
    /// By the machine's counter, which misses none and counts those of other programs too.
    Machine(u64),
}

/// What was seen of a run.
#[derive(Debug)]
pub struct Seen<'a> {
    /// Of the leak's pod.
    pub pod: &'a str,
    pub shape: Shape,
    /// Since the pod was asked for.
    pub trace: &'a [TraceRecord],
    /// The text of the leak's mark.
    pub mark: &'a str,
    pub watched: &'a Watched,
    pub limit_bytes: u64,
    /// By the kernel's account, where it has one.
    pub peak_bytes: Option<u64>,
    pub kills: Kills,
}

/// One run. Times in ms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub kernel_oom_kills: u64,
    /// Another pod than the leak was the first to go.
    pub wrong_victim: bool,
    /// Neighbours that ended.
    pub collateral: u32,
    /// The agent has evicted the leak.
    pub evicted: bool,
    /// It came to its own end: what leaves no room for a leak to be ended in.
    pub done: bool,
    /// Its SIGTERM handler ran to its end.
    pub sigterm_completed: bool,
    /// From SIGTERM until the handler was done, or until the process was gone; 0 without SIGTERM.
    pub warning_ms: i64,
    /// How far usage rose above the threshold. None where usage is page cache.
    pub overshoot_mib: Option<i64>,
    /// What was left when it was decided. None where nothing was.
    pub wasted_mib: Option<i64>,
}

impl Run {
    pub fn of(seen: &Seen<'_>) -> Run {
        let received_ms = mark_ms(seen.mark, "sigterm received");
        let handled_ms = mark_ms(seen.mark, "sigterm handled");
        let done = mark_ms(seen.mark, "done").is_some();
        let decisions: Vec<&TraceRecord> = seen.trace.iter().filter(|r| is_eviction(r)).collect();
        let own = decisions.iter().find(|r| is_pod_of(r.pod_name(), seen.pod)).copied();
        let ended_ms = seen.watched.ended_ns.map(|ns| ns / 1_000_000);
        let others: Vec<i64> = seen.watched.others_ended_ns.iter().flatten().copied().collect();
        let another_first = others.iter().any(|ns| seen.watched.ended_ns.is_none_or(|ended| *ns < ended))
            || decisions.first().is_some_and(|r| !is_pod_of(r.pod_name(), seen.pod));
        Run {
            kernel_oom_kills: kills(seen, done || handled_ms.is_some(), !others.is_empty()),
            wrong_victim: another_first,
            collateral: others.len() as u32,
            evicted: own.is_some(),
            done,
            sigterm_completed: handled_ms.is_some(),
            warning_ms: received_ms
                .map_or(0, |from| handled_ms.or(ended_ms).map_or(0, |to| (to - from).max(0))),
            overshoot_mib: overshoot_mib(seen),
            wasted_mib: own.and_then(|r| r.number("headroom_bytes")).map(|bytes| bytes / MIB).or_else(|| {
                // Of others' decisions nothing is told: what was left when their signal came.
                left_at(seen, received_ms? * 1_000_000)
            }),
        }
    }
}

impl Run {
    /// As everybody would have it: the leak could finish what it does at its end, and nobody else paid.
    pub fn in_order(&self) -> bool {
        let orderly = self.sigterm_completed || self.done;
        orderly && self.kernel_oom_kills == 0 && self.spared_others()
    }

    /// Nobody but the leak was ended, nor before it.
    pub fn spared_others(&self) -> bool {
        self.collateral == 0 && !self.wrong_victim
    }
}

/// Where only the machine's counter rose, it is about this run unless everything here came to an orderly end. The
/// processes of a fork bomb die one by one without a word.
fn kills(seen: &Seen<'_>, orderly: bool, others_ended: bool) -> u64 {
    match seen.kills {
        Kills::Here(kills) => kills,
        Kills::Machine(0) => 0,
        Kills::Machine(kills) => {
            let told = seen.trace.iter().any(|r| r.kind == "OomKill" && r.domain.as_deref() != Some("other"));
            let here = told || !orderly || others_ended || seen.shape == Shape::ForkBomb;
            if here { kills } else { 0 }
        }
    }
}

fn is_eviction(record: &TraceRecord) -> bool {
    record.kind == "Decision"
        && record.pod.is_some()
        && matches!(record.reason.as_str(), "ThresholdMet" | "ForecastOutOfMemory")
}

fn overshoot_mib(seen: &Seen<'_>) -> Option<i64> {
    if seen.shape == Shape::Dirty {
        return None;
    }
    let sampled = seen.watched.samples.iter().map(|sample| sample.used_bytes).max();
    let peak = sampled.max(seen.peak_bytes)?;
    let threshold = seen.limit_bytes.saturating_sub(THRESHOLD_MIB << 20);
    Some(i64::try_from(peak.saturating_sub(threshold) >> 20).unwrap_or(i64::MAX))
}

/// By the last sample before `at_ns`.
fn left_at(seen: &Seen<'_>, at_ns: i64) -> Option<i64> {
    let last = seen.watched.samples.iter().take_while(|sample| sample.at_ns <= at_ns).last()?;
    i64::try_from(seen.limit_bytes.saturating_sub(last.used_bytes) >> 20).ok()
}

/// The time of a line `WHAT MS` of a mark.
pub fn mark_ms(mark: &str, what: &str) -> Option<i64> {
    mark.lines().find_map(|line| line.strip_prefix(what)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::super::watch::Sample;
    use super::*;

    fn record(kind: &str, reason: &str, pod: &str, domain: &str) -> TraceRecord {
        serde_json::from_str(&format!(
            r#"{{"monotonic_ns":1,"kind":"{kind}","reason":"{reason}","domain":"{domain}","message":"",
                "pod":{{"namespace":"default","name":"{pod}","uid":"u"}},"numbers":{{"headroom_bytes":104857600}}}}"#
        ))
        .unwrap()
    }

    const SAMPLE: Sample = Sample { at_ns: 1_000_000_000, used_bytes: 960 << 20 };

    fn run(trace: &[TraceRecord], mark: &str, kills: Kills, others: &[Option<i64>]) -> Run {
        let watched = Watched {
            samples: vec![SAMPLE],
            ended_ns: Some(1_700_000_000),
            others_ended_ns: others.to_vec(),
        };
        Run::of(&Seen {
            pod: "ramp1",
            shape: Shape::Anonymous,
            trace,
            mark,
            watched: &watched,
            limit_bytes: 1024 << 20,
            peak_bytes: Some(950 << 20),
            kills,
        })
    }

    #[test]
    fn an_eviction_in_order() {
        let trace = [record("Decision", "ThresholdMet", "ramp1-node", "kubepods")];
        let mark = "sigterm received 1100\nsigterm handled 1600\n";
        let expected = Run {
            evicted: true,
            sigterm_completed: true,
            warning_ms: 500,
            overshoot_mib: Some(36),
            wasted_mib: Some(100),
            ..Run::default()
        };
        // Somebody else's kill on the machine is not ours.
        for kills in [Kills::Here(0), Kills::Machine(0), Kills::Machine(2)] {
            assert_eq!(run(&trace, mark, kills, &[None, None]), expected, "{kills:?}");
        }
    }

    #[test]
    fn the_kernel_kills() {
        let run_of =
            |kills| run(&[record("OomKill", "OomKilled", "ramp1-node", "kubepods")], "", kills, &[None]);
        for kills in [Kills::Here(1), Kills::Machine(1)] {
            let run = run_of(kills);
            assert_eq!((run.kernel_oom_kills, run.sigterm_completed, run.warning_ms), (1, false, 0));
            assert!(!run.wrong_victim && !run.evicted && run.wasted_mib.is_none());
        }
        // The trace may lack it: who is gone without a word was killed.
        assert_eq!(run(&[], "", Kills::Machine(1), &[]).kernel_oom_kills, 1);
        assert_eq!(
            run(&[record("OomKill", "OomKilled", "x", "other")], "done 7\n", Kills::Machine(1), &[])
                .kernel_oom_kills,
            0
        );
    }

    #[test]
    fn victims_and_collateral() {
        let own = record("Decision", "ForecastOutOfMemory", "ramp1-node", "kubepods");
        let other = record("Decision", "ForecastOutOfMemory", "best-effort1-node", "kubepods");
        for (trace, others, wrong, collateral) in [
            (vec![own.clone()], vec![None, None], false, 0),
            (vec![other.clone(), own.clone()], vec![Some(1_650_000_000), None], true, 1),
            (vec![own.clone(), other], vec![Some(1_800_000_000), None], false, 1),
            (vec![own], vec![Some(1_100_000_000), Some(1_100_000_000)], true, 2),
        ] {
            let run = run(&trace, "", Kills::Here(0), &others);
            assert_eq!((run.wrong_victim, run.collateral), (wrong, collateral), "{trace:?} {others:?}");
        }
    }

    #[test]
    fn a_handler_that_was_cut_short_and_anothers_signal() {
        let run = run(&[], "sigterm received 1000\n", Kills::Here(0), &[]);
        assert_eq!((run.sigterm_completed, run.warning_ms, run.wasted_mib), (false, 700, Some(64)));
    }
}
