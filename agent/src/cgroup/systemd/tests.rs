//! Against a systemd of the test's own, with files in place of the kernel's.

use std::fs;
use std::path::Path;

use super::fake::FakeSystemd;
use super::*;
use crate::cgroup::hierarchy::UnifiedHierarchy;

const KUBEPODS: &str = "/kubepods.slice";
const POD: &str = "/kubepods.slice/kubepods-podx.slice";
const POD_UNIT: &str = "kubepods-podx.slice";

/// What the kernel makes when systemd makes the cgroup of `unit`; all of these are below `kubepods.slice`.
pub(super) fn make_cgroup(root: &Path, unit: &str) {
    let kubepods = root.join("kubepods.slice");
    let dir = if unit == "kubepods.slice" { kubepods } else { kubepods.join(unit) };
    fs::create_dir_all(&dir).unwrap();
    for (file, text) in [
        ("cgroup.procs", ""),
        ("cgroup.controllers", "cpu memory pids\n"),
        ("cgroup.subtree_control", "cpu memory pids\n"),
        ("memory.max", "max\n"),
        ("memory.current", "104857600\n"),
        ("memory.stat", "inactive_file 0\nactive_file 0\n"),
        ("cpu.weight", "100\n"),
        ("cpu.max", "max 100000\n"),
        ("pids.max", "max\n"),
    ] {
        fs::write(dir.join(file), text).unwrap();
    }
}

fn node() -> (FakeSystemd, Systemd) {
    let fake = FakeSystemd::start();
    let mount = fake.path().join("cgroup");
    fs::create_dir(&mount).unwrap();
    for file in ["cgroup.controllers", "cgroup.subtree_control"] {
        fs::write(mount.join(file), "cpu memory pids\n").unwrap();
    }
    fake.state().cgroups = Some(mount.clone());
    let controllers = ["cpu", "memory", "pids"].map(str::to_owned).to_vec();
    let unified = UnifiedHierarchy { controllers, mount_point: mount };
    let hierarchies = Hierarchies { v1: Vec::new(), unified: Some(unified) };
    let systemd = Systemd::connect_to(hierarchies, fake.sockets()).unwrap();
    (fake, systemd)
}

fn limited(bytes: u64) -> CgroupResources {
    CgroupResources { memory_limit_bytes: Some(bytes), ..CgroupResources::default() }
}

#[test]
fn a_limit_is_the_units_and_the_kernels() {
    let (fake, systemd) = node();
    systemd.make(KUBEPODS, Parents::Make, &limited(1 << 30)).unwrap();
    let quota =
        CgroupResources { cpu_quota_us: Some(1_001), cpu_period_us: Some(100_000), ..limited(1 << 28) };
    systemd.make(POD, Parents::MustExist, &quota).unwrap();
    let file =
        |name: &str| fs::read_to_string(fake.path().join("cgroup").join(&POD[1..]).join(name)).unwrap();
    assert_eq!(fake.number(POD_UNIT, "MemoryMax"), Some(1 << 28));
    assert_eq!(fake.number(POD_UNIT, "CPUQuotaPerSecUSec"), Some(20_000));
    assert_eq!(
        (file("memory.max").as_str(), file("cpu.max").as_str()),
        ("268435456", "1001 100000"),
        "not rounded"
    );
    let calls = fake.state().calls.len();
    systemd.make(POD, Parents::MustExist, &quota).unwrap();
    assert_eq!(fake.state().calls.len(), calls, "what is set is not set again");
    systemd.make(POD, Parents::MustExist, &CgroupResources::default()).unwrap();
    assert_eq!(fake.number(POD_UNIT, "MemoryMax"), Some(u64::MAX));
    assert_eq!(file("memory.max"), "max");
}

#[test]
fn a_limit_that_would_kill_does_not_reach_systemd() {
    let (fake, systemd) = node();
    systemd.make(KUBEPODS, Parents::Make, &limited(1 << 30)).unwrap();
    let error = systemd.make(KUBEPODS, Parents::Make, &limited(50 << 20)).unwrap_err();
    assert!(matches!(error, CgroupError::LimitBelowUsage { limit_bytes: 52_428_800, .. }), "{error}");
    assert_eq!(fake.number("kubepods.slice", "MemoryMax"), Some(1 << 30));
}

#[test]
fn no_pod_without_kubepods() {
    let (fake, systemd) = node();
    let error = systemd.make(POD, Parents::MustExist, &limited(1 << 30)).unwrap_err().to_string();
    assert!(error.contains("make the cgroup") && error.contains(POD_UNIT), "{error}");
    assert!(fake.state().calls.is_empty(), "systemd would have made kubepods, without its limit");
}

#[test]
fn a_slice_in_use_is_not_stopped() {
    let (fake, systemd) = node();
    systemd.make(KUBEPODS, Parents::Make, &limited(1 << 30)).unwrap();
    systemd.make(POD, Parents::MustExist, &limited(1 << 30)).unwrap();
    let procs = fake.path().join("cgroup").join(&POD[1..]).join("cgroup.procs");
    fs::write(&procs, "4194305\n").unwrap();
    let error = systemd.remove(POD).unwrap_err();
    assert!(matches!(error, CgroupError::InUse { processes: 1, .. }), "{error}");
    assert!(fake.state().units.contains_key(POD_UNIT));

    // The kernel's files go with their directory.
    fs::remove_dir_all(procs.parent().unwrap()).unwrap();
    systemd.remove(POD).unwrap();
    systemd.remove(POD).unwrap();
    assert!(!fake.state().units.contains_key(POD_UNIT));
}
