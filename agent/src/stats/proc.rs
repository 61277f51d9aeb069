//! What `/proc` says of processes, networks, disks and the machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use oomlet_core::stats::numbers::{DeviceIo, Interface, Machine, Rlimit, Traffic};

/// Interfaces that cAdvisor leaves out: they are others' ends.
const IGNORED_INTERFACES: [&str; 4] = ["lo", "veth", "docker", "nerdctl"];

/// More descriptors than these are counted, but not looked at one by one.
const MAX_LINKS: u64 = 4096;

/// The interfaces of this process's network namespace. `None`: it is gone.
#[must_use]
pub fn network_of(pid: i32) -> Option<Vec<Interface>> {
    Some(interfaces(&fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?))
}

/// The agent's own, which is the node's.
#[must_use]
pub fn own_network() -> Option<Vec<Interface>> {
    Some(interfaces(&fs::read_to_string("/proc/self/net/dev").ok()?))
}

fn interfaces(text: &str) -> Vec<Interface> {
    let interface = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let name = name.trim();
        if IGNORED_INTERFACES.iter().any(|ignored| name.starts_with(ignored)) {
            return None;
        }
        let n: Vec<u64> = numbers.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect();
        let traffic = |at: usize| {
            let [bytes, packets, errors, dropped] = *n.get(at..at + 4)? else { return None };
            Some(Traffic { bytes, packets, errors, dropped })
        };
        // Eight columns of each direction.
        Some(Interface { name: name.to_owned(), received: traffic(0)?, transmitted: traffic(8)? })
    };
    text.lines().filter_map(interface).collect()
}

/// Open descriptors of these processes, and how many of them are sockets; `None` for sockets: too many to look at.
#[must_use]
pub fn descriptors(pids: &[i32]) -> (u64, Option<u64>) {
    let (mut all, mut sockets, mut looked_at) = (0, 0, 0);
    for pid in pids {
        // One that has gone has none.
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for entry in entries.flatten() {
            all += 1;
            if looked_at >= MAX_LINKS {
                continue;
            }
            looked_at += 1;
            let link = fs::read_link(entry.path()).unwrap_or_default();
            sockets += u64::from(link.as_os_str().as_encoded_bytes().starts_with(b"socket"));
        }
    }
    (all, (looked_at == all).then_some(sockets))
}

/// The soft limit of open files; -1: none.
#[must_use]
pub fn max_open_files(pid: i32) -> Option<i64> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?
        .split_ascii_whitespace()
        .next()?;
    if soft == "unlimited" { Some(-1) } else { soft.parse().ok() }
}

/// As kubelet's pidlimit.
#[must_use]
pub fn rlimit(now_ns: i64) -> Option<Rlimit> {
    let text = |path: &str| fs::read_to_string(path).ok();
    let limits = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"].map(text);
    let pids = oomlet_core::eviction::resources::reading::Pids::parse(
        limits[0].as_deref(),
        limits[1].as_deref(),
        &text("/proc/loadavg")?,
    )?;
    Some(Rlimit { at_ns: now_ns, max_pid: pids.limit, running: pids.tasks })
}

/// Unix nanoseconds of the machine's start.
#[must_use]
pub fn booted_ns() -> Option<i64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let seconds: i64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    seconds.checked_mul(1_000_000_000)
}

/// The whole machine's CPU time: user with nice, and system, in nanoseconds.
#[must_use]
pub fn cpu_of_node() -> Option<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect();
    let ns =
        |ticks: u64| ticks.saturating_mul(1_000_000_000) / rustix::param::clock_ticks_per_second().max(1);
    Some((ns(ticks.first()? + ticks.get(1)?), ns(*ticks.get(2)?)))
}

/// `/dev/NAME` of a device number, as sysfs knows it.
#[must_use]
pub fn device_name(io: &DeviceIo) -> Option<String> {
    let link = fs::read_link(format!("/sys/dev/block/{}:{}", io.major, io.minor)).ok()?;
    Some(format!("/dev/{}", link.file_name()?.to_str()?))
}

#[must_use]
pub fn machine() -> Machine {
    let text = |path: &str| fs::read_to_string(path).map(|t| t.trim().to_owned()).unwrap_or_default();
    let cpuinfo = text("/proc/cpuinfo");
    let values = |key: &str| -> Vec<String> {
        let of = |line: &str| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == key).then(|| value.trim().to_owned())
        };
        cpuinfo.lines().filter_map(of).collect()
    };
    let cpus = values("processor").len() as u64;
    let sockets: BTreeSet<String> = values("physical id").into_iter().collect();
    let cores: BTreeSet<(String, String)> =
        values("physical id").into_iter().zip(values("core id")).collect();
    let os_release = text("/etc/os-release");
    let os = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let known = |count: usize| if count == 0 { cpus } else { count as u64 };
    Machine {
        cpus,
        physical_cores: known(cores.len()),
        sockets: if sockets.is_empty() { 1 } else { sockets.len() as u64 },
        memory_bytes: 0,
        swap_bytes: None,
        machine_id: text("/etc/machine-id"),
        system_uuid: text("/sys/class/dmi/id/product_uuid"),
        boot_id: text("/proc/sys/kernel/random/boot_id"),
        kernel_version: text("/proc/sys/kernel/osrelease"),
        os_version: os.map(|name| name.trim_matches('"').to_owned()).unwrap_or_default(),
    }
}

/// The path of a process's cgroup in the hierarchy of the memory controller, or in v2's.
#[must_use]
pub fn cgroup_of(pid: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/proc").join(pid).join("cgroup")).ok()?;
    let of = |wanted: &str| {
        text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            controllers.split(',').any(|c| c == wanted).then(|| path.to_owned())
        })
    };
    of("memory").or_else(|| of(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_without_those_of_others() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 100 10 1 2 0 0 0 0 200 20 3 4 0 0 0 0\nveth12@if3: 5 5 0 0 0 0 0 0 5 5 0 0 0 0 0 0\n  eth1: 7 x\n";
        let traffic = |bytes, packets, errors, dropped| Traffic { bytes, packets, errors, dropped };
        let want = Interface {
            name: "eth0".to_owned(),
            received: traffic(100, 10, 1, 2),
            transmitted: traffic(200, 20, 3, 4),
        };
        assert_eq!(interfaces(text), [want]);
    }

    #[test]
    fn of_this_process() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let file = fs::File::open("/proc/self/stat").unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (all, sockets) = descriptors(&[pid]);
        assert!(all >= 5 && sockets.unwrap() >= 1, "{all} {sockets:?}");
        drop((file, socket));
        assert!(max_open_files(pid).unwrap() != 0);
        assert!(network_of(pid).is_some() && own_network().is_some());
        assert_eq!(network_of(i32::MAX), None);
        assert_eq!(descriptors(&[i32::MAX]), (0, Some(0)));
        assert!(cgroup_of("self").unwrap().starts_with('/'));
    }

    #[test]
    fn of_this_machine() {
        let machine = machine();
        assert!(machine.cpus >= 1 && machine.physical_cores >= 1 && machine.sockets >= 1, "{machine:?}");
        assert!(!machine.boot_id.is_empty() && !machine.kernel_version.is_empty());
        let (booted, limit) = (booted_ns().unwrap(), rlimit(1).unwrap());
        assert!(booted > 1_000_000_000_000_000_000 && limit.max_pid > limit.running && limit.running > 0);
        let (user, system) = cpu_of_node().unwrap();
        assert!(user > 0 && system > 0);
    }
}
