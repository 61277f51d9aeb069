//! When to look at a directory of files, or at one file, again. Shell.
//!
//! inotify says when, with a pause for what is written in several steps, and a rescan heals what it misses (network file
//! systems, a symlink's target, a full event queue). A changed symlink `..data` is seen, so a mounted ConfigMap works.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use inotify::{EventStream, Inotify, WatchMask};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep};
use tokio_stream::StreamExt as _;

/// A change is looked at once nothing has happened for this long: editors write in several steps.
const QUIET: Duration = Duration::from_millis(20);
/// … but not later than this after its first step.
const QUIET_AT_MOST: Duration = Duration::from_millis(200);

/// When to look.
#[derive(Debug)]
pub(crate) struct Looks {
    watcher: Watcher,
    ticker: Interval,
}

impl Looks {
    /// `rescan`: after so long it is time, whatever inotify says.
    pub fn new(path: &Path, rescan: Duration) -> Looks {
        let mut ticker = interval(rescan.max(Duration::from_millis(1)));
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Looks { watcher: Watcher::new(path), ticker }
    }

    /// Waits until it is time; the first time is at once. The files that were removed meanwhile, whether or not others have
    /// come in their place: reading the directory does not tell.
    pub async fn next(&mut self) -> BTreeSet<PathBuf> {
        tokio::select! {
            // Cancel-safe: tokio documents it.
            _ = self.ticker.tick() => {}
            // Cancel-safe: an event stays in the kernel's queue until it is read, and one read is enough.
            () = self.watcher.changed() => self.watcher.settled().await,
        }
        // Watch before reading: what changes in between is seen by one of the two.
        self.watcher.ensure();
        std::mem::take(&mut self.watcher.removed)
    }
}

/// inotify on the directory, or on the parent of a single file. Without it the rescan alone is left.
#[derive(Debug)]
struct Watcher {
    path: PathBuf,
    events: Option<EventStream<[u8; 4096]>>,
    watching: Option<inotify::WatchDescriptor>,
    /// The directory that is watched.
    target: PathBuf,
    /// Deleted or moved away; not one that another was renamed over.
    removed: BTreeSet<PathBuf>,
}

impl Watcher {
    fn new(path: &Path) -> Watcher {
        let events = Inotify::init().and_then(|inotify| inotify.into_event_stream([0; 4096]));
        if let Err(error) = &events {
            tracing::warn!(
                path = %path.display(), %error,
                "no inotify (see fs.inotify.max_user_instances): changed files are seen at the next rescan"
            );
        }
        Watcher {
            path: path.to_owned(),
            events: events.ok(),
            watching: None,
            target: PathBuf::new(),
            removed: BTreeSet::new(),
        }
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
        self.target = target.to_owned();
        let mask = WatchMask::CREATE
            | WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF;
        // A missing directory is told of by the scan; the next rescan tries again.
        self.watching = events.watches().add(&self.target, mask).ok();
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
                if let Some(name) =
                    event.name.filter(|_| event.mask.intersects(Mask::DELETE | Mask::MOVED_FROM))
                {
                    self.removed.insert(self.target.join(name));
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
