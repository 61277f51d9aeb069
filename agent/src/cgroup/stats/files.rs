//! The open files of the node, and of one watched cgroup.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::statistics::{StatFile, Statistics};
use crate::cgroup::driver::CgroupDriver;
use crate::cgroup::open_file::{self, open};
use crate::cgroup::parse::{self, MemInfo, ParseError, counters};
use crate::cgroup::{CgroupError, tree};
use oomlet_core::signal::{Domain, DomainReading, Hierarchy, ReadScope};
use oomlet_core::stats::account::{DomainAccount, EventCounters, StatCounters};

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
pub(super) struct NodeFiles {
    meminfo: OwnedFd,
    stat: StatFile,
    usage_v1: Option<OwnedFd>,
    vmstat: OwnedFd,
    /// As read with the last [`ReadScope::AllPods`]: `/proc/vmstat` is a long file and the counter moves seldom.
    oom_kills: u64,
}

#[derive(Debug)]
pub(super) struct Watched {
    pub(super) domain: Domain,
    pub(super) dir: PathBuf,
    files: CgroupFiles,
}

/// How files are read.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) hierarchy: Hierarchy,
    /// See [`super::statistics::slack_bytes`].
    pub(super) slack_bytes: u64,
    pub(super) buffer: Vec<u8>,
    /// Where all pods are read: what the same texts say beyond what decisions need.
    pub(super) account: Option<Vec<DomainAccount>>,
}

impl NodeFiles {
    pub(super) fn open(driver: &CgroupDriver) -> Result<NodeFiles, CgroupError> {
        let root = driver.memory_root();
        Ok(NodeFiles {
            meminfo: open(Path::new("/proc/meminfo"))?,
            stat: StatFile::open(root)?,
            usage_v1: match driver.memory_hierarchy() {
                Hierarchy::MemoryV1 => Some(open(&root.join(V1.usage))?),
                Hierarchy::Unified => None,
            },
            vmstat: open(Path::new("/proc/vmstat"))?,
            oom_kills: 0,
        })
    }

    pub(super) fn read(
        &mut self,
        scope: ReadScope,
        reader: &mut Reader,
    ) -> Result<(DomainReading, MemInfo), CgroupError> {
        let Reader { hierarchy, slack_bytes, buffer, account } = reader;
        let named = |path: &'static str| move |e: ReadError| e.at(Path::new(path));
        let info = read(&self.meminfo, buffer, parse::meminfo).map_err(named("/proc/meminfo"))?;
        let usage_bytes = match &self.usage_v1 {
            // On v1 the root cgroup accounts the whole machine, as cAdvisor reads it.
            Some(usage) => read(usage, buffer, |t| parse::single(t, V1.usage))
                .map_err(named("memory.usage_in_bytes of the root cgroup"))?,
            // v2's root has no memory.current; cAdvisor and kubelet take what meminfo says is not free.
            None => info.total_bytes.saturating_sub(info.free_bytes),
        };
        let read_stat = self.stat.read(usage_bytes, *hierarchy, *slack_bytes, account.is_some(), buffer);
        let Statistics { stat, age, counters } =
            read_stat.map_err(named("memory.stat of the root cgroup"))?;
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
            statistics: age,
            limit_bytes: Some(info.total_bytes),
            oom_kills: self.oom_kills,
        };
        keep(account, &reading, counters, EventCounters::default());
        Ok((reading, info))
    }
}

impl Watched {
    pub(super) fn open(hierarchy: Hierarchy, domain: Domain, dir: &Path) -> Result<Self, CgroupError> {
        Ok(Watched { domain, dir: dir.to_owned(), files: CgroupFiles::open(hierarchy, dir)? })
    }

    /// `None`: the cgroup is gone. One that was removed and made again has new files; they are opened.
    pub(super) fn read_or_reopen(
        &mut self,
        reader: &mut Reader,
    ) -> Result<Option<DomainReading>, CgroupError> {
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
        let Reader { hierarchy, slack_bytes, buffer, account } = reader;
        let names = file_names(*hierarchy);
        let shown = account.is_some();
        let usage_bytes = read(&self.files.usage, buffer, |t| parse::single(t, names.usage))?;
        let Statistics { stat, age, counters } =
            self.files.stat.read(usage_bytes, *hierarchy, *slack_bytes, shown, buffer)?;
        let limit_bytes = read(&self.files.limit, buffer, |t| parse::limit(t, names.limit))?;
        let (oom_kills, events) = read(&self.files.oom, buffer, |text| {
            let events = if shown { counters::events(text) } else { EventCounters::default() };
            Ok((parse::oom_kills(text)?, events))
        })?;
        let reading = DomainReading {
            domain: self.domain.clone(),
            usage_bytes,
            inactive_file_bytes: stat.inactive_file_bytes,
            active_file_bytes: stat.active_file_bytes,
            dirty_bytes: stat.dirty_bytes,
            refaults: stat.refaults,
            statistics: age,
            limit_bytes,
            // v2 counts kills in the cgroups below as well. v1 counts them where the victim was only, so
            // there a pod's kills are the sum over its containers.
            oom_kills,
        };
        keep(account, &reading, counters, events);
        Ok(reading)
    }
}

fn keep(
    account: &mut Option<Vec<DomainAccount>>,
    reading: &DomainReading,
    counters: StatCounters,
    events: EventCounters,
) {
    if let Some(account) = account {
        account.push(DomainAccount { reading: reading.clone(), counters, events });
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

pub(super) enum ReadError {
    Io(io::Error),
    Parse(ParseError),
}

impl From<ParseError> for ReadError {
    fn from(e: ParseError) -> Self {
        ReadError::Parse(e)
    }
}

impl ReadError {
    pub(super) fn at(self, path: &Path) -> CgroupError {
        match self {
            ReadError::Io(e) => CgroupError::io("read the memory files of", path, e),
            ReadError::Parse(source) => CgroupError::Malformed { path: path.to_owned(), source },
        }
    }
}

pub(super) fn read<T>(
    fd: &OwnedFd,
    buffer: &mut [u8],
    parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
) -> Result<T, ReadError> {
    Ok(parse(open_file::read_all(fd, buffer).map_err(ReadError::Io)?)?)
}
