//! Runs of probes, counted while their pod is there.

use std::collections::{BTreeSet, HashMap};

use crate::instruments::probes::{ProbeOf, ProbeResults};
use oomlet_core::clock::Mono;
use oomlet_core::node::prober::ProbeRun;
use oomlet_core::node::published::NodeSnapshot;
use oomlet_core::pod::probe::{ProbeKind, ProbeOutcome};
use oomlet_core::pod::{PodRef, PodUid};

#[derive(Debug, Default)]
pub struct CountedProbes {
    results: ProbeResults,
    /// The pod, and the containers and kinds of its probes that have a series.
    pods: HashMap<PodUid, (PodRef, BTreeSet<(String, ProbeKind)>)>,
}

impl CountedProbes {
    #[must_use]
    pub fn new(results: ProbeResults) -> CountedProbes {
        CountedProbes { results, pods: HashMap::new() }
    }

    pub fn ended(&mut self, run: &ProbeRun, outcome: &ProbeOutcome, now: Mono) {
        let (_, probes) =
            self.pods.entry(run.pod.uid.clone()).or_insert_with(|| (run.pod.clone(), BTreeSet::new()));
        probes.insert((run.container.name.clone(), run.kind));
        let result = match outcome {
            ProbeOutcome::Success | ProbeOutcome::Warning(_) => "successful",
            ProbeOutcome::Failure(_) => "failed",
            ProbeOutcome::Error(_) => "unknown",
        };
        self.results.ended(&of(&run.pod, &run.container.name, run.kind), result, now.since(run.began_at));
    }

    /// Series of pods that have gone go with them.
    pub fn keep(&mut self, snapshot: &NodeSnapshot) {
        let results = &self.results;
        self.pods.retain(|uid, (pod, probes)| {
            let there = snapshot.pods.contains_key(uid);
            if !there {
                for (container, kind) in probes.iter() {
                    results.forget(&of(pod, container, *kind));
                }
            }
            there
        });
    }
}

fn of<'a>(pod: &'a PodRef, container: &'a str, kind: ProbeKind) -> ProbeOf<'a> {
    ProbeOf {
        kind: kind.as_str(),
        container,
        pod: &pod.name,
        namespace: &pod.namespace,
        pod_uid: pod.uid.as_str(),
    }
}
