//! What the Node object says of the machine: read from its files and from the runtime.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use k8s_openapi::api::core::v1::{
    ContainerImage, NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSystemInfo, Taint,
};

use crate::cri::image::Image;
use crate::cri::status::{RuntimeHandler, RuntimeStatus};
use oomlet_core::apiserver::node::NodeDescription;
use oomlet_core::quantity::format_bytes;
use oomlet_core::version::KUBERNETES_VERSION;

const UID_MAP: &str = "/proc/self/uid_map";

/// What is known at the start and does not change.
#[derive(Clone, Debug)]
pub struct NodeIdentity {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub provider_id: Option<String>,
    pub attach_detach_by_controller: bool,
    /// The first of each family is what pods' hostIP is.
    pub addresses: Vec<IpAddr>,
    pub milli_cpu: u64,
    pub memory_bytes: u64,
    /// Capacity less what is reserved and the hard eviction threshold.
    pub allocatable_milli_cpu: u64,
    pub allocatable_memory_bytes: u64,
    pub max_pods: u32,
    /// Capacity of the root directory's file system; `None`: it could not be read.
    pub storage_bytes: Option<u64>,
    /// `systemReserved` and `kubeReserved` together, and the hard threshold of `nodefs.available`.
    pub reserved_storage_bytes: u64,
    pub port: u16,
    /// Go's word: `amd64`, `arm64`.
    pub arch: String,
    /// Name and version, as `containerd://2.1.0`.
    pub runtime: String,
    /// `nodeStatusMaxImages`; `None`: all.
    pub max_images: Option<usize>,
}

/// Of those that kubelet declares what the agent does, too (k8s.io/component-helpers/nodedeclaredfeatures); in order.
const DECLARED_FEATURES: [&str; 1] = ["RestartAllContainersOnContainerExits"];

impl NodeIdentity {
    /// Blocking: reads files.
    #[must_use]
    pub fn describe(&self, images: &[Image], runtime: &RuntimeStatus) -> NodeDescription {
        let mut capacity = BTreeMap::from([
            ("cpu".to_owned(), cpus(self.milli_cpu)),
            ("memory".to_owned(), kibibytes(self.memory_bytes)),
            ("pods".to_owned(), self.max_pods.to_string()),
        ]);
        let mut allocatable = BTreeMap::from([
            ("cpu".to_owned(), cpus(self.allocatable_milli_cpu)),
            ("memory".to_owned(), kibibytes(self.allocatable_memory_bytes)),
            ("pods".to_owned(), self.max_pods.to_string()),
        ]);
        if let Some(bytes) = self.storage_bytes {
            let left = bytes.saturating_sub(self.reserved_storage_bytes);
            capacity.insert("ephemeral-storage".to_owned(), bytes.to_string());
            allocatable.insert("ephemeral-storage".to_owned(), left.to_string());
        }
        for (name, bytes) in huge_pages(Path::new("/sys/kernel/mm/hugepages")) {
            capacity.insert(name.clone(), format_bytes(bytes));
            allocatable.insert(name, format_bytes(bytes));
        }
        let internal = self.addresses.iter().map(|ip| ("InternalIP".to_owned(), ip.to_string()));
        NodeDescription {
            name: self.name.clone(),
            labels: self.labels.clone(),
            taints: self.taints.clone(),
            provider_id: self.provider_id.clone(),
            attach_detach_by_controller: self.attach_detach_by_controller,
            capacity,
            allocatable,
            addresses: internal.chain([("Hostname".to_owned(), self.name.clone())]).collect(),
            system: system_info(&self.runtime, &self.arch),
            in_user_namespace: in_user_namespace(&fs::read_to_string(UID_MAP).unwrap_or_default()),
            port: self.port.into(),
            images: largest_images(images, self.max_images),
            runtime_handlers: runtime_handlers(runtime),
            features: runtime
                .supplemental_groups_policy
                .map(|kept| NodeFeatures { supplemental_groups_policy: Some(kept) }),
            declared_features: DECLARED_FEATURES.map(str::to_owned).to_vec(),
        }
    }
}

/// By name: a runtime may tell of them in another order each time. `hostUsers: false` is refused whatever the runtime can.
fn runtime_handlers(runtime: &RuntimeStatus) -> Vec<NodeRuntimeHandler> {
    let mut handlers: Vec<&RuntimeHandler> = runtime.handlers.iter().collect();
    handlers.sort_by(|a, b| a.name.cmp(&b.name));
    let told = handlers.into_iter().map(|handler| NodeRuntimeHandler {
        name: Some(handler.name.clone()),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(handler.recursive_read_only_mounts),
            user_namespaces: Some(false),
        }),
    });
    told.collect()
}

/// As kubelet writes memory: `24586012Ki`, not rounded to a larger unit where that is not exact.
fn kibibytes(bytes: u64) -> String {
    format_bytes(bytes >> 10 << 10)
}

fn cpus(milli: u64) -> String {
    if milli.is_multiple_of(1000) { (milli / 1000).to_string() } else { format!("{milli}m") }
}

/// kubelet tells the largest (`nodeStatusMaxImages`), each with at most five names
/// (pkg/kubelet/images/image_gc_manager.go, `MaxNamesPerImageInNodeStatus`).
fn largest_images(images: &[Image], max: Option<usize>) -> Vec<ContainerImage> {
    let mut sorted: Vec<&Image> = images.iter().collect();
    sorted.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.id.cmp(&b.id)));
    let told = sorted.into_iter().take(max.unwrap_or(usize::MAX)).map(|image| ContainerImage {
        names: Some(image.digests.iter().chain(&image.tags).take(5).cloned().collect()),
        size_bytes: i64::try_from(image.size_bytes).ok(),
    });
    told.collect()
}

/// Blocking.
#[must_use]
pub fn file_system_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir)
        .inspect_err(
            |error| tracing::warn!(dir = %dir.display(), %error, "the size of the file system is not known"),
        )
        .ok()?;
    Some(stat.f_blocks.saturating_mul(stat.f_frsize))
}

/// `hugepages-2Mi` and the like, with the bytes that are set aside for each size; 0 counts, too.
fn huge_pages(dir: &Path) -> BTreeMap<String, u64> {
    let sizes = fs::read_dir(dir).into_iter().flatten().flatten();
    let of_size = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let pages: u64 = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
        let size = kib << 10;
        Some((format!("hugepages-{}", format_bytes(size)), size.saturating_mul(pages)))
    };
    sizes.filter_map(of_size).collect()
}

fn system_info(runtime: &str, arch: &str) -> NodeSystemInfo {
    let uname = rustix::system::uname();
    let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    NodeSystemInfo {
        architecture: arch.to_owned(),
        operating_system: "linux".to_owned(),
        // A machine without one of these has none, as for kubelet.
        machine_id: first_line(&["/etc/machine-id", "/var/lib/dbus/machine-id"]),
        system_uuid: first_line(&["/sys/class/dmi/id/product_uuid", "/etc/machine-id"]),
        boot_id: first_line(&["/proc/sys/kernel/random/boot_id"]),
        kernel_version: uname.release().to_string_lossy().into_owned(),
        os_image: pretty.map_or("Linux", |name| name.trim_matches('"')).to_owned(),
        container_runtime_version: runtime.to_owned(),
        // Who compares versions looks at what stands before the `+`.
        kubelet_version: format!("{KUBERNETES_VERSION}+oomlet-{}", env!("CARGO_PKG_VERSION")),
        ..NodeSystemInfo::default()
    }
}

/// Where the user ids of the whole machine are those of this process, it is in none. Empty: a kernel without user namespaces
/// has no such file.
fn in_user_namespace(uid_map: &str) -> bool {
    let fields: Vec<&str> = uid_map.split_whitespace().collect();
    !fields.is_empty() && fields != ["0", "0", "4294967295"]
}

fn first_line(paths: &[&str]) -> String {
    let read = |path: &&str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    paths.iter().find_map(|path| read(path).filter(|text| !text.is_empty())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_as_kubelet_writes_them() {
        assert_eq!(kibibytes(25_176_076_288 + 5), "24586012Ki");
        assert_eq!(kibibytes(1 << 30), "1Gi");
        assert_eq!((cpus(2000), cpus(1900)), ("2".to_owned(), "1900m".to_owned()));
    }

    #[test]
    fn the_largest_images_are_told() {
        let image = |id: &str, size| Image {
            id: id.into(),
            tags: (0..7).map(|n| format!("{id}:{n}")).collect(),
            size_bytes: size,
            ..Image::default()
        };
        let told = largest_images(&[image("small", 1), image("large", 9)], Some(1));
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].names.as_ref().unwrap()[0], "large:0");
        assert_eq!(told[0].names.as_ref().unwrap().len(), 5);
    }

    #[test]
    fn handlers_are_told_by_name() {
        let handler = |name: &str| RuntimeHandler { name: name.into(), recursive_read_only_mounts: true };
        let runtime = RuntimeStatus { handlers: vec![handler("runc"), handler("")], ..Default::default() };
        let told = runtime_handlers(&runtime);
        let names: Vec<_> = told.iter().map(|handler| handler.name.as_deref()).collect();
        assert_eq!(names, [Some(""), Some("runc")]);
        let features = told[0].features.as_ref().unwrap();
        assert_eq!(
            (features.recursive_read_only_mounts, features.user_namespaces),
            (Some(true), Some(false))
        );
    }

    #[test]
    fn in_a_user_namespace() {
        for (uid_map, expected) in [
            ("         0          0 4294967295\n", false),
            ("", false),
            ("         0       1000          1\n", true),
            ("         0          0 65536\n", true),
            ("0 0 1000\n1000 100000 65536\n", true),
        ] {
            assert_eq!(in_user_namespace(uid_map), expected, "{uid_map}");
        }
    }

    #[test]
    fn huge_pages_of_each_size() {
        let dir = tempfile::tempdir().unwrap();
        for (size, pages) in [("hugepages-2048kB", "4"), ("hugepages-1048576kB", "0")] {
            fs::create_dir(dir.path().join(size)).unwrap();
            fs::write(dir.path().join(size).join("nr_hugepages"), format!("{pages}\n")).unwrap();
        }
        let expected = [("hugepages-1Gi".to_owned(), 0), ("hugepages-2Mi".to_owned(), 8 << 20)];
        assert_eq!(huge_pages(dir.path()), BTreeMap::from(expected));
        assert_eq!(huge_pages(Path::new("/nonexistent")), BTreeMap::new());
    }
}
