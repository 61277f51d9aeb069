//! Static pods: watches `staticPodPath` (a directory of manifests, or one manifest) and sends its complete
//! list as [`Event::Pods`]. Shell; what a manifest means is decided in [`oomlet_core::manifest`]. [`http`]: those of a
//! server.
//!
//! inotify says when to look, and a rescan every `fileCheckFrequency` heals what it misses (network file
//! systems, a symlink's target, a full event queue). Hidden files and subdirectories are skipped, as kubelet
//! does; a changed symlink `..data` beside them is seen, so a mounted ConfigMap works.

use std::path::{Path, PathBuf};
use std::time::Duration;

use inotify::{EventStream, Inotify, WatchMask};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;

use oomlet_core::node::event::Event;

mod directory;
pub mod http;

use directory::Directory;

/// A change is looked at once nothing has happened for this long: editors write in several steps.
const QUIET: Duration = Duration::from_millis(20);
/// … but not later than this after its first step.
const QUIET_AT_MOST: Duration = Duration::from_millis(200);

/// The task. Ends when `cancel` is cancelled or nobody receives any more. `rescan`: `fileCheckFrequency`.
pub async fn watch(
    path: PathBuf,
    hostname: String,
    rescan: Duration,
    tx: mpsc::Sender<Event>,
    cancel: CancellationToken,
) {
    let mut directory = Directory::new(path.clone(), hostname);
    let mut watcher = Watcher::new(&path);
    let mut ticker = interval(rescan.max(Duration::from_millis(1)));
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // Cancel-safe: a lost wait loses nothing.
            () = cancel.cancelled() => return,
            // Cancel-safe: tokio documents it. The first tick comes at once.
            _ = ticker.tick() => {}
            // Cancel-safe: an event stays in the kernel's queue until it is read, and one read is enough.
            () = watcher.changed() => {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = watcher.settled() => {}
                }
            }
        }
        // Watch before reading: what changes in between is seen by one of the two.
        watcher.ensure();
        let scan = tokio::task::spawn_blocking(move || {
            let update = directory.scan();
            (directory, update)
        });
        let update = match scan.await {
            Ok((back, update)) => {
                directory = back;
                update
            }
            Err(error) => {
                // Only a panic or the runtime's end gets here; the pods that run are not this task's to stop.
                tracing::error!(path = %path.display(), %error, "static pod manifests are not watched any more");
                return;
            }
        };
        let Some(update) = update else { continue };
        tokio::select! {
            // Cancel-safe: the agent ends, so does the list.
            () = cancel.cancelled() => return,
            sent = tx.send(Event::Pods(update)) => if sent.is_err() { return },
        }
    }
}

/// inotify on the directory, or on the parent of a single file. Without it the rescan alone is left.
struct Watcher {
    path: PathBuf,
    events: Option<EventStream<[u8; 4096]>>,
    watching: Option<inotify::WatchDescriptor>,
}

impl Watcher {
    fn new(path: &Path) -> Watcher {
        let events = Inotify::init().and_then(|inotify| inotify.into_event_stream([0; 4096]));
        if let Err(error) = &events {
            tracing::warn!(
                path = %path.display(), %error,
                "no inotify (see fs.inotify.max_user_instances): changed manifests are seen at the next rescan"
            );
        }
        Watcher { path: path.to_owned(), events: events.ok(), watching: None }
    }

    /// Sets the watch where there is none: at start, or since the directory was away.
    fn ensure(&mut self) {
        let Some(events) = &self.events else { return };
        if self.watching.is_some() {
            return;
        }
        let target = match self.path.parent() {
            Some(parent) if self.path.is_file() => parent,
            _ => &self.path,
        };
        let mask = WatchMask::CREATE
            | WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF;
        // A missing directory is told of by the scan; the next rescan tries again.
        self.watching = events.watches().add(target, mask).ok();
    }

    /// Waits for the next event; for ever without inotify.
    async fn changed(&mut self) {
        let Some(events) = &mut self.events else { return std::future::pending().await };
        match events.next().await {
            Some(Ok(event)) => {
                use inotify::EventMask as Mask;
                if event.mask.contains(Mask::MOVE_SELF)
                    && let Some(watching) = self.watching.take()
                {
                    // The path names another directory now, or none. A refusal means that the watch is gone.
                    let _ = events.watches().remove(watching);
                }
                if event.mask.contains(Mask::IGNORED) {
                    self.watching = None;
                }
            }
            Some(Err(error)) => {
                tracing::warn!(path = %self.path.display(), %error, "cannot read inotify events; rescans go on");
                self.events = None;
            }
            None => self.events = None,
        }
    }

    async fn settled(&mut self) {
        let latest = Instant::now() + QUIET_AT_MOST;
        loop {
            tokio::select! {
                () = sleep(QUIET) => return,
                () = tokio::time::sleep_until(latest) => return,
                () = self.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
