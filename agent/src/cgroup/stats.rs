//! The memory files of the node, of `kubepods` and of every watched pod and container, kept open: a reading is
//! a `pread` a file into one buffer that is never given back, so that it also works when memory is short.
//! The sampler's hands; what to read when is decided elsewhere.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use aya::util::online_cpus;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::driver::CgroupDriver;
use super::parse::{self, MemInfo, ParseError};
use super::{CgroupError, tree};
use crate::clock;
use oomlet_core::clock::Mono;
use oomlet_core::pod::PodUid;
use oomlet_core::reason::Reason;
use oomlet_core::signal::{Domain, DomainReading, Hierarchy, MemoryReading, ReadScope, rstat};

pub use super::parse::Psi;

mod rstat_flush;
mod statistics;

use rstat_flush::{RstatFlush, Why};
use statistics::{StatFile, may_hide_a_leak};

/// `/proc/vmstat` is the largest of the files, about 4.5 KiB on Linux 6.18; `memory.stat` has 2 KiB.
const BUFFER_BYTES: usize = 32 * 1024;

/// Names of a cgroup's memory files.
struct FileNames {
    usage: &'static str,
    limit: &'static str,
    oom: &'static str,
}

const V1: FileNames =
    FileNames { usage: "memory.usage_in_bytes", limit: "memory.limit_in_bytes", oom: "memory.oom_control" };
const V2: FileNames = FileNames { usage: "memory.current", limit: "memory.max", oom: "memory.events" };

/// One cgroup's open files.
#[derive(Debug)]
struct CgroupFiles {
    usage: OwnedFd,
    stat: StatFile,
    limit: OwnedFd,
    oom: OwnedFd,
}

/// The node's open files. v1 accounts the whole machine in its root cgroup; v2's root has `memory.stat` only.
#[derive(Debug)]
struct NodeFiles {
    meminfo: OwnedFd,
    stat: StatFile,
    usage_v1: Option<OwnedFd>,
    vmstat: OwnedFd,
    /// As read with the last [`ReadScope::AllPods`]: `/proc/vmstat` is a long file and the counter moves seldom.
    oom_kills: u64,
}

#[derive(Debug)]
struct Watched {
    domain: Domain,
    dir: PathBuf,
    files: CgroupFiles,
}

/// How files are read.
#[derive(Debug)]
struct Reader {
    hierarchy: Hierarchy,
    /// See [`statistics::slack_bytes`].
    slack_bytes: u64,
    buffer: Vec<u8>,
}

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
}

impl MemoryFiles {
    /// Opens the node's and kubepods' files; [`CgroupDriver::ensure_kubepods`] comes first.
    ///
    /// # Errors
    /// [`CgroupError::Io`] naming the file that cannot be opened.
    pub fn open(driver: &CgroupDriver) -> Result<Self, CgroupError> {
        let hierarchy = driver.memory_hierarchy();
        let root = driver.memory_root();
        let node = NodeFiles {
            meminfo: open(Path::new("/proc/meminfo"))?,
            stat: StatFile::open(root)?,
            usage_v1: match hierarchy {
                Hierarchy::MemoryV1 => Some(open(&root.join(V1.usage))?),
                Hierarchy::Unified => None,
            },
            vmstat: open(Path::new("/proc/vmstat"))?,
            oom_kills: 0,
        };
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
            },
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

impl NodeFiles {
    fn read(
        &mut self,
        scope: ReadScope,
        reader: &mut Reader,
    ) -> Result<(DomainReading, MemInfo), CgroupError> {
        let Reader { hierarchy, slack_bytes, buffer } = reader;
        let named = |path: &'static str| move |e: ReadError| e.at(Path::new(path));
        let info = read(&self.meminfo, buffer, parse::meminfo).map_err(named("/proc/meminfo"))?;
        let usage_bytes = match &self.usage_v1 {
            // On v1 the root cgroup accounts the whole machine, as cAdvisor reads it.
            Some(usage) => read(usage, buffer, |t| parse::single(t, V1.usage))
                .map_err(named("memory.usage_in_bytes of the root cgroup"))?,
            // v2's root has no memory.current; cAdvisor and kubelet take what meminfo says is not free.
            None => info.total_bytes.saturating_sub(info.free_bytes),
        };
        let stat = self.stat.read(usage_bytes, *hierarchy, *slack_bytes, buffer);
        let (stat, statistics) = stat.map_err(named("memory.stat of the root cgroup"))?;
        // The root cgroup's own counter sees only what runs directly in it (v1) or does not exist (v2).
        if scope == ReadScope::AllPods {
            self.oom_kills = read(&self.vmstat, buffer, parse::oom_kills).map_err(named("/proc/vmstat"))?;
        }
        let reading = DomainReading {
            domain: Domain::Node,
            usage_bytes,
            inactive_file_bytes: stat.inactive_file_bytes,
            active_file_bytes: stat.active_file_bytes,
            dirty_bytes: stat.dirty_bytes,
            refaults: stat.refaults,
            statistics,
            limit_bytes: Some(info.total_bytes),
            oom_kills: self.oom_kills,
        };
        Ok((reading, info))
    }
}

impl Watched {
    fn open(hierarchy: Hierarchy, domain: Domain, dir: &Path) -> Result<Self, CgroupError> {
        Ok(Watched { domain, dir: dir.to_owned(), files: CgroupFiles::open(hierarchy, dir)? })
    }

    /// `None`: the cgroup is gone. One that was removed and made again has new files; they are opened.
    fn read_or_reopen(&mut self, reader: &mut Reader) -> Result<Option<DomainReading>, CgroupError> {
        match self.read(reader) {
            Err(ReadError::Io(e)) if tree::is_gone(&e) => {}
            result => return result.map(Some).map_err(|e| e.at(&self.dir)),
        }
        match CgroupFiles::open(reader.hierarchy, &self.dir) {
            Ok(files) => self.files = files,
            Err(CgroupError::Io { source, .. }) if tree::is_gone(&source) => return Ok(None),
            Err(e) => return Err(e),
        }
        match self.read(reader) {
            Err(ReadError::Io(e)) if tree::is_gone(&e) => Ok(None),
            result => result.map(Some).map_err(|e| e.at(&self.dir)),
        }
    }

    fn read(&mut self, reader: &mut Reader) -> Result<DomainReading, ReadError> {
        let Reader { hierarchy, slack_bytes, buffer } = reader;
        let names = file_names(*hierarchy);
        let usage_bytes = read(&self.files.usage, buffer, |t| parse::single(t, names.usage))?;
        let (stat, statistics) = self.files.stat.read(usage_bytes, *hierarchy, *slack_bytes, buffer)?;
        Ok(DomainReading {
            domain: self.domain.clone(),
            usage_bytes,
            inactive_file_bytes: stat.inactive_file_bytes,
            active_file_bytes: stat.active_file_bytes,
            dirty_bytes: stat.dirty_bytes,
            refaults: stat.refaults,
            statistics,
            limit_bytes: read(&self.files.limit, buffer, |t| parse::limit(t, names.limit))?,
            // v2 counts kills in the cgroups below as well. v1 counts them where the victim was only, so
            // there a pod's kills are the sum over its containers.
            oom_kills: read(&self.files.oom, buffer, parse::oom_kills)?,
        })
    }
}

const fn file_names(hierarchy: Hierarchy) -> &'static FileNames {
    match hierarchy {
        Hierarchy::MemoryV1 => &V1,
        Hierarchy::Unified => &V2,
    }
}

impl CgroupFiles {
    fn open(hierarchy: Hierarchy, dir: &Path) -> Result<Self, CgroupError> {
        let names = file_names(hierarchy);
        Ok(CgroupFiles {
            usage: open(&dir.join(names.usage))?,
            stat: StatFile::open(dir)?,
            limit: open(&dir.join(names.limit))?,
            oom: open(&dir.join(names.oom))?,
        })
    }
}

/// Pressure of one cgroup (`<dir>/memory.pressure`) or of the node (`/proc/pressure/memory`). `None` where the
/// kernel does not keep it, or the cgroup is gone.
#[must_use]
pub fn psi(path: &Path) -> Option<Psi> {
    parse::psi(&fs::read(path).ok()?).ok()
}

enum ReadError {
    Io(io::Error),
    Parse(ParseError),
}

impl From<ParseError> for ReadError {
    fn from(e: ParseError) -> Self {
        ReadError::Parse(e)
    }
}

impl ReadError {
    fn at(self, path: &Path) -> CgroupError {
        match self {
            ReadError::Io(e) => CgroupError::io("read the memory files of", path, e),
            ReadError::Parse(source) => CgroupError::Malformed { path: path.to_owned(), source },
        }
    }
}

pub(super) fn open(path: &Path) -> Result<OwnedFd, CgroupError> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| CgroupError::io("open", path, e))
}

/// One `pread` from the start makes the kernel write the file anew. These are single-record seq_files, which
/// hand over the whole text at once if the buffer holds it; a text that fills the buffer goes on beyond it.
fn read<T>(
    fd: &OwnedFd,
    buffer: &mut [u8],
    parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
) -> Result<T, ReadError> {
    let length = pread(fd, buffer)?;
    if length == buffer.len() {
        return Err(ReadError::Io(io::Error::from(Errno::OVERFLOW)));
    }
    Ok(parse(&buffer[..length])?)
}

fn pread(fd: &OwnedFd, buffer: &mut [u8]) -> Result<usize, ReadError> {
    loop {
        match rustix::io::pread(fd, &mut *buffer, 0) {
            Err(Errno::INTR) => {}
            result => return result.map_err(|e| ReadError::Io(e.into())),
        }
    }
}

#[cfg(test)]
mod tests;
