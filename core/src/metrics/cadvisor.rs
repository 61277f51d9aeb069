//! `/metrics/cadvisor`: cAdvisor's families, for the node, `kubepods` and its classes, other cgroups that kubelet knows, pods,
//! sandboxes and containers. A family for which a cgroup has no number leaves it out.
//!
//! - `table`: the families of one value a cgroup. - `listed`: those with labels of their own. - [`machine`]: `machine_…`.

mod listed;
pub mod machine;
mod table;
#[cfg(test)]
mod tests;

use prometheus::proto::{LabelPair, MetricFamily};

use super::family::{Family, Kind, finish, label};
use crate::stats::numbers::{Cgroup, Machine, MountedFs, Network, Node, Pod};
use listed::Listed;
use table::{TABLE, Value};

/// One cgroup and what cAdvisor calls it.
struct Subject<'a> {
    labels: Vec<LabelPair>,
    cgroup: &'a Cgroup,
    network: Option<&'a Network>,
    /// The node's file systems, of the root cgroup.
    mounts: &'a [MountedFs],
    started_ns: Option<i64>,
    /// Known of containers alone.
    oom_kills: Option<u64>,
}

/// `scraped_ns`: Unix time. `version`: the agent's.
#[must_use]
pub fn families(node: Option<&Node>, version: &str, scraped_ns: i64) -> Vec<MetricFamily> {
    let mut table: Vec<Family> = TABLE.iter().map(|row| Family::new(row.kind, row.name, row.help)).collect();
    let mut listed = Listed::new();
    let mut others = Vec::new();
    if let Some(node) = node {
        for subject in subjects(node) {
            for (row, family) in TABLE.iter().zip(&mut table) {
                let value = match row.value {
                    Value::Of(of) => of(subject.cgroup),
                    Value::Started(of) => {
                        of(subject.cgroup.created_ns, subject.started_ns).map(|v| (v, None))
                    }
                    Value::Seen => Some((
                        super::family::seconds(u64::try_from(scraped_ns).unwrap_or(0)).floor(),
                        Some(scraped_ns),
                    )),
                    Value::OomKills => {
                        let at = subject.cgroup.memory.as_ref().map(|m| m.at_ns);
                        subject.oom_kills.map(|kills| (super::family::number(kills), at))
                    }
                };
                if let Some((value, at)) = value {
                    family.push(subject.labels.clone(), value, at);
                }
            }
            listed.add(&subject);
        }
        others = machine::families(&node.machine);
        others.push(version_info(&node.machine, version));
    }
    let failed = if node.is_some() { 0.0 } else { 1.0 };
    others.push(
        Family::new(
            Kind::Gauge,
            "container_scrape_error",
            "1 if there was an error while getting container metrics, 0 otherwise",
        )
        .with(Vec::new(), failed, None),
    );
    finish(table.into_iter().chain(listed.into_families()).chain(others))
}

fn version_info(machine: &Machine, version: &str) -> Family {
    let labels = vec![
        label("cadvisorRevision", ""),
        label("cadvisorVersion", version),
        label("dockerVersion", ""),
        label("kernelVersion", &machine.kernel_version),
        label("osVersion", &machine.os_version),
    ];
    let help = "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.";
    Family::new(Kind::Gauge, "cadvisor_version_info", help).with(labels, 1.0, None)
}

/// kubelet's labels of a container, in the order that Prometheus' own library writes them.
fn labels(container: &str, id: &str, image: &str, name: &str, pod: Option<&Pod>) -> Vec<LabelPair> {
    let (namespace, pod) = pod.map_or(("", ""), |pod| (&pod.pod.namespace, &pod.pod.name));
    vec![
        label("container", container),
        label("id", id),
        label("image", image),
        label("name", name),
        label("namespace", namespace),
        label("pod", pod),
    ]
}

fn subjects(node: &Node) -> Vec<Subject<'_>> {
    let plain = |cgroup, pod: Option<&Pod>| -> Subject<'_> {
        let cgroup: &Cgroup = cgroup;
        Subject {
            labels: labels("", &cgroup.path, "", "", pod),
            cgroup,
            network: None,
            mounts: &[],
            started_ns: cgroup.created_ns,
            oom_kills: None,
        }
    };
    let root = Subject { network: node.network.as_ref(), mounts: &node.mounts, ..plain(&node.root, None) };
    let mut subjects = vec![root];
    subjects.extend(node.classes.iter().map(|cgroup| plain(cgroup, None)));
    let known: Vec<&str> = node.classes.iter().map(|c| c.path.as_str()).collect();
    let system =
        node.system_containers.values().filter(|c| !known.contains(&c.path.as_str()) && c.path != "/");
    subjects.extend(system.map(|cgroup| plain(cgroup, None)));
    for pod in node.pods.values() {
        subjects.push(plain(&pod.cgroup, Some(pod)));
        if let Some(sandbox) = &pod.sandbox {
            subjects.push(Subject {
                labels: labels("", &sandbox.cgroup.path, &sandbox.image, &sandbox.id, Some(pod)),
                network: pod.network.as_ref(),
                ..plain(&sandbox.cgroup, Some(pod))
            });
        }
        subjects.extend(pod.containers.iter().map(|c| Subject {
            labels: labels(&c.name, &c.cgroup.path, &c.image, &c.id, Some(pod)),
            started_ns: c.cgroup.created_ns.or(c.started_ns),
            oom_kills: Some(c.oom_kills),
            ..plain(&c.cgroup, Some(pod))
        }));
    }
    subjects.retain(|subject| !subject.cgroup.path.is_empty());
    subjects
}
