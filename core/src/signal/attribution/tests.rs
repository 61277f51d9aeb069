use proptest::prelude::*;

use super::*;
use crate::signal::Hierarchy;

const UID: &str = "0c2b8a0e-7d5b-4b5e-9c57-0d6d7a1b2c3d";
const ID: &str = "3f1e2d4c5b6a79880123456789abcdef3f1e2d4c5b6a79880123456789abcdef";

fn id(n: u64) -> CgroupId {
    CgroupId { hierarchy: Hierarchy::Unified, id: n }
}

#[test]
fn paths_of_both_drivers() {
    let uid_ = UID.replace('-', "_");
    for (path, want) in [
        (format!("/kubepods/burstable/pod{UID}/{ID}"), Some((UID, Some(ID)))),
        (format!("/kubepods/pod{UID}/{ID}"), Some((UID, Some(ID)))),
        (format!("kubepods/besteffort/pod{UID}"), Some((UID, None))),
        (format!("/some/parent/kubepods/burstable/pod{UID}/{ID}/init.scope"), Some((UID, Some(ID)))),
        (
            format!("/kubepods/burstable/pod5d41402abc4b2a76b9719d911017c592/{ID}"),
            Some(("5d41402abc4b2a76b9719d911017c592", Some(ID))),
        ),
        (
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid_}.slice/cri-containerd-{ID}.scope"
            ),
            Some((UID, Some(ID))),
        ),
        (format!("/kubepods.slice/kubepods-pod{uid_}.slice/crio-{ID}.scope"), Some((UID, Some(ID)))),
        (
            format!("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{uid_}.slice"),
            Some((UID, None)),
        ),
        (
            format!(
                "/a.slice/a-kubepods.slice/a-kubepods-burstable.slice/a-kubepods-burstable-pod{uid_}.slice/cri-containerd-{ID}.scope/x"
            ),
            Some((UID, Some(ID))),
        ),
        ("/kubepods/burstable".to_owned(), None),
        ("/kubepods.slice/kubepods-burstable.slice".to_owned(), None),
        ("/system.slice/containerd.service".to_owned(), None),
        ("/podman/whatever".to_owned(), None),
        ("/kubepods/pod".to_owned(), None),
        (String::new(), None),
    ] {
        let got = parse_cgroup_path(&path);
        let want = want.map(|(uid, c): (&str, Option<&str>)| CgroupPath {
            pod: PodUid::from(uid),
            container_id: c.map(str::to_owned),
        });
        assert_eq!(got, want, "{path}");
    }
}

#[test]
fn a_pod_is_forgotten_with_its_containers() {
    let (a, b) = (PodUid::from("a"), PodUid::from("b"));
    let mut names = Attribution::default();
    names.insert(id(1), Target::Pod(a.clone()));
    names.insert(id(2), Target::Container(a.clone(), "hog".into()));
    names.insert(id(3), Target::Pod(b.clone()));
    names.name_container(ID, a.clone(), "hog");
    let path = format!("/kubepods/poda/{ID}");
    assert_eq!(names.by_path(&path), Some(Target::Container(a.clone(), "hog".into())));
    assert_eq!(names.lookup(id(2)).and_then(Target::container), Some("hog"));

    names.remove_pod(&a);
    assert_eq!((names.lookup(id(1)), names.lookup(id(2))), (None, None));
    assert_eq!(names.lookup(id(3)).and_then(Target::pod), Some(&b));
    assert_eq!(names.by_path(&path), Some(Target::Pod(a)), "the path alone still tells the pod");
    assert_eq!(names.remove(id(3)), Some(Target::Pod(b)));
}

#[test]
fn which_limit_killed() {
    const MIB: u64 = 1 << 20;
    let mut names = Attribution::default();
    names.insert(id(1), Target::Container(PodUid::from("a"), "c".into()));
    names.insert(id(2), Target::Pod(PodUid::from("a")));
    names.insert(id(3), Target::Qos(QosClass::Burstable));
    names.insert(id(4), Target::Kubepods);
    let level =
        |n, usage_bytes, limit: Option<u64>| MemcgLevel { cgroup: id(n), usage_bytes, limit_bytes: limit };
    let tree = |usage: [u64; 4], limit: [Option<u64>; 4]| -> Vec<_> {
        (0..4).map(|i| level(i as u64 + 1, usage[i] * MIB, limit[i].map(|l| l * MIB))).collect()
    };
    for (levels, want, at) in [
        (tree([64, 65, 100, 200], [Some(64), Some(64), None, Some(300)]), OomLimit::Container, Some(1)),
        (tree([60, 64, 100, 200], [Some(64), Some(64), None, Some(300)]), OomLimit::Pod, Some(2)),
        // The pause container's share; and a neighbour's in a pod with a limit of its own.
        (tree([63, 64, 100, 200], [Some(64), Some(64), None, Some(300)]), OomLimit::Container, Some(1)),
        (tree([63, 64, 100, 200], [Some(80), Some(64), None, Some(300)]), OomLimit::Pod, Some(2)),
        (tree([60, 62, 100, 200], [Some(64), None, Some(100), Some(300)]), OomLimit::Qos, Some(3)),
        (tree([60, 62, 100, 300], [None, None, None, Some(300)]), OomLimit::Kubepods, Some(4)),
        (tree([60, 62, 100, 200], [Some(64), None, None, Some(300)]), OomLimit::Node, None),
        (vec![], OomLimit::Node, None),
        // An unknown level is told by its place.
        (vec![level(9, 10 * MIB, Some(10 * MIB)), level(2, 20 * MIB, None)], OomLimit::Container, Some(9)),
        (vec![level(9, 10 * MIB, Some(10 * MIB)), level(4, 20 * MIB, None)], OomLimit::Pod, Some(9)),
        (vec![level(9, 10 * MIB, Some(10 * MIB))], OomLimit::Other, Some(9)),
        // The failed charge is not part of the usage; more than that is room.
        (vec![level(1, 64 * MIB - 32 * 1024, Some(64 * MIB))], OomLimit::Container, Some(1)),
        (vec![level(1, 64 * MIB - 65 * 1024, Some(64 * MIB))], OomLimit::Node, None),
    ] {
        let got = oom_limit(&levels, &names);
        assert_eq!((got.limit, got.level.map(|l| l.cgroup.id)), (want, at), "{levels:?}");
    }
    for (levels, want, at) in [
        (tree([60, 62, 100, 200], [None, Some(64), None, Some(300)]), OomLimit::Pod, Some(2)),
        (tree([60, 64, 100, 299], [None, Some(64), None, Some(300)]), OomLimit::Pod, Some(2)),
        (tree([60, 62, 100, 200], [None, None, None, None]), OomLimit::Node, None),
    ] {
        let got = nearest_limit(&levels, &names);
        assert_eq!((got.limit, got.level.map(|l| l.cgroup.id)), (want, at), "{levels:?}");
    }
}

proptest! {
    #[test]
    fn any_path_is_read_without_panic(path in ".{0,200}") {
        let _ = parse_cgroup_path(&path);
    }

    #[test]
    fn what_a_driver_writes_is_read_back(uid in "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", id in "[0-9a-f]{64}", class in 0..3usize) {
        let class = ["", "burstable", "besteffort"][class];
        let dashed = if class.is_empty() { String::new() } else { format!("-{class}") };
        let want = Some(CgroupPath { pod: PodUid::from(uid.as_str()), container_id: Some(id.clone()) });
        prop_assert_eq!(parse_cgroup_path(&format!("/kubepods/{class}/pod{uid}/{id}")), want.clone());
        let under = uid.replace('-', "_");
        prop_assert_eq!(parse_cgroup_path(&format!("/kubepods.slice/kubepods{dashed}-pod{under}.slice/cri-containerd-{id}.scope")), want);
    }
}
