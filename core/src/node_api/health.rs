//! `/healthz`: its checks and its page (k8s.io/apiserver/pkg/server/healthz).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use super::url_values::UrlValues;
use crate::clock::Mono;

/// A loop that has not turned for twice its resync time, and this at least, is stuck (pkg/kubelet/kubelet.go,
/// `SyncLoopHealthCheck`).
const STUCK_AFTER: Duration = Duration::from_secs(300);

/// A check and what is wrong, when something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    pub result: Result<(), String>,
}

/// # Errors
/// The loop is stuck.
pub fn sync_loop(last_turn: Mono, now: Mono, sync_frequency: Duration) -> Result<(), String> {
    if now.since(last_turn) > (2 * sync_frequency).max(STUCK_AFTER) {
        return Err("sync Loop took longer than expected".to_owned());
    }
    Ok(())
}

/// The page of all checks; `Err` is to go out with status 500. What is wrong is not told here: the page is for many eyes.
///
/// # Errors
/// A check that is not excluded has failed.
pub fn page(checks: &[Check], query: &UrlValues) -> Result<String, String> {
    let excluded: BTreeSet<&str> = query.all("exclude").collect();
    let mut unknown = excluded.clone();
    let (mut text, mut failed) = (String::new(), false);
    for check in checks {
        let line = match (&check.result, unknown.remove(check.name)) {
            (_, true) => format!("[+]{} excluded: ok\n", check.name),
            (Ok(()), false) => format!("[+]{} ok\n", check.name),
            (Err(_), false) => {
                failed = true;
                format!("[-]{} failed: reason withheld\n", check.name)
            }
        };
        text.push_str(&line);
    }
    if !unknown.is_empty() {
        let names: Vec<String> = unknown.iter().map(|name| format!("{name:?}")).collect();
        let _ =
            writeln!(text, "warn: some health checks cannot be excluded: no matches for {}", names.join(","));
    }
    if failed {
        return Err(format!("{text}healthz check failed\n"));
    }
    if query.first("verbose").is_none() {
        return Ok("ok".to_owned());
    }
    Ok(format!("{text}healthz check passed\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(result: Result<(), String>) -> [Check; 2] {
        [Check { name: "ping", result: Ok(()) }, Check { name: "syncloop", result }]
    }

    #[test]
    fn pages() {
        let stuck = || Err("stuck in secret".to_owned());
        let none = UrlValues::default();
        assert_eq!(page(&checks(Ok(())), &none), Ok("ok".to_owned()));
        assert_eq!(
            page(&checks(Ok(())), &[("verbose", "")].into()),
            Ok("[+]ping ok\n[+]syncloop ok\nhealthz check passed\n".to_owned())
        );
        assert_eq!(
            page(&checks(stuck()), &none),
            Err("[+]ping ok\n[-]syncloop failed: reason withheld\nhealthz check failed\n".to_owned())
        );
        assert_eq!(
            page(&checks(stuck()), &[("exclude", "syncloop"), ("exclude", "x"), ("verbose", "1")].into()),
            Ok("[+]ping ok\n[+]syncloop excluded: ok\nwarn: some health checks cannot be excluded: no matches for \"x\"\nhealthz check passed\n".to_owned())
        );
    }

    #[test]
    fn a_loop_is_stuck_after_five_minutes_and_two_resyncs() {
        let (minute, now) = (Duration::from_secs(60), Mono::from_millis(10_000_000));
        let turned = |ago_s: u64| Mono::from_millis(10_000_000 - ago_s * 1000);
        assert!(sync_loop(turned(299), now, minute).is_ok());
        assert!(sync_loop(turned(301), now, minute).is_err());
        assert!(sync_loop(turned(301), now, 3 * minute).is_ok());
    }
}
