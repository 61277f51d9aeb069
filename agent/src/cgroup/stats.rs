//! The memory files of the node, of `kubepods` and of every watched pod and container, kept open: a reading is
//! a `pread` a file into one buffer that is never given back, so that it also works when memory is short.
//! The sampler's hands; what to read when is decided elsewhere.

use std::fs;
use std::path::Path;
use std::time::Duration;

use aya::util::online_cpus;

use super::CgroupError;
use super::driver::CgroupDriver;
use super::parse::{self, MemInfo};
use crate::clock;
use oomlet_core::clock::Mono;
use oomlet_core::pod::PodUid;
use oomlet_core::reason::Reason;
use oomlet_core::signal::{Domain, DomainReading, MemoryReading, ReadScope, rstat};
use oomlet_core::stats::account::{MemoryAccount, NodeMemory};

pub use super::parse::Psi;

mod files;
mod rstat_flush;
mod statistics;

use files::{NodeFiles, ReadError, Reader, Watched, read};
use rstat_flush::{RstatFlush, Why};
use statistics::may_hide_a_leak;

/// `/proc/vmstat` is the largest of the files, about 4.5 KiB on Linux 6.18; `memory.stat` has 2 KiB.
const BUFFER_BYTES: usize = 32 * 1024;

/// Under growth all pods are read many times a second, and nobody looks that often at what is only shown.
const ACCOUNT_EVERY: Duration = Duration::from_secs(1);

/// Open memory files, read on demand.
#[derive(Debug)]
pub struct MemoryFiles {
    node: NodeFiles,
    kubepods: Watched,
    watched: Vec<Watched>,
    rstat_flush: RstatFlush,
    /// `kubepods`' usage when a flush of stale statistics was last asked for; `None`: none is stale.
    asked_at: Option<u64>,
    reader: Reader,
    /// Of the newest reading of all pods, until it is taken.
    account: Option<MemoryAccount>,
    accounted_at: Option<Mono>,
}

impl MemoryFiles {
    /// Opens the node's and kubepods' files; [`CgroupDriver::ensure_kubepods`] comes first.
    ///
    /// # Errors
    /// [`CgroupError::Io`] naming the file that cannot be opened.
    pub fn open(driver: &CgroupDriver) -> Result<Self, CgroupError> {
        let hierarchy = driver.memory_hierarchy();
        let node = NodeFiles::open(driver)?;
        let kubepods = Watched::open(hierarchy, Domain::Kubepods, &driver.kubepods_dir().memory)?;
        let cpus = online_cpus().map_err(|(path, e)| CgroupError::io("read", Path::new(path), e))?.len();
        let rstat_flush = RstatFlush::start(&kubepods.dir)
            .map_err(|e| CgroupError::io("start a thread that reads", &kubepods.dir, e))?;
        Ok(MemoryFiles {
            node,
            kubepods,
            watched: Vec::new(),
            rstat_flush,
            asked_at: None,
            reader: Reader {
                hierarchy,
                slack_bytes: statistics::slack_bytes(cpus),
                buffer: vec![0; BUFFER_BYTES],
                account: None,
            },
            account: None,
            accounted_at: None,
        })
    }

    /// Reads `domain` from `dir` from now on; replaces what was watched for it before.
    ///
    /// # Errors
    /// [`CgroupError::Io`] when the cgroup is not there.
    pub fn watch(&mut self, domain: Domain, dir: &Path) -> Result<(), CgroupError> {
        let new = Watched::open(self.reader.hierarchy, domain, dir)?;
        match self.watched.iter_mut().find(|w| w.domain == new.domain) {
            Some(old) => *old = new,
            None => self.watched.push(new),
        }
        Ok(())
    }

    pub fn unwatch(&mut self, domain: &Domain) {
        self.watched.retain(|w| &w.domain != domain);
    }

    /// The pod and all its containers.
    pub fn unwatch_pod(&mut self, uid: &PodUid) {
        self.watched.retain(|w| !w.domain.is_of(uid));
    }

    #[must_use]
    pub fn is_watched(&self, domain: &Domain) -> bool {
        self.watched.iter().any(|w| &w.domain == domain)
    }

    /// Reads now. A pod or container whose cgroup is gone is absent from the result and no longer watched;
    /// one that cannot be read for another reason is absent, with a warning.
    ///
    /// # Errors
    /// When the node's own numbers cannot be read or lack what kubelet's arithmetic needs: there is nothing
    /// to decide on then.
    pub fn read(
        &mut self,
        scope: ReadScope,
        why: Reason,
        caused_by: Option<Mono>,
    ) -> Result<MemoryReading, CgroupError> {
        self.read_watched(scope, |_| scope == ReadScope::AllPods, why, caused_by)
    }

    /// As [`ReadScope::Top`], and of what is watched these.
    ///
    /// # Errors
    /// As [`MemoryFiles::read`].
    pub fn read_these(
        &mut self,
        domains: &[Domain],
        why: Reason,
        caused_by: Option<Mono>,
    ) -> Result<MemoryReading, CgroupError> {
        self.read_watched(ReadScope::Top, |domain| domains.contains(domain), why, caused_by)
    }

    fn read_watched(
        &mut self,
        scope: ReadScope,
        wanted: impl Fn(&Domain) -> bool,
        why: Reason,
        caused_by: Option<Mono>,
    ) -> Result<MemoryReading, CgroupError> {
        let at = clock::now();
        let mut domains = Vec::with_capacity(2 + self.watched.len());
        let accounted = self.accounted_at.is_some_and(|before| at.since(before) < ACCOUNT_EVERY);
        self.reader.account = (scope == ReadScope::AllPods && !accounted).then(Vec::new);
        let reader = &mut self.reader;
        let (node, info) = self.node.read(scope, reader)?;
        domains.push(node);
        match self.kubepods.read_or_reopen(reader) {
            Ok(Some(reading)) => domains.push(reading),
            Ok(None) => tracing::warn!(dir = %self.kubepods.dir.display(), "the kubepods cgroup is gone"),
            Err(e) => tracing::warn!(error = %e, "cannot read kubepods' memory"),
        }
        self.watched.retain_mut(|w| {
            if !wanted(&w.domain) {
                return true;
            }
            match w.read_or_reopen(reader) {
                Ok(Some(reading)) => {
                    domains.push(reading);
                    true
                }
                Ok(None) => false,
                Err(e) => {
                    tracing::warn!(error = %e, "cannot read a pod's memory");
                    true
                }
            }
        });
        self.ask_for_flush(&domains);
        rstat::take_newer_of_children(&mut domains, self.reader.slack_bytes);
        self.keep_account(at, &info, &domains);
        Ok(MemoryReading {
            at,
            done_at: clock::now(),
            why,
            caused_by,
            mem_available_bytes: info.available_bytes,
            domains,
            stalled: Vec::new(),
        })
    }

    /// What a reading of all pods has found, for those who show it; no more often than once a second.
    pub fn take_account(&mut self) -> Option<MemoryAccount> {
        self.account.take()
    }

    fn keep_account(&mut self, at: Mono, info: &MemInfo, domains: &[DomainReading]) {
        let Some(mut accounts) = self.reader.account.take() else { return };
        // Shown is what was decided on.
        for (account, reading) in accounts.iter_mut().zip(domains) {
            account.reading = reading.clone();
        }
        let node = NodeMemory {
            total_bytes: info.total_bytes,
            swap_total_bytes: info.swap_total_bytes,
            swap_free_bytes: info.swap_free_bytes,
        };
        self.accounted_at = Some(at);
        self.account = Some(MemoryAccount { at, node, domains: accounts });
    }

    /// Where statistics are stale or stand still, has the kernel flush all below them, so that the next readings find them
    /// true. Where they are stale, once for so much as is charged meanwhile: whoever does not charge has nothing new to be flushed. Only,
    /// usage does not always tell: in a full cgroup it stays as it is while page cache makes room for a leak. In one that is
    /// not full it does.
    fn ask_for_flush(&mut self, domains: &[DomainReading]) {
        let kubepods = domains.iter().find(|d| d.domain == Domain::Kubepods);
        let usage_bytes = kubepods.map_or(0, |d| d.usage_bytes);
        let moved = |before: u64| usage_bytes.abs_diff(before) > self.reader.slack_bytes;
        let stale =
            domains.iter().any(|d| d.is_stale() && matches!(d.domain, Domain::Kubepods | Domain::Pod(_)));
        if !stale {
            self.asked_at = None;
        }
        if stale && self.asked_at.is_none_or(moved) {
            if self.rstat_flush.ask(Why::Stale) {
                self.asked_at = Some(usage_bytes);
            }
        } else if stale || domains.iter().any(may_hide_a_leak) {
            self.rstat_flush.ask(Why::AsBefore);
        }
    }
}

/// Pressure of one cgroup (`<dir>/memory.pressure`) or of the node (`/proc/pressure/memory`). `None` where the
/// kernel does not keep it, or the cgroup is gone.
#[must_use]
pub fn psi(path: &Path) -> Option<Psi> {
    parse::psi(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests;
