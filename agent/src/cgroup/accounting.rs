//! The files of one cgroup that the sampler does not read: CPU time and throttling, block I/O, processes, pressure, and of
//! memory what no decision needs. They are kept open; nobody waits for them but those who show numbers.
//!
//! - `dirs`: where they are. - `memory`: those of a cgroup that the sampler does not watch. - `parse`: what they say.

mod dirs;
mod memory;
mod parse;

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::hierarchy::Hierarchies;
use super::open_file::open;
use dirs::{Dirs, created_ns, number_in};
use memory::{MemoryFiles, Reader};
use oomlet_core::stats::numbers::{
    CgroupReading, Cpu, DeviceIo, Io, MemoryExtras, Pressure, Processes, Spec, Throttling,
};
use parse::CpuTime;

/// The longest is `io.stat`, a line of about 100 bytes for each device.
pub const BUFFER_BYTES: usize = 64 * 1024;

/// What a cgroup is allowed changes seldom: it is read with every so many readings.
const SPEC_EVERY: u32 = 6;

/// A file that may not be there.
type File = Option<OwnedFd>;

#[derive(Debug)]
struct V1Files {
    cpuacct_usage: File,
    cpuacct_stat: File,
    cpu_stat: File,
    blkio_bytes: File,
    blkio_operations: File,
    max_usage: File,
    limit_hits: File,
    kernel: File,
}

#[derive(Debug)]
struct V2Files {
    cpu_stat: File,
    io_stat: File,
    max_usage: File,
    swap: File,
}

#[derive(Debug)]
enum Files {
    V1(V1Files),
    V2(V2Files),
}

/// Who reads the cgroup's usage and `memory.stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryBy {
    Sampler,
    Accounting,
}

/// One cgroup's open files.
#[derive(Debug)]
pub struct Accounting {
    path: String,
    dirs: Dirs,
    files: Files,
    /// Of a cgroup that the sampler does not watch.
    memory: Option<MemoryFiles>,
    pids: File,
    pids_max: Option<u64>,
    pressure: [File; 3],
    spec: Spec,
    readings: u32,
    created_ns: Option<i64>,
}

impl Accounting {
    /// `path`: within each hierarchy. What a kernel or a hierarchy does not have is left out. `None`: it is nowhere.
    #[must_use]
    pub fn open(hierarchies: &Hierarchies, path: &str, memory: MemoryBy) -> Option<Accounting> {
        let dirs = Dirs::of(hierarchies, path);
        let known = [&dirs.cpu, &dirs.cpuacct, &dirs.memory, &dirs.pids, &dirs.blkio, &dirs.unified];
        let created = known.into_iter().flatten().filter_map(|dir| created_ns(dir)).min();
        created?;
        let file = |dir: &Option<PathBuf>, name: &str| open(&dir.as_ref()?.join(name)).ok();
        let files = if dirs.v2 {
            Files::V2(V2Files {
                cpu_stat: file(&dirs.unified, "cpu.stat"),
                io_stat: file(&dirs.unified, "io.stat"),
                max_usage: file(&dirs.unified, "memory.peak"),
                swap: file(&dirs.unified, "memory.swap.current"),
            })
        } else {
            Files::V1(V1Files {
                cpuacct_usage: file(&dirs.cpuacct, "cpuacct.usage"),
                cpuacct_stat: file(&dirs.cpuacct, "cpuacct.stat"),
                cpu_stat: file(&dirs.cpu, "cpu.stat"),
                blkio_bytes: file(&dirs.blkio, "blkio.throttle.io_service_bytes_recursive"),
                blkio_operations: file(&dirs.blkio, "blkio.throttle.io_serviced_recursive"),
                max_usage: file(&dirs.memory, "memory.max_usage_in_bytes"),
                limit_hits: file(&dirs.memory, "memory.failcnt"),
                kernel: file(&dirs.memory, "memory.kmem.usage_in_bytes"),
            })
        };
        let pressure = ["cpu", "memory", "io"].map(|what| file(&dirs.unified, &format!("{what}.pressure")));
        Some(Accounting {
            path: path.to_owned(),
            files,
            memory: (memory == MemoryBy::Accounting).then(|| MemoryFiles::open(&dirs)).flatten(),
            pids: file(&dirs.pids, "pids.current"),
            pids_max: None,
            pressure,
            spec: Spec::default(),
            readings: 0,
            created_ns: created,
            dirs,
        })
    }

    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// When the cgroup was made, Unix nanoseconds.
    #[must_use]
    pub fn created_ns(&self) -> Option<i64> {
        self.created_ns
    }

    /// `None`: the cgroup is gone, or was made again. `now_ns`: Unix time.
    pub fn read(&mut self, buffer: &mut [u8], now_ns: i64) -> Option<CgroupReading> {
        if self.readings.is_multiple_of(SPEC_EVERY) {
            self.spec = self.dirs.spec();
            self.pids_max = self.dirs.pids.as_ref().and_then(|dir| number_in(dir, "pids.max"));
        }
        self.readings = self.readings.wrapping_add(1);
        let mut r = Reader { buffer, gone: false };
        let spec = self.spec;
        let quota = spec.cpu.quota_us.is_some();
        let [cpu_pressure, memory_pressure, io_pressure] =
            [0, 1, 2].map(|i| r.of(&self.pressure[i], parse::pressure).flatten());
        let threads = r.of(&self.pids, parse::single).flatten();
        let (time, throttling, devices, mut memory) = match &self.files {
            Files::V1(files) => files.read(&mut r),
            Files::V2(files) => files.read(&mut r),
        };
        memory.pressure = memory_pressure;
        let own_memory = self.memory.as_ref().and_then(|files| files.read(&mut r));
        if r.gone {
            return None;
        }
        let cpu = time.usage_ns.map(|usage_ns| Cpu {
            at_ns: now_ns,
            usage_ns,
            user_ns: time.user_ns,
            system_ns: time.system_ns,
            usage_nano_cores: None,
            throttling: throttling.filter(|_| quota),
            pressure: cpu_pressure,
        });
        let io = devices.map(|devices| Io { at_ns: now_ns, devices, pressure: io_pressure });
        let processes =
            Processes { at_ns: now_ns, threads, threads_max: self.pids_max, ..Processes::default() };
        Some(CgroupReading { cpu, io, extras: memory, processes, spec, memory: own_memory })
    }

    /// The processes right in it, not those of cgroups below.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        let dirs = [&self.dirs.unified, &self.dirs.cpu, &self.dirs.cpuacct, &self.dirs.memory];
        let dir = if self.dirs.v2 { dirs[0] } else { &dirs[1..].iter().copied().flatten().next().cloned() };
        let text = dir.as_ref().and_then(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok());
        text.iter().flat_map(|text| text.lines()).filter_map(|line| line.parse().ok()).collect()
    }
}

type Parts = (CpuTime, Option<Throttling>, Option<Vec<DeviceIo>>, MemoryExtras);

impl V1Files {
    fn read(&self, r: &mut Reader<'_>) -> Parts {
        let ticks = rustix::param::clock_ticks_per_second();
        let usage_ns = r.of(&self.cpuacct_usage, parse::single).flatten();
        let (user_ns, system_ns) =
            r.of(&self.cpuacct_stat, |text| parse::cpuacct_stat(text, ticks)).unwrap_or_default();
        let throttling = r.of(&self.cpu_stat, parse::cpu_stat_v1).flatten();
        let bytes = r.of(&self.blkio_bytes, <[u8]>::to_vec);
        let operations = r.of(&self.blkio_operations, <[u8]>::to_vec);
        let devices = bytes.zip(operations).map(|(bytes, operations)| parse::blkio(&bytes, &operations));
        let memory = MemoryExtras {
            max_usage_bytes: r.of(&self.max_usage, parse::single).flatten(),
            limit_hits: r.of(&self.limit_hits, parse::single).flatten(),
            kernel_bytes: r.of(&self.kernel, parse::single).flatten(),
            ..MemoryExtras::default()
        };
        (CpuTime { usage_ns, user_ns, system_ns }, throttling, devices, memory)
    }
}

impl V2Files {
    fn read(&self, r: &mut Reader<'_>) -> Parts {
        let (time, throttling) = r.of(&self.cpu_stat, parse::cpu_stat_v2).unwrap_or_default();
        let devices = r.of(&self.io_stat, parse::io_stat);
        let memory = MemoryExtras {
            max_usage_bytes: r.of(&self.max_usage, parse::single).flatten(),
            swap_bytes: r.of(&self.swap, parse::single).flatten(),
            ..MemoryExtras::default()
        };
        (time, throttling, devices, memory)
    }
}

/// Pressure of the whole node: `/proc/pressure/cpu`, `…/memory` and `…/io`.
#[must_use]
pub fn node_pressure() -> [Option<Pressure>; 3] {
    ["cpu", "memory", "io"]
        .map(|what| parse::pressure(&fs::read(Path::new("/proc/pressure").join(what)).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::test_tree::TestTree;
    use oomlet_core::pod::PodUid;
    use oomlet_core::pod::qos::{CgroupResources, QosClass};
    use oomlet_core::signal::Hierarchy;

    fn open_pod(tree: &TestTree, uid: &str) -> Accounting {
        let path = tree.driver.ensure_pod(&PodUid::from(uid), QosClass::Burstable, &limits()).unwrap();
        Accounting::open(tree.driver.hierarchies(), &path, MemoryBy::Accounting).unwrap()
    }

    fn limits() -> CgroupResources {
        CgroupResources {
            cpu_shares: Some(512),
            cpu_quota_us: Some(20_000),
            cpu_period_us: Some(100_000),
            memory_limit_bytes: Some(64 << 20),
            ..CgroupResources::default()
        }
    }

    #[test]
    fn a_cgroup_is_read_until_it_is_gone() {
        let tree = TestTree::new(&CgroupResources::default());
        let mut accounting = open_pod(&tree, "a");
        let mut buffer = vec![0; BUFFER_BYTES];
        let reading = accounting.read(&mut buffer, 7).unwrap();
        let cpu = reading.cpu.unwrap();
        assert_eq!((cpu.at_ns, cpu.usage_ns), (7, 0));
        assert_eq!(
            cpu.throttling,
            Some(Throttling {
                burst_periods: cpu.throttling.unwrap().burst_periods,
                burst_ns: cpu.throttling.unwrap().burst_ns,
                ..Throttling::default()
            })
        );
        let spec = reading.spec.cpu;
        assert_eq!((spec.period_us, spec.quota_us), (Some(100_000), Some(20_000)));
        // cAdvisor's way back from a weight is not the kernel's newer way to it: 512 shares are a weight of 59.
        let shares = match tree.driver.memory_hierarchy() {
            Hierarchy::MemoryV1 => 512,
            Hierarchy::Unified => 1522,
        };
        assert!(spec.shares.unwrap().abs_diff(shares) < 40, "{spec:?}");
        let memory = reading.memory.unwrap();
        assert_eq!((memory.usage_bytes, memory.limit_bytes), (0, Some(64 << 20)));
        assert!(accounting.processes().is_empty());
        let made = accounting.created_ns().unwrap();
        let now = i64::try_from(k8s_openapi::jiff::Timestamp::now().as_nanosecond()).unwrap();
        assert!(made <= now && now - made < 600_000_000_000, "{made} {now}");
        tree.driver.remove_pod(&PodUid::from("a"), QosClass::Burstable).unwrap();
        assert_eq!(accounting.read(&mut buffer, 8), None);
        assert!(Accounting::open(tree.driver.hierarchies(), accounting.path(), MemoryBy::Sampler).is_none());
    }
}
