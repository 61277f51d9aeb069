//! Limits as properties of a slice, as libcontainer hands them to systemd for kubelet. Pure.

use zbus::zvariant::Value;

use super::unit::Slice;
use crate::cgroup::resources::cpu_weight;
use oomlet_core::pod::qos::CgroupResources;

pub type Property = (&'static str, Value<'static>);

/// Which names systemd has for the limits: it takes both kinds and acts on those of its own hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    V1,
    V2,
}

/// systemd's word for no limit (CGROUP_LIMIT_MAX, USEC_INFINITY).
const INFINITY: u64 = u64::MAX;
/// kubelet's `cpuCFSQuotaPeriod`, and the kernel's own.
const DEFAULT_PERIOD_US: u64 = 100_000;
/// systemd keeps a quota as whole per cents of a CPU.
const PER_CENT_US: u64 = 10_000;

/// All properties of a new slice.
#[must_use]
pub fn of_slice(slice: &Slice, limits: Vec<Property>, flavour: Flavour) -> Vec<Property> {
    let io = match flavour {
        Flavour::V1 => "BlockIOAccounting",
        Flavour::V2 => "IOAccounting",
    };
    let text = |text: String| Value::from(text);
    let mut properties = vec![
        ("Description", text(format!("oomlet cgroup {}", slice.name))),
        // What a slice is in follows from its name; it cannot be given a Slice=.
        ("Wants", Value::from(vec![slice.parent.clone()])),
        // Not stopped at shutdown before what it holds, and not held back by sysinit.target.
        ("DefaultDependencies", Value::from(false)),
    ];
    // Accounting is what makes systemd turn on a controller. Slices know no Delegate=; containers' scopes have it.
    properties.extend(
        ["MemoryAccounting", "CPUAccounting", "TasksAccounting", io].map(|key| (key, Value::from(true))),
    );
    properties.extend(limits);
    properties
}

/// Every limit, so that one which is no longer wanted comes off; shares only where they are given.
#[must_use]
pub fn limits(resources: &CgroupResources, flavour: Flavour) -> Vec<Property> {
    let (memory, shares) = match flavour {
        Flavour::V1 => ("MemoryLimit", resources.cpu_shares.map(|shares| ("CPUShares", shares))),
        Flavour::V2 => ("MemoryMax", resources.cpu_shares.map(|shares| ("CPUWeight", cpu_weight(shares)))),
    };
    let (quota, period) = quota(resources);
    let tasks = resources.pids_limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0);
    let mut numbers = vec![
        (memory, resources.memory_limit_bytes.unwrap_or(INFINITY)),
        ("TasksMax", tasks.unwrap_or(INFINITY)),
        ("CPUQuotaPeriodUSec", period),
        ("CPUQuotaPerSecUSec", quota),
    ];
    numbers.extend(shares);
    numbers.into_iter().map(|(key, number)| (key, Value::from(number))).collect()
}

/// Microseconds of CPU time a second, and the period. Rounded up, so that the children's exact quotas fit below it.
fn quota(resources: &CgroupResources) -> (u64, u64) {
    let quota = resources.cpu_quota_us.and_then(|quota| u64::try_from(quota).ok()).filter(|quota| *quota > 0);
    let Some(quota) = quota else { return (INFINITY, INFINITY) };
    let period = resources.cpu_period_us.filter(|period| *period > 0).unwrap_or(DEFAULT_PERIOD_US);
    let per_second = quota.saturating_mul(1_000_000) / period;
    (per_second.div_ceil(PER_CENT_US).saturating_mul(PER_CENT_US), period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(resources: &CgroupResources, flavour: Flavour) -> Vec<(&'static str, u64)> {
        let number = |value| u64::try_from(value).unwrap();
        limits(resources, flavour).into_iter().map(|(key, value)| (key, number(value))).collect()
    }

    #[test]
    fn limits_of_both_versions() {
        let all = CgroupResources {
            memory_limit_bytes: Some(64 << 20),
            cpu_shares: Some(1024),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            pids_limit: Some(77),
        };
        let common = [("TasksMax", 77), ("CPUQuotaPeriodUSec", 100_000), ("CPUQuotaPerSecUSec", 500_000)];
        for (flavour, memory, shares) in [
            (Flavour::V2, "MemoryMax", ("CPUWeight", 100)),
            (Flavour::V1, "MemoryLimit", ("CPUShares", 1024)),
        ] {
            let expected = [&[(memory, 64 << 20)], &common[..], &[shares]].concat();
            assert_eq!(numbers(&all, flavour), expected);
        }
    }

    #[test]
    fn what_is_not_wanted_comes_off_and_shares_stay() {
        let off = [
            ("MemoryMax", INFINITY),
            ("TasksMax", INFINITY),
            ("CPUQuotaPeriodUSec", INFINITY),
            ("CPUQuotaPerSecUSec", INFINITY),
        ];
        assert_eq!(numbers(&CgroupResources::default(), Flavour::V2), off);
        // kubelet's words for no limit.
        let none = CgroupResources {
            cpu_quota_us: Some(-1),
            cpu_period_us: Some(100_000),
            pids_limit: Some(-1),
            ..CgroupResources::default()
        };
        assert_eq!(numbers(&none, Flavour::V2), off);
    }

    #[test]
    fn quotas_are_whole_per_cents_rounded_up() {
        for (quota_us, period_us, expected) in [
            (50_000, Some(100_000), (500_000, 100_000)),
            (50_000, None, (500_000, 100_000)),
            (1_000, Some(100_000), (10_000, 100_000)),
            (1_001, Some(100_000), (20_000, 100_000)),
            (250_000, Some(100_000), (2_500_000, 100_000)),
            (1_000, Some(3_000), (340_000, 3_000)),
        ] {
            let resources = CgroupResources {
                cpu_quota_us: Some(quota_us),
                cpu_period_us: period_us,
                ..CgroupResources::default()
            };
            assert_eq!(quota(&resources), expected, "{quota_us}/{period_us:?}");
        }
    }

    #[test]
    fn a_new_slice() {
        let slice = Slice { name: "kubepods-burstable.slice".into(), parent: "kubepods.slice".into() };
        for (flavour, io) in [(Flavour::V1, "BlockIOAccounting"), (Flavour::V2, "IOAccounting")] {
            let properties = of_slice(&slice, vec![("TasksMax", Value::from(5_u64))], flavour);
            let of = |key: &str| properties.iter().find(|(k, _)| *k == key).map(|(_, value)| value.clone());
            assert_eq!(of("Wants"), Some(Value::from(vec!["kubepods.slice"])));
            assert_eq!(of("DefaultDependencies"), Some(Value::from(false)));
            assert_eq!(of("TasksMax"), Some(Value::from(5_u64)));
            for key in ["MemoryAccounting", "CPUAccounting", "TasksAccounting", io] {
                assert_eq!(of(key), Some(Value::from(true)), "{key}");
            }
            // systemd refuses the whole unit for either.
            assert_eq!((of("Slice"), of("Delegate")), (None, None));
        }
    }
}
