//! The logs of pods that are gone: kept for a while, so that whoever has just changed a manifest can read why, and log
//! shippers get to the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::clock::Mono;
use crate::pod::{PodRef, PodUid};

/// Directories below `podLogsDir` whose pod nobody names any more, each since when that has been seen.
#[derive(Clone, Debug, Default)]
pub struct KeptLogs {
    gone: BTreeMap<String, Mono>,
}

impl KeptLogs {
    /// `dirs`: all names there; `known`: the pods of this node. What has been of no pod for `keep` by now, and was when this
    /// was asked before: a pod that has just come may have made its directory before it is known.
    pub fn due(
        &mut self,
        dirs: &[String],
        known: impl Fn(&PodUid) -> bool,
        keep: Duration,
        now: Mono,
    ) -> Vec<PodRef> {
        let of_nobody = |name: &&String| pod_of(name).is_some_and(|pod| !known(&pod.uid));
        let gone: BTreeSet<&String> = dirs.iter().filter(of_nobody).collect();
        self.gone.retain(|name, _| gone.contains(name));
        let is_over = |(_, since): &(&String, &Mono)| now.since(**since) >= keep;
        let due = self.gone.iter().filter(is_over).filter_map(|(name, _)| pod_of(name)).collect();
        for name in gone {
            self.gone.entry(name.clone()).or_insert(now);
        }
        due
    }

    /// All that are kept: the disk is full.
    #[must_use]
    pub fn all(&self) -> Vec<PodRef> {
        self.gone.keys().filter_map(|name| pod_of(name)).collect()
    }
}

/// The pods of one name that have a directory there.
#[must_use]
pub fn kept_of(dirs: &[String], namespace: &str, name: &str) -> Vec<PodRef> {
    let pods = dirs.iter().filter_map(|dir| pod_of(dir));
    pods.filter(|pod| pod.namespace == namespace && pod.name == name).collect()
}

/// `<namespace>_<name>_<uid>`; none of them has an underscore. Others' directories are left alone.
fn pod_of(name: &str) -> Option<PodRef> {
    let mut parts = name.split('_');
    let [namespace, pod, uid] = [parts.next()?, parts.next()?, parts.next()?];
    let is_whole = ![namespace, pod, uid].contains(&"") && parts.next().is_none();
    is_whole.then(|| PodRef { uid: PodUid::from(uid), namespace: namespace.into(), name: pod.into() })
}
