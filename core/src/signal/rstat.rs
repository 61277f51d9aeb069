//! Readings whose file numbers are older than their usage. The kernel may leave the statistics of a cgroup as they were
//! while those below it are charged (`cgroup::stats` says how that comes, and ends it): page cache then looks like memory
//! that only its owner can give back. What those below know cannot be less than what is true of the one above; where
//! nobody below was read, it is waited for ([`crate::forecast::DomainForecast::observe_cgroup`]).

use super::{Domain, DomainReading, StatAge};

/// Gives a pod the file numbers of its containers, and `kubepods` those of its pods, where these were read along and know of
/// more than its own by over `slack_bytes`: they are read a moment later. It is not stale then; page cache that none of them
/// knows of, such as that of a container that is gone, counts as in use for once.
pub fn take_newer_of_children(domains: &mut [DomainReading], slack_bytes: u64) {
    for i in (0..domains.len()).rev() {
        let below = match &domains[i].domain {
            Domain::Node | Domain::Container(..) => continue,
            Domain::Kubepods => sum(domains, |d| matches!(d, Domain::Pod(_))),
            Domain::Pod(uid) => sum(domains, |d| matches!(d, Domain::Container(of, _) if of == uid)),
        };
        let above = &mut domains[i];
        if below.file_bytes() > FileNumbers::of(above).file_bytes() + slack_bytes {
            let FileNumbers { inactive, active, dirty } = below;
            (above.inactive_file_bytes, above.active_file_bytes, above.dirty_bytes) =
                (inactive, active, dirty);
            above.statistics = StatAge::New;
        }
    }
}

fn sum(domains: &[DomainReading], is_below: impl Fn(&Domain) -> bool) -> FileNumbers {
    let below = domains.iter().filter(|d| is_below(&d.domain)).map(FileNumbers::of);
    below.fold(FileNumbers::default(), FileNumbers::plus)
}

#[derive(Default)]
struct FileNumbers {
    inactive: u64,
    active: u64,
    dirty: u64,
}

impl FileNumbers {
    fn of(d: &DomainReading) -> FileNumbers {
        FileNumbers { inactive: d.inactive_file_bytes, active: d.active_file_bytes, dirty: d.dirty_bytes }
    }

    fn plus(self, other: FileNumbers) -> FileNumbers {
        FileNumbers {
            inactive: self.inactive + other.inactive,
            active: self.active + other.active,
            dirty: self.dirty + other.dirty,
        }
    }

    fn file_bytes(&self) -> u64 {
        self.inactive + self.active
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::PodUid;

    fn reading(domain: Domain, usage: u64, inactive: u64, active: u64, lags: bool) -> DomainReading {
        DomainReading {
            domain,
            usage_bytes: usage,
            inactive_file_bytes: inactive,
            active_file_bytes: active,
            dirty_bytes: inactive / 2,
            refaults: 0,
            statistics: if lags { StatAge::Stale } else { StatAge::New },
            limit_bytes: None,
            oom_kills: 0,
        }
    }

    fn pod(name: &str) -> Domain {
        Domain::Pod(PodUid::from(name))
    }

    fn container(of: &str, name: &str) -> Domain {
        Domain::Container(PodUid::from(of), name.into())
    }

    #[test]
    fn those_below_tell_what_the_one_above_does_not_know_yet() {
        let mut domains = vec![
            reading(Domain::Node, 5000, 50, 0, true),
            reading(Domain::Kubepods, 900, 100, 0, false),
            reading(pod("writer"), 500, 0, 10, true),
            reading(container("writer", "app"), 400, 300, 40, false),
            reading(container("writer", "side"), 90, 20, 0, false),
            // Has the page cache of a container that is gone.
            reading(pod("restarted"), 300, 200, 0, true),
            reading(container("restarted", "app"), 100, 50, 0, false),
            // Its containers were not read.
            reading(pod("alone"), 100, 0, 0, true),
            // They were read a moment later.
            reading(pod("true"), 100, 5, 5, false),
            reading(container("true", "app"), 100, 20, 0, false),
        ];
        take_newer_of_children(&mut domains, 10);
        let got: Vec<_> = domains
            .iter()
            .filter(|d| !matches!(d.domain, Domain::Container(..)))
            .map(|d| (d.inactive_file_bytes, d.active_file_bytes, d.dirty_bytes, d.is_stale()))
            .collect();
        assert_eq!(
            got,
            [
                (50, 0, 25, true),
                // By its pods, which took over the numbers of their containers.
                (525, 45, 262, false),
                (320, 40, 160, false),
                (200, 0, 100, true),
                (0, 0, 0, true),
                (5, 5, 2, false),
            ]
        );
    }
}
