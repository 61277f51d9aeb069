//! One cgroup's numbers, of what the sampler and the accounting have read.

use super::account::CgroupMemory;
use super::numbers::{Cgroup, CgroupReading, Memory};
use super::rate::{Sample, nano_cores};

/// Who is meant, and when it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// The cgroup's path in each hierarchy.
    pub path: String,
    /// Unix nanoseconds.
    pub created_ns: Option<i64>,
}

/// The CPU time of a reading, for the next one's rate.
#[must_use]
pub fn cpu_sample(reading: &CgroupReading) -> Option<Sample> {
    let cpu = reading.cpu?;
    Some(Sample { at_ns: u64::try_from(cpu.at_ns).ok()?, used_ns: cpu.usage_ns })
}

/// `before`: the reading before, of the same cgroup. `sampled`: by the sampler, with its Unix time; `now_ns` is the time of
/// what the reading itself has.
#[must_use]
pub fn cgroup(
    about: About,
    reading: CgroupReading,
    before: Option<Sample>,
    sampled: Option<(CgroupMemory, i64)>,
    now_ns: i64,
) -> Cgroup {
    let rate = cpu_sample(&reading).and_then(|now| nano_cores(before, now));
    let memory = sampled.or(reading.memory.map(|memory| (memory, now_ns)));
    let mut cpu = reading.cpu;
    if let Some(cpu) = &mut cpu {
        cpu.usage_nano_cores = rate;
    }
    let extras = reading.extras;
    Cgroup {
        path: about.path,
        created_ns: about.created_ns,
        cpu,
        spec: reading.spec,
        memory: memory.map(|(memory, at_ns)| Memory {
            at_ns,
            usage_bytes: memory.usage_bytes,
            working_set_bytes: memory.usage_bytes.saturating_sub(memory.inactive_file_bytes),
            inactive_file_bytes: memory.inactive_file_bytes,
            active_file_bytes: memory.active_file_bytes,
            limit_bytes: memory.limit_bytes,
            counters: memory.counters,
            events: memory.events,
            max_usage_bytes: extras.max_usage_bytes,
            limit_hits: extras.limit_hits,
            kernel_bytes: extras.kernel_bytes.or(memory.counters.kernel_bytes),
            swap_bytes: extras.swap_bytes.or(memory.counters.swap_bytes),
            pressure: extras.pressure,
        }),
        io: reading.io,
        processes: Some(reading.processes),
        network: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::account::StatCounters;
    use crate::stats::numbers::{Cpu, MemoryExtras};

    fn reading(usage_ns: u64) -> CgroupReading {
        CgroupReading {
            cpu: Some(Cpu { at_ns: 20_000_000_000, usage_ns, ..Cpu::default() }),
            ..CgroupReading::default()
        }
    }

    #[test]
    fn the_rate_needs_a_reading_before() {
        let before = Sample { at_ns: 10_000_000_000, used_ns: 0 };
        for (before, want) in [(None, None), (Some(before), Some(100_000_000))] {
            let got = cgroup(About::default(), reading(1_000_000_000), before, None, 0);
            assert_eq!(got.cpu.unwrap().usage_nano_cores, want);
        }
    }

    #[test]
    fn the_samplers_numbers_count_and_keep_their_time() {
        let memory = |usage_bytes| CgroupMemory {
            usage_bytes,
            inactive_file_bytes: 30,
            counters: StatCounters { swap_bytes: Some(7), ..StatCounters::default() },
            ..CgroupMemory::default()
        };
        let of = |sampled, own| {
            let extras = MemoryExtras { max_usage_bytes: Some(900), ..MemoryExtras::default() };
            let reading = CgroupReading { memory: own, extras, ..CgroupReading::default() };
            cgroup(About::default(), reading, None, sampled, 5).memory
        };
        let both = of(Some((memory(100), 4)), Some(memory(200))).unwrap();
        assert_eq!((both.at_ns, both.usage_bytes, both.working_set_bytes), (4, 100, 70));
        assert_eq!((both.swap_bytes, both.max_usage_bytes, both.kernel_bytes), (Some(7), Some(900), None));
        let own = of(None, Some(memory(20))).unwrap();
        assert_eq!((own.at_ns, own.usage_bytes, own.working_set_bytes), (5, 20, 0));
        assert_eq!(of(None, None), None, "extras alone are no memory");
    }
}
