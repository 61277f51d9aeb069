use std::process::Command;

use super::*;

#[test]
fn a_panic_leaves_nothing_behind() {
    let made = std::sync::Mutex::new(None);
    let result = std::panic::catch_unwind(|| {
        let scratch = Scratch::new("unit").unwrap();
        let cgroup = scratch.cgroup_dir("freezer").unwrap();
        std::fs::create_dir_all(cgroup.join("inner")).unwrap();
        let mount = scratch.create_dir("mnt/with space").unwrap();
        process_output("mount", &["-t", "tmpfs", "tmpfs", mount.to_str().unwrap()]);
        // Frozen, as a brake would leave it.
        let sleeper = Command::new("sleep").arg("1000").spawn().unwrap();
        std::fs::write(cgroup.join("inner/cgroup.procs"), sleeper.id().to_string()).unwrap();
        let _ = std::fs::write(cgroup.join("inner/freezer.state"), "FROZEN");
        let _ = std::fs::write(cgroup.join("inner/cgroup.freeze"), "1");
        *made.lock().unwrap() = Some((scratch.path().to_owned(), cgroup, sleeper));
        let _scratch = scratch;
        panic!("as a failing test would");
    });
    assert!(result.is_err());
    let (dir, cgroup, mut sleeper) = made.into_inner().unwrap().unwrap();
    assert!(!dir.exists() && !cgroup.exists());
    assert!(!sleeper.wait().unwrap().success());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(dir.to_str().unwrap()));
}

#[test]
fn leftovers_of_the_dead_are_swept_and_those_of_the_living_stay() {
    let living = Scratch::new("living").unwrap();
    let dead = Scratch::new("dead").unwrap();
    let gone = dead.path().to_owned();
    let mut owner = dead.owner.clone();
    owner.start_ticks += 1;
    std::fs::write(gone.join(MARKER), serde_json::to_vec(&owner).unwrap()).unwrap();
    assert!(sweep_leftovers().unwrap() >= 1);
    assert!(living.path().exists() && !gone.exists());
}

#[test]
fn a_control_plane_of_the_dead_is_ended() {
    let scratch = Scratch::new("programs").unwrap();
    // A program is called by its first argument, here the link; its folder counts only in the others.
    let etcd = scratch.path().join("etcd");
    std::os::unix::fs::symlink("/bin/sh", &etcd).unwrap();
    let start = |program: &Path, dir: &Path| {
        let mut command = Command::new(program);
        command.args(["-c", "read -r line"]).arg(dir).stdin(std::process::Stdio::piped()).spawn().unwrap()
    };
    let mut ours = start(&etcd, scratch.path());
    let elsewhere = start(&etcd, Path::new("/nonexistent"));
    let pager = start(Path::new("/bin/sh"), scratch.path());
    let found: Vec<u32> = programs_below(scratch.path()).unwrap().into_iter().map(|(_, pid)| pid).collect();
    assert_eq!(found, [ours.id()]);
    assert_eq!(end_programs_below(scratch.path()).unwrap(), 1);
    assert!(!ours.wait().unwrap().success());
    for mut other in [elsewhere, pager] {
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}

#[test]
fn cni_results_of_killed_pods_go_and_those_of_others_stay() {
    let results = Path::new("/var/lib/cni/results");
    let scratch = Scratch::new("cni").unwrap();
    let unique = scratch.cgroup_root().trim_start_matches('/').to_owned();
    let (ours, others) = (results.join(format!("{unique}-ours")), results.join(format!("{unique}-others")));
    // Another scratch that ends at the same time may remove the folder while it is empty.
    assert!(crate::process::holds_within(std::time::Duration::from_secs(5), || {
        std::fs::create_dir_all(results).is_ok()
            && std::fs::write(&others, r#"{"netns":"/run/netns/x"}"#).is_ok()
    }));
    std::fs::write(&ours, format!(r#"{{"netns":"{}/containerd/state/netns/x"}}"#, scratch.path().display()))
        .unwrap();
    drop(scratch);
    assert!(!ours.exists() && others.exists());
    std::fs::remove_file(others).unwrap();
    for dir in ["/var/lib/cni/results", "/var/lib/cni"] {
        let _ = std::fs::remove_dir(dir);
    }
}

#[test]
fn a_folder_without_our_marker_is_not_touched() {
    let other = tempfile::Builder::new().prefix(PREFIX).tempdir_in(PARENT).unwrap();
    sweep_leftovers().unwrap();
    assert!(other.path().exists());
}

fn process_output(program: &str, args: &[&str]) {
    crate::process::output(Command::new(program).args(args)).unwrap();
}
