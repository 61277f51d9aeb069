//! The kernel's side of sensing: finds out what this kernel allows, loads the eBPF programs that it takes,
//! and hands out their records as [`KernelEvent`](oomlet_core::signal::KernelEvent)s. Shell.
//!
//! Nothing here is fatal. A program that cannot be loaded says why in its [`ProgramReport`], and the agent
//! runs on with what is left, down to none at all (tier 0).
//!
//! - [`btf`]: reads the kernel's type description; [`layout`]: the offsets that the programs need from it.
//! - [`tracefs`]: finds or mounts it; formats of plain tracepoints.
//! - [`facts`]: both, for the running kernel.
//! - [`programs`]: the table of programs and how each is attached.
//! - [`ring_buffer`]: the reader; [`decode`]: bytes → events.
//! - [`watched_memcgs`]: which memcgs get a forecast at each charge.
//! - [`capability`]: what the node allows, for `oomlet check`.
//! - [`pidfd`]: a process that is held by a descriptor.
//! - [`scheduling`]: the class of a thread.
//! - [`heap`]: how much memory is kept beyond what is used.
//! - [`log_forward`]: the programs' own log lines → `tracing`.

pub mod alarm;
pub mod btf;
pub mod capability;
pub mod decode;
mod facts;
pub mod heap;
pub mod layout;
mod log_forward;
pub mod pidfd;
mod programs;
mod ring_buffer;
pub mod scheduling;
pub mod tracefs;
mod watched_memcgs;

use std::path::PathBuf;
use std::time::Duration;

use aya::maps::{Array, HashMap, MapData, PerCpuArray, RingBuf};
use aya::{Ebpf, EbpfLoader};
use oomlet_ebpf_common::layout::Tuning;
use serde::Serialize;
use zerocopy::IntoBytes;

pub use capability::{Capabilities, CgroupVersion, Found, HeldCapability, Lockdown};
use ring_buffer::LostCounter;
pub use ring_buffer::RingReader;
use watched_memcgs::WatchedMemcgs;

use oomlet_core::clock::Mono;
use oomlet_core::signal::{CgroupId, Hierarchy};

/// The compiled programs; agent/build.rs makes the file.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/oomlet-ebpf"));

/// How to load the programs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The kernel's BTF.
    pub btf_path: PathBuf,
    /// Where tracefs is mounted; `None`: find it, or mount it.
    pub tracefs: Option<PathBuf>,
    /// 0: load nothing; 1: no program that needs BTF; 2: all.
    pub max_tier: u8,
    /// Size of the ring buffer in bytes: a power of two and at least a page, else it is rounded up to one.
    pub ring_bytes: u32,
    /// One sample per this many page faults of a CPU; 0: no sampling.
    pub fault_sample_period: u64,
    /// Faults of a cgroup before it is reported as growing.
    pub growth_min_faults: u64,
    /// Least time between two records of one kind about one cgroup.
    pub cool_down: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            btf_path: PathBuf::from("/sys/kernel/btf/vmlinux"),
            tracefs: None,
            max_tier: 2,
            ring_bytes: 256 * 1024,
            fault_sample_period: 64,
            // 1 MiB of 4 KiB pages: a hog of 1 GiB/s is seen after a millisecond, one of 10 MiB/s after 100.
            growth_min_faults: 256,
            cool_down: Duration::from_millis(5),
        }
    }
}

/// A program, how it is hooked in and whether it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProgramReport {
    pub name: &'static str,
    /// Tier of the variant in use; where none is, of the best one.
    pub tier: u8,
    /// `raw_tp:…`, `tracepoint:…`, `tp_btf:…`, `perf_event:…`: the variant in use; where none is, the best one.
    pub hook: String,
    pub state: ProgramState,
    /// Why better variants are not in use.
    pub passed_over: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProgramState {
    Loaded,
    /// Why not.
    Unavailable(String),
}

#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error(
        "watch pid {pid}: the exit program is not loaded ({why}); the runtime's next relist reports the exit"
    )]
    NotWatching { pid: u32, why: String },
    #[error("watch pid {pid}: {source}; the runtime's next relist reports the exit")]
    Watch { pid: u32, source: aya::maps::MapError },
    #[error("forecast of cgroup {cgroup:?}: {source}; its growth is seen by page faults and the sampler")]
    WatchMemcg { cgroup: CgroupId, source: aya::maps::MapError },
}

/// What this node allows, without changing anything.
#[must_use]
pub fn probe(options: &Options) -> Capabilities {
    capability::probe(options)
}

/// The loaded programs, their maps and links. Dropping it detaches them.
pub struct Kernel {
    /// Owns programs and links.
    ebpf: Option<Ebpf>,
    programs: Vec<ProgramReport>,
    ring: Option<RingReader>,
    lost: Option<LostCounter>,
    watched: Option<HashMap<MapData, u32, u8>>,
    quiet_until: Option<Array<MapData, u64>>,
    /// `None` where the charge program is not loaded.
    watched_memcgs: Option<WatchedMemcgs>,
    logger: Option<tokio::task::JoinHandle<()>>,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("programs", &self.programs).finish_non_exhaustive()
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if let Some(task) = self.logger.take() {
            task.abort();
        }
    }
}

impl Kernel {
    /// Loads what this kernel takes. Never fails: each program carries its state, and so does the tier.
    #[must_use]
    pub fn load(options: &Options) -> Kernel {
        let facts = facts::gather(options);
        let mut loaded = if options.max_tier == 0 {
            Err("tier 1 is turned off (max tier 0)".to_owned())
        } else {
            load_object(&facts, options)
        };
        let programs = programs::load_all(loaded.as_mut().map_err(|why| why.as_str()), &facts, options);
        drop(facts);
        // Parsing BTF takes tens of megabytes for a moment.
        heap::give_back();
        for program in &programs {
            match &program.state {
                ProgramState::Loaded => {
                    tracing::debug!(program = program.name, hook = program.hook, "loaded");
                }
                ProgramState::Unavailable(why) => {
                    tracing::warn!(
                        program = program.name,
                        hook = program.hook,
                        why,
                        "eBPF program unavailable"
                    );
                }
            }
        }
        let mut kernel = Kernel {
            ebpf: loaded.ok(),
            programs,
            ring: None,
            lost: None,
            watched: None,
            quiet_until: None,
            watched_memcgs: None,
            logger: None,
        };
        kernel.take_maps();
        kernel
    }

    /// Growth of a cgroup is told of as it happens.
    #[must_use]
    pub fn tells_growth(&self) -> bool {
        self.is_loaded(programs::PAGE_FAULT_SAMPLE)
    }

    fn is_loaded(&self, name: &str) -> bool {
        self.programs.iter().any(|p| p.name == name && p.state == ProgramState::Loaded)
    }

    /// 0 when nothing is loaded, else the highest tier of what is.
    #[must_use]
    pub fn tier(&self) -> u8 {
        let loaded = self.programs.iter().filter(|p| p.state == ProgramState::Loaded);
        loaded.map(|p| p.tier).max().unwrap_or(0)
    }

    #[must_use]
    pub fn programs(&self) -> &[ProgramReport] {
        &self.programs
    }

    /// The reading end of the ring buffer. `None` where no program is loaded, and after the first call.
    pub fn ring(&mut self) -> Option<RingReader> {
        self.ring.take()
    }

    /// Asks for an `InitExit` when the process ends. `pid` is the id in the initial pid namespace. One that
    /// has ended already is not reported.
    ///
    /// # Errors
    /// The program is not loaded, or the map is full.
    pub fn watch_init(&mut self, pid: u32) -> Result<(), KernelError> {
        let state = self.programs.iter().find(|p| p.name == programs::PROCESS_EXIT).map(|p| &p.state);
        match (&mut self.watched, state) {
            (Some(watched), Some(ProgramState::Loaded)) => {
                watched.insert(pid, 1, 0).map_err(|source| KernelError::Watch { pid, source })
            }
            (_, Some(ProgramState::Unavailable(why))) => {
                Err(KernelError::NotWatching { pid, why: why.clone() })
            }
            _ => Err(KernelError::NotWatching { pid, why: "no map".to_owned() }),
        }
    }

    /// Takes the wish back. A pid that is not watched is fine.
    pub fn unwatch_init(&mut self, pid: u32) {
        if let Some(watched) = &mut self.watched {
            // Not there: the program removed it when the process ended.
            let _ = watched.remove(&pid);
        }
    }

    /// Asks for a `ChargeForecast` whenever this cgroup is about to reach its limit. Without the charge program, and for
    /// a cgroup of a hierarchy without the memory controller, this does nothing.
    ///
    /// # Errors
    /// The map is full.
    pub fn watch_memcg(&mut self, cgroup: CgroupId) -> Result<(), KernelError> {
        let Some(watched) = &mut self.watched_memcgs else { return Ok(()) };
        watched.insert(cgroup).map_err(|source| KernelError::WatchMemcg { cgroup, source })
    }

    /// Takes the wish back. A cgroup that is not watched, or gone, is fine.
    pub fn unwatch_memcg(&mut self, cgroup: CgroupId) {
        let removed = self.watched_memcgs.as_mut().map_or(Ok(()), |watched| watched.remove(cgroup));
        if let Err(error) = removed {
            tracing::debug!(?cgroup, %error, "its forecast stays on");
        }
    }

    /// No `Growth` is told before `until`, CLOCK_MONOTONIC; what grows meanwhile is told then if it goes on. Without the growth
    /// program this does nothing.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn quiet_growth(&mut self, until: Mono) -> Result<(), aya::maps::MapError> {
        self.quiet_until.as_mut().map_or(Ok(()), |map| map.set(0, until.0, 0))
    }

    /// Records that found no room in the ring buffer since the programs were loaded.
    #[must_use]
    pub fn lost_records(&self) -> u64 {
        self.lost.as_ref().map_or(0, LostCounter::total)
    }

    /// Sends the programs' own log lines to `tracing`, target `oomlet::ebpf`. Needs a tokio runtime with I/O.
    pub fn attach_logger(&mut self) {
        let Some(ebpf) = self.ebpf.as_mut().filter(|_| self.logger.is_none()) else {
            return;
        };
        match log_forward::spawn(ebpf) {
            Ok(task) => self.logger = Some(task),
            Err(error) => tracing::warn!(%error, "the eBPF programs' log lines are not read"),
        }
    }

    fn take_maps(&mut self) {
        let forecasts = self.is_loaded(programs::PAGE_COUNTER_TRY_CHARGE);
        let grows = self.tells_growth();
        let Some(ebpf) = &mut self.ebpf else {
            return;
        };
        if forecasts {
            let hierarchy = match capability::memory_hierarchy_id() {
                0 => Hierarchy::Unified,
                _ => Hierarchy::MemoryV1,
            };
            self.watched_memcgs = WatchedMemcgs::take(ebpf, hierarchy);
        }
        let lost = ebpf.take_map("LOST").and_then(|map| PerCpuArray::try_from(map).ok());
        self.lost = lost.map(LostCounter::new);
        let quiet = ebpf.take_map("GROWTH_QUIET_UNTIL").and_then(|map| Array::try_from(map).ok());
        self.quiet_until = quiet.filter(|_| grows);
        self.watched = ebpf.take_map("WATCHED").and_then(|map| HashMap::try_from(map).ok());
        let any_loaded = self.programs.iter().any(|p| p.state == ProgramState::Loaded);
        let ring = ebpf.take_map("EVENTS").filter(|_| any_loaded);
        if let (Some(map), Some(lost)) = (ring, &self.lost) {
            match RingBuf::try_from(map) {
                Ok(ring) => self.ring = Some(RingReader::new(ring, lost.clone())),
                Err(error) => {
                    tracing::warn!(%error, "the ring buffer cannot be mapped; no record will be read");
                }
            }
        }
    }
}

/// Creates the maps and readies the programs. The offsets go into the object's read-only data first.
fn load_object(facts: &facts::Facts, options: &Options) -> Result<Ebpf, String> {
    raise_memlock();
    let page_size = u32::try_from(rustix::param::page_size()).unwrap_or(4096);
    let tuning = Tuning {
        cool_down_ns: u64::try_from(options.cool_down.as_nanos()).unwrap_or(u64::MAX),
        growth_window_ns: 1_000_000_000,
        growth_min_faults: options.growth_min_faults,
        fault_sample_period: options.fault_sample_period,
        page_size: u64::from(page_size),
        memory_hierarchy: u64::from(capability::memory_hierarchy_id()),
        forecast_horizon_ns: 500_000_000,
        forecast_window_min_ns: 1_000_000,
        forecast_window_max_ns: 100_000_000,
        forecast_low_shift: 6,
        forecast_cool_down_ns: 20_000_000,
    };
    EbpfLoader::new()
        // The programs carry no relocations against kernel types.
        .btf(None)
        .override_global("LAYOUT", facts.layout.as_bytes(), true)
        .override_global("TUNING", tuning.as_bytes(), true)
        .map_max_entries("EVENTS", ring_size(options.ring_bytes, page_size))
        .load(OBJECT)
        .map_err(|error| {
            format!(
                "create the eBPF maps: {}; it takes root, or CAP_BPF and CAP_PERFMON, on Linux 5.8 or later",
                programs::chain(&error)
            )
        })
}

fn ring_size(wanted: u32, page_size: u32) -> u32 {
    wanted.clamp(page_size, 1 << 28).next_power_of_two()
}

/// Before 5.11 map memory counts against RLIMIT_MEMLOCK.
fn raise_memlock() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let unlimited = Rlimit { current: None, maximum: None };
    if let Err(error) = setrlimit(Resource::Memlock, unlimited) {
        tracing::debug!(%error, "RLIMIT_MEMLOCK stays as it is; kernels from 5.11 on do not care");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_sizes_are_powers_of_two_of_at_least_a_page() {
        for (wanted, expected) in
            [(0, 4096), (4096, 4096), (4097, 8192), (262_144, 262_144), (u32::MAX, 1 << 28)]
        {
            assert_eq!(ring_size(wanted, 4096), expected, "{wanted}");
        }
    }

    #[test]
    fn nothing_is_loaded_at_tier_0() {
        let mut kernel = Kernel::load(&Options { max_tier: 0, ..Options::default() });
        assert_eq!(kernel.tier(), 0);
        assert!(kernel.ring().is_none());
        assert!(kernel.watch_init(1).is_err());
        assert_eq!(kernel.lost_records(), 0);
        kernel.unwatch_init(1);
        kernel.attach_logger();
    }

    #[test]
    fn what_the_node_allows_is_plain_data() {
        let found = probe(&Options { btf_path: PathBuf::from("/nonexistent"), ..Options::default() });
        assert!(!found.btf.is_there());
        let json = serde_json::to_value(&found).expect("plain data");
        assert!(json["btf"]["missing"].as_str().is_some_and(|why| why.contains("/nonexistent")));
        assert!(json["kernel_release"].as_str().is_some_and(|release| !release.is_empty()));
    }
}
