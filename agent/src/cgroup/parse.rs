//! What the memory files say, for cgroup v1 and v2. Pure, and without allocation on the good path: the
//! sampler parses these thousands of times a minute.
//!
//! A key that kubelet's arithmetic needs is an error when it is missing, never zero: a zero would read as
//! "nothing reclaimable" or "nothing available" and end a pod for it.

pub mod counters;

/// What is wrong with a file's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("the key `{0}` is missing")]
    Missing(&'static str),
    #[error("`{key}` has the value {value:?} where a number is expected")]
    NotANumber { key: &'static str, value: String },
}

impl ParseError {
    fn not_a_number(key: &'static str, value: &[u8]) -> Self {
        ParseError::NotANumber { key, value: String::from_utf8_lossy(&value[..value.len().min(40)]).into() }
    }
}

/// The part of `memory.stat` that decisions need, in bytes, of the cgroup and all below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStat {
    pub inactive_file_bytes: u64,
    pub active_file_bytes: u64,
    /// Dirty plus under writeback; 0 where the kernel does not say.
    pub dirty_bytes: u64,
    /// File pages that came back after they had been reclaimed, cumulative; 0 where the kernel does not say. In pages, on
    /// cgroup v1 up to about Linux 6.7 in bytes.
    pub refaults: u64,
}

/// The part of `/proc/meminfo` that decisions need, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemInfo {
    pub total_bytes: u64,
    pub free_bytes: u64,
    pub available_bytes: u64,
    pub swap_total_bytes: Option<u64>,
    pub swap_free_bytes: Option<u64>,
}

/// Pressure stall information of one resource. Averages are percentages over 10 s, totals are µs since
/// the cgroup was made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Psi {
    pub some_avg10: f32,
    pub full_avg10: f32,
    pub some_total_us: u64,
    pub full_total_us: u64,
}

/// From here on a v1 limit means "none": the kernel reports LONG_MAX rounded down to a page
/// (`PAGE_COUNTER_MAX`), and pages are 64 KiB at most.
const V1_UNLIMITED_FROM_BYTES: u64 = (i64::MAX as u64) & !0xffff;

/// Inactive, active, dirty, under writeback, refaulted.
type StatKeys = [&'static str; 5];
const V1_STAT: StatKeys = [
    "total_inactive_file",
    "total_active_file",
    "total_dirty",
    "total_writeback",
    "total_workingset_refault_file",
];
const V2_STAT: StatKeys =
    ["inactive_file", "active_file", "file_dirty", "file_writeback", "workingset_refault_file"];

/// `memory.stat` of a v1 cgroup: the `total_` keys, which count the children in.
///
/// # Errors
/// When `total_inactive_file` or `total_active_file` is missing or not a number.
pub fn memory_stat_v1(text: &[u8]) -> Result<MemoryStat, ParseError> {
    memory_stat(text, V1_STAT)
}

/// `memory.stat` of a v2 cgroup, which counts the children in by itself.
///
/// # Errors
/// When `inactive_file` or `active_file` is missing or not a number.
pub fn memory_stat_v2(text: &[u8]) -> Result<MemoryStat, ParseError> {
    memory_stat(text, V2_STAT)
}

fn memory_stat(text: &[u8], keys: StatKeys) -> Result<MemoryStat, ParseError> {
    let [inactive, active, dirty, writeback, refaults] = values(text, b' ', keys)?;
    Ok(MemoryStat {
        inactive_file_bytes: inactive.ok_or(ParseError::Missing(keys[0]))?,
        active_file_bytes: active.ok_or(ParseError::Missing(keys[1]))?,
        dirty_bytes: dirty.unwrap_or(0).saturating_add(writeback.unwrap_or(0)),
        refaults: refaults.unwrap_or(0),
    })
}

/// `/proc/meminfo`, whose values are in KiB.
///
/// # Errors
/// When MemTotal, MemFree or MemAvailable (there since Linux 3.14) is missing or not a number.
pub fn meminfo(text: &[u8]) -> Result<MemInfo, ParseError> {
    let keys = ["MemTotal", "MemFree", "MemAvailable", "SwapTotal", "SwapFree"];
    let [total, free, available, swap_total, swap_free] = values(text, b':', keys)?;
    let bytes = |kib: Option<u64>| kib.map(|k| k.saturating_mul(1024));
    let needed = |kib: Option<u64>, key| bytes(kib).ok_or(ParseError::Missing(key));
    Ok(MemInfo {
        total_bytes: needed(total, keys[0])?,
        free_bytes: needed(free, keys[1])?,
        available_bytes: needed(available, keys[2])?,
        swap_total_bytes: bytes(swap_total),
        swap_free_bytes: bytes(swap_free),
    })
}

/// The `oom_kill` counter of `memory.events`, `memory.oom_control` or `/proc/vmstat`: processes killed.
///
/// # Errors
/// When it is missing or not a number. v1 kernels before 4.13 do not have it.
pub fn oom_kills(text: &[u8]) -> Result<u64, ParseError> {
    let [kills] = values(text, b' ', ["oom_kill"])?;
    kills.ok_or(ParseError::Missing("oom_kill"))
}

/// A file with one number, such as `memory.current`.
///
/// # Errors
/// When it is not a number; `file` names it in the error.
pub fn single(text: &[u8], file: &'static str) -> Result<u64, ParseError> {
    number(text.trim_ascii()).ok_or_else(|| ParseError::not_a_number(file, text.trim_ascii()))
}

/// `memory.max` or `memory.limit_in_bytes`; `None` when there is no limit.
///
/// # Errors
/// When it is neither a number nor `max`.
pub fn limit(text: &[u8], file: &'static str) -> Result<Option<u64>, ParseError> {
    if text.trim_ascii() == b"max" {
        return Ok(None);
    }
    single(text, file).map(|bytes| (bytes < V1_UNLIMITED_FROM_BYTES).then_some(bytes))
}

/// A `memory.pressure` file or `/proc/pressure/memory`.
///
/// # Errors
/// When the `some` or the `full` line, or one of their values, is missing.
pub fn psi(text: &[u8]) -> Result<Psi, ParseError> {
    let (some_avg10, some_total_us) = psi_line(text, b"some ", "some")?;
    let (full_avg10, full_total_us) = psi_line(text, b"full ", "full")?;
    Ok(Psi { some_avg10, full_avg10, some_total_us, full_total_us })
}

fn psi_line(text: &[u8], start: &[u8], key: &'static str) -> Result<(f32, u64), ParseError> {
    let line =
        text.split(|b| *b == b'\n').find_map(|l| l.strip_prefix(start)).ok_or(ParseError::Missing(key))?;
    let field = |name: &[u8], key| {
        line.split(|b| *b == b' ').find_map(|f| f.strip_prefix(name)).ok_or(ParseError::Missing(key))
    };
    let avg10 = field(b"avg10=", "avg10")?;
    let avg10 = std::str::from_utf8(avg10)
        .ok()
        .and_then(|a| a.parse::<f32>().ok())
        .filter(|a| a.is_finite())
        .ok_or_else(|| ParseError::not_a_number("avg10", avg10))?;
    let total = field(b"total=", "total")?;
    Ok((avg10, number(total).ok_or_else(|| ParseError::not_a_number("total", total))?))
}

/// The numbers after `keys`, in the keys' order, from lines of `key<separator>[spaces]number[ unit]`. Stops
/// reading once it has them all: `memory.stat` has fifty lines more.
fn values<const N: usize>(
    text: &[u8],
    separator: u8,
    keys: [&'static str; N],
) -> Result<[Option<u64>; N], ParseError> {
    let mut found = [None; N];
    let mut missing = N;
    for line in text.split(|b| *b == b'\n') {
        let Some(at) = line.iter().position(|b| *b == separator) else { continue };
        let (name, value) = (&line[..at], line[at + 1..].trim_ascii());
        let Some(i) = keys.iter().position(|k| k.as_bytes() == name) else { continue };
        if found[i].is_some() {
            continue;
        }
        let digits = value.split(|b| *b == b' ').next().unwrap_or_default();
        found[i] = Some(number(digits).ok_or_else(|| ParseError::not_a_number(keys[i], value))?);
        missing -= 1;
        if missing == 0 {
            break;
        }
    }
    Ok(found)
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |n, d| {
        let digit = d.is_ascii_digit().then(|| u64::from(d - b'0'))?;
        n.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests;
