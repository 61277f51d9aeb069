//! Every ten seconds, as cAdvisor's housekeeping, and soon after something has begun or ended: what the sampler has read last,
//! with the numbers that no decision needs, as one [`numbers::Node`]. One task; what it reads it reads on a thread that may
//! block.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::disks::{Disks, room};
use super::tracked::{TrackedCgroups, Wanted};
use super::{proc, unix_ns};
use crate::cgroup::accounting::{MemoryBy, node_pressure};
use crate::cgroup::driver::CgroupDriver;
use crate::clock;
use crate::pleg::PlegHandle;
use crate::pleg::snapshot::Snapshot;
use crate::trace::journal::Journal;
use oomlet_core::node::published::{NodeSnapshot, PublishedPod};
use oomlet_core::pod::qos::QosClass;
use oomlet_core::pod::runtime_status::ContainerState;
use oomlet_core::pod::{PodRef, PodUid};
use oomlet_core::signal::Domain;
use oomlet_core::stats::account::{CgroupMemory, MemoryAccount};
use oomlet_core::stats::numbers::{self, Cgroup, FsUse, Machine, Network, Swap};

/// kubelet's `defaultHousekeepingInterval`.
const EVERY: Duration = Duration::from_secs(10);
/// No sooner after the last time, whatever begins and ends.
const LEAST: Duration = Duration::from_secs(2);

type OomKills = BTreeMap<PodUid, BTreeMap<String, u64>>;

/// What the task works with.
#[derive(Debug)]
pub struct Collector {
    pub name: String,
    pub agent_started_ns: i64,
    pub driver: Arc<CgroupDriver>,
    pub root_dir: PathBuf,
    pub memory: watch::Receiver<Arc<MemoryAccount>>,
    pub snapshots: watch::Receiver<Arc<NodeSnapshot>>,
    pub pleg: PlegHandle,
    pub disks: watch::Receiver<Arc<Disks>>,
    pub journal: Arc<Journal>,
    /// By what the Summary calls them: path in each hierarchy.
    pub system_cgroups: BTreeMap<&'static str, String>,
    /// The runtime's, where it tells.
    pub sandbox_image: String,
    pub machine: Machine,
    pub numbers: watch::Sender<Option<Arc<numbers::Node>>>,
}

/// Everything that was known when a collection began.
struct Known {
    now_ns: i64,
    /// What to add to a [`oomlet_core::clock::Mono`] to get Unix time.
    unix_offset_ns: i64,
    memory: Arc<MemoryAccount>,
    snapshot: Arc<NodeSnapshot>,
    listed: Arc<Snapshot>,
    disks: Arc<Disks>,
    oom_kills: OomKills,
}

impl Collector {
    pub async fn run(self, cancel: CancellationToken) {
        // Cancel-safe: nothing is written.
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.hold() => {}
        }
    }

    async fn hold(self) {
        let mut listed = self.pleg.listed();
        let (numbers, collector) = (self.numbers.clone(), Arc::new(self));
        let mut tracked = TrackedCgroups::default();
        loop {
            let began = Instant::now();
            listed.mark_unchanged();
            let (of, known) = (Arc::clone(&collector), collector.known());
            let read = tokio::task::spawn_blocking(move || {
                let node = of.read(&mut tracked, &known);
                (node, tracked)
            });
            match read.await {
                Ok((node, kept)) => {
                    tracked = kept;
                    numbers.send_replace(Some(Arc::new(node)));
                }
                Err(error) => {
                    tracing::error!(%error, "reading the node's numbers failed, which is a defect of the agent");
                    tracked = TrackedCgroups::default();
                }
            }
            // Cancel-safe: `changed` marks nothing as seen when it loses.
            tokio::select! {
                () = sleep_until(began + EVERY) => {}
                changed = listed.changed() => {
                    let until = if changed.is_ok() { LEAST } else { EVERY };
                    sleep_until(began + until).await;
                }
            }
        }
    }

    fn known(&self) -> Known {
        let now_ns = unix_ns();
        let mono = i64::try_from(clock::now().0).unwrap_or(i64::MAX);
        Known {
            now_ns,
            unix_offset_ns: now_ns.saturating_sub(mono),
            memory: Arc::clone(&self.memory.borrow()),
            snapshot: Arc::clone(&self.snapshots.borrow()),
            listed: Arc::clone(&self.pleg.listed().borrow()),
            disks: Arc::clone(&self.disks.borrow()),
            oom_kills: self.journal.counts(|counts| counts.all_oom_kills()),
        }
    }

    fn read(&self, tracked: &mut TrackedCgroups, known: &Known) -> numbers::Node {
        let now_ns = known.now_ns;
        let mut reader = Reader { collector: self, tracked, known };
        let root = reader.root();
        let classes: Vec<Cgroup> = self
            .driver
            .class_paths()
            .into_iter()
            .filter_map(|(path, qos)| match qos {
                None => reader.cgroup(&path, &Domain::Kubepods, false).map(|(c, _)| c),
                Some(_) => reader.unsampled(&path, false).map(|(c, _)| c),
            })
            .collect();
        let mut system_containers: BTreeMap<&'static str, Cgroup> = BTreeMap::new();
        for (name, path) in &self.system_cgroups {
            let cgroup =
                if path == "/" { Some(root.clone()) } else { reader.unsampled(path, true).map(|(c, _)| c) };
            system_containers.extend(cgroup.map(|cgroup| (*name, cgroup)));
        }
        system_containers.extend(classes.first().map(|kubepods| ("pods", kubepods.clone())));
        let pods = reader.pods();
        reader.tracked.forget_unread();
        let nodefs = room(&self.root_dir, now_ns).map(|fs| FsUse {
            used_bytes: fs.capacity_bytes.zip(fs.available_bytes).map(|(all, left)| all.saturating_sub(left)),
            inodes_used: fs.inodes.zip(fs.inodes_free).map(|(all, left)| all.saturating_sub(left)),
            ..fs
        });
        let memory = &known.memory.node;
        let mut machine = self.machine.clone();
        machine.memory_bytes = memory.total_bytes;
        machine.swap_bytes = memory.swap_total_bytes;
        numbers::Node {
            name: self.name.clone(),
            booted_ns: proc::booted_ns().unwrap_or_default(),
            agent_started_ns: self.agent_started_ns,
            machine,
            root,
            network: proc::own_network().map(|interfaces| Network { at_ns: now_ns, interfaces }),
            swap: memory.swap_total_bytes.zip(memory.swap_free_bytes).map(|(total, free)| Swap {
                at_ns: known.sampled_at(),
                available_bytes: Some(free),
                used_bytes: Some(total.saturating_sub(free)),
            }),
            rlimit: proc::rlimit(now_ns),
            nodefs,
            imagefs: known.disks.imagefs,
            containerfs: known.disks.imagefs,
            mounts: Vec::new(),
            system_containers,
            classes,
            pods,
        }
    }
}

impl Known {
    /// Unix nanoseconds of the sampler's reading.
    fn sampled_at(&self) -> i64 {
        i64::try_from(self.memory.at.0).unwrap_or(i64::MAX).saturating_add(self.unix_offset_ns)
    }

    fn sampled(&self, domain: &Domain) -> Option<(CgroupMemory, i64)> {
        self.memory.of(domain).map(|account| (account.into(), self.sampled_at()))
    }
}

struct Reader<'a> {
    collector: &'a Collector,
    tracked: &'a mut TrackedCgroups,
    known: &'a Known,
}

type Read = Option<(Cgroup, Vec<i32>)>;

impl Reader<'_> {
    /// One that the sampler watches.
    fn cgroup(&mut self, path: &str, domain: &Domain, processes: bool) -> Read {
        let wanted = Wanted { sampled: self.known.sampled(domain), memory: MemoryBy::Sampler, processes };
        self.tracked.read(&self.collector.driver, path, wanted, self.known.now_ns)
    }

    fn unsampled(&mut self, path: &str, processes: bool) -> Read {
        let wanted = Wanted { sampled: None, memory: MemoryBy::Accounting, processes };
        self.tracked.read(&self.collector.driver, path, wanted, self.known.now_ns)
    }

    /// v2's root lacks some of the files: there `/proc` has the numbers.
    fn root(&mut self) -> Cgroup {
        let read = self.cgroup("/", &Domain::Node, false).map(|(cgroup, _)| cgroup).unwrap_or_default();
        let mut root = Cgroup { path: "/".to_owned(), ..read };
        let [cpu, memory, io] = node_pressure();
        if let Some(of) = &mut root.cpu {
            if let Some((user, system)) = proc::cpu_of_node().filter(|_| of.user_ns.is_none()) {
                (of.user_ns, of.system_ns) = (Some(user), Some(system));
            }
            of.pressure = of.pressure.or(cpu);
        }
        if let Some(of) = &mut root.memory {
            of.pressure = of.pressure.or(memory);
        }
        if let Some(of) = &mut root.io {
            of.pressure = of.pressure.or(io);
        }
        root
    }

    fn pods(&mut self) -> BTreeMap<PodUid, numbers::Pod> {
        let snapshot = Arc::clone(&self.known.snapshot);
        snapshot.pods.values().filter_map(|pod| self.pod(pod)).map(|pod| (pod.pod.uid.clone(), pod)).collect()
    }

    /// `None`: nothing of it runs.
    fn pod(&mut self, published: &PublishedPod) -> Option<numbers::Pod> {
        let who = PodRef::of(&published.pod);
        let qos = QosClass::of(&published.pod);
        let listed = Arc::clone(&self.known.listed);
        let sandboxes = listed.sandboxes.iter().filter(|s| s.pod.uid == who.uid && s.ready);
        let sandbox = sandboxes.max_by_key(|s| s.created_at_ns)?;
        let path = self.collector.driver.pod_cgroup(&who.uid, qos);
        let (cgroup, _) = self.cgroup(&path, &Domain::Pod(who.uid.clone()), false)?;
        let dirs = self.collector.driver.container_dirs(&who.uid, qos);
        let path_of = |id: &str| {
            let dir = dirs.iter().find(|(_, of)| of == id).and_then(|(dir, _)| dir.file_name());
            dir.and_then(|name| name.to_str()).map(|name| format!("{path}/{name}"))
        };
        let of_sandbox = path_of(&sandbox.id).and_then(|path| self.unsampled(&path, true));
        let pid = of_sandbox.as_ref().and_then(|(_, pids)| pids.first().copied());
        let network = pid.and_then(proc::network_of);
        let disks = self.known.disks.pods.get(&who.uid);
        let mut containers = Vec::new();
        for container in listed.containers.iter().filter(|c| c.pod.uid == who.uid) {
            if container.state != ContainerState::Running {
                continue;
            }
            let domain = Domain::Container(who.uid.clone(), container.name.clone());
            let read = path_of(&container.id).and_then(|path| self.cgroup(&path, &domain, true));
            let fs = |of: fn(&super::disks::PodDisks) -> &BTreeMap<String, FsUse>| {
                disks.and_then(|disks| of(disks).get(&container.name).copied())
            };
            let kills = self.known.oom_kills.get(&who.uid).and_then(|of| of.get(&container.name));
            containers.push(numbers::Container {
                name: container.name.clone(),
                id: container.id.clone(),
                image: image_of(published, &container.name),
                started_ns: Some(container.created_at_ns),
                cgroup: read.map(|(cgroup, _)| cgroup).unwrap_or_default(),
                rootfs: fs(|disks| &disks.layers),
                logs: fs(|disks| &disks.logs),
                oom_kills: kills.copied().unwrap_or(0),
            });
        }
        let spec = published.pod.spec.as_ref();
        Some(numbers::Pod {
            pod: who,
            started_ns: Some(sandbox.created_at_ns),
            host_network: spec.and_then(|spec| spec.host_network).unwrap_or(false),
            cgroup,
            sandbox: of_sandbox.map(|(cgroup, _)| numbers::Sandbox {
                id: sandbox.id.clone(),
                image: self.collector.sandbox_image.clone(),
                cgroup,
            }),
            containers,
            volumes: disks.map(|disks| disks.volumes.clone()).unwrap_or_default(),
            logs: None,
            network: network.map(|interfaces| Network { at_ns: self.known.now_ns, interfaces }),
        })
    }
}

/// As the container's status has it.
fn image_of(pod: &PublishedPod, container: &str) -> String {
    let status = &pod.status;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let of_status = all.into_iter().find(|c| c.name == container).map(|c| c.image.clone());
    of_status.unwrap_or_default()
}
