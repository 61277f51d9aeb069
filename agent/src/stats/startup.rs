//! How long pods took to start, and which containers have ended: follows the pods as they are published. One task; counts with [`WorkerTimes`].

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::unix_ns;
use crate::instruments::workers::WorkerTimes;
use crate::trace::journal::Journal;
use oomlet_core::metrics::startup::Startups;
use oomlet_core::metrics::terminations::Terminations;
use oomlet_core::node::published::NodeSnapshot;

#[derive(Debug)]
pub struct StartupTask {
    pub snapshots: watch::Receiver<Arc<NodeSnapshot>>,
    pub journal: Arc<Journal>,
    pub times: WorkerTimes,
}

impl StartupTask {
    pub async fn run(mut self, cancel: CancellationToken) {
        // What runs already has not been started by this agent.
        let mut startups = Startups::new(&self.snapshots.borrow_and_update());
        let mut terminations = Terminations::new(&self.snapshots.borrow(), unix_ns());
        loop {
            // Cancel-safe: `changed` marks nothing as seen when it loses.
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = self.snapshots.changed() => if changed.is_err() { return },
            }
            let snapshot = Arc::clone(&self.snapshots.borrow_and_update());
            for ended in terminations.observe(&snapshot) {
                self.times.container_terminated(&ended);
            }
            let seen = startups.observe(&snapshot, unix_ns());
            for containers in seen.new_pods {
                self.times.pod_seen(containers);
            }
            for started in seen.started {
                let pulled = self.journal.counts(|counts| counts.pull_time(&started.pod));
                self.times.pod_started(&started, pulled);
            }
        }
    }
}
