//! The SyncLoop's thread, its own from start to end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{NodeAgentError, protect};
use crate::instruments::turns::Turns;
use crate::kernel::alarm::Alarm;
use crate::sync_loop::execute::Executor;
use crate::sync_loop::heartbeat::Heartbeat;
use crate::sync_loop::run::SyncLoop;
use crate::trace::journal::Journal;
use oomlet_core::node::event::Event;
use oomlet_core::node::state::State;

pub struct LoopParts {
    pub state: State,
    pub executor: Executor,
    pub receiver: mpsc::Receiver<Event>,
    pub journal: Arc<Journal>,
    pub heartbeat: Arc<Heartbeat>,
    pub turns: Turns,
    pub longest_rest: Duration,
}

/// Starts it. The returned token is cancelled when the loop ends, for whatever reason.
///
/// # Errors
/// When the thread or its reactor cannot be made.
pub fn spawn(parts: LoopParts, cancel: CancellationToken) -> Result<CancellationToken, NodeAgentError> {
    let ended = CancellationToken::new();
    let guard = ended.clone().drop_guard();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("sync-loop".to_owned()).stack_size(2 << 20).spawn(move || {
        let _guard = guard;
        protect::prefer_this_thread();
        let LoopParts { state, mut executor, receiver, journal, heartbeat, turns, longest_rest } = parts;
        runtime.block_on(async {
            // Taken here, so that the ring's file descriptor is registered with this thread's reactor.
            let ring = executor.kernel.ring();
            match Alarm::new() {
                Ok(alarm) => {
                    let events = receiver;
                    SyncLoop {
                        state,
                        executor,
                        events,
                        ring,
                        alarm,
                        journal,
                        heartbeat,
                        turns,
                        longest_rest,
                    }
                    .run(cancel)
                    .await;
                }
                Err(error) => tracing::error!(%error, "cannot make a timer; check the limit of open files"),
            }
        });
    })?;
    Ok(ended)
}
