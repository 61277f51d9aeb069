//! What this node allows: BTF, tracefs, capabilities, lockdown, cgroup version, PSI. Reads files, changes
//! nothing; `oomlet check` prints it.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::thread::CapabilitySet;
use serde::Serialize;

use super::{Options, tracefs};

/// Plain data about the node; a thing that could not be found out says why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// `uname -r`.
    pub kernel_release: String,
    pub btf: Found,
    pub tracefs: Found,
    /// Effective user id 0.
    pub root: bool,
    pub capabilities: Vec<HeldCapability>,
    pub lockdown: Lockdown,
    pub cgroup: CgroupVersion,
    /// Whether the memory controller is on the hierarchy that pods are placed in.
    pub memory_controller: Found,
    /// `/proc/pressure/memory`.
    pub psi: Found,
}

/// Something that has a place when it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    At(PathBuf),
    Missing(String),
}

impl Found {
    #[must_use]
    pub fn is_there(&self) -> bool {
        matches!(self, Found::At(_))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HeldCapability {
    pub name: &'static str,
    pub held: bool,
    /// What the agent cannot do without it.
    pub needed_for: &'static str,
}

/// `/sys/kernel/security/lockdown`. Integrity and confidentiality refuse some eBPF programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lockdown {
    None,
    Integrity,
    Confidentiality,
    /// The file cannot be read: no securityfs, or no lockdown LSM.
    Unknown(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupVersion {
    V1,
    V2,
    /// v1 controllers beside a `unified` mount.
    Hybrid,
    None,
}

const CAPABILITIES: [(CapabilitySet, &str, &str); 11] = [
    (CapabilitySet::BPF, "CAP_BPF", "load eBPF programs (5.8 and later)"),
    (CapabilitySet::PERFMON, "CAP_PERFMON", "attach tracing programs and perf events (5.8 and later)"),
    (
        CapabilitySet::SYS_ADMIN,
        "CAP_SYS_ADMIN",
        "mount volumes and tracefs, manage cgroups; stands in for CAP_BPF and CAP_PERFMON",
    ),
    (
        CapabilitySet::SYS_RESOURCE,
        "CAP_SYS_RESOURCE",
        "lower oom_score_adj, PSI triggers of any window, locked memory",
    ),
    (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE", "process_mrelease of other users' processes"),
    (CapabilitySet::KILL, "CAP_KILL", "signal other users' processes"),
    (
        CapabilitySet::SYS_NICE,
        "CAP_SYS_NICE",
        "run ahead of pods on a busy node; a held pod's handler before its busy threads",
    ),
    (CapabilitySet::IPC_LOCK, "CAP_IPC_LOCK", "mlockall beyond RLIMIT_MEMLOCK"),
    (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE", "write files of other users below the root directory"),
    (CapabilitySet::CHOWN, "CAP_CHOWN", "hand volumes to a pod's fsGroup"),
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN", "host ports and port forwarding"),
];

pub(super) fn probe(options: &Options) -> Capabilities {
    Capabilities {
        kernel_release: rustix::system::uname().release().to_string_lossy().into_owned(),
        btf: readable(&options.btf_path, "the kernel needs CONFIG_DEBUG_INFO_BTF"),
        tracefs: tracefs_state(options.tracefs.as_deref()),
        root: rustix::process::geteuid().is_root(),
        capabilities: held_capabilities(),
        lockdown: lockdown(),
        cgroup: cgroup_version(&fs::read_to_string("/proc/self/mounts").unwrap_or_default()),
        memory_controller: memory_controller(),
        psi: readable(Path::new("/proc/pressure/memory"), "the kernel needs CONFIG_PSI and, on some, psi=1"),
    }
}

/// The file is there and its first byte can be read (PSI refuses at `open` or `read` when it is off).
fn readable(path: &Path, remedy: &str) -> Found {
    let first_byte = fs::File::open(path).and_then(|mut file| {
        let mut byte = [0u8; 1];
        std::io::Read::read(&mut file, &mut byte)
    });
    match first_byte {
        Ok(_) => Found::At(path.to_owned()),
        Err(error) => Found::Missing(format!("read {}: {error}; {remedy}", path.display())),
    }
}

fn tracefs_state(wanted: Option<&Path>) -> Found {
    let place = match wanted {
        Some(path) => path.join("events").is_dir().then(|| path.to_owned()),
        None => tracefs::find(),
    };
    match (place, wanted) {
        (Some(path), _) => Found::At(path),
        (None, Some(path)) => Found::Missing(format!("not mounted at {}", path.display())),
        (None, None) => Found::Missing("not mounted; the agent mounts it when it starts as root".to_owned()),
    }
}

fn held_capabilities() -> Vec<HeldCapability> {
    let effective = rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    CAPABILITIES
        .iter()
        .map(|(bit, name, needed_for)| HeldCapability { name, held: effective.contains(*bit), needed_for })
        .collect()
}

/// Reads the file where it is mounted, else from a mount of securityfs that no path leads to.
/// bpf_tracing_func_proto: LOCKDOWN_BPF_READ_KERNEL.
pub(super) fn hides_kernel_memory() -> bool {
    matches!(lockdown(), Lockdown::Confidentiality)
}

fn lockdown() -> Lockdown {
    const PATH: &str = "/sys/kernel/security/lockdown";
    match fs::read_to_string(PATH) {
        Ok(text) => parse_lockdown(&text),
        Err(error) => match read_from_securityfs("lockdown") {
            Ok(text) => parse_lockdown(&text),
            Err(why) => Lockdown::Unknown(format!("read {PATH}: {error}; mount securityfs: {why}")),
        },
    }
}

fn read_from_securityfs(name: &str) -> std::io::Result<String> {
    use rustix::fs::{Mode, OFlags, openat};
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
    let context = fsopen("securityfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let file = openat(&mount, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    std::io::read_to_string(fs::File::from(file))
}

/// What a program that the kernel does not permit to load is for want of, as far as it can be told.
pub(super) fn why_refused() -> String {
    refusal(&held_capabilities(), &lockdown())
}

fn refusal(held: &[HeldCapability], lockdown: &Lockdown) -> String {
    let holds = |name: &str| held.iter().any(|c| c.name == name && c.held);
    let missing: Vec<&str> = ["CAP_BPF", "CAP_PERFMON"].into_iter().filter(|name| !holds(name)).collect();
    if !missing.is_empty() && !holds("CAP_SYS_ADMIN") {
        return format!("missing: {}", missing.join(", "));
    }
    let mode = match lockdown {
        Lockdown::Integrity => "integrity",
        Lockdown::Confidentiality => "confidentiality",
        Lockdown::None => return "a security module or a seccomp filter forbids it".to_owned(),
        Lockdown::Unknown(_) => return "lockdown or a security module forbids it".to_owned(),
    };
    format!("this kernel's lockdown, `{mode}`, forbids it")
}

/// `none [integrity] confidentiality`: the one in force stands in brackets.
fn parse_lockdown(text: &str) -> Lockdown {
    let in_force = text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    match in_force {
        Some("none") => Lockdown::None,
        Some("integrity") => Lockdown::Integrity,
        Some("confidentiality") => Lockdown::Confidentiality,
        _ => Lockdown::Unknown(format!("not understood: {}", text.trim())),
    }
}

/// From `/proc/self/mounts`: which cgroup file systems are mounted.
fn cgroup_version(mounts: &str) -> CgroupVersion {
    let types = || mounts.lines().filter_map(|line| line.split(' ').nth(2));
    match (types().any(|t| t == "cgroup"), types().any(|t| t == "cgroup2")) {
        (true, true) => CgroupVersion::Hybrid,
        (true, false) => CgroupVersion::V1,
        (false, true) => CgroupVersion::V2,
        (false, false) => CgroupVersion::None,
    }
}

fn memory_controller() -> Found {
    let v1 = Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes");
    if v1.exists() {
        return Found::At(PathBuf::from("/sys/fs/cgroup/memory"));
    }
    let file = Path::new("/sys/fs/cgroup/cgroup.controllers");
    match fs::read_to_string(file) {
        Ok(list) if list.split_whitespace().any(|c| c == "memory") => {
            Found::At(PathBuf::from("/sys/fs/cgroup"))
        }
        Ok(list) => Found::Missing(format!("{} lists only: {}", file.display(), list.trim())),
        Err(error) => {
            Found::Missing(format!("read {}: {error}; mount cgroup v1 memory or cgroup v2", file.display()))
        }
    }
}

/// `cgroup_root.hierarchy_id` of the hierarchy with the memory controller, from `/proc/self/cgroup`; 0 is the unified one.
pub(super) fn memory_hierarchy_id() -> u32 {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    parse_memory_hierarchy(&text)
}

fn parse_memory_hierarchy(text: &str) -> u32 {
    text.lines()
        .find_map(|line| {
            let (id, rest) = line.split_once(':')?;
            let (controllers, _) = rest.split_once(':')?;
            controllers.split(',').any(|c| c == "memory").then(|| id.parse().ok())?
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lockdown_in_force() {
        let check = |text: &str, expected: Lockdown| assert_eq!(parse_lockdown(text), expected, "{text:?}");
        check("[none] integrity confidentiality\n", Lockdown::None);
        check("none [integrity] confidentiality\n", Lockdown::Integrity);
        check("none integrity [confidentiality]\n", Lockdown::Confidentiality);
        check("", Lockdown::Unknown("not understood: ".to_owned()));
    }

    #[test]
    fn what_a_refused_program_is_for_want_of() {
        let held = |names: &[&str]| -> Vec<HeldCapability> {
            let of = |(_, name, needed_for): &(_, &'static str, &'static str)| HeldCapability {
                name,
                held: names.contains(name),
                needed_for,
            };
            CAPABILITIES.iter().map(of).collect()
        };
        let unknown = Lockdown::Unknown(String::new());
        let both = ["CAP_BPF", "CAP_PERFMON"];
        for (names, lockdown, expected) in [
            (&[][..], &Lockdown::Integrity, "missing: CAP_BPF, CAP_PERFMON"),
            (&["CAP_BPF"], &Lockdown::None, "missing: CAP_PERFMON"),
            (&["CAP_SYS_ADMIN"], &Lockdown::Integrity, "this kernel's lockdown, `integrity`, forbids it"),
            (&both, &Lockdown::Confidentiality, "this kernel's lockdown, `confidentiality`, forbids it"),
            (&both, &Lockdown::None, "a security module or a seccomp filter forbids it"),
            (&both, &unknown, "lockdown or a security module forbids it"),
        ] {
            assert_eq!(refusal(&held(names), lockdown), expected, "{names:?} {lockdown:?}");
        }
    }

    #[test]
    fn cgroup_versions_by_what_is_mounted() {
        let check = |mounts: &str, expected| assert_eq!(cgroup_version(mounts), expected, "{mounts:?}");
        let v1 = "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n";
        let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n";
        check(v1, CgroupVersion::V1);
        check(v2, CgroupVersion::V2);
        check(&format!("{v1}{v2}"), CgroupVersion::Hybrid);
        check("proc /proc proc rw 0 0\n", CgroupVersion::None);
        check("", CgroupVersion::None);
    }

    #[test]
    fn the_memory_hierarchy() {
        let check = |text: &str, expected| assert_eq!(parse_memory_hierarchy(text), expected, "{text:?}");
        check("8:pids:/\n4:memory:/a:b\n0::/\n", 4);
        check("11:cpu,cpuacct:/\n6:hugetlb,memory:/x\n", 6);
        check("0::/system.slice\n", 0);
        check("5:name=memory:/\n", 0);
        check("", 0);
    }
}
