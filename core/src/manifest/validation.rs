//! Whether a manifest is one that the API server would take (pkg/apis/core/validation), as far as the agent
//! relies on it: names become directories, cgroups and labels, paths become mounts. Core.

mod lifecycle;
mod probes;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::defaults::name_on_node;
use crate::pod::memory_limit;
use crate::pod::qos::is_sidecar;
use crate::quantity::{parse_bytes, parse_milli_cpu};

/// As it stands in the file, before defaults. `Err`: every problem, each naming the field.
pub(super) fn check(pod: &Pod, hostname: &str) -> Result<(), Vec<String>> {
    let mut problems = Problems::default();
    let meta = &pod.metadata;
    match meta.name.as_deref().unwrap_or_default() {
        "" => problems.add("metadata.name", "must be given"),
        name => problems.subdomain("metadata.name", &name_on_node(name, hostname)),
    }
    if let Some(namespace) = &meta.namespace {
        problems.label("metadata.namespace", namespace);
    }
    if let Some(uid) = meta.uid.as_deref().filter(|uid| !uid.is_empty()) {
        let fits = uid.len() <= 63 && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        problems
            .require("metadata.uid", fits, || format!("{uid:?} must be letters, digits and -, at most 63"));
    }
    for (annotation, problem) in memory_limit::problems(pod) {
        problems.add(&format!("metadata.annotations[{annotation}]"), problem);
    }
    match &pod.spec {
        None => problems.add("spec", "must be given"),
        Some(spec) => problems.spec(spec),
    }
    if problems.0.is_empty() { Ok(()) } else { Err(problems.0) }
}

#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, field: &str, problem: impl AsRef<str>) {
        self.0.push(format!("{field}: {}", problem.as_ref()));
    }

    fn require(&mut self, field: &str, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.add(field, problem());
        }
    }

    fn one_of(&mut self, field: &str, value: Option<&str>, allowed: &[&str]) {
        if let Some(value) = value {
            let problem = || format!("{value:?} must be one of {allowed:?}");
            self.require(field, allowed.contains(&value), problem);
        }
    }

    fn label(&mut self, field: &str, name: &str) {
        let problem = || {
            format!(
                "{name:?} must be a DNS-1123 label: a-z, 0-9 and -, not - at its ends, at most 63 characters"
            )
        };
        self.require(field, name.len() <= 63 && is_dns_label(name), problem);
    }

    fn subdomain(&mut self, field: &str, name: &str) {
        let problem = || {
            format!(
                "{name:?} must be a DNS-1123 subdomain: a-z, 0-9, - and ., at most 253 characters with the node's name"
            )
        };
        self.require(field, name.len() <= 253 && name.split('.').all(is_dns_label), problem);
    }

    fn spec(&mut self, spec: &PodSpec) {
        self.require("spec.containers", !spec.containers.is_empty(), || "must not be empty".to_owned());
        self.one_of("spec.restartPolicy", spec.restart_policy.as_deref(), &["Always", "OnFailure", "Never"]);
        let policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
        self.one_of("spec.dnsPolicy", spec.dns_policy.as_deref(), &policies);
        if let Some(grace) = spec.termination_grace_period_seconds {
            let problem = || format!("{grace} must be 0 or more");
            self.require("spec.terminationGracePeriodSeconds", grace >= 0, problem);
        }
        for list in [spec.overhead.as_ref(), spec.resources.as_ref().and_then(|r| r.requests.as_ref())] {
            self.quantities("spec", list);
        }
        self.quantities("spec", spec.resources.as_ref().and_then(|r| r.limits.as_ref()));
        self.lives(spec);

        let mut volumes = BTreeSet::new();
        for (index, volume) in spec.volumes.iter().flatten().enumerate() {
            let field = format!("spec.volumes[{index}]");
            self.label(&format!("{field}.name"), &volume.name);
            self.require(&field, volumes.insert(volume.name.as_str()), || {
                format!("{:?} is there twice", volume.name)
            });
            self.volume(&format!("spec.volumes[{}]", volume.name), volume);
        }
        let mut names = BTreeSet::new();
        let mut host_ports = BTreeSet::new();
        let init = spec.init_containers.iter().flatten().map(|c| ("initContainers", c));
        for (list, container) in init.chain(spec.containers.iter().map(|c| ("containers", c))) {
            let field = format!("spec.{list}[{}]", container.name);
            self.label(&format!("{field}.name"), &container.name);
            let first = names.insert(container.name.as_str());
            self.require(&field, first, || format!("{:?} names two containers", container.name));
            self.restarts(&field, container);
            self.container(&field, container, &volumes);
            let serves = list == "containers" || is_sidecar(container);
            self.probes(&field, container, serves);
            self.lifecycle(&field, container, spec, serves);
            self.ports(&field, container, spec.host_network == Some(true), &mut host_ports);
        }
    }

    fn volume(&mut self, field: &str, volume: &Volume) {
        if let Some(host_path) = &volume.host_path {
            let path = &host_path.path;
            self.require(&format!("{field}.hostPath.path"), path.starts_with('/') && !escapes(path), || {
                format!("{path:?} must be absolute and without `..`")
            });
            let types = [
                "",
                "DirectoryOrCreate",
                "Directory",
                "FileOrCreate",
                "File",
                "Socket",
                "CharDevice",
                "BlockDevice",
            ];
            self.one_of(&format!("{field}.hostPath.type"), host_path.type_.as_deref(), &types);
        }
        if let Some(dir) = &volume.empty_dir {
            let medium = dir.medium.as_deref().filter(|m| !m.starts_with("HugePages"));
            self.one_of(&format!("{field}.emptyDir.medium"), medium, &["", "Memory"]);
            if let Some(Err(error)) = dir.size_limit.as_ref().map(|q| parse_bytes(&q.0)) {
                self.add(&format!("{field}.emptyDir.sizeLimit"), error.to_string());
            }
        }
        let sources = serde_json::to_value(volume).ok().and_then(|v| v.as_object().map(serde_json::Map::len));
        self.require(field, sources.is_none_or(|keys| keys <= 2), || {
            "must have one source, has several".to_owned()
        });
    }

    fn container(&mut self, field: &str, container: &Container, volumes: &BTreeSet<&str>) {
        let image = container.image.as_deref().unwrap_or_default();
        let fits = !image.is_empty() && !image.contains(char::is_whitespace);
        self.require(&format!("{field}.image"), fits, || format!("{image:?} must be an image's name"));
        let policies = ["Always", "IfNotPresent", "Never"];
        self.one_of(&format!("{field}.imagePullPolicy"), container.image_pull_policy.as_deref(), &policies);
        for var in container.env.iter().flatten() {
            let fits = !var.name.is_empty() && !var.name.contains(['=', '\0']);
            self.require(&format!("{field}.env"), fits, || {
                format!("{:?} cannot be a variable's name", var.name)
            });
        }
        let mut targets = BTreeSet::new();
        for mount in container.volume_mounts.iter().flatten() {
            let field = format!("{field}.volumeMounts[{}]", mount.name);
            let known = volumes.contains(mount.name.as_str());
            self.require(&field, known, || format!("spec.volumes has no volume {:?}", mount.name));
            let path = mount.mount_path.as_str();
            let fits = path.starts_with('/') && !escapes(path) && !path.contains([':', '\0']);
            self.require(&format!("{field}.mountPath"), fits, || {
                format!("{path:?} must be absolute, without `..` and `:`")
            });
            self.require(&format!("{field}.mountPath"), targets.insert(path), || {
                format!("{path:?} is there twice")
            });
            if let Some(sub) = mount.sub_path.as_deref() {
                self.require(&format!("{field}.subPath"), !sub.starts_with('/') && !escapes(sub), || {
                    format!("{sub:?} must be relative and without `..`")
                });
            }
        }
        self.resources(field, container);
    }

    fn resources(&mut self, field: &str, container: &Container) {
        let Some(resources) = &container.resources else { return };
        let field = format!("{field}.resources");
        self.quantities(&format!("{field}.requests"), resources.requests.as_ref());
        self.quantities(&format!("{field}.limits"), resources.limits.as_ref());
        for (resource, limit) in resources.limits.iter().flatten() {
            let Some(request) = resources.requests.as_ref().and_then(|r| r.get(resource)) else { continue };
            let (Ok(asked), Ok(allowed)) = (parse_milli_cpu(&request.0), parse_milli_cpu(&limit.0)) else {
                continue;
            };
            self.require(&format!("{field}.requests.{resource}"), asked <= allowed, || {
                format!("{} must not be more than the limit of {}", request.0, limit.0)
            });
        }
    }

    fn quantities(&mut self, field: &str, list: Option<&BTreeMap<String, Quantity>>) {
        for (resource, quantity) in list.into_iter().flatten() {
            let parsed =
                if resource == "cpu" { parse_milli_cpu(&quantity.0) } else { parse_bytes(&quantity.0) };
            if let Err(error) = parsed {
                self.add(&format!("{field}.{resource}"), error.to_string());
            }
        }
    }

    fn ports(
        &mut self,
        field: &str,
        container: &Container,
        host_network: bool,
        host_ports: &mut BTreeSet<(i32, String, String)>,
    ) {
        for port in container.ports.iter().flatten() {
            let field = format!("{field}.ports[{}]", port.container_port);
            let fits = |number: i32| (1..=65535).contains(&number);
            self.require(&format!("{field}.containerPort"), fits(port.container_port), || {
                "must be 1 to 65535".to_owned()
            });
            self.one_of(&format!("{field}.protocol"), port.protocol.as_deref(), &["TCP", "UDP", "SCTP"]);
            // 0 is not set.
            let Some(host_port) = port.host_port.filter(|p| *p != 0) else { continue };
            self.require(&format!("{field}.hostPort"), fits(host_port), || {
                format!("{host_port} must be 1 to 65535")
            });
            self.require(
                &format!("{field}.hostPort"),
                !host_network || host_port == port.container_port,
                || format!("{host_port} must be the containerPort with hostNetwork"),
            );
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let key = (host_port, protocol, port.host_ip.clone().unwrap_or_default());
            self.require(&format!("{field}.hostPort"), host_ports.insert(key), || {
                format!("{host_port} is used twice")
            });
        }
    }
}

fn is_dns_label(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !name.is_empty() && name.bytes().all(fits) && !name.starts_with('-') && !name.ends_with('-')
}

fn escapes(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}
