//! Whose cgroup is it? Owns the map from cgroup ids and container ids to pods and containers; the shell feeds it
//! from PLEG and the cgroup file system. Also reads pod and container out of a cgroup path, and says which level's
//! limit an OOM kill was about.

use std::collections::HashMap;

use super::{CgroupId, MemcgLevel};
use crate::pod::PodUid;
use crate::pod::qos::QosClass;

/// What a cgroup is in Kubernetes' terms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The `kubepods` cgroup.
    Kubepods,
    /// `kubepods/burstable` or `kubepods/besteffort`.
    Qos(QosClass),
    /// A pod's cgroup, or one inside it that is no known container's (the pause container).
    Pod(PodUid),
    /// A container's cgroup: pod and container name.
    Container(PodUid, String),
}

impl Target {
    #[must_use]
    pub fn pod(&self) -> Option<&PodUid> {
        match self {
            Target::Pod(uid) | Target::Container(uid, _) => Some(uid),
            Target::Kubepods | Target::Qos(_) => None,
        }
    }

    /// `kubepods`, `qos`, `pod` or `container`, as the trace names domains.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Target::Kubepods => "kubepods",
            Target::Qos(_) => "qos",
            Target::Pod(_) => "pod",
            Target::Container(..) => "container",
        }
    }

    #[must_use]
    pub fn container(&self) -> Option<&str> {
        match self {
            Target::Container(_, name) => Some(name),
            _ => None,
        }
    }
}

/// Grows with the pods on the node and shrinks by [`Attribution::remove_pod`].
#[derive(Clone, Debug, Default)]
pub struct Attribution {
    by_id: HashMap<CgroupId, Target>,
    by_container_id: HashMap<String, (PodUid, String)>,
}

impl Attribution {
    /// Says what `cgroup` is. Ids are never reused while the node is up, so a second word on one replaces the first.
    pub fn insert(&mut self, cgroup: CgroupId, target: Target) {
        self.by_id.insert(cgroup, target);
    }

    /// Names the container that the runtime knows as `container_id`, for [`Attribution::by_path`].
    pub fn name_container(&mut self, container_id: &str, pod: PodUid, name: &str) {
        self.by_container_id.insert(container_id.to_owned(), (pod, name.to_owned()));
    }

    /// The cgroup's directory is gone.
    pub fn remove(&mut self, cgroup: CgroupId) -> Option<Target> {
        self.by_id.remove(&cgroup)
    }

    /// Forgets a pod with its containers.
    pub fn remove_pod(&mut self, pod: &PodUid) {
        self.by_id.retain(|_, target| target.pod() != Some(pod));
        self.by_container_id.retain(|_, (uid, _)| uid != pod);
    }

    #[must_use]
    pub fn lookup(&self, cgroup: CgroupId) -> Option<&Target> {
        self.by_id.get(&cgroup)
    }

    /// Pod and container of a cgroup path of either driver. The container is named where its id is known;
    /// otherwise the answer is the pod.
    #[must_use]
    pub fn by_path(&self, path: &str) -> Option<Target> {
        let parsed = parse_cgroup_path(path)?;
        let named = parsed.container_id.and_then(|id| self.by_container_id.get(&id));
        Some(match named {
            Some((uid, name)) => Target::Container(uid.clone(), name.clone()),
            None => Target::Pod(parsed.pod),
        })
    }
}

/// Pod UID and container id, as the path of a cgroup names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupPath {
    pub pod: PodUid,
    /// The runtime's id; absent for the pod's own cgroup. The pause container's is the sandbox's id.
    pub container_id: Option<String>,
}

/// Reads `…/kubepods/burstable/pod<uid>/<id>` (cgroupfs driver) and
/// `…/kubepods-burstable-pod<uid_with_underscores>.slice/cri-containerd-<id>.scope` (systemd driver), and cgroups
/// that a container made below its own. `None`: not the path of a pod.
#[must_use]
pub fn parse_cgroup_path(path: &str) -> Option<CgroupPath> {
    let mut segments = path.split('/').filter(|s| !s.is_empty());
    let mut below_kubepods = false;
    let uid = segments.by_ref().find_map(|segment| {
        let uid = pod_segment(segment, below_kubepods);
        below_kubepods |= segment == "kubepods" || segment == "kubepods.slice";
        uid
    })?;
    let container_id = segments.next().and_then(container_segment);
    Some(CgroupPath { pod: PodUid::from(uid.as_str()), container_id })
}

/// kubelet's systemd driver turns `-` into `_`, because `-` in a slice's name means nesting.
fn pod_segment(segment: &str, below_kubepods: bool) -> Option<String> {
    let uid = match segment.strip_suffix(".slice") {
        Some(slice) => {
            let (class, uid) = slice.rsplit_once("-pod")?;
            if class != "kubepods"
                && !class.ends_with("kubepods-burstable")
                && !class.ends_with("kubepods-besteffort")
                && !class.ends_with("-kubepods")
            {
                return None;
            }
            uid.replace('_', "-")
        }
        None if below_kubepods => segment.strip_prefix("pod")?.to_owned(),
        None => return None,
    };
    let plain = !uid.is_empty() && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    plain.then_some(uid)
}

/// `<id>`, or `<runtime>-<id>.scope` where the runtime's name may itself hold dashes (`cri-containerd`, `crio`).
fn container_segment(segment: &str) -> Option<String> {
    let id = match segment.strip_suffix(".scope") {
        Some(scope) => scope.rsplit_once('-').map_or(scope, |(_, id)| id),
        None => segment,
    };
    (!id.is_empty()).then(|| id.to_owned())
}

/// Whose limit an OOM kill was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OomLimit {
    Container,
    Pod,
    Qos,
    Kubepods,
    /// A cgroup outside `kubepods` with a limit of its own.
    Other,
    /// No cgroup was at its limit: the whole machine was out of memory.
    Node,
}

impl OomLimit {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            OomLimit::Container => "container",
            OomLimit::Pod => "pod",
            OomLimit::Qos => "qos",
            OomLimit::Kubepods => "kubepods",
            OomLimit::Other => "other",
            OomLimit::Node => "node",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OomVerdict {
    pub limit: OomLimit,
    /// The level that was at its limit. `None` with [`OomLimit::Node`].
    pub level: Option<MemcgLevel>,
}

/// How far below its limit a memcg may be when the kernel gives up on a charge. The charge that fails is counted
/// off again: at most 8 pages (32 KiB), since larger orders fail without the OOM killer (PAGE_ALLOC_COSTLY_ORDER in
/// `mem_cgroup_oom`). As much again for what other CPUs gave back before the levels were read. The per-CPU charge
/// stock needs no room of its own: it is part of the usage, and drained before an OOM kill.
pub const OOM_SLACK_BYTES: u64 = 64 * 1024;

/// What a pod's own memory may be on top of its only container's: the pause container and the kernel's objects of both.
/// Seen: 0.3 to 0.8 MiB.
const PAUSE_BYTES: u64 = 2 << 20;

/// Which limit the kill was about, from the victim's memcg and its ancestors, leaf first. A charge goes from the
/// leaf up and stops at the first counter without room (`page_counter_try_charge`), so the lowest level at its
/// limit is the one. A level that `names` does not know is told by its place: below a pod it is a container's.
#[must_use]
pub fn oom_limit(levels: &[MemcgLevel], names: &Attribution) -> OomVerdict {
    let full = |l: &MemcgLevel| {
        l.limit_bytes.is_some_and(|max| l.usage_bytes >= max.saturating_sub(OOM_SLACK_BYTES))
    };
    match levels.iter().position(full) {
        Some(at) => verdict(levels, at, names),
        None => OomVerdict { limit: OomLimit::Node, level: None },
    }
}

/// The kernel itself said that it was `memcg`'s limit. `levels`: the victim's branch, which names what is around it.
#[must_use]
pub fn told_limit(memcg: MemcgLevel, levels: &[MemcgLevel], names: &Attribution) -> OomVerdict {
    match levels.iter().position(|level| level.cgroup == memcg.cgroup) {
        Some(at) => verdict(levels, at, names),
        None => verdict(&[memcg], 0, names),
    }
}

/// As [`oom_limit`], for a machine that was not out of memory itself: if no level is at its limit any more, the one
/// that was is the one nearest to it. Another process of it has ended between the kernel's decision and the reading.
#[must_use]
pub fn nearest_limit(levels: &[MemcgLevel], names: &Attribution) -> OomVerdict {
    let found = oom_limit(levels, names);
    let room = |l: &MemcgLevel| Some(l.limit_bytes?.saturating_sub(l.usage_bytes));
    let nearest = levels.iter().enumerate().filter_map(|(at, l)| Some((room(l)?, at))).min();
    match nearest {
        Some((_, at)) if found.limit == OomLimit::Node => verdict(levels, at, names),
        _ => found,
    }
}

/// The level at this place was at its limit.
fn verdict(levels: &[MemcgLevel], at: usize, names: &Attribution) -> OomVerdict {
    let limit = match names.lookup(levels[at].cgroup) {
        Some(Target::Container(..)) => OomLimit::Container,
        Some(Target::Pod(_)) => OomLimit::Pod,
        Some(Target::Qos(_)) => OomLimit::Qos,
        Some(Target::Kubepods) => OomLimit::Kubepods,
        None => {
            let next_known = levels[at..].iter().find_map(|l| names.lookup(l.cgroup));
            match next_known {
                Some(Target::Container(..) | Target::Pod(_)) => OomLimit::Container,
                Some(Target::Kubepods | Target::Qos(_)) => OomLimit::Pod,
                None => OomLimit::Other,
            }
        }
    };
    let level = levels[at];
    let only_container = levels[..at].last().filter(|below| {
        limit == OomLimit::Pod
            && below.limit_bytes == level.limit_bytes
            && level.usage_bytes.saturating_sub(below.usage_bytes) <= PAUSE_BYTES
    });
    match only_container {
        Some(below) => OomVerdict { limit: OomLimit::Container, level: Some(*below) },
        None => OomVerdict { limit, level: Some(level) },
    }
}

#[cfg(test)]
mod tests;
