//! The pod lifecycle event generator: one task that lists what the runtime has, compares it with the last list
//! and tells the SyncLoop. Every event comes from a list; the CRI's event stream and the kernel's process-exit
//! records only say that it is time for the next, so a lost or early hint costs time and nothing else.
//!
//! Reads: the runtime's lists and event stream, [`PlegHandle::kick`].
//! Emits: [`Event::Relisted`] after each list, then an [`Event::Lifecycle`] for each change, and
//! [`Event::Runtime`] when the runtime stops or starts answering.

pub mod snapshot;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_lite::future::poll_once;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::clock;
use crate::cri::RuntimeClient;
use oomlet_core::clock::Mono;
use oomlet_core::node::event::Event;
use snapshot::Snapshot;

/// kubelet's generic PLEG (pkg/kubelet/kubelet.go: `genericPlegRelistPeriod`, `…RelistThreshold`).
pub const RELIST_PERIOD: Duration = Duration::from_secs(1);
pub const RELIST_UNHEALTHY: Duration = Duration::from_secs(180);
/// With the CRI's event stream (`eventedPlegRelistPeriod`), or `syncFrequency` where that is shorter: a pod whose worker has
/// nothing to do is not looked at in another way.
pub const RELIST_PERIOD_WITH_EVENTS: Duration = Duration::from_secs(300);
/// Hints that come faster than this share a list.
const HINT_GAP: Duration = Duration::from_millis(10);
/// A list is followed by another only after this many times as long as it took: where many containers come or go at once,
/// listing all of them takes no more than a tenth of the time.
const REST_PER_LIST: u32 = 9;
/// A process's exit is known to the kernel before the runtime has noticed it: look again after these.
const LOOK_AGAIN: [Duration; 4] = [
    Duration::from_millis(10),
    Duration::from_millis(30),
    Duration::from_millis(100),
    Duration::from_millis(300),
];
/// Reconnecting the event stream: doubling between these.
const STREAM_RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

#[derive(Debug, Default)]
struct Shared {
    hint: Notify,
    /// Whoever gave the hint knows of it before the runtime does.
    ahead: AtomicBool,
    /// The event stream is connected.
    streaming: AtomicBool,
    /// [`Mono`] of the last list that succeeded; 0: none yet.
    listed_at: AtomicU64,
}

/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct PlegHandle(Arc<Shared>);

impl PlegHandle {
    /// Something happened, of which the runtime may not have heard: list now, and again until it has. Never blocks.
    pub fn kick(&self) {
        self.0.ahead.store(true, Ordering::Relaxed);
        self.0.hint.notify_one();
    }

    /// The runtime itself says that something happened, or its lists are to be read anew.
    fn list_now(&self) {
        self.0.hint.notify_one();
    }

    /// The event stream of the CRI is in use, so lists are rare.
    #[must_use]
    pub fn streaming(&self) -> bool {
        self.0.streaming.load(Ordering::Relaxed)
    }

    /// # Errors
    /// When the last successful list is three minutes older than the next was due, as kubelet's
    /// "PLEG is not healthy".
    pub fn healthy(&self, now: Mono) -> Result<(), String> {
        let listed_at = Mono(self.0.listed_at.load(Ordering::Relaxed));
        if listed_at == Mono::ZERO {
            return Err("PLEG is not healthy: the container runtime has not been listed yet".to_owned());
        }
        let period = if self.streaming() { RELIST_PERIOD_WITH_EVENTS } else { Duration::ZERO };
        let silent = now.since(listed_at);
        if silent > period + RELIST_UNHEALTHY {
            return Err(format!(
                "PLEG is not healthy: the container runtime was last listed {}s ago, at most {}s are allowed; \
                 see the runtime's log",
                silent.as_secs(),
                (period + RELIST_UNHEALTHY).as_secs()
            ));
        }
        Ok(())
    }
}

/// Spawns nothing: run the future on the node agent's TaskTracker. Ends with `cancel`, or when nobody receives.
pub async fn run(
    runtime: RuntimeClient,
    handle: PlegHandle,
    events: mpsc::Sender<Event>,
    sync_frequency: Duration,
    cancel: CancellationToken,
) {
    let mut task = Task {
        period_with_events: sync_frequency.min(RELIST_PERIOD_WITH_EVENTS),
        runtime: runtime.clone(),
        handle: handle.clone(),
        events,
        last: Snapshot::default(),
        answers: None,
    };
    // Dropping the losing future is safe: neither holds anything but its place in a loop.
    tokio::select! {
        () = cancel.cancelled() => {}
        () = task.relist_loop() => {}
        () = stream_hints(runtime, handle) => {}
    }
}

struct Task {
    runtime: RuntimeClient,
    handle: PlegHandle,
    events: mpsc::Sender<Event>,
    period_with_events: Duration,
    last: Snapshot,
    /// What the SyncLoop was told last of the runtime.
    answers: Option<Result<(), String>>,
}

/// The SyncLoop has gone.
struct Closed;

impl Task {
    async fn relist_loop(&mut self) {
        // Which look after a hint is next; past the end: none.
        let mut look = LOOK_AGAIN.len();
        loop {
            let began = Instant::now();
            let Ok(changed) = self.relist().await else { return };
            if changed {
                look = LOOK_AGAIN.len();
            }
            let listed = Instant::now();
            let gap = HINT_GAP.max((listed - began) * REST_PER_LIST).min(RELIST_PERIOD);
            let period = if self.handle.streaming() { self.period_with_events } else { RELIST_PERIOD };
            let due = LOOK_AGAIN.get(look).copied().unwrap_or(period).min(period);
            // Cancel-safe: a `notified` that loses keeps its permit.
            tokio::select! {
                () = self.handle.0.hint.notified() => {
                    sleep_until(listed + gap).await;
                    // What came meanwhile is in the list that follows.
                    let _ = poll_once(self.handle.0.hint.notified()).await;
                    if self.handle.0.ahead.swap(false, Ordering::Relaxed) {
                        look = 0;
                    }
                }
                () = sleep(due) => look = look.saturating_add(1),
            }
        }
    }

    /// True: something has changed.
    async fn relist(&mut self) -> Result<bool, Closed> {
        let listed_at = clock::now();
        let listed = timeout(RELIST_UNHEALTHY, self.list()).await;
        let now = match listed {
            Ok(Ok(now)) => now,
            Ok(Err(e)) => return self.runtime_is(Err(e.to_string())).await.map(|()| false),
            Err(_) => {
                let error = format!(
                    "the container runtime did not list its pods within {}s: see its log",
                    RELIST_UNHEALTHY.as_secs()
                );
                return self.runtime_is(Err(error)).await.map(|()| false);
            }
        };
        self.handle.0.listed_at.store(clock::now().0, Ordering::Relaxed);
        self.runtime_is(Ok(())).await?;
        let changes = now.events_since(&self.last);
        self.send(Event::Relisted(now.pods(listed_at))).await?;
        self.last = now;
        let any = !changes.is_empty();
        for change in changes {
            self.send(Event::Lifecycle(change)).await?;
        }
        Ok(any)
    }

    async fn list(&self) -> Result<Snapshot, crate::cri::CriError> {
        // Sandboxes first: a pod made in between then lacks its sandbox's container rather than its sandbox.
        let sandboxes = self.runtime.list_sandboxes(None).await?;
        let containers = self.runtime.list_containers(None).await?;
        Ok(Snapshot { sandboxes, containers })
    }

    /// Tells the SyncLoop when this is news.
    async fn runtime_is(&mut self, answers: Result<(), String>) -> Result<(), Closed> {
        let same_kind = self.answers.as_ref().is_some_and(|last| last.is_ok() == answers.is_ok());
        if same_kind {
            return Ok(());
        }
        self.answers = Some(answers.clone());
        self.send(Event::Runtime(answers)).await
    }

    async fn send(&self, event: Event) -> Result<(), Closed> {
        self.events.send(event).await.map_err(|_| Closed)
    }
}

/// Turns the runtime's event stream into hints, for ever; without one it waits for ever.
async fn stream_hints(runtime: RuntimeClient, handle: PlegHandle) {
    let mut retry = STREAM_RETRY.0;
    loop {
        match runtime.container_events().await {
            Ok(mut stream) => {
                info!("container events come from the runtime's stream, which lists follow");
                handle.0.streaming.store(true, Ordering::Relaxed);
                // What happened before the stream was open is in no event.
                handle.list_now();
                let error = loop {
                    match stream.message().await {
                        Ok(Some(_)) => {
                            retry = STREAM_RETRY.0;
                            handle.list_now();
                        }
                        Ok(None) => break "the runtime closed it".to_owned(),
                        Err(status) => break status.message().to_owned(),
                    }
                };
                handle.0.streaming.store(false, Ordering::Relaxed);
                handle.list_now();
                warn!(
                    error,
                    "the runtime's event stream ended; relisting every {RELIST_PERIOD:?} until it is back"
                );
            }
            Err(e) if e.is_unimplemented() => {
                info!("the runtime has no event stream; relisting every {RELIST_PERIOD:?}");
                return std::future::pending().await;
            }
            Err(e) => debug!(error = %e, "the runtime's event stream cannot be opened"),
        }
        sleep(retry).await;
        retry = (retry * 2).min(STREAM_RETRY.1);
    }
}

#[cfg(test)]
mod tests;
