//! What a process has cost until now, by /proc.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// utime + stime of proc(5): all threads of it, none of its children.
pub fn cpu(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("reading {path}: has it ended?"))?;
    let ticks = own_ticks(&stat).with_context(|| format!("no utime and stime in {stat:?}"))?;
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Ok(Duration::from_millis(ticks * 1000 / per_second))
}

/// Fields 14 and 15. The second, the program's name, may hold spaces and brackets.
fn own_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    Some(fields.next()?.ok()? + fields.next()?.ok()?)
}

/// The peak starts anew from what is resident now (proc_pid_clear_refs(5)).
pub fn forget_peak(pid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").with_context(|| format!("writing {path}"))
}

pub fn peak_rss_mib(pid: u32) -> Result<f64> {
    status_mib(pid, "VmHWM:")
}

pub fn rss_mib(pid: u32) -> Result<f64> {
    status_mib(pid, "VmRSS:")
}

fn status_mib(pid: u32, name: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("reading {path}: has it ended?"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).with_context(|| format!("{path} has no {name}"))
}

/// Of 1, 5 and 15 minutes.
pub fn load() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg").context("reading /proc/loadavg")?;
    Ok(text.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_behind_any_name() {
        let numbers = "S 1 2 3 4 5 6 7 8 9 10 130 7 20 0";
        for (stat, expected) in
            [(format!("42 (a) b) S 1) {numbers}"), Some(137)), ("42 (a) S 1 2".to_owned(), None)]
        {
            assert_eq!(own_ticks(&stat), expected, "{stat}");
        }
    }

    #[test]
    fn this_process_has_a_peak_that_can_be_forgotten() {
        let pid = std::process::id();
        forget_peak(pid).unwrap();
        assert!(peak_rss_mib(pid).unwrap() > 0.1 && rss_mib(pid).unwrap() > 0.1);
        cpu(pid).unwrap();
    }
}
