//! The families that have one value for a cgroup: cAdvisor's names and words, and where the number is.

use crate::metrics::family::{Kind, number, seconds};
use crate::stats::numbers::{Cgroup, Cpu, Memory, PressureLine, Processes, Throttling};

/// A value, and the Unix nanoseconds that it was read at where it shows them.
type Timed = (f64, Option<i64>);

pub(super) enum Value {
    Of(fn(&Cgroup) -> Option<Timed>),
    /// Of the times that the cgroup was made and that its container began.
    Started(fn(Option<i64>, Option<i64>) -> Option<f64>),
    /// The time of the scrape.
    Seen,
    OomKills,
}

pub(super) struct Row {
    pub kind: Kind,
    pub name: &'static str,
    pub help: &'static str,
    pub value: Value,
}

const fn row(kind: Kind, name: &'static str, help: &'static str, of: fn(&Cgroup) -> Option<Timed>) -> Row {
    Row { kind, name, help, value: Value::Of(of) }
}

const fn counter(name: &'static str, help: &'static str, of: fn(&Cgroup) -> Option<Timed>) -> Row {
    row(Kind::Counter, name, help, of)
}

const fn gauge(name: &'static str, help: &'static str, of: fn(&Cgroup) -> Option<Timed>) -> Row {
    row(Kind::Gauge, name, help, of)
}

fn cpu(c: &Cgroup, of: fn(&Cpu) -> Option<f64>) -> Option<Timed> {
    let cpu = c.cpu.as_ref()?;
    Some((of(cpu)?, Some(cpu.at_ns)))
}

fn cfs(c: &Cgroup, of: fn(&Throttling) -> Option<f64>) -> Option<Timed> {
    let cpu = c.cpu.as_ref()?;
    Some((of(cpu.throttling.as_ref()?)?, Some(cpu.at_ns)))
}

fn memory(c: &Cgroup, of: fn(&Memory) -> Option<u64>) -> Option<Timed> {
    let memory = c.memory.as_ref()?;
    Some((number(of(memory)?), Some(memory.at_ns)))
}

fn processes(c: &Cgroup, of: fn(&Processes) -> Option<u64>) -> Option<Timed> {
    let processes = c.processes.as_ref()?;
    Some((number(of(processes)?), Some(processes.at_ns)))
}

fn pressed(line: &PressureLine) -> f64 {
    seconds(line.total_us.saturating_mul(1000))
}

fn untimed(value: Option<u64>) -> Option<Timed> {
    value.map(|v| (number(v), None))
}

fn whole_seconds(ns: Option<i64>) -> Option<f64> {
    ns.and_then(|ns| u64::try_from(ns).ok()).map(|ns| seconds(ns).floor())
}

/// A limit that is none is shown as 0: `container_spec_memory_limit_bytes` of cAdvisor, which rules divide by.
fn limit(bytes: Option<u64>) -> Option<Timed> {
    Some((number(bytes.unwrap_or(0)), None))
}

pub(super) const TABLE: &[Row] = &[
    Row {
        kind: Kind::Gauge,
        name: "container_last_seen",
        help: "Last time a container was seen by the exporter",
        value: Value::Seen,
    },
    Row {
        kind: Kind::Gauge,
        name: "container_creation_time_seconds",
        help: "Container creation time since unix epoch in seconds.",
        value: Value::Started(|created, _| whole_seconds(created)),
    },
    Row {
        kind: Kind::Gauge,
        name: "container_start_time_seconds",
        help: "Start time of the container since unix epoch in seconds.",
        value: Value::Started(|created, started| whole_seconds(started.or(created))),
    },
    Row {
        kind: Kind::Counter,
        name: "container_oom_events_total",
        help: "Count of out of memory events observed for the container",
        value: Value::OomKills,
    },
    counter("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", |c| {
        cpu(c, |cpu| cpu.user_ns.map(seconds))
    }),
    counter("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", |c| {
        cpu(c, |cpu| cpu.system_ns.map(seconds))
    }),
    counter("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", |c| {
        cfs(c, |t| Some(number(t.periods)))
    }),
    counter("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", |c| {
        cfs(c, |t| Some(number(t.throttled_periods)))
    }),
    counter(
        "container_cpu_cfs_throttled_seconds_total",
        "Total time duration the container has been throttled.",
        |c| cfs(c, |t| Some(seconds(t.throttled_ns))),
    ),
    counter("container_cpu_cfs_burst_periods_total", "Number of periods when burst occurs.", |c| {
        cfs(c, |t| t.burst_periods.map(number))
    }),
    counter(
        "container_cpu_cfs_burst_seconds_total",
        "Total time duration the container has been bursted.",
        |c| cfs(c, |t| t.burst_ns.map(seconds)),
    ),
    gauge("container_memory_cache", "Number of bytes of page cache memory.", |c| {
        memory(c, |m| m.counters.cache_bytes)
    }),
    gauge("container_memory_rss", "Size of RSS in bytes.", |c| memory(c, |m| m.counters.rss_bytes)),
    gauge("container_memory_kernel_usage", "Size of kernel memory allocated in bytes.", |c| {
        memory(c, |m| m.kernel_bytes)
    }),
    gauge("container_memory_mapped_file", "Size of memory mapped files in bytes.", |c| {
        memory(c, |m| m.counters.mapped_file_bytes)
    }),
    gauge("container_memory_swap", "Container swap usage in bytes.", |c| memory(c, |m| m.swap_bytes)),
    counter("container_memory_failcnt", "Number of memory usage hits limits", |c| {
        memory(c, |m| m.limit_hits)
    }),
    gauge(
        "container_memory_usage_bytes",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |c| memory(c, |m| Some(m.usage_bytes)),
    ),
    gauge("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes", |c| {
        memory(c, |m| m.max_usage_bytes)
    }),
    gauge("container_memory_working_set_bytes", "Current working set in bytes.", |c| {
        memory(c, |m| Some(m.working_set_bytes))
    }),
    gauge("container_memory_total_active_file_bytes", "Current total active file in bytes.", |c| {
        memory(c, |m| Some(m.active_file_bytes))
    }),
    gauge("container_memory_total_inactive_file_bytes", "Current total inactive file in bytes.", |c| {
        memory(c, |m| Some(m.inactive_file_bytes))
    }),
    counter(
        "container_memory_events_high_total",
        "Cumulative count of memory.high throttle events for the container",
        |c| memory(c, |m| m.events.high),
    ),
    counter(
        "container_memory_events_max_total",
        "Cumulative count of memory.max limit hit events for the container",
        |c| memory(c, |m| m.events.max),
    ),
    gauge(
        "container_memory_file_dirty_bytes",
        "Number of bytes of file cache that has been modified but not yet written back to disk.",
        |c| memory(c, |m| m.counters.file_dirty_bytes),
    ),
    gauge(
        "container_memory_file_writeback_bytes",
        "Number of bytes of file cache that is currently being written back to disk.",
        |c| memory(c, |m| m.counters.file_writeback_bytes),
    ),
    counter(
        "container_memory_pgscan_total",
        "Cumulative number of pages scanned by the page reclaim algorithm.",
        |c| memory(c, |m| m.counters.pages_scanned),
    ),
    counter(
        "container_memory_pgsteal_total",
        "Cumulative number of pages reclaimed by the page reclaim algorithm.",
        |c| memory(c, |m| m.counters.pages_stolen),
    ),
    counter(
        "container_memory_workingset_refault_file_total",
        "Cumulative number of refaults of previously evicted file pages.",
        |c| memory(c, |m| m.counters.refaults_file),
    ),
    counter(
        "container_memory_workingset_refault_anon_total",
        "Cumulative number of refaults of previously evicted anonymous pages.",
        |c| memory(c, |m| m.counters.refaults_anon),
    ),
    gauge("container_processes", "Number of processes running inside the container.", |c| {
        processes(c, |p| p.processes)
    }),
    gauge("container_file_descriptors", "Number of open file descriptors for the container.", |c| {
        processes(c, |p| p.file_descriptors)
    }),
    gauge("container_sockets", "Number of open sockets for the container.", |c| processes(c, |p| p.sockets)),
    gauge(
        "container_threads_max",
        "Maximum number of threads allowed inside the container, infinity if value is zero",
        |c| processes(c, |p| p.threads.map(|_| p.threads_max.unwrap_or(0))),
    ),
    gauge("container_threads", "Number of threads running inside the container", |c| {
        processes(c, |p| p.threads)
    }),
    counter(
        "container_pressure_cpu_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to CPU congestion.",
        |c| cpu(c, |cpu| cpu.pressure.as_ref().map(|p| pressed(&p.full))),
    ),
    counter(
        "container_pressure_cpu_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to CPU congestion.",
        |c| cpu(c, |cpu| cpu.pressure.as_ref().map(|p| pressed(&p.some))),
    ),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to memory congestion.",
        |c| c.memory.as_ref().and_then(|m| Some((pressed(&m.pressure.as_ref()?.full), Some(m.at_ns)))),
    ),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to memory congestion.",
        |c| c.memory.as_ref().and_then(|m| Some((pressed(&m.pressure.as_ref()?.some), Some(m.at_ns)))),
    ),
    counter(
        "container_pressure_io_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to IO congestion.",
        |c| c.io.as_ref().and_then(|io| Some((pressed(&io.pressure.as_ref()?.full), Some(io.at_ns)))),
    ),
    counter(
        "container_pressure_io_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to IO congestion.",
        |c| c.io.as_ref().and_then(|io| Some((pressed(&io.pressure.as_ref()?.some), Some(io.at_ns)))),
    ),
    gauge("container_spec_cpu_period", "CPU period of the container.", |c| untimed(c.spec.cpu.period_us)),
    gauge("container_spec_cpu_quota", "CPU quota of the container.", |c| untimed(c.spec.cpu.quota_us)),
    gauge("container_spec_cpu_shares", "CPU share of the container.", |c| untimed(c.spec.cpu.shares)),
    gauge("container_spec_memory_limit_bytes", "Memory limit for the container.", |c| {
        c.memory.as_ref().and_then(|m| limit(m.limit_bytes))
    }),
    gauge("container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", |c| {
        c.memory.as_ref().and_then(|_| limit(c.spec.swap_limit_bytes))
    }),
    gauge(
        "container_spec_memory_reservation_limit_bytes",
        "Memory reservation limit for the container.",
        |c| c.memory.as_ref().and_then(|_| limit(c.spec.reservation_bytes)),
    ),
];
