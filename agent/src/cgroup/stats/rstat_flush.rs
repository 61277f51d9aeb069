//! Makes the kernel flush its per-CPU memory counts (rstat) into the statistics of all cgroups below one, by reading every
//! `memory.stat` there, on a thread of its own: on a node with many pods that is
//! thousands of files a second, and the loop has better to do. Owns the thread.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use super::BUFFER_BYTES;
use crate::cgroup::open_file::{open, read_all};
use crate::cgroup::tree;
use crate::kernel::scheduling::run_at_realtime_priority;

/// Where statistics are stale, a round may take half of the time: about 60 µs a cgroup, 26 ms with 110 pods of two containers.
const RESTS_AFTER: u32 = 1;
/// Where they only may, a hundredth: the loop looks at pods that are held every millisecond, and has to come to that.
const RESTS_BEFORE: u32 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The usage has moved and the statistics have not.
    Stale,
    /// They are as they were, which may be true.
    AsBefore,
}

#[derive(Debug)]
pub(super) struct RstatFlush {
    asked: SyncSender<Why>,
}

impl RstatFlush {
    pub(super) fn start(root: &Path) -> io::Result<RstatFlush> {
        let (asked, ask) = sync_channel(1);
        let root = root.to_owned();
        std::thread::Builder::new().name("oomlet-rstat".to_owned()).spawn(move || run(&root, &ask))?;
        Ok(RstatFlush { asked })
    }

    /// Does not wait. `false`: something else that was asked for has not had its turn yet.
    pub(super) fn ask(&self, why: Why) -> bool {
        self.asked.try_send(why).is_ok()
    }
}

/// Ends when nobody can ask any more.
fn run(root: &PathBuf, asked: &Receiver<Why>) {
    // Where the machine is short of CPU as well, it would be the last to run.
    if let Err(error) = run_at_realtime_priority() {
        tracing::debug!(%error, "stale statistics are flushed at normal priority");
    }
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut rested = Instant::now();
    while let Ok(why) = asked.recv() {
        let start = Instant::now();
        if why == Why::AsBefore && start < rested {
            continue;
        }
        // Where one cannot be listed, for want of descriptors for instance, this round is lost; the next is soon asked for.
        let dirs = tree::subtree(root).unwrap_or_default();
        for dir in dirs.iter().filter(|dir| *dir != root) {
            if let Ok(stat) = open(&dir.join("memory.stat")) {
                let _ = read_all(&stat, &mut buffer);
            }
        }
        let took = start.elapsed();
        rested = Instant::now() + took * RESTS_BEFORE;
        std::thread::sleep(took * RESTS_AFTER);
    }
}
