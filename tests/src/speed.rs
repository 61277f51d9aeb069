//! How fast things go here. On an emulated CPU a SIGTERM by containerd and runc takes a second where it takes 30 ms
//! elsewhere, so a leak that leaves a second must be as much slower for the test to mean the same.

/// The lab sets it where it emulates.
const SLOWDOWN: &str = "OOMLET_TEST_SLOWDOWN";

/// The rate of a hog, MiB/s, that on a real CPU would be `full`: for its command line.
#[must_use]
pub fn rate_mib_s(full: u32) -> String {
    slowed(full, slowdown()).to_string()
}

/// The longest wait before a container is started again, in seconds: as short as the agent allows, but longer than this
/// machine takes to tell of an exit, or nobody would ever see a container wait.
#[must_use]
pub fn longest_restart_period_s() -> u32 {
    if is_emulated() { 5 } else { 1 }
}

/// Whether bounds have to allow for an emulated CPU.
#[must_use]
pub fn is_emulated() -> bool {
    slowdown() > 1
}

/// How many times longer things may take than on a real CPU.
#[must_use]
pub fn scale() -> f64 {
    f64::from(slowdown())
}

fn slowdown() -> u32 {
    std::env::var(SLOWDOWN).ok().map_or(1, |text| {
        text.parse().unwrap_or_else(|error| panic!("{SLOWDOWN}={text:?} is no whole number: {error}"))
    })
}

/// Not below what a test has the patience for.
fn slowed(full: u32, slowdown: u32) -> u32 {
    const SLOWEST: u32 = 5;
    (full / slowdown.max(1)).max(SLOWEST.min(full))
}

#[cfg(test)]
mod tests {
    use super::slowed;

    #[test]
    fn rates() {
        for (full, slowdown, expected) in [(100, 1, 100), (100, 8, 12), (10, 8, 5), (3, 8, 3), (100, 0, 100)]
        {
            assert_eq!(slowed(full, slowdown), expected, "{full} / {slowdown}");
        }
    }
}
