//! Drives the loop on its own thread: events in, state, plan, execute. Ring buffer and timers live on the same thread,
//! so that from kernel record to decision nothing is handed over.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::execute::Executor;
use super::heartbeat::Heartbeat;
use crate::actuator::guard::Beat;
use crate::clock;
use crate::instruments::turns::Turns;
use crate::kernel::RingReader;
use crate::kernel::alarm::Alarm;
use crate::trace::journal::Journal;
use oomlet_core::node::event::Event;
use oomlet_core::node::plan::plan;
use oomlet_core::node::state::State;
use oomlet_core::signal::KernelEvent;

/// Events taken in before the loop plans. Bounded, so that a flood of events cannot hold up a decision.
const BATCH: usize = 64;
/// A plan is followed by what its actions answered at once (readings); more rounds than this without coming to rest
/// would be a defect of the plan, and the loop goes back to its events.
const MAX_ROUNDS: usize = 16;

#[derive(Debug)]
pub struct SyncLoop {
    pub state: State,
    pub executor: Executor,
    pub events: mpsc::Receiver<Event>,
    pub ring: Option<RingReader>,
    pub alarm: Alarm,
    pub journal: Arc<Journal>,
    pub heartbeat: Arc<Heartbeat>,
    pub turns: Turns,
    /// The loop wakes at least this often.
    pub longest_rest: Duration,
}

impl SyncLoop {
    /// Runs until `cancel` or until nobody can send events any more.
    pub async fn run(mut self, cancel: CancellationToken) {
        self.turn_until(cancel).await;
        self.executor.release_brakes();
    }

    async fn turn_until(&mut self, cancel: CancellationToken) {
        let mut events = Vec::with_capacity(BATCH);
        let mut records = Vec::with_capacity(BATCH);
        loop {
            let began = clock::now();
            self.turn(&mut events, &mut records);
            let now = clock::now();
            self.turns.turned(now.since(began), self.events.len());
            if self.turns.wants_forecasts(now) {
                self.turns.forecasts(self.state.eviction().forecasts());
                self.turns.workers(self.executor.workers());
            }
            self.heartbeat.beat(now);
            let wake = self.state.next_wakeup().min(now + self.longest_rest);
            // All arms are cancel-safe: `recv_many` and `next_batch` leave unread what they have not returned.
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                failed = next_records(&mut self.ring, &mut records) => {
                    if let Err(error) = failed {
                        tracing::warn!(%error, "cannot read the eBPF ring buffer any more; going on with the sampler alone");
                        self.ring = None;
                        events.push(Event::KernelSilent(error.to_string()));
                    }
                }
                n = self.events.recv_many(&mut events, BATCH) => {
                    if n == 0 {
                        return;
                    }
                }
                rung = self.alarm.at(wake) => {
                    if let Err(error) = rung {
                        tracing::error!(%error, "cannot set the SyncLoop's timer: the agent ends; pods run on");
                        return;
                    }
                    events.push(Event::Tick);
                }
            }
        }
    }

    /// One turn: take in what has come, then plan and execute until there is nothing to do.
    fn turn(&mut self, events: &mut Vec<Event>, records: &mut Vec<KernelEvent>) {
        let incoming = records.drain(..).map(Event::Kernel).chain(events.drain(..));
        for event in incoming {
            self.state.apply(event, clock::now());
        }
        for _ in 0..MAX_ROUNDS {
            let now = clock::now();
            let actions = plan(&self.state, now);
            self.state.planned();
            self.state.decided(clock::now());
            if actions.is_empty() {
                break;
            }
            let mut answers = Vec::new();
            for action in actions {
                self.state.note(&action, now);
                answers.extend(self.executor.execute(action));
            }
            for answer in answers {
                self.state.apply(answer, clock::now());
            }
        }
        if self.executor.beat(self.state.eviction().holds_any(), clock::now()) == Beat::LetGo {
            self.state.all_were_let_go();
        }
        self.executor.outlet.flush();
        for record in self.state.take_records() {
            tracing::debug!(kind = record.kind.as_str(), reason = %record.reason, message = record.message);
            self.journal.publish(record);
        }
    }
}

/// Without a ring there is nothing to wait for.
async fn next_records(ring: &mut Option<RingReader>, out: &mut Vec<KernelEvent>) -> std::io::Result<()> {
    match ring {
        Some(ring) => ring.next_batch(out, BATCH).await,
        None => std::future::pending().await,
    }
}
