//! `process_…`: the agent itself, under the names of Prometheus' own libraries.

use std::fs;

use prometheus::proto::MetricFamily;

use oomlet_core::metrics::family::{Family, Kind, finish, number};

/// What `/proc/self/stat` says, from the third field on.
struct Stat {
    cpu_s: f64,
    started_s: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
    threads: u64,
}

fn stat() -> Option<Stat> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    // The name may hold spaces and brackets; it ends with the last of them.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = number(rustix::param::clock_ticks_per_second().max(1));
    let booted = super::proc::booted_ns()?.div_euclid(1_000_000_000);
    #[allow(clippy::cast_precision_loss, reason = "seconds since the epoch")]
    let booted = booted as f64;
    Some(Stat {
        cpu_s: number(field(14)? + field(15)?) / ticks,
        started_s: booted + number(field(22)?) / ticks,
        virtual_bytes: field(23)?,
        resident_bytes: field(24)?.saturating_mul(rustix::param::page_size() as u64),
        threads: field(20)?,
    })
}

fn gauge(name: &str, help: &str, value: Option<f64>) -> Family {
    let family = Family::new(Kind::Gauge, name, help);
    match value {
        Some(value) => family.with(Vec::new(), value, None),
        None => family,
    }
}

/// `process_start_time_seconds`, which every page has; kubelet says on some how stable it is.
pub(super) fn start_time(stability: &str) -> Vec<MetricFamily> {
    let help = format!("{stability}Start time of the process since unix epoch in seconds.");
    finish([gauge("process_start_time_seconds", &help, stat().map(|s| s.started_s))])
}

/// Whole seconds.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time of this century")]
pub(super) fn started_s() -> Option<u64> {
    stat().map(|stat| stat.started_s as u64)
}

/// Bytes received and sent, of the node's network namespace, as Prometheus' own libraries have it.
fn network(netstat: &str) -> Option<[u64; 2]> {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("IpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let column = |wanted: &str| {
        let at = names.split_whitespace().position(|name| name == wanted)?;
        values.split_whitespace().nth(at)?.parse().ok()
    };
    Some([column("InOctets")?, column("OutOctets")?])
}

pub(super) fn families() -> Vec<MetricFamily> {
    let stat = stat();
    let of = |value: fn(&Stat) -> f64| stat.as_ref().map(value);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let open = fs::read_dir("/proc/self/fd").ok().map(|dir| dir.count() as u64);
    let mut cpu = Family::new(
        Kind::Counter,
        "process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds.",
    );
    if let Some(seconds) = of(|s| s.cpu_s) {
        cpu.push(Vec::new(), seconds, None);
    }
    let network = fs::read_to_string("/proc/self/net/netstat").ok().and_then(|text| network(&text));
    let octets = |name, help, at: usize| {
        let family = Family::new(Kind::Counter, name, help);
        match network {
            Some(octets) => family.with(Vec::new(), number(octets[at]), None),
            None => family,
        }
    };
    let address_space = rustix::process::getrlimit(rustix::process::Resource::As).current;
    let mut all = finish([
        cpu,
        octets(
            "process_network_receive_bytes_total",
            "Number of bytes received by the process over the network.",
            0,
        ),
        octets(
            "process_network_transmit_bytes_total",
            "Number of bytes sent by the process over the network.",
            1,
        ),
        gauge(
            "process_virtual_memory_max_bytes",
            "Maximum amount of virtual memory available in bytes.",
            // No limit is shown so, as by Prometheus' own libraries.
            Some(address_space.map_or(18_446_744_073_709_551_615.0, number)),
        ),
        gauge("process_max_fds", "Maximum number of open file descriptors.", limit.map(number)),
        gauge("process_open_fds", "Number of open file descriptors.", open.map(number)),
        gauge(
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            of(|s| number(s.resident_bytes)),
        ),
        gauge("process_threads", "Number of OS threads in the process.", of(|s| number(s.threads))),
        gauge(
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            of(|s| number(s.virtual_bytes)),
        ),
    ]);
    all.extend(start_time(""));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process() {
        let stat = stat().unwrap();
        let now = number(u64::try_from(crate::stats::unix_ns()).unwrap()) / 1e9;
        assert!(stat.started_s < now && stat.started_s > now - 24.0 * 3600.0, "{} {now}", stat.started_s);
        assert!(stat.resident_bytes > 1 << 20 && stat.virtual_bytes > stat.resident_bytes);
        assert!(stat.threads >= 1 && stat.cpu_s >= 0.0);
        let names: Vec<String> = families().iter().map(|f| f.name().to_owned()).collect();
        assert_eq!(names.len(), 10, "{names:?}");
        let text = "TcpExt: A\nTcpExt: 1\nIpExt: InNoRoutes InOctets OutOctets\nIpExt: 1 20 30\n";
        assert_eq!((network(text), network("")), (Some([20, 30]), None));
    }
}
