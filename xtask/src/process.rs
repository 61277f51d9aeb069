//! Running other programs: every failure names the command line and what the program said.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Runs to the end with its output shown.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = line(command);
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("starting `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` ended with {status}");
    }
    Ok(())
}

/// Runs to the end and returns stdout; on failure the error holds what it printed.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = line(command);
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("starting `{shown}`"))?;
    stdout_of(out, &shown)
}

/// The same with an input, for programs that read all of it before they say anything.
pub fn output_of(command: &mut Command, input: &[u8]) -> Result<String> {
    let shown = line(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting `{shown}`"))?;
    // One that has ended without reading says why by itself.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input));
    let out = child.wait_with_output().with_context(|| format!("waiting for `{shown}`"))?;
    let said = stdout_of(out, &shown)?;
    written.with_context(|| format!("writing to `{shown}`"))?;
    Ok(said)
}

fn stdout_of(out: Output, shown: &str) -> Result<String> {
    if !out.status.success() {
        let said = [out.stderr, out.stdout].concat();
        bail!("`{shown}` ended with {}:\n{}", out.status, tail(&String::from_utf8_lossy(&said), 30));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// CPU time of all processes that this one has started and waited for, and of theirs in turn (proc_pid_stat(5), cutime
/// and cstime). What they left running to somebody else is not in it.
pub fn cpu_of_children() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("reading /proc/self/stat")?;
    let ticks = child_ticks(&stat).with_context(|| format!("no cutime and cstime in {stat:?}"))?;
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Ok(Duration::from_millis(ticks.saturating_mul(1000) / per_second))
}

/// Fields 16 and 17. The second, the program's name, may hold spaces and brackets.
fn child_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(13).map(str::parse::<u64>);
    Some(fields.next()?.ok()? + fields.next()?.ok()?)
}

/// The command as one would type it.
#[must_use]
pub fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|part| part.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The last `lines` lines.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The end of a log file, for an error message.
#[must_use]
pub fn file_tail(path: &std::path::Path, lines: usize) -> String {
    match std::fs::read(path) {
        Ok(bytes) => format!("{}:\n{}", path.display(), tail(&String::from_utf8_lossy(&bytes), lines)),
        Err(error) => format!("{}: {error}", path.display()),
    }
}

/// Polls `done` until it holds; false when `bound` passed first.
pub fn holds_within(bound: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + bound;
    loop {
        let looked = Instant::now();
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(pause_after(looked.elapsed()));
    }
}

/// How long to wait after a look that took so long: what is waited for gets nearly all of a slow machine's time, also
/// when several wait on it.
#[must_use]
pub fn pause_after(look: Duration) -> Duration {
    (look * 6).clamp(Duration::from_millis(10), Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_tell_what_was_run_and_said() {
        let error =
            output(Command::new("sh").args(["-c", "echo no luck >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("sh -c") && error.contains("no luck") && error.contains('3'), "{error}");
        let error = format!("{:#}", run(&mut Command::new("/nonexistent/program")).unwrap_err());
        assert!(error.contains("/nonexistent/program"), "{error}");
    }

    #[test]
    fn input_is_given_and_a_failure_says_more_than_that_nobody_read_it() {
        assert_eq!(output_of(&mut Command::new("cat"), b"text").unwrap(), "text");
        let mut deaf = Command::new("sh");
        deaf.args(["-c", "exec <&-; echo no luck; exit 3"]);
        let error = output_of(&mut deaf, &vec![b'x'; 1 << 20]).unwrap_err().to_string();
        assert!(error.contains("no luck"), "{error}");
    }

    #[test]
    fn the_time_of_children_is_read_behind_any_name() {
        let numbers = "S 1 2 3 4 5 6 7 8 9 10 11 12 130 7 20 0";
        for (stat, expected) in [
            (format!("42 (xtask) {numbers}"), Some(137)),
            (format!("42 (a) b) S 1) {numbers}"), Some(137)),
            ("42 (xtask) S 1 2".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(child_ticks(&stat), expected, "{stat}");
        }
        cpu_of_children().unwrap();
    }

    #[test]
    fn tails() {
        for (text, lines, expected) in [("a\nb\nc\n", 2, "b\nc"), ("a", 5, "a"), ("", 3, "")] {
            assert_eq!(tail(text, lines), expected);
        }
    }
}
