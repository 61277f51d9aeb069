use super::*;

/// Starts it, runs a container, kills and restarts it under a running one, and looks for what is left.
fn round(version: Version) {
    let scratch = Scratch::new("ctrd").unwrap();
    let dir = scratch.path().to_owned();
    let cgroup = scratch.cgroup_dir("memory").unwrap();
    let mut containerd = PrivateContainerd::start(version, &scratch).unwrap();
    assert!(containerd.netns().sh("ip -brief link show lo").unwrap().contains("UP"));
    let said = containerd.run_image(images::BUSYBOX, "hello", &["echo", "from inside"]).unwrap();
    assert_eq!(said, "from inside\n");

    containerd.start_image(images::BUSYBOX, "sleeper", &["sleep", "1000"]).unwrap();
    assert_eq!(containerd.running_tasks().unwrap(), ["sleeper"]);
    containerd.restart().unwrap();
    assert_eq!(containerd.running_tasks().unwrap(), ["sleeper"], "a container outlives its containerd");
    let sleeper = match scratch.cgroup_driver() {
        CgroupDriver::Cgroupfs => "sleeper".to_owned(),
        CgroupDriver::Systemd => format!("{CTR_PREFIX}-sleeper.scope"),
    };
    assert!(cgroup.join(sleeper).is_dir());

    drop(containerd);
    drop(scratch);
    assert!(!dir.exists() && !cgroup.exists());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(dir.to_str().unwrap()), "{mounts}");
}

#[test]
fn every_release_side_by_side() {
    let available = Version::available().unwrap();
    assert!(!available.is_empty(), "set-up installs at least one");
    std::thread::scope(|scope| {
        for version in available {
            scope.spawn(move || round(version));
        }
    });
}

#[test]
fn readiness_is_read_from_the_plugin_list() {
    for (text, expected) in [
        ("TYPE ID PLATFORMS STATUS\nio.containerd.grpc.v1 cri linux/amd64 ok\n", true),
        ("io.containerd.grpc.v1 cri - ok", true),
        ("io.containerd.grpc.v1 cri linux/amd64 error", false),
        ("io.containerd.grpc.v1 images - ok", false),
        ("", false),
    ] {
        assert_eq!(cri_is_up(text), expected, "{text:?}");
    }
}
