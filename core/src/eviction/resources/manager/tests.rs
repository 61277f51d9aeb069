use proptest::prelude::*;

use super::*;
use crate::eviction::resources::candidate::{EmptyDir, Limit};
use crate::eviction::resources::reading::{DiskUse, FileSystem, Pids, PodUse};
use crate::eviction::threshold::{Threshold, ThresholdValue};
use crate::pod::PodRef;

const MIB: u64 = 1 << 20;
const S: Duration = Duration::from_secs(1);

fn threshold(signal: ResourceSignal, value: u64) -> Threshold<ResourceSignal> {
    Threshold { signal, value: ThresholdValue::Bytes(value), grace_period: Duration::ZERO, min_reclaim: None }
}

fn config(thresholds: Vec<Threshold<ResourceSignal>>) -> ResourceConfig {
    ResourceConfig { thresholds, transition_period: 60 * S, ..ResourceConfig::default() }
}

fn candidate(name: &str, critical: bool) -> Arc<ResourceCandidate> {
    Arc::new(ResourceCandidate {
        pod: PodRef { uid: name.into(), namespace: "default".into(), name: name.into() },
        priority: 0,
        critical,
        grace_period: 30 * S,
        request_bytes: 0,
        limit: None,
        containers: vec![],
        empty_dirs: vec![],
    })
}

fn ordered(manager: &mut ResourceManager, step: &ResourceStep, now: Mono) {
    match step {
        ResourceStep::Read { scope, .. } => manager.read_ordered(*scope, now),
        ResourceStep::ReclaimNode { images } => manager.reclaim_ordered(*images, now),
        ResourceStep::CollectImages => manager.images_ordered(now),
        ResourceStep::Evict(e) => manager.eviction_ordered(&e.pod.uid, e.grace, now),
    }
}

/// A node whose disk is simulated: what pods use, and garbage that reclaiming removes.
struct Node {
    manager: ResourceManager,
    now: Mono,
    capacity: u64,
    garbage: u64,
    shared: bool,
    pids: u64,
    /// Use in bytes and in processes.
    pods: Vec<(Arc<ResourceCandidate>, u64, u64)>,
    told: Vec<String>,
}

impl Node {
    fn new(cfg: ResourceConfig, pods: &[(&str, bool, u64)]) -> Node {
        Node {
            manager: ResourceManager::new(cfg),
            now: Mono::from_millis(1_000_000),
            capacity: 1000 * MIB,
            garbage: 0,
            shared: true,
            pids: 0,
            pods: pods
                .iter()
                .map(|(name, critical, mib)| (candidate(name, *critical), mib * MIB, 1))
                .collect(),
            told: Vec::new(),
        }
    }

    fn reading(&self, scope: PodScope) -> ResourceReading {
        let used: u64 = self.pods.iter().map(|(_, bytes, _)| bytes).sum::<u64>() + self.garbage;
        let fs = FileSystem {
            capacity_bytes: self.capacity,
            available_bytes: self.capacity.saturating_sub(used),
            inodes: 1000,
            inodes_free: 1000,
        };
        let in_scope = |c: &ResourceCandidate| scope == PodScope::All || c.has_limits();
        let disk = |bytes| DiskUse { bytes, inodes: 1 };
        let pods = self.pods.iter().filter(|(c, ..)| in_scope(c)).map(|(c, bytes, processes)| {
            let volumes = [("data".to_owned(), disk(*bytes))].into();
            (c.pod.uid.clone(), PodUse { volumes, processes: Some(*processes), ..PodUse::default() })
        });
        let tasks = self.pids + self.pods.iter().map(|(_, _, processes)| processes).sum::<u64>();
        ResourceReading {
            at: self.now,
            nodefs: Some(fs),
            imagefs: Some(fs),
            shared: self.shared,
            pids: Some(Pids { limit: 1000, tasks }),
            pods: pods.collect(),
            trouble: vec![],
        }
    }

    /// Plans and carries out, until there is nothing to do at this time. Returns the steps in short.
    fn run(&mut self) -> Vec<String> {
        let mut done = Vec::new();
        for _ in 0..20 {
            let candidates: Vec<_> = self.pods.iter().map(|(c, ..)| Arc::clone(c)).collect();
            let steps = self.manager.plan(&candidates, Images::Known, self.now);
            if steps.is_empty() {
                return done;
            }
            for step in &steps {
                ordered(&mut self.manager, step, self.now);
            }
            let again = self.manager.plan(&candidates, Images::Known, self.now);
            let evicted = steps.iter().any(|s| matches!(s, ResourceStep::Evict(_)));
            assert!(again.is_empty() || evicted, "planned again: {again:?}");
            self.now = self.now + Duration::from_millis(10);
            for step in steps {
                done.extend(self.carry_out(step));
            }
        }
        panic!("does not come to rest: {done:?}");
    }

    fn carry_out(&mut self, step: ResourceStep) -> Option<String> {
        match step {
            ResourceStep::Read { scope, .. } => {
                self.manager.observe(self.reading(scope));
                (scope == PodScope::All).then(|| "read all".to_owned())
            }
            ResourceStep::ReclaimNode { images } => {
                self.garbage = 0;
                self.manager.reclaimed();
                Some(if images { "reclaim" } else { "reclaim without images" }.to_owned())
            }
            ResourceStep::CollectImages => {
                self.manager.reclaimed();
                None
            }
            ResourceStep::Evict(eviction) => {
                self.told.push(eviction.message);
                Some(format!("evict {} grace {}", eviction.pod.name, eviction.grace.as_secs()))
            }
        }
    }

    /// Nothing of the pod is left.
    fn gone(&mut self, name: &str) {
        self.pods.retain(|(c, ..)| c.pod.name != name);
        self.manager.cleaned_up(&name.into());
    }

    fn after(&mut self, time: Duration) -> Vec<String> {
        self.now = self.now + time;
        self.run()
    }

    fn under_disk_pressure(&self) -> bool {
        self.manager.condition(Condition::DiskPressure, self.now).is_some()
    }
}

#[test]
fn with_enough_of_everything_nothing_is_done_but_to_look() {
    let mut node =
        Node::new(config(vec![threshold(ResourceSignal::NodefsAvailable, 100 * MIB)]), &[("a", false, 500)]);
    assert_eq!(node.run(), [""; 0]);
    assert!(!node.under_disk_pressure());
    let wakeup = node.manager.next_wakeup(Images::Known);
    assert!(wakeup > node.now && wakeup <= node.now + 10 * S, "{}", wakeup.since(node.now).as_millis());
    assert_eq!(node.after(9 * S), [""; 0]);
    assert_eq!(node.after(S), [""; 0]);
    assert!(node.now.since(node.manager.last.at) < S);
}

#[test]
fn garbage_goes_before_a_pod_does() {
    let mut node = Node::new(
        config(vec![threshold(ResourceSignal::NodefsAvailable, 100 * MIB)]),
        &[("hog", false, 500), ("idle", false, 10)],
    );
    node.garbage = 450 * MIB;
    assert_eq!(node.run(), ["reclaim", "read all"]);
    assert!(node.under_disk_pressure(), "for the transition period");
    assert_eq!(node.after(10 * S), [""; 0]);
    assert_eq!(node.after(60 * S), [""; 0]);
    assert!(!node.under_disk_pressure());
}

#[test]
fn one_pod_a_pass_and_the_next_only_when_nothing_of_it_is_left() {
    let mut node = Node::new(
        config(vec![threshold(ResourceSignal::NodefsAvailable, 100 * MIB)]),
        &[("hog", false, 600), ("second", false, 500), ("critical", true, 900), ("idle", false, 10)],
    );
    node.capacity = 2000 * MIB;
    assert_eq!(node.run(), ["reclaim", "read all", "evict hog grace 1"]);
    assert_eq!(
        node.told,
        ["The node was low on resource: ephemeral-storage. Threshold quantity: 100Mi, available: 0. "]
    );
    for _ in 0..2 {
        assert_eq!(node.after(10 * S), [""; 0], "it is still ending");
    }
    // What it used comes back, and is not enough.
    node.pods.push((candidate("late", false), 700 * MIB, 1));
    node.gone("hog");
    assert_eq!(node.run(), ["reclaim", "read all", "evict late grace 1"], "at once");
    node.gone("late");
    assert_eq!(node.run(), [""; 0], "the pressure is gone");
}

#[test]
fn a_pod_that_does_not_go_away_is_not_waited_for_for_ever() {
    let mut node = Node::new(
        config(vec![threshold(ResourceSignal::NodefsAvailable, 100 * MIB)]),
        &[("stuck", false, 950), ("idle", false, 10)],
    );
    assert_eq!(node.run().last().unwrap(), "evict stuck grace 1");
    assert_eq!(node.after(30 * S), [""; 0]);
    assert_eq!(node.after(2 * S), ["reclaim", "read all", "evict idle grace 1"]);
}

#[test]
fn with_an_imagefs_of_its_own_images_go_for_that_alone() {
    for (signal, want) in [
        (ResourceSignal::NodefsAvailable, "reclaim without images"),
        (ResourceSignal::ImagefsAvailable, "reclaim"),
    ] {
        let mut node = Node::new(config(vec![threshold(signal, 100 * MIB)]), &[]);
        node.shared = false;
        node.garbage = 950 * MIB;
        assert_eq!(node.run()[0], want);
    }
}

/// Both are short, and what helps the first does not help the second.
#[test]
fn each_disk_gives_up_what_it_can_before_a_pod_goes_for_it() {
    let thresholds = vec![
        threshold(ResourceSignal::NodefsAvailable, 100 * MIB),
        threshold(ResourceSignal::ImagefsAvailable, 200 * MIB),
    ];
    let mut node = Node::new(config(thresholds), &[("a", false, 820)]);
    node.shared = false;
    node.garbage = 100 * MIB;
    assert_eq!(node.run(), ["reclaim without images", "read all", "reclaim", "read all", "evict a grace 1"]);
}

#[test]
fn process_ids_give_nothing_back_but_by_an_eviction() {
    let mut node = Node::new(
        config(vec![threshold(ResourceSignal::PidAvailable, 100)]),
        &[("few", false, 1), ("many", false, 1)],
    );
    node.pids = 850;
    node.pods[1].2 = 80;
    assert_eq!(node.run(), ["read all", "evict many grace 1"]);
    assert_eq!(node.told, ["The node was low on resource: pids. Threshold quantity: 100, available: 69. "]);
    assert!(
        node.manager.condition(Condition::PidPressure, node.now).is_some() && !node.under_disk_pressure()
    );
}

#[test]
fn a_soft_threshold_counts_after_its_grace_period_and_gives_the_pods_own_grace() {
    for (max_pod_grace, want) in [(Duration::ZERO, 30), (5 * S, 5), (60 * S, 30)] {
        let soft =
            Threshold { grace_period: 25 * S, ..threshold(ResourceSignal::NodefsAvailable, 100 * MIB) };
        let cfg = ResourceConfig { max_pod_grace, ..config(vec![soft]) };
        let mut node = Node::new(cfg, &[("hog", false, 950)]);
        assert_eq!(node.run(), [""; 0]);
        assert!(node.under_disk_pressure(), "the condition does not wait");
        for _ in 0..2 {
            assert_eq!(node.after(10 * S), [""; 0]);
        }
        assert!(node.manager.next_wakeup(Images::Known) <= node.now + 5 * S);
        assert_eq!(node.after(5 * S), ["reclaim", "read all", &format!("evict hog grace {want}")]);
    }
}

#[test]
fn once_it_counts_a_threshold_is_met_until_the_minimum_reclaim_is_there() {
    let reclaim = Threshold {
        min_reclaim: Some(ThresholdValue::Bytes(200 * MIB)),
        ..threshold(ResourceSignal::NodefsAvailable, 100 * MIB)
    };
    let mut node = Node::new(config(vec![reclaim]), &[("a", false, 550), ("b", false, 400)]);
    assert_eq!(node.run().last().unwrap(), "evict a grace 1");
    // 280 MiB are available: more than the threshold, less than it with the minimum.
    node.pods.push((candidate("c", true), 320 * MIB, 1));
    node.gone("a");
    assert_eq!(node.run(), ["reclaim", "read all", "evict b grace 1"]);
}

#[test]
fn a_pod_beyond_its_own_limit_goes_whatever_the_node_has() {
    let limited = |name: &str, limit_mib: u64, critical| {
        let limit = Limit { bytes: limit_mib * MIB, text: format!("{limit_mib}Mi") };
        let dir = EmptyDir { name: "data".into(), limit: Some(limit) };
        let mut candidate = ResourceCandidate::clone(&candidate(name, critical));
        candidate.empty_dirs = vec![dir];
        Arc::new(candidate)
    };
    for (local_limits, enabled) in [(true, true), (false, true), (true, false)] {
        let mut node = Node::new(ResourceConfig { local_limits, enabled, ..config(vec![]) }, &[]);
        node.pods = vec![
            (limited("over", 10, false), 11 * MIB, 1),
            (limited("too", 10, false), 12 * MIB, 1),
            (limited("within", 10, false), 10 * MIB, 1),
            (limited("critical", 10, true), 90 * MIB, 1),
        ];
        let done = node.run();
        if local_limits && enabled {
            assert_eq!(done, ["evict over grace 1", "evict too grace 1"]);
            assert_eq!(node.told[0], "Usage of EmptyDir volume \"data\" exceeds the limit \"10Mi\". ");
            node.gone("over");
            node.gone("too");
            assert_eq!(node.run(), [""; 0]);
        } else {
            assert_eq!(done, [""; 0]);
        }
    }
}

#[test]
fn with_eviction_off_garbage_goes_and_no_pod() {
    let cfg = ResourceConfig {
        enabled: false,
        ..config(vec![threshold(ResourceSignal::NodefsAvailable, 100 * MIB)])
    };
    let mut node = Node::new(cfg, &[("hog", false, 950)]);
    assert_eq!(node.run(), ["reclaim", "read all"]);
    assert!(node.under_disk_pressure());
}

#[test]
fn what_was_not_done_or_hangs() {
    let mut manager =
        ResourceManager::new(config(vec![threshold(ResourceSignal::NodefsAvailable, 100 * MIB)]));
    let mut now = Mono::from_millis(5000);
    let step = manager.plan(&[], Images::Known, now).remove(0);
    ordered(&mut manager, &step, now);
    assert!(
        manager.plan(&[], Images::Known, now + 20 * S).is_empty() && !manager.newly_overdue(now + 20 * S)
    );
    assert_eq!(manager.next_wakeup(Images::Known), now + OVERDUE);
    now = now + OVERDUE;
    assert!(manager.newly_overdue(now) && !manager.newly_overdue(now), "told once");
    assert_eq!(manager.next_wakeup(Images::Known), Mono(u64::MAX));
    manager.not_done();
    assert_eq!(manager.plan(&[], Images::Known, now).len(), 1);
}

#[test]
fn numbers_that_cannot_be_read_meet_no_threshold() {
    let mut node =
        Node::new(config(vec![threshold(ResourceSignal::ImagefsAvailable, 100 * MIB)]), &[("a", false, 950)]);
    let unread = ResourceReading { imagefs: None, ..node.reading(PodScope::All) };
    node.manager.observe(unread);
    assert!(!node.under_disk_pressure());
    assert_eq!(node.run().last().unwrap(), "evict a grace 1", "the next reading has them");
}

proptest! {
    /// Whatever pods do: a critical pod stays, one pod goes at a time, and only after the node has given up what it could
    /// and all pods have been read since.
    #[test]
    fn passes(
        pods in prop::collection::vec((0u64..400, any::<bool>(), 0u64..100), 1..8),
        capacity_mib in 200u64..2000,
        garbage_mib in 0u64..500,
        shared in any::<bool>(),
        ends in prop::collection::vec((0u32..40, any::<bool>()), 1..20),
    ) {
        let thresholds = vec![
            threshold(ResourceSignal::NodefsAvailable, 100 * MIB),
            threshold(ResourceSignal::ImagefsAvailable, 150 * MIB),
            threshold(ResourceSignal::PidAvailable, 900),
        ];
        let mut node = Node::new(config(thresholds), &[]);
        node.capacity = capacity_mib * MIB;
        node.garbage = garbage_mib * MIB;
        node.shared = shared;
        let make = |(i, (mib, critical, processes)): (usize, &(u64, bool, u64))| {
            (candidate(&format!("p{i}"), *critical), mib * MIB, *processes)
        };
        node.pods = pods.iter().enumerate().map(make).collect();
        let mut ending: Option<(String, Mono)> = None;
        for (wait, ended) in ends {
            let done = node.after(wait * S);
            for (at, step) in done.iter().enumerate() {
                let Some(victim) = step.strip_prefix("evict ") else { continue };
                let victim = victim.split(' ').next().unwrap();
                let critical = node.pods.iter().any(|(c, ..)| c.pod.name == victim && c.critical);
                prop_assert!(!critical, "{victim}");
                prop_assert!(at > 0 && done[at - 1] == "read all", "{done:?}");
                if let Some((other, since)) = &ending {
                    prop_assert!(node.now.since(*since) >= CLEAN_UP_TIMEOUT, "{other} is still ending");
                }
                ending = Some((victim.to_owned(), node.now));
            }
            let evictions = done.iter().filter(|s| s.starts_with("evict")).count();
            prop_assert!(evictions <= 1, "{done:?}");
            if ended && let Some((name, _)) = ending.take() {
                node.gone(&name);
            }
            prop_assert!(node.manager.next_wakeup(Images::Known) > Mono::ZERO || node.manager.look_now);
        }
    }
}
