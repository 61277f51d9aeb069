//! `machine_…`: what the node is made of.

use crate::metrics::family::{Family, Kind, label, number};
use crate::stats::numbers::Machine;

/// Every one has the machine's identity as labels.
#[must_use]
pub fn families(machine: &Machine) -> Vec<Family> {
    let labels = || {
        vec![
            label("boot_id", &machine.boot_id),
            label("machine_id", &machine.machine_id),
            label("system_uuid", &machine.system_uuid),
        ]
    };
    let gauges = [
        ("machine_cpu_cores", "Number of logical CPU cores.", Some(machine.cpus)),
        ("machine_cpu_physical_cores", "Number of physical CPU cores.", Some(machine.physical_cores)),
        ("machine_cpu_sockets", "Number of CPU sockets.", Some(machine.sockets)),
        ("machine_memory_bytes", "Amount of memory installed on the machine.", Some(machine.memory_bytes)),
        ("machine_swap_bytes", "Amount of swap memory available on the machine.", machine.swap_bytes),
    ];
    let known = gauges.into_iter().filter_map(|(name, help, value)| Some((name, help, value?)));
    let all = known
        .map(|(name, help, value)| Family::new(Kind::Gauge, name, help).with(labels(), number(value), None));
    // What cannot be read is not there; that all of it cannot does not happen.
    let error = Family::new(
        Kind::Gauge,
        "machine_scrape_error",
        "1 if there was an error while getting machine metrics, 0 otherwise.",
    )
    .with(Vec::new(), 0.0, None);
    all.chain([error]).collect()
}
