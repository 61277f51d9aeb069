//! One inotify instance for all who follow a log: a user may have no more than some hundred of them
//! (`fs.inotify.max_user_instances`). Each directory is watched once, while somebody follows in it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use inotify::{Inotify, WatchDescriptor, WatchMask, Watches};
use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Default)]
struct Watched {
    by_path: HashMap<PathBuf, Weak<DirWatch>>,
    by_descriptor: HashMap<WatchDescriptor, Weak<DirWatch>>,
}

#[derive(Debug)]
pub struct DirWatches {
    inotify: Mutex<Option<Inotify>>,
    watches: Option<Watches>,
    watched: Arc<Mutex<Watched>>,
}

/// Of one directory; ends with the last who has it.
#[derive(Debug)]
pub struct DirWatch {
    path: PathBuf,
    descriptor: WatchDescriptor,
    watches: Watches,
    watched: Arc<Mutex<Watched>>,
    changes: watch::Sender<()>,
}

impl DirWatch {
    /// Marks that something in the directory has changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

impl Drop for DirWatch {
    fn drop(&mut self) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have come meanwhile, with a watch of their own for the same directory.
        let gone = |weak: &Weak<DirWatch>| weak.strong_count() == 0;
        if watched.by_path.get(&self.path).is_some_and(gone) {
            watched.by_path.remove(&self.path);
            watched.by_descriptor.remove(&self.descriptor);
            // Gone with its directory, perhaps.
            let _ = self.watches.clone().remove(self.descriptor.clone());
        }
    }
}

impl DirWatches {
    #[must_use]
    pub fn new() -> DirWatches {
        let inotify = Inotify::init();
        if let Err(error) = &inotify {
            tracing::warn!(%error, "no inotify (see fs.inotify.max_user_instances): who follows a log sees lines a second late");
        }
        let inotify = inotify.ok();
        let watches = inotify.as_ref().map(Inotify::watches);
        DirWatches { inotify: Mutex::new(inotify), watches, watched: Arc::default() }
    }

    /// `None`: it cannot be watched, for want of inotify or of the directory.
    #[must_use]
    pub fn watch(&self, dir: &Path) -> Option<Arc<DirWatch>> {
        let mut watches = self.watches.clone()?;
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = watched.by_path.get(dir).and_then(Weak::upgrade) {
            return Some(there);
        }
        let mask = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::MOVED_FROM;
        let descriptor = watches.add(dir, mask).ok()?;
        let made = Arc::new(DirWatch {
            path: dir.to_owned(),
            descriptor: descriptor.clone(),
            watches,
            watched: Arc::clone(&self.watched),
            changes: watch::channel(()).0,
        });
        watched.by_path.insert(dir.to_owned(), Arc::downgrade(&made));
        watched.by_descriptor.insert(descriptor, Arc::downgrade(&made));
        Some(made)
    }

    /// Hands the kernel's events on; to be run once.
    pub fn events(&self, cancel: CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        let inotify = self.inotify.lock().unwrap_or_else(PoisonError::into_inner).take();
        let watched = Arc::clone(&self.watched);
        async move {
            let Some(Ok(mut events)) = inotify.map(|inotify| inotify.into_event_stream([0; 4096])) else {
                return;
            };
            loop {
                // Cancel-safe: the agent ends, or an event is taken.
                let event = tokio::select! {
                    () = cancel.cancelled() => return,
                    event = events.next() => event,
                };
                let event = match event {
                    Some(Ok(event)) => event,
                    Some(Err(error)) => {
                        tracing::warn!(%error, "cannot read inotify events; who follows a log sees lines a second late");
                        return;
                    }
                    None => return,
                };
                let watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(watch) = watched.by_descriptor.get(&event.wd).and_then(Weak::upgrade) {
                    // Not dropped under the lock that its drop takes.
                    drop(watched);
                    watch.changes.send_replace(());
                }
            }
        }
    }
}

impl Default for DirWatches {
    fn default() -> DirWatches {
        DirWatches::new()
    }
}
