//! The prober: one task for all probes of the node. Reads the pods as they are published and who is held; carries out what
//! [`Prober`] says is due, each run for itself, and sends what it makes of the outcomes as `Event::Probe`. Of the runs the
//! SyncLoop hears only what they change.
//!
//! - [`counted`]: every run, for `/metrics/probes`.

pub mod counted;

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::probe::Checks;
use counted::CountedProbes;
use oomlet_core::node::event::Event;
use oomlet_core::node::prober::{HeldPods, LONGEST_REST, ProbeRun, Prober};
use oomlet_core::node::published::NodeSnapshot;
use oomlet_core::pod::probe::{ProbeOutcome, ProbeReport};

#[derive(Debug)]
pub struct ProberTask<C> {
    pub prober: Prober,
    pub checks: Arc<C>,
    pub snapshots: watch::Receiver<Arc<NodeSnapshot>>,
    pub held: watch::Receiver<HeldPods>,
    pub events: mpsc::Sender<Event>,
    pub counted: CountedProbes,
}

impl<C: Checks> ProberTask<C> {
    /// Ends when `cancel` is cancelled or the SyncLoop has ended. Runs that are under way are dropped then.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut under_way = UnderWay::default();
        loop {
            let held = self.held.borrow().clone();
            for run in self.prober.begin_due(&held, clock::now()) {
                under_way.begin(&self.checks, run);
            }
            let rest = self.prober.next_wakeup().map_or(LONGEST_REST, |at| at.since(clock::now()));
            // All arms are cancel-safe: `changed` and `join_next_with_id` leave what they have not returned.
            let report = tokio::select! {
                () = cancel.cancelled() => return,
                changed = self.snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let snapshot = Arc::clone(&self.snapshots.borrow_and_update());
                    self.prober.observe(&snapshot, clock::now());
                    self.counted.keep(&snapshot);
                    None
                }
                ended = under_way.next() => self.ended(ended),
                () = sleep(rest) => None,
            };
            if let Some(report) = report {
                // Cancel-safe: the task ends.
                let sent = tokio::select! {
                    () = cancel.cancelled() => return,
                    sent = self.events.send(Event::Probe(report)) => sent,
                };
                if sent.is_err() {
                    return;
                }
            }
        }
    }

    fn ended(&mut self, (run, outcome): (ProbeRun, ProbeOutcome)) -> Option<ProbeReport> {
        tracing::trace!(pod = %run.pod, container = run.container.name, kind = %run.kind, ?outcome, "probed");
        self.counted.ended(&run, &outcome, clock::now());
        let held = self.held.borrow().clone();
        self.prober.ended(&run, outcome, &held, clock::now())
    }
}

/// At most one run of each probe.
#[derive(Debug, Default)]
struct UnderWay {
    tasks: JoinSet<ProbeOutcome>,
    runs: HashMap<Id, ProbeRun>,
}

impl UnderWay {
    fn begin<C: Checks>(&mut self, checks: &Arc<C>, run: ProbeRun) {
        let (checks, of) = (Arc::clone(checks), run.clone());
        let task = self.tasks.spawn(async move { checks.run(of).await });
        self.runs.insert(task.id(), run);
    }

    /// The next that ends; waits for ever while there is none. Cancel-safe.
    async fn next(&mut self) -> (ProbeRun, ProbeOutcome) {
        loop {
            let Some(ended) = self.tasks.join_next_with_id().await else {
                return std::future::pending().await;
            };
            let (id, outcome) = ended.unwrap_or_else(|error: JoinError| {
                let text = "the probe panicked, which is a defect of the agent: report what its log says";
                (error.id(), ProbeOutcome::Error(text.to_owned()))
            });
            if let Some(run) = self.runs.remove(&id) {
                return (run, outcome);
            }
        }
    }
}

#[cfg(test)]
mod tests;
