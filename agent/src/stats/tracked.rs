//! The cgroups whose files are open, and their readings of the last ten seconds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::cgroup::accounting::{Accounting, BUFFER_BYTES, MemoryBy};
use crate::cgroup::driver::CgroupDriver;
use crate::stats::proc;
use oomlet_core::stats::account::CgroupMemory;
use oomlet_core::stats::assemble::{self, About};
use oomlet_core::stats::numbers::{Cgroup, CgroupReading, Processes};
use oomlet_core::stats::rate::Sample;

/// CPU use is that of about so long: cAdvisor's housekeeping.
const WINDOW_NS: u64 = 9_000_000_000;

/// Descriptors are counted with every so many readings: each of them is a look into `/proc`.
const DESCRIPTORS_EVERY: u32 = 3;

#[derive(Debug)]
struct Tracked {
    files: Accounting,
    samples: VecDeque<Sample>,
    readings: u32,
    /// As counted last.
    processes: Processes,
}

/// By path.
#[derive(Debug)]
pub struct TrackedCgroups {
    cgroups: BTreeMap<String, Tracked>,
    seen: BTreeSet<String>,
    buffer: Vec<u8>,
    /// Names of block devices, which last as long as the agent.
    devices: BTreeMap<(u32, u32), String>,
}

impl Default for TrackedCgroups {
    fn default() -> TrackedCgroups {
        TrackedCgroups {
            cgroups: BTreeMap::new(),
            seen: BTreeSet::new(),
            buffer: vec![0; BUFFER_BYTES],
            devices: BTreeMap::new(),
        }
    }
}

/// What is wanted of a cgroup.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// As the sampler has read it, with the Unix time of that.
    pub sampled: Option<(CgroupMemory, i64)>,
    pub memory: MemoryBy,
    /// Processes and their descriptors: of what runs processes itself.
    pub processes: bool,
}

impl TrackedCgroups {
    /// `None`: it is not there.
    pub fn read(
        &mut self,
        driver: &CgroupDriver,
        path: &str,
        wanted: Wanted,
        now_ns: i64,
    ) -> Option<(Cgroup, Vec<i32>)> {
        self.seen.insert(path.to_owned());
        if let Some(read) = self.read_open(path, &wanted, now_ns) {
            return Some(read);
        }
        // Not open yet, or made again under the same name.
        let files = Accounting::open(driver.hierarchies(), path, wanted.memory)?;
        let tracked =
            Tracked { files, samples: VecDeque::new(), readings: 0, processes: Processes::default() };
        self.cgroups.insert(path.to_owned(), tracked);
        self.read_open(path, &wanted, now_ns)
    }

    /// Closes what was not read since the last call.
    pub fn forget_unread(&mut self) {
        let seen = std::mem::take(&mut self.seen);
        self.cgroups.retain(|path, _| seen.contains(path));
    }

    fn read_open(&mut self, path: &str, wanted: &Wanted, now_ns: i64) -> Option<(Cgroup, Vec<i32>)> {
        let tracked = self.cgroups.get_mut(path)?;
        let Some(mut reading) = tracked.files.read(&mut self.buffer, now_ns) else {
            self.cgroups.remove(path);
            return None;
        };
        let pids = if wanted.processes { tracked.files.processes() } else { Vec::new() };
        if wanted.processes {
            tracked.count(&pids);
            let counted = tracked.processes;
            reading.processes = Processes {
                processes: Some(pids.len() as u64),
                file_descriptors: counted.file_descriptors,
                sockets: counted.sockets,
                max_open_files: counted.max_open_files,
                ..reading.processes
            };
        }
        tracked.readings = tracked.readings.wrapping_add(1);
        for device in reading.io.iter_mut().flat_map(|io| &mut io.devices) {
            let named = self.devices.entry((device.major, device.minor));
            device.device.clone_from(named.or_insert_with(|| proc::device_name(device).unwrap_or_default()));
        }
        let before = tracked.sample(&reading);
        let created_ns = tracked.files.created_ns();
        // Of the one that had this place before, otherwise.
        let sampled = wanted.sampled.filter(|(_, at)| created_ns.is_none_or(|created| *at >= created));
        let about = About { path: path.to_owned(), created_ns };
        Some((assemble::cgroup(about, reading, before, sampled, now_ns), pids))
    }
}

impl Tracked {
    /// The sample that the rate begins with: the newest that is old enough, or the oldest.
    fn sample(&mut self, reading: &CgroupReading) -> Option<Sample> {
        let now = assemble::cpu_sample(reading)?;
        let old_enough = |s: &Sample| now.at_ns.saturating_sub(s.at_ns) >= WINDOW_NS;
        while self.samples.get(1).is_some_and(old_enough) {
            self.samples.pop_front();
        }
        let before = self.samples.front().copied();
        self.samples.push_back(now);
        before
    }

    fn count(&mut self, pids: &[i32]) {
        if !self.readings.is_multiple_of(DESCRIPTORS_EVERY) {
            return;
        }
        let (all, sockets) = proc::descriptors(pids);
        self.processes.file_descriptors = Some(all);
        self.processes.sockets = sockets;
        self.processes.max_open_files = pids.first().and_then(|pid| proc::max_open_files(*pid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::test_tree::TestTree;
    use oomlet_core::pod::PodUid;
    use oomlet_core::pod::qos::{CgroupResources, QosClass};

    fn wanted() -> Wanted {
        Wanted { sampled: None, memory: MemoryBy::Accounting, processes: true }
    }

    #[test]
    fn a_cgroup_is_opened_followed_and_forgotten() {
        let tree = TestTree::new(&CgroupResources::default());
        let uid = PodUid::from("a");
        let make = || tree.driver.ensure_pod(&uid, QosClass::Burstable, &CgroupResources::default()).unwrap();
        let path = make();
        let mut all = TrackedCgroups::default();
        let mut read = |at_s: i64| all.read(&tree.driver, &path, wanted(), at_s * 1_000_000_000);
        let (first, pids) = read(100).unwrap();
        assert_eq!((first.path.as_str(), pids.as_slice()), (path.as_str(), [].as_slice()));
        assert_eq!(first.cpu.unwrap().usage_nano_cores, None, "one reading makes no rate");
        assert_eq!(first.processes.unwrap().processes, Some(0));
        assert_eq!(read(110).unwrap().0.cpu.unwrap().usage_nano_cores, Some(0));
        // Made again: from the new files, and without a rate.
        tree.driver.remove_pod(&uid, QosClass::Burstable).unwrap();
        make();
        assert_eq!(read(120).unwrap().0.cpu.unwrap().usage_nano_cores, None);
        tree.driver.remove_pod(&uid, QosClass::Burstable).unwrap();
        assert!(read(130).is_none());
        all.forget_unread();
        all.forget_unread();
        assert!(all.cgroups.is_empty());
    }

    #[test]
    fn the_rate_is_that_of_about_ten_seconds() {
        let tree = TestTree::new(&CgroupResources::default());
        let path = tree
            .driver
            .ensure_pod(&PodUid::from("a"), QosClass::Burstable, &CgroupResources::default())
            .unwrap();
        let mut all = TrackedCgroups::default();
        for at_s in [100, 102, 104, 112, 113, 124] {
            all.read(&tree.driver, &path, wanted(), at_s * 1_000_000_000).unwrap();
        }
        let kept: Vec<u64> = all.cgroups[&path].samples.iter().map(|s| s.at_ns / 1_000_000_000).collect();
        // The reading at 124 began with that of 113.
        assert_eq!(kept, [113, 124]);
    }
}
