//! The memcgs that the charge program makes forecasts of: fills and empties its maps `CHARGED` and `CHARGED_COUNT`.

use std::collections::BTreeSet;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError};
use oomlet_ebpf_common::record::ChargeWindow;

use oomlet_core::signal::{CgroupId, Hierarchy};

/// A [`ChargeWindow`] as the words that it is made of, which aya can copy.
type Window = [u64; size_of::<ChargeWindow>() / size_of::<u64>()];

pub(super) struct WatchedMemcgs {
    windows: HashMap<MapData, u64, Window>,
    count: Array<MapData, u64>,
    /// What is in the map.
    ids: BTreeSet<u64>,
    /// The hierarchy with the memory controller: ids of another one mean other cgroups.
    hierarchy: Hierarchy,
}

impl WatchedMemcgs {
    /// `None` where the object lacks the maps.
    pub(super) fn take(ebpf: &mut Ebpf, hierarchy: Hierarchy) -> Option<WatchedMemcgs> {
        let windows = HashMap::try_from(ebpf.take_map("CHARGED")?).ok()?;
        let count = Array::try_from(ebpf.take_map("CHARGED_COUNT")?).ok()?;
        Some(WatchedMemcgs { windows, count, ids: BTreeSet::new(), hierarchy })
    }

    /// What is watched already keeps its window.
    pub(super) fn insert(&mut self, cgroup: CgroupId) -> Result<(), MapError> {
        if cgroup.hierarchy != self.hierarchy || self.ids.contains(&cgroup.id) {
            return Ok(());
        }
        self.windows.insert(cgroup.id, Window::default(), 0)?;
        self.ids.insert(cgroup.id);
        self.tell_count()
    }

    /// One that is not watched is fine.
    pub(super) fn remove(&mut self, cgroup: CgroupId) -> Result<(), MapError> {
        if cgroup.hierarchy != self.hierarchy || !self.ids.remove(&cgroup.id) {
            return Ok(());
        }
        self.windows.remove(&cgroup.id)?;
        self.tell_count()
    }

    fn tell_count(&mut self) -> Result<(), MapError> {
        self.count.set(0, self.ids.len() as u64, 0)
    }
}
