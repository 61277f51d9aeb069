//! OOM kills: which have been told of, and which limit each was about. The kernel's record comes first; counters and the
//! runtime's word cover what it cannot tell. What a kill means for a pod is [`crate::node`]'s business.
//!
//! - [`kill_account`]: each kill once, whoever tells of it. - [`limit`]: the limit that was reached, and words for it.

pub mod kill_account;
pub mod limit;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Mono;
use crate::pod::PodUid;
use crate::signal::{Domain, KernelEvent, OomBegin, OomScope, OomVictim};
use crate::trace::record::Record;
use kill_account::{KillAccount, Telling, Victim};

/// From the beginning of a kill to its victim: the kernel writes a report to the console in between, and a serial one
/// takes seconds for it.
const BEGIN_TO_VICTIM: Duration = Duration::from_secs(30);

/// Every kill that has been told of or counted.
#[derive(Debug)]
pub struct OomLedger {
    pub kills: KillAccount,
    /// Of kills that only a counter has told of so far: what was known when it rose.
    counted: BTreeMap<Domain, Record>,
    /// A container was killed and the counters may tell by whom.
    pub counters_wanted: bool,
    /// What the kernel said last of a kill that it was about to do, and when.
    begun: Option<(Mono, OomBegin)>,
}

impl OomLedger {
    /// `whole`: the OOM killer takes all processes of a container (`memory.oom.group`).
    #[must_use]
    pub fn new(whole: bool) -> OomLedger {
        OomLedger {
            kills: KillAccount::new(whole),
            counted: BTreeMap::new(),
            counters_wanted: false,
            begun: None,
        }
    }

    /// The kernel has begun a kill.
    pub fn begun(&mut self, at: Mono, begin: OomBegin) {
        self.begun = Some((at, begin));
    }

    /// What the kernel said when it began this kill: of its victim, or, where a whole memcg is killed (`oom.group`), of
    /// that memcg. The OOM killer works on one kill at a time.
    #[must_use]
    pub fn begin_of(&self, event: &KernelEvent, victim: &OomVictim) -> Option<&OomBegin> {
        let (at, begin) = self.begun.as_ref()?;
        let of_group = match begin.scope {
            OomScope::Memcg(memcg) => victim.levels.iter().any(|level| level.cgroup == memcg.cgroup),
            OomScope::Global | OomScope::Unknown => false,
        };
        let same = begin.chosen.pid == victim.pid || of_group;
        (same && *at <= event.at && event.at.since(*at) < BEGIN_TO_VICTIM).then_some(begin)
    }

    /// The kernel's own record of a kill in this container, which says more than the counter did.
    pub fn record(&mut self, container: &Domain, victim: &OomVictim, at: Mono) -> Telling {
        self.counted.remove(container);
        let cgroup = victim.cgroup.or_else(|| victim.levels.first().map(|level| level.cgroup));
        self.kills.record(container, Victim { pid: victim.pid, cgroup }, at)
    }

    /// The counter has told of a kill: what is known of it now, for in a second nobody knows any more what was at its limit.
    pub fn keep(&mut self, container: &Domain, what_is_known: Record) {
        self.counted.entry(container.clone()).or_insert(what_is_known);
    }

    pub fn take_kept(&mut self, container: &Domain) -> Option<Record> {
        self.counted.remove(container)
    }

    #[must_use]
    pub fn has_kept(&self, container: &Domain) -> bool {
        self.counted.contains_key(container)
    }

    /// The pod is gone. Kills of it that nobody will tell of any more, and how many: to be told now.
    pub fn forget(&mut self, pod: &PodUid) -> Vec<(Domain, u64)> {
        self.kills.forget(pod)
    }

    /// What was kept of the pod's kills goes, once they are told.
    pub fn forget_kept(&mut self, pod: &PodUid) {
        self.counted.retain(|domain, _| !domain.is_of(pod));
    }
}
