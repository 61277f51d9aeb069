//! All probes of the node. Reads the pods as the SyncLoop publishes them ([`NodeSnapshot`]) and who is held ([`HeldPods`]);
//! says which probes are due, and makes of their outcomes the [`ProbeReport`]s that the SyncLoop takes in. Of thousands of
//! runs it hears only what they change.
//!
//! A turn costs with what has changed and what is due, not with how many probes there are.

pub mod held;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use imbl::ordmap::DiffItem;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, PodStatus};

use super::published::{NodeSnapshot, Probing, PublishedPod};
use crate::clock::Mono;
use crate::pod::probe::state::{ProbeState, Running};
use crate::pod::probe::{ProbeKind, ProbeOutcome, ProbeReport, ProbeSpec};
use crate::pod::qos::is_sidecar;
use crate::pod::{ContainerInstance, Pod, PodRef, PodUid};
pub use held::HeldPods;

#[derive(Debug)]
pub struct Prober {
    /// When the agent started.
    started_at: Mono,
    /// What to add to a [`Mono`] to get Unix time, nanoseconds.
    unix_offset_ns: i64,
    seen: NodeSnapshot,
    pods: HashMap<PodUid, ProbedPod>,
    timers: BTreeSet<(Mono, ProbeId)>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ProbeId {
    pod: PodUid,
    container: Arc<str>,
    kind: ProbeKind,
}

#[derive(Debug)]
struct ProbedPod {
    who: PodRef,
    manifest: Arc<Pod>,
    address: Option<String>,
    probes: Vec<Probe>,
}

#[derive(Debug)]
struct Probe {
    id: ProbeId,
    spec: Arc<ProbeSpec>,
    state: ProbeState,
    /// Its entry among the timers.
    timer: Option<Mono>,
}

/// One run of a probe, to be carried out and told of by [`Prober::ended`].
#[derive(Clone, Debug)]
pub struct ProbeRun {
    pub pod: PodRef,
    pub container: ContainerInstance,
    pub kind: ProbeKind,
    pub spec: Arc<ProbeSpec>,
    /// The pod's; of one in the host's network the node's. `None`: it has none yet.
    pub address: Option<String>,
    pub began_at: Mono,
}

impl Prober {
    #[must_use]
    pub fn new(started_at: Mono, unix_offset_ns: i64) -> Prober {
        Prober {
            started_at,
            unix_offset_ns,
            seen: NodeSnapshot::default(),
            pods: HashMap::new(),
            timers: BTreeSet::new(),
        }
    }

    /// The pods as they are now.
    pub fn observe(&mut self, snapshot: &NodeSnapshot, now: Mono) {
        let before = std::mem::replace(&mut self.seen, snapshot.clone());
        for change in before.pods.diff(&snapshot.pods) {
            match change {
                DiffItem::Add(uid, pod) | DiffItem::Update { new: (uid, pod), .. } => {
                    self.observe_pod(uid, pod, now);
                }
                DiffItem::Remove(uid, _) => self.forget(uid),
            }
        }
    }

    /// When something is due if nothing happens before.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Mono> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The runs to begin now. Who is held is not asked: its turn comes with the next tick.
    pub fn begin_due(&mut self, held: &HeldPods, now: Mono) -> Vec<ProbeRun> {
        let mut runs = Vec::new();
        while let Some((at, id)) = self.timers.pop_first() {
            if at > now {
                self.timers.insert((at, id));
                break;
            }
            let Some(pod) = self.pods.get_mut(&id.pod) else { continue };
            let Some(probe) = pod.probes.iter_mut().find(|p| p.id == id) else { continue };
            probe.timer = None;
            let container = probe.state.container_id().map(|container| ContainerInstance {
                name: id.container.to_string(),
                id: container.to_owned(),
            });
            if let Some(container) = container {
                if held.between(&id.pod, &container, now, now) {
                    probe.state.skip(&probe.spec, now);
                } else {
                    probe.state.begin(&probe.spec, now);
                    runs.push(ProbeRun {
                        pod: pod.who.clone(),
                        container,
                        kind: id.kind,
                        spec: Arc::clone(&probe.spec),
                        address: pod.address.clone(),
                        began_at: now,
                    });
                }
            }
            set_timer(probe, &mut self.timers);
        }
        runs
    }

    /// What came of a run. What a container fails while it is held, or in the wake of that, is not counted.
    pub fn ended(
        &mut self,
        run: &ProbeRun,
        outcome: ProbeOutcome,
        held: &HeldPods,
        now: Mono,
    ) -> Option<ProbeReport> {
        let pod = self.pods.get_mut(&run.pod.uid)?;
        let probe = pod
            .probes
            .iter_mut()
            .find(|p| p.id.kind == run.kind && *p.id.container == *run.container.name)?;
        let failed = !matches!(outcome, ProbeOutcome::Success | ProbeOutcome::Warning(_));
        let news = if failed && held.between(&run.pod.uid, &run.container, run.began_at, now) {
            probe.state.discard();
            None
        } else {
            let news = probe.state.end(&probe.spec, &run.container.id, outcome);
            (news.verdict.is_some() || news.message.is_some()).then_some(news)
        };
        set_timer(probe, &mut self.timers);
        news.map(|news| ProbeReport {
            pod: run.pod.uid.clone(),
            container: run.container.clone(),
            kind: run.kind,
            verdict: news.verdict,
            message: news.message,
        })
    }

    fn observe_pod(&mut self, uid: &PodUid, published: &PublishedPod, now: Mono) {
        if published.probing == Probing::Nothing {
            return self.forget(uid);
        }
        let known = self.pods.get(uid);
        if known.is_none_or(|known| !Arc::ptr_eq(&known.manifest, &published.pod)) {
            let mut probes = probes_of(uid, &published.pod, |spec, id| self.anchor(spec, id, now));
            if let Some(known) = self.pods.remove(uid) {
                // What is known of a probe goes on with the new manifest.
                for old in known.probes {
                    match probes.iter_mut().find(|p| p.id == old.id) {
                        Some(new) => (new.state, new.timer) = (old.state, old.timer),
                        None => clear_timer(&old, &mut self.timers),
                    }
                }
            }
            if probes.is_empty() {
                return;
            }
            let (who, manifest) = (PodRef::of(&published.pod), Arc::clone(&published.pod));
            self.pods.insert(uid.clone(), ProbedPod { who, manifest, address: None, probes });
        }
        let Some(pod) = self.pods.get_mut(uid) else { return };
        pod.address.clone_from(&published.status.pod_ip);
        for probe in &mut pod.probes {
            // A pod that ends is not helped by a restart.
            let asked = published.probing == Probing::All || !probe.id.kind.ends_the_container();
            let status = container_status(&published.status, &probe.id.container).filter(|_| asked);
            let running = status.and_then(|status| running(status, self.unix_offset_ns, now));
            probe.state.observe(&probe.spec, running, now);
            set_timer(probe, &mut self.timers);
        }
    }

    fn forget(&mut self, uid: &PodUid) {
        for probe in self.pods.remove(uid).into_iter().flat_map(|pod| pod.probes) {
            clear_timer(&probe, &mut self.timers);
        }
    }

    /// kubelet spreads the probes of pods that it finds at its start over their period (`worker.run`), so that they do not
    /// all come at once for ever after. The spread is taken from the names.
    fn anchor(&self, spec: &ProbeSpec, id: &ProbeId, now: Mono) -> Mono {
        if now.since(self.started_at) >= spec.period {
            return now;
        }
        let names = id.pod.as_str().bytes().chain(id.container.bytes()).chain(id.kind.as_str().bytes());
        let hash = names.fold(0u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
        now + spec.period.mul_f64(f64::from(hash % 1000) / 1000.0)
    }
}

/// Containers and sidecars; an init container has none.
fn probes_of(uid: &PodUid, pod: &Pod, anchor: impl Fn(&ProbeSpec, &ProbeId) -> Mono) -> Vec<Probe> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c));
    let of = |container: &Container, kind| {
        let spec = Arc::new(ProbeSpec::of(container, kind)?);
        let id = ProbeId { pod: uid.clone(), container: container.name.as_str().into(), kind };
        let state = ProbeState::new(kind, anchor(&spec, &id));
        Some(Probe { id, spec, state, timer: None })
    };
    sidecars.chain(&spec.containers).flat_map(|c| ProbeKind::ALL.map(|kind| of(c, kind))).flatten().collect()
}

fn container_status<'a>(status: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    all.into_iter().find(|c| c.name == name)
}

fn running(status: &ContainerStatus, unix_offset_ns: i64, now: Mono) -> Option<Running> {
    let state = status.state.as_ref()?.running.as_ref()?;
    let (_, id) = status.container_id.as_deref()?.split_once("://")?;
    let since = state.started_at.as_ref().map_or(now, |at| {
        let ns = i64::try_from(at.0.as_nanosecond()).unwrap_or(i64::MAX).saturating_sub(unix_offset_ns);
        // Before this machine's start, by its clock: long ago.
        Mono(u64::try_from(ns).unwrap_or(0)).min(now)
    });
    Some(Running { id: id.to_owned(), since, started: status.started == Some(true), ready: status.ready })
}

fn set_timer(probe: &mut Probe, timers: &mut BTreeSet<(Mono, ProbeId)>) {
    let due = probe.state.due_at();
    if probe.timer != due {
        clear_timer(probe, timers);
        timers.extend(due.map(|at| (at, probe.id.clone())));
        probe.timer = due;
    }
}

fn clear_timer(probe: &Probe, timers: &mut BTreeSet<(Mono, ProbeId)>) {
    if let Some(at) = probe.timer {
        timers.remove(&(at, probe.id.clone()));
    }
}

/// A far time to sleep until where nothing is due.
pub const LONGEST_REST: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
