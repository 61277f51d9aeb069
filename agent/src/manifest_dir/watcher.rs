//! When to look at a directory of files again: inotify, and a pause for what is written in several steps. Shell.

use std::path::{Path, PathBuf};
use std::time::Duration;

use inotify::{EventStream, Inotify, WatchMask};
use tokio::time::{Instant, sleep};
use tokio_stream::StreamExt as _;

/// A change is looked at once nothing has happened for this long: editors write in several steps.
const QUIET: Duration = Duration::from_millis(20);
/// … but not later than this after its first step.
const QUIET_AT_MOST: Duration = Duration::from_millis(200);

/// inotify on the directory, or on the parent of a single file. Without it the rescan alone is left.
#[derive(Debug)]
pub(crate) struct Watcher {
    path: PathBuf,
    events: Option<EventStream<[u8; 4096]>>,
    watching: Option<inotify::WatchDescriptor>,
}

impl Watcher {
    pub(crate) fn new(path: &Path) -> Watcher {
        let events = Inotify::init().and_then(|inotify| inotify.into_event_stream([0; 4096]));
        if let Err(error) = &events {
            tracing::warn!(
                path = %path.display(), %error,
                "no inotify (see fs.inotify.max_user_instances): changed files are seen at the next rescan"
            );
        }
        Watcher { path: path.to_owned(), events: events.ok(), watching: None }
    }

    /// Sets the watch where there is none: at start, or since the directory was away.
    pub(crate) fn ensure(&mut self) {
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
    pub(crate) async fn changed(&mut self) {
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

    pub(crate) async fn settled(&mut self) {
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
