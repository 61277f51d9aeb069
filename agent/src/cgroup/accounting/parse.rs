//! What the files of the CPU, block I/O and pids controllers say, and pressure. Pure. A text that is not as expected gives
//! `None`: the number is then not shown.

use crate::cgroup::parse::counters::lines;
use oomlet_core::stats::numbers::{DeviceIo, Pressure, PressureLine, Throttling};

/// CPU time, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    pub usage_ns: Option<u64>,
    pub user_ns: Option<u64>,
    pub system_ns: Option<u64>,
}

fn value(text: &[u8], name: &[u8]) -> Option<u64> {
    lines(text).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// v2's `cpu.stat`.
#[must_use]
pub fn cpu_stat_v2(text: &[u8]) -> (CpuTime, Option<Throttling>) {
    let ns = |name: &[u8]| value(text, name).map(|us| us.saturating_mul(1000));
    let time =
        CpuTime { usage_ns: ns(b"usage_usec"), user_ns: ns(b"user_usec"), system_ns: ns(b"system_usec") };
    (time, throttling(text, b"throttled_usec", b"burst_usec", 1000))
}

/// v1's `cpu.stat`.
#[must_use]
pub fn cpu_stat_v1(text: &[u8]) -> Option<Throttling> {
    throttling(text, b"throttled_time", b"burst_time", 1)
}

fn throttling(text: &[u8], throttled: &[u8], burst: &[u8], to_ns: u64) -> Option<Throttling> {
    Some(Throttling {
        periods: value(text, b"nr_periods")?,
        throttled_periods: value(text, b"nr_throttled")?,
        throttled_ns: value(text, throttled)?.saturating_mul(to_ns),
        burst_periods: value(text, b"nr_bursts"),
        burst_ns: value(text, burst).map(|v| v.saturating_mul(to_ns)),
    })
}

/// v1's `cpuacct.stat`: user and system time in ticks.
#[must_use]
pub fn cpuacct_stat(text: &[u8], ticks_per_s: u64) -> (Option<u64>, Option<u64>) {
    let ns = |ticks: u64| ticks.saturating_mul(1_000_000_000) / ticks_per_s.max(1);
    (value(text, b"user").map(ns), value(text, b"system").map(ns))
}

/// A file with one number; `max` is none.
#[must_use]
pub fn single(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

/// v2's `cpu.max`: quota (none: `max`) and period, microseconds.
#[must_use]
pub fn cpu_max(text: &[u8]) -> (Option<u64>, Option<u64>) {
    let mut words = std::str::from_utf8(text).unwrap_or_default().split_ascii_whitespace();
    let mut next = || words.next().and_then(|word| word.parse().ok());
    (next(), next())
}

/// The CPU shares that a v2 weight stands for, by cAdvisor's arithmetic.
#[must_use]
pub fn shares_of_weight(weight: u64) -> Option<u64> {
    (1..=10_000).contains(&weight).then(|| 2 + (weight - 1) * 262_142 / 9999)
}

/// v2's `io.stat`: `8:0 rbytes=… wbytes=… rios=… wios=… dbytes=… dios=…`, a device a line.
#[must_use]
pub fn io_stat(text: &[u8]) -> Vec<DeviceIo> {
    let text = std::str::from_utf8(text).unwrap_or_default();
    text.lines().filter_map(io_stat_line).collect()
}

fn io_stat_line(line: &str) -> Option<DeviceIo> {
    let mut words = line.split_ascii_whitespace();
    let (major, minor) = device(words.next()?)?;
    let mut io = DeviceIo { major, minor, ..DeviceIo::default() };
    let mut any = false;
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        let Ok(value) = value.parse() else { continue };
        match key {
            "rbytes" => io.read_bytes = value,
            "wbytes" => io.written_bytes = value,
            "rios" => io.reads = value,
            "wios" => io.writes = value,
            "dbytes" => io.discarded_bytes = Some(value),
            _ => continue,
        }
        any = true;
    }
    // A device that is only named has nothing counted.
    any.then_some(io)
}

/// v1's `blkio.throttle.io_service_bytes_recursive` and `…io_serviced_recursive`: `8:0 Read 4096`, then a total.
#[must_use]
pub fn blkio(bytes: &[u8], operations: &[u8]) -> Vec<DeviceIo> {
    let mut devices: Vec<DeviceIo> = Vec::new();
    let mut each = |text: &[u8], set: fn(&mut DeviceIo, &str, u64)| {
        for line in std::str::from_utf8(text).unwrap_or_default().lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(dev), Some(op), Some(value)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let (Some((major, minor)), Ok(value)) = (device(dev), value.parse()) else { continue };
            let found = devices.iter().position(|d| (d.major, d.minor) == (major, minor));
            let at = found.unwrap_or_else(|| {
                devices.push(DeviceIo { major, minor, ..DeviceIo::default() });
                devices.len() - 1
            });
            set(&mut devices[at], op, value);
        }
    };
    each(bytes, |io, op, value| match op {
        "Read" => io.read_bytes = value,
        "Write" => io.written_bytes = value,
        "Discard" => io.discarded_bytes = Some(value),
        _ => {}
    });
    each(operations, |io, op, value| match op {
        "Read" => io.reads = value,
        "Write" => io.writes = value,
        _ => {}
    });
    devices
}

fn device(word: &str) -> Option<(u32, u32)> {
    let (major, minor) = word.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// A `*.pressure` file or one of `/proc/pressure`. `cpu` of the node has no `full` line before Linux 5.13: then it is zero, as
/// the kernel has it since.
#[must_use]
pub fn pressure(text: &[u8]) -> Option<Pressure> {
    let text = std::str::from_utf8(text).ok()?;
    let line = |name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
        let field =
            |name: &str| rest.split_ascii_whitespace().find_map(|w| w.strip_prefix(name)?.strip_prefix('='));
        let average = |name| field(name)?.parse::<f64>().ok().filter(|v| v.is_finite());
        Some(PressureLine {
            avg10: average("avg10")?,
            avg60: average("avg60")?,
            avg300: average("avg300")?,
            total_us: field("total")?.parse().ok()?,
        })
    };
    Some(Pressure { some: line("some ")?, full: line("full ").unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_and_throttling() {
        let v2 = b"usage_usec 500\nuser_usec 300\nsystem_usec 200\nnr_periods 10\nnr_throttled 4\nthrottled_usec 7\nnr_bursts 1\nburst_usec 2\n";
        let (time, throttling) = cpu_stat_v2(v2);
        assert_eq!(
            time,
            CpuTime { usage_ns: Some(500_000), user_ns: Some(300_000), system_ns: Some(200_000) }
        );
        let want = Throttling {
            periods: 10,
            throttled_periods: 4,
            throttled_ns: 7000,
            burst_periods: Some(1),
            burst_ns: Some(2000),
        };
        assert_eq!(throttling, Some(want));
        assert_eq!(cpu_stat_v2(b"usage_usec 5\n").1, None);
        let v1 = cpu_stat_v1(b"nr_periods 3\nnr_throttled 2\nthrottled_time 99\n");
        let want = Throttling { periods: 3, throttled_periods: 2, throttled_ns: 99, ..Throttling::default() };
        assert_eq!(v1, Some(want));
        assert_eq!(cpuacct_stat(b"user 250\nsystem 50\n", 100), (Some(2_500_000_000), Some(500_000_000)));
        assert_eq!(cpuacct_stat(b"", 100), (None, None));
    }

    #[test]
    fn what_a_cgroup_may() {
        assert_eq!(cpu_max(b"50000 100000\n"), (Some(50_000), Some(100_000)));
        assert_eq!(cpu_max(b"max 100000\n"), (None, Some(100_000)));
        assert_eq!(cpu_max(b""), (None, None));
        assert_eq!(
            (shares_of_weight(1), shares_of_weight(100), shares_of_weight(0)),
            (Some(2), Some(2597), None)
        );
        assert_eq!((single(b"17\n"), single(b"max\n"), single(b"-1\n")), (Some(17), None, None));
    }

    #[test]
    fn block_devices() {
        let io = io_stat(b"8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n7:1 \n253:0 rbytes=1 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n");
        assert_eq!(io.len(), 2);
        let want = DeviceIo {
            major: 8,
            read_bytes: 4096,
            written_bytes: 8192,
            reads: 1,
            writes: 2,
            discarded_bytes: Some(0),
            ..DeviceIo::default()
        };
        assert_eq!(io[0], want);
        let bytes =
            b"8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 1\n8:0 Discard 0\n8:0 Total 12288\nTotal 12288\n";
        let operations = b"8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n";
        assert_eq!(blkio(bytes, operations), [want]);
        assert_eq!(blkio(b"Total 0\n", b"Total 0\n"), []);
    }

    #[test]
    fn pressure_has_two_lines() {
        let text = b"some avg10=1.50 avg60=0.20 avg300=0.00 total=4711\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=12\n";
        let got = pressure(text).unwrap();
        assert_eq!((got.some.avg10, got.some.total_us, got.full.total_us), (1.5, 4711, 12));
        let cpu = pressure(b"some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n").unwrap();
        assert_eq!((cpu.some.total_us, cpu.full), (5, PressureLine::default()));
        assert_eq!(pressure(b"full avg10=0.00 avg60=0.00 avg300=0.00 total=5\n"), None);
        assert_eq!(pressure(b"some avg10=x avg60=0.00 avg300=0.00 total=5\n"), None);
    }
}
