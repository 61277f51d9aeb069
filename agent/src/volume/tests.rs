//! As root, with real mounts below a directory of the test's own.

use oomlet_core::mountinfo;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;
use oomlet_core::pod::env::Env;
use serde_json::{Value, json};

/// A root directory whose mounts are taken off at the end, also by a panic.
struct TestRoot {
    tmp: tempfile::TempDir,
    volumes: VolumeManager,
}

impl TestRoot {
    fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let volumes = VolumeManager::new(&tmp.path().join("root"));
        TestRoot { tmp, volumes }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tmp.path().join(name)
    }

    fn mounted(&self) -> Vec<mountinfo::Mount> {
        let mut all = mountinfo::parse(&fs::read("/proc/self/mountinfo").unwrap());
        let here = fs::canonicalize(self.tmp.path()).unwrap();
        all.retain(|m| m.mount_point.starts_with(&here));
        all
    }
}

impl Drop for TestRoot {
    fn drop(&mut self) {
        let here = fs::canonicalize(self.tmp.path()).unwrap();
        let unmounted = mounts::unmount_below(&here);
        if !std::thread::panicking() {
            unmounted.unwrap();
        }
    }
}

fn pod(uid: &str, volumes: Value, mounts: Value) -> Pod {
    let container = json!({"name": "app", "image": "i", "volumeMounts": mounts});
    let spec = json!({"containers": [container], "volumes": volumes});
    serde_json::from_value(json!({"metadata": {"uid": uid, "namespace": "ns", "name": "p"}, "spec": spec}))
        .unwrap()
}

fn container(pod: &Pod) -> &Container {
    &pod.spec.as_ref().unwrap().containers[0]
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn empty_dir_on_disk() {
    let t = TestRoot::new();
    let mut p = pod("u1", json!([{"name": "data", "emptyDir": {}}, {"name": "bare"}]), json!([]));
    t.volumes.set_up(&p, &Content::default()).unwrap();
    let dir = t.volumes.pod_dir(&"u1".into()).join("volumes/kubernetes.io~empty-dir/data");
    assert_eq!(mode(&dir), 0o777);
    assert!(dir.with_file_name("bare").is_dir(), "no source at all is an emptyDir");
    assert_eq!(mode(&t.volumes.pod_dir(&"u1".into())), 0o750);

    // Again, as after a restart of the agent: what the pod did to it stays.
    fs::write(dir.join("kept"), "x").unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    t.volumes.set_up(&p, &Content::default()).unwrap();
    assert_eq!((mode(&dir), dir.join("kept").exists()), (0o700, true));

    p.metadata.uid = Some("u2".into());
    let spec = p.spec.as_mut().unwrap();
    spec.security_context = Some(serde_json::from_value(json!({"fsGroup": 2345})).unwrap());
    t.volumes.set_up(&p, &Content::default()).unwrap();
    let dir = t.volumes.pod_dir(&"u2".into()).join("volumes/kubernetes.io~empty-dir/data");
    assert_eq!((mode(&dir), fs::metadata(&dir).unwrap().gid()), (0o2777, 2345));

    assert_eq!(t.volumes.orphans().unwrap(), ["u1".into(), "u2".into()]);
    t.volumes.tear_down(&"u1".into()).unwrap();
    t.volumes.tear_down(&"u1".into()).unwrap();
    assert_eq!(t.volumes.orphans().unwrap(), ["u2".into()]);
}

#[test]
fn empty_dir_in_memory() {
    let t = TestRoot::new();
    let volumes = json!([{"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                         {"name": "free", "emptyDir": {"medium": "Memory"}}]);
    let mut p = pod("u", volumes, json!([{"name": "mem", "mountPath": "/m"}]));
    let spec = p.spec.as_mut().unwrap();
    spec.security_context = Some(serde_json::from_value(json!({"fsGroup": 77})).unwrap());
    spec.containers[0].resources =
        Some(serde_json::from_value(json!({"limits": {"memory": "2Mi"}})).unwrap());
    t.volumes.set_up(&p, &Content::default()).unwrap();
    t.volumes.set_up(&p, &Content::default()).unwrap();
    let mounted = t.mounted();
    let at = |name: &str| mounted.iter().find(|m| m.mount_point.ends_with(name)).unwrap();
    assert_eq!(mounted.len(), 2, "{mounted:?}");
    assert!(at("mem").super_options.contains(&"size=1024k".to_owned()), "{mounted:?}");
    assert!(at("free").super_options.contains(&"size=2048k".to_owned()), "the pod's limit: {mounted:?}");
    let dir = t.volumes.mounts(&p, container(&p), &Env::default()).unwrap()[0].host_path.clone();
    assert_eq!((mode(&dir), fs::metadata(&dir).unwrap().gid()), (0o3777, 77));
    assert!(fs::write(dir.join("big"), vec![0u8; 2 << 20]).is_err(), "sizeLimit holds");

    // Busy: an open file keeps the mount; nothing may be deleted then.
    let open = fs::File::create(dir.join("open")).unwrap();
    let disk = t.volumes.pod_dir(&"u".into()).join("precious");
    fs::write(&disk, "").unwrap();
    let error = t.volumes.tear_down(&"u".into()).unwrap_err().to_string();
    assert!(
        error.contains("cannot unmount") && error.contains("UID u") && error.contains("fuser"),
        "{error}"
    );
    assert!(disk.exists());
    drop(open);
    t.volumes.tear_down(&"u".into()).unwrap();
    assert!(t.mounted().is_empty() && !t.volumes.pod_dir(&"u".into()).exists());
}

#[test]
fn node_allocatable_bounds_memory_volumes() {
    let mut t = TestRoot::new();
    t.volumes = t.volumes.clone().with_node_allocatable_bytes(3 << 20);
    t.volumes
        .set_up(
            &pod("u", json!([{"name": "m", "emptyDir": {"medium": "Memory"}}]), json!([])),
            &Content::default(),
        )
        .unwrap();
    assert!(t.mounted()[0].super_options.contains(&"size=3072k".to_owned()));
    t.volumes.tear_down(&"u".into()).unwrap();
}

#[test]
fn mounts_of_a_container() {
    let t = TestRoot::new();
    let host = t.path("host");
    let volumes = json!([{"name": "data", "emptyDir": {}},
                         {"name": "host", "hostPath": {"path": host, "type": "DirectoryOrCreate"}}]);
    let mounts = json!([{"name": "host", "mountPath": "/h", "readOnly": true, "mountPropagation": "HostToContainer"},
                        {"name": "data", "mountPath": "d"}]);
    let p = pod("u", volumes, mounts);
    t.volumes.set_up(&p, &Content::default()).unwrap();
    let got = t.volumes.mounts(&p, container(&p), &Env::default()).unwrap();
    let empty_dir = fs::canonicalize(t.volumes.pod_dir(&"u".into())).unwrap();
    let want = [
        VolumeMount {
            host_path: host.clone(),
            container_path: "/h".into(),
            read_only: true,
            recursive_read_only: false,
            propagation: Propagation::HostToContainer,
        },
        VolumeMount {
            host_path: empty_dir.join("volumes/kubernetes.io~empty-dir/data"),
            container_path: "/d".into(),
            read_only: false,
            recursive_read_only: false,
            propagation: Propagation::None,
        },
    ];
    assert_eq!(got, want);
    fs::write(host.join("mine"), "").unwrap();
    t.volumes.tear_down(&"u".into()).unwrap();
    assert!(host.join("mine").exists(), "a hostPath is the host's");
}

#[test]
fn bad_input_is_refused() {
    let t = TestRoot::new();
    let outside = t.path("outside");
    let set_up = |uid: &str, volume: Value, want: &str| {
        let error = t
            .volumes
            .set_up(&pod(uid, json!([volume]), json!([])), &Content::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains(want), "want {want:?}: {error}");
    };
    set_up("../../etc", json!({"name": "v"}), "cannot name a directory");
    set_up("..", json!({"name": "v"}), "directory reference");
    set_up("", json!({"name": "v"}), "it is empty");
    for name in ["../../outside", "a/b", "..", "", "-x", "A"] {
        set_up("u", json!({"name": name, "emptyDir": {}}), "must be a DNS label");
    }
    set_up(
        "u",
        json!({"name": "v", "emptyDir": {"medium": "HugePages-2Mi"}}),
        "`medium: HugePages-2Mi` is not supported",
    );
    set_up("u", json!({"name": "v", "emptyDir": {"medium": "Disk"}}), "must be empty or Memory");
    set_up("u", json!({"name": "v", "emptyDir": {"sizeLimit": "lots"}}), "sizeLimit is \"lots\"");
    set_up(
        "u",
        json!({"name": "v", "nfs": {"path": "/", "server": "s"}}),
        "a volume of type `nfs` is not supported",
    );
    set_up(
        "u",
        json!({"name": "v", "hostPath": {"path": "/no/such", "type": "Directory"}}),
        "nothing is there",
    );
    set_up("u", json!({"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}), "two types");
    for uid in ["../outside", "..", ".", "", "a/b"] {
        fs::create_dir_all(&outside).unwrap();
        assert!(t.volumes.tear_down(&uid.into()).is_err(), "{uid}");
        assert!(outside.exists());
    }

    let mount = |mount: Value, want: &str| {
        let p = pod("u", json!([{"name": "v"}]), json!([mount]));
        t.volumes.set_up(&p, &Content::default()).unwrap();
        let error = t.volumes.mounts(&p, container(&p), &Env::default()).unwrap_err().to_string();
        assert!(
            error.contains(want) && error.contains("ns/p") && error.contains("app"),
            "want {want:?}: {error}"
        );
    };
    mount(json!({"name": "w", "mountPath": "/x"}), "no volume of that name");
    mount(json!({"name": "v", "mountPath": ""}), "mountPath");
    mount(json!({"name": "v", "mountPath": "/x", "mountPropagation": "Bidirectional"}), "privileged");
    mount(json!({"name": "v", "mountPath": "/x", "mountPropagation": "Both"}), "must be None");
    mount(json!({"name": "v", "mountPath": "/x", "subPathExpr": "$(A)"}), "missing value for A");
    mount(
        json!({"name": "v", "mountPath": "/x", "readOnly": true, "recursiveReadOnly": "Enabled"}),
        "recursive read-only mode",
    );
    for sub_path in ["../x", "a/../../x", "/etc", "."] {
        mount(json!({"name": "v", "mountPath": "/x", "subPath": sub_path}), "subPath");
    }
}

#[test]
fn sub_path_stays_in_the_volume() {
    let t = TestRoot::new();
    let outside = t.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "").unwrap();
    let with_sub_path = |sub_path: &str| {
        pod("u", json!([{"name": "v"}]), json!([{"name": "v", "mountPath": "/x", "subPath": sub_path}]))
    };
    let p = with_sub_path("a/b");
    t.volumes.set_up(&p, &Content::default()).unwrap();
    let bound = t.volumes.mounts(&p, container(&p), &Env::default()).unwrap().remove(0).host_path;
    let volume = t.volumes.pod_dir(&"u".into()).join("volumes/kubernetes.io~empty-dir/v");
    assert_eq!((mode(&volume.join("a")), mode(&volume.join("a/b"))), (0o777, 0o777));
    fs::write(volume.join("a/b/seen"), "").unwrap();
    assert!(bound.join("seen").exists());

    // Swapped for a link after the check: what the runtime mounts is still the directory.
    fs::rename(volume.join("a/b"), volume.join("a/old")).unwrap();
    symlink(&outside, volume.join("a/b")).unwrap();
    assert!(bound.join("seen").exists() && !bound.join("secret").exists());

    // At the next start the link is refused, absolute or relative; nothing is made through it.
    let refuse = |sub_path: &str| {
        let p = with_sub_path(sub_path);
        let error = t.volumes.mounts(&p, container(&p), &Env::default()).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("leads out of the volume"), "{sub_path}: {error}");
    };
    refuse("a/b");
    refuse("a/b/new");
    symlink("../../../../../..", volume.join("up")).unwrap();
    refuse("up");
    refuse("up/outside/new");
    symlink("loop", volume.join("loop")).unwrap();
    refuse("loop/x");
    symlink("nowhere", volume.join("dangling")).unwrap();
    let dangling = with_sub_path("dangling/x");
    assert!(t.volumes.mounts(&dangling, container(&dangling), &Env::default()).is_err());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "nothing was made outside");

    // A link within the volume is fine; so is a file. The same mount again is the same bind.
    symlink("a/old", volume.join("inside")).unwrap();
    let p = with_sub_path("inside");
    let bound = t.volumes.mounts(&p, container(&p), &Env::default()).unwrap().remove(0).host_path;
    assert!(bound.join("seen").exists());
    let before = t.mounted();
    t.volumes.mounts(&p, container(&p), &Env::default()).unwrap();
    assert_eq!(t.mounted(), before);
    let p = with_sub_path("inside/seen");
    assert!(t.volumes.mounts(&p, container(&p), &Env::default()).unwrap().remove(0).host_path.is_file());

    t.volumes.tear_down(&"u".into()).unwrap();
    assert!(t.mounted().is_empty() && outside.join("secret").exists());
    assert!(!t.volumes.pod_dir(&"u".into()).exists());
}

#[test]
fn tear_down_touches_nothing_outside() {
    let t = TestRoot::new();
    let outside = t.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("keep"), "").unwrap();
    let p = pod("u", json!([{"name": "v"}]), json!([]));
    t.volumes.set_up(&p, &Content::default()).unwrap();
    let volume = t.volumes.pod_dir(&"u".into()).join("volumes/kubernetes.io~empty-dir/v");
    symlink(&outside, volume.join("link")).unwrap();
    symlink(outside.join("keep"), volume.join("file-link")).unwrap();
    // A hostPath's content below the pod's directory, as `Bidirectional` or a leftover bind mount may leave it.
    fs::create_dir_all(volume.join("deep/bound")).unwrap();
    rustix::mount::mount_bind(&outside, volume.join("deep/bound")).unwrap();

    // Without the unmounting before it, the deletion itself stops at the mount.
    let pods_dir = fs::canonicalize(t.path("root/pods")).unwrap();
    let error = removal::remove_tree(&pods_dir, "u").unwrap_err().to_string();
    assert!(error.contains("a file system is mounted on"), "{error}");
    assert!(outside.join("keep").exists());

    t.volumes.tear_down(&"u".into()).unwrap();
    assert!(outside.join("keep").exists() && t.mounted().is_empty());
    assert!(!t.volumes.pod_dir(&"u".into()).exists());

    // A mount on the pod's directory itself.
    t.volumes.set_up(&p, &Content::default()).unwrap();
    rustix::mount::mount_bind(&outside, pods_dir.join("u")).unwrap();
    let error = removal::remove_tree(&pods_dir, "u").unwrap_err().to_string();
    assert!(error.contains("a file system is mounted on"), "{error}");
    t.volumes.tear_down(&"u".into()).unwrap();
    assert!(outside.join("keep").exists() && !pods_dir.join("u").exists());

    // The pod's directory itself swapped for a link.
    symlink(&outside, t.volumes.pod_dir(&"u".into())).unwrap();
    let error = t.volumes.tear_down(&"u".into()).unwrap_err().to_string();
    assert!(error.contains("left alone"), "{error}");
    assert!(t.volumes.set_up(&p, &Content::default()).is_err());
    assert!(outside.join("keep").exists());
}

#[test]
fn any_depth_and_any_width_is_removed() {
    let t = TestRoot::new();
    let p = pod("u", json!([{"name": "v"}]), json!([]));
    t.volumes.set_up(&p, &Content::default()).unwrap();
    let volume = t.volumes.pod_dir(&"u".into()).join("volumes/kubernetes.io~empty-dir/v");
    // Deeper than PATH_MAX and than any stack of descriptors: made relative to an open directory.
    let mut dir =
        rustix::fs::open(&volume, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&dir, "d", rustix::fs::Mode::from_raw_mode(0o700)).unwrap();
        dir =
            rustix::fs::openat(&dir, "d", rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    }
    drop(dir);
    for i in 0..5000 {
        fs::write(volume.join(format!("f{i}")), "").unwrap();
    }
    // What an interrupted removal left.
    fs::create_dir_all(t.volumes.pod_dir(&"u".into()).join(".removed-0/x")).unwrap();
    t.volumes.tear_down(&"u".into()).unwrap();
    assert_eq!(t.volumes.orphans().unwrap(), []);
}

#[test]
fn nothing_there_is_fine() {
    let t = TestRoot::new();
    t.volumes.tear_down(&"u".into()).unwrap();
    assert_eq!(t.volumes.orphans().unwrap(), []);
    assert!(!t.path("root").exists());
}
