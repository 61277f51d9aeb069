//! What came of the demo in a cluster.

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use super::objects::{HOG, WEB, WEB_REPLICAS};
use crate::demo::outcome::{evictions, mark_ms, names, oom_kills};
use crate::node::trace::TraceRecord;

/// The keys are the demo's interface: scripts read them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// From the start of an agent with a bootstrap token.
    pub node_ready_ms: i64,
    /// Of the Deployment beside the hog, at the end, and never restarted.
    pub pods_ready: usize,
    pub kernel_oom_kills: usize,
    /// Deployments that a pod was evicted of.
    pub evicted: Vec<String>,
    pub replaced: bool,
    pub reason_in_describe: bool,
    #[serde(skip)]
    sigterm_handled: bool,
}

/// What the demo saw besides the trace.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub node_ready_ms: i64,
    pub pods_ready: usize,
    pub replaced: bool,
    /// By `kubectl describe`, of the evicted pod.
    pub described: String,
    /// The text of the hog's mark file.
    pub mark: String,
}

impl Outcome {
    pub fn of(trace: &[TraceRecord], seen: Seen) -> Outcome {
        Outcome {
            node_ready_ms: seen.node_ready_ms,
            pods_ready: seen.pods_ready,
            kernel_oom_kills: oom_kills(trace).len(),
            evicted: names(&evictions(trace), &[HOG, WEB]),
            replaced: seen.replaced,
            reason_in_describe: tells_why(&seen.described),
            sigterm_handled: mark_ms(&seen.mark, "sigterm handled").is_some(),
        }
    }

    /// Why this is not what the demo promises; empty when it is.
    pub fn failures(&self) -> Vec<String> {
        let (ready, wanted) = (self.pods_ready, WEB_REPLICAS);
        [
            (self.kernel_oom_kills == 0, format!("the kernel killed {} times", self.kernel_oom_kills)),
            (self.evicted == [HOG], format!("evicted were {:?}", self.evicted)),
            (self.sigterm_handled, "the hog's SIGTERM handler did not run to its end".to_owned()),
            (self.replaced, "the evicted pod has no replacement that is ready".to_owned()),
            (self.reason_in_describe, "`kubectl describe pod` does not tell why".to_owned()),
            (ready == wanted, format!("{ready} of {wanted} pods beside it are ready as before")),
        ]
        .into_iter()
        .filter_map(|(holds, what)| (!holds).then_some(what))
        .collect()
    }

    pub fn table(&self) -> Table {
        let yes = |b: bool| if b { "yes" } else { "no" }.to_owned();
        let evicted = if self.evicted.is_empty() { "-".to_owned() } else { self.evicted.join(", ") };
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(["", "in a cluster"]);
        for (name, value) in [
            ("from bootstrap token to node Ready, ms", self.node_ready_ms.to_string()),
            ("kernel OOM kills", self.kernel_oom_kills.to_string()),
            ("evicted", evicted),
            ("SIGTERM handler ran to its end", yes(self.sigterm_handled)),
            ("replaced by its Deployment", yes(self.replaced)),
            ("`kubectl describe` tells why", yes(self.reason_in_describe)),
            ("pods beside it ready as before", format!("{} of {WEB_REPLICAS}", self.pods_ready)),
        ] {
            table.add_row([Cell::new(name), Cell::new(value).set_alignment(CellAlignment::Right)]);
        }
        table
    }
}

/// The pod's reason and message, and an Event of it.
pub fn tells_why(described: &str) -> bool {
    let said = |key: &str, value: &str| {
        described.lines().any(|line| line.strip_prefix(key).is_some_and(|rest| rest.contains(value)))
    };
    let event = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.starts_with(&["Warning", "Evicted"])
    };
    said("Reason:", "Evicted") && said("Message:", "low on resource: memory") && described.lines().any(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESCRIBED: &str = "Name:    hog-7d-x\nStatus:  Failed\nReason:  Evicted\n\
        Message: The node was low on resource: memory. Forecast: 9Mi left\nEvents:\n  Type  Reason  Age\n  \
        Warning  Evicted  2s  kubelet  The node was low on resource: memory.\n";

    #[test]
    fn people_are_told_why() {
        for (text, expected) in [
            (DESCRIBED.to_owned(), true),
            (DESCRIBED.replace("Reason:  Evicted", "Reason:  Error"), false),
            (DESCRIBED.replace("Message: ", "Message: \n"), false),
            (DESCRIBED.replace("  Warning  Evicted", "  Normal  Killing"), false),
            (String::new(), false),
        ] {
            assert_eq!(tells_why(&text), expected, "{text}");
        }
    }

    #[test]
    fn each_way_to_fail_is_named() {
        let good = Outcome {
            node_ready_ms: 900,
            pods_ready: WEB_REPLICAS,
            kernel_oom_kills: 0,
            evicted: vec![HOG.to_owned()],
            replaced: true,
            reason_in_describe: true,
            sigterm_handled: true,
        };
        assert_eq!(good.failures(), Vec::<String>::new());
        for (outcome, said) in [
            (Outcome { kernel_oom_kills: 1, ..good.clone() }, "kernel"),
            (Outcome { evicted: vec![], ..good.clone() }, "evicted"),
            (Outcome { sigterm_handled: false, ..good.clone() }, "handler"),
            (Outcome { replaced: false, ..good.clone() }, "replacement"),
            (Outcome { reason_in_describe: false, ..good.clone() }, "describe"),
            (Outcome { pods_ready: 1, ..good.clone() }, "1 of 2"),
        ] {
            let failures = outcome.failures();
            assert!(failures.len() == 1 && failures[0].contains(said), "{failures:?}");
        }
    }

    #[test]
    fn scripts_read_these_keys() {
        let seen = Seen { described: DESCRIBED.to_owned(), replaced: true, ..Seen::default() };
        let line = serde_json::to_value(Outcome::of(&[], seen)).unwrap();
        let expected = serde_json::json!({
            "node_ready_ms": 0, "pods_ready": 0, "kernel_oom_kills": 0, "evicted": [], "replaced": true,
            "reason_in_describe": true,
        });
        assert_eq!(line, expected);
    }
}
