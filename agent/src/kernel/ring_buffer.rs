//! Takes records out of the ring buffer as they come. Reads the map `EVENTS`, decodes with [`decode`],
//! and says how many records were lost since it last looked.

use std::io;
use std::sync::Arc;

use aya::maps::{MapData, PerCpuArray, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::decode::decode;
use crate::clock;
use oomlet_core::signal::{KernelEvent, KernelEventKind};

/// Records that found no room, counted by the programs on each CPU. Shared by the reader and the kernel module.
#[derive(Clone)]
pub(super) struct LostCounter(Arc<PerCpuArray<MapData, u64>>);

impl LostCounter {
    pub(super) fn new(map: PerCpuArray<MapData, u64>) -> LostCounter {
        LostCounter(Arc::new(map))
    }

    /// Sum over all CPUs since the programs were loaded. Zero where the map cannot be read: the count is advice.
    pub(super) fn total(&self) -> u64 {
        self.0.get(&0, 0).map_or(0, |per_cpu| per_cpu.iter().sum())
    }
}

enum Source {
    /// Before the first wait: the reader may have been made outside of the runtime it will run in.
    Idle(Option<RingBuf<MapData>>),
    Registered(AsyncFd<RingBuf<MapData>>),
}

/// The reading end of the ring buffer. One exists per [`Kernel`](super::Kernel).
pub struct RingReader {
    source: Source,
    lost: LostCounter,
    lost_reported: u64,
    undecodable: u64,
    page_size: u64,
}

impl std::fmt::Debug for RingReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RingReader")
            .field("lost_reported", &self.lost_reported)
            .field("undecodable", &self.undecodable)
            .finish_non_exhaustive()
    }
}

impl RingReader {
    pub(super) fn new(ring: RingBuf<MapData>, lost: LostCounter) -> RingReader {
        RingReader {
            source: Source::Idle(Some(ring)),
            lost,
            lost_reported: 0,
            undecodable: 0,
            page_size: rustix::param::page_size() as u64,
        }
    }

    /// Records that were skipped because they made no sense.
    #[must_use]
    pub fn undecodable(&self) -> u64 {
        self.undecodable
    }

    /// Waits until there is at least one record, then appends up to `max` events to `out`, oldest first. A
    /// [`KernelEventKind::Lost`] comes on top where records were lost since the last call.
    ///
    /// Cancel-safe: a record leaves the ring buffer only when it is in `out`.
    ///
    /// # Errors
    /// The ring buffer cannot be registered with the runtime, or polling it fails.
    pub async fn next_batch(&mut self, out: &mut Vec<KernelEvent>, max: usize) -> io::Result<()> {
        let before = out.len();
        loop {
            self.drain(out, max);
            self.report_lost(out);
            if out.len() > before {
                return Ok(());
            }
            // Clear first, then look again: what comes after the look makes the descriptor readable anew.
            self.registered()?.readable().await?.clear_ready();
        }
    }

    fn registered(&mut self) -> io::Result<&AsyncFd<RingBuf<MapData>>> {
        if let Source::Idle(ring) = &mut self.source
            && let Some(ring) = ring.take()
        {
            // SAFETY: the map's descriptor belongs to the RingBuf, which the AsyncFd owns from here on and
            // which never swaps or closes it while it lives.
            let registered = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
            match registered {
                Ok(fd) => self.source = Source::Registered(fd),
                Err(error) => {
                    let (ring, cause) = error.into_parts();
                    self.source = Source::Idle(Some(ring));
                    return Err(cause);
                }
            }
        }
        match &self.source {
            Source::Registered(fd) => Ok(fd),
            Source::Idle(_) => Err(io::Error::other("the ring buffer is gone")),
        }
    }

    fn drain(&mut self, out: &mut Vec<KernelEvent>, max: usize) {
        let ring = match &mut self.source {
            Source::Idle(Some(ring)) => ring,
            Source::Idle(None) => return,
            Source::Registered(fd) => fd.get_mut(),
        };
        let full = out.len().saturating_add(max);
        while out.len() < full {
            let Some(item) = ring.next() else {
                return;
            };
            match decode(&item, clock::now(), self.page_size) {
                Ok(event) => out.push(event),
                Err(error) => {
                    self.undecodable += 1;
                    tracing::warn!(%error, "skipped a record of the eBPF programs");
                }
            }
        }
    }

    fn report_lost(&mut self, out: &mut Vec<KernelEvent>) {
        let total = self.lost.total();
        let records = total.saturating_sub(self.lost_reported);
        if records == 0 {
            return;
        }
        self.lost_reported = total;
        let now = clock::now();
        out.push(KernelEvent { at: now, read_at: now, kind: KernelEventKind::Lost { records } });
    }
}
