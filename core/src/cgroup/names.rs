//! What kubelet calls the cgroups of the kubepods tree, in both layouts. Pure.
//!
//! cgroupfs: `<cgroupRoot>/kubepods[/burstable|/besteffort]/pod<uid>`; a container's directory below it is
//! its id. systemd: the same path with each part a slice, named by all parts above it
//! (`kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice`, `-` in a part written `_`);
//! a container's directory is `cri-containerd-<id>.scope`.

use crate::pod::PodUid;
use crate::pod::qos::QosClass;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    #[default]
    Cgroupfs,
    Systemd,
}

const KUBEPODS: &str = "kubepods";
const SLICE: &str = ".slice";
const SCOPE: &str = ".scope";

/// The QoS class's part of the path. Guaranteed pods sit directly below `kubepods`.
#[must_use]
pub const fn qos_part(qos: QosClass) -> Option<&'static str> {
    match qos {
        QosClass::Guaranteed => None,
        QosClass::Burstable => Some("burstable"),
        QosClass::BestEffort => Some("besteffort"),
    }
}

/// Path of kubelet's `cgroupRoot`, absolute within each hierarchy.
#[must_use]
pub fn root(layout: Layout, cgroup_root: &str) -> String {
    let parts = parts(cgroup_root);
    if parts.len() == 1 { "/".to_owned() } else { path(layout, &parts[..parts.len() - 1]) }
}

/// Path of `kubepods`, absolute within each hierarchy.
#[must_use]
pub fn kubepods(layout: Layout, cgroup_root: &str) -> String {
    path(layout, &parts(cgroup_root))
}

/// Path of a QoS class's cgroup; for Guaranteed that is `kubepods` itself.
#[must_use]
pub fn qos_class(layout: Layout, cgroup_root: &str, qos: QosClass) -> String {
    let mut parts = parts(cgroup_root);
    parts.extend(qos_part(qos));
    path(layout, &parts)
}

/// Path of a pod's cgroup. It is also what goes into the CRI's `cgroup_parent`: containerd takes all of it
/// with cgroupfs and its last part with systemd.
///
/// A `/` in the UID, which [`check_uid`] refuses, becomes `_`: the path never leaves the QoS class's cgroup.
#[must_use]
pub fn pod(layout: Layout, cgroup_root: &str, uid: &PodUid, qos: QosClass) -> String {
    let pod = format!("pod{}", uid.as_str().replace(['/', '\0'], "_"));
    let mut parts = parts(cgroup_root);
    parts.extend(qos_part(qos));
    parts.push(&pod);
    path(layout, &parts)
}

/// Pod UID of a directory below a QoS class's cgroup, if it is a pod's.
#[must_use]
pub fn pod_uid(layout: Layout, dir_name: &str) -> Option<PodUid> {
    let uid = match layout {
        Layout::Cgroupfs => dir_name.strip_prefix("pod").map(str::to_owned),
        Layout::Systemd => {
            let part = dir_name.strip_suffix(SLICE)?.rsplit('-').next()?;
            // `-` was written `_`; a UID has no `_` of its own.
            part.strip_prefix("pod").map(|uid| uid.replace('_', "-"))
        }
    }?;
    (!uid.is_empty()).then(|| PodUid::from(uid.as_str()))
}

/// Container id of a directory below a pod's cgroup.
#[must_use]
pub fn container_id(layout: Layout, dir_name: &str) -> Option<String> {
    match layout {
        Layout::Cgroupfs => Some(dir_name.to_owned()),
        // `<runtime's prefix>-<id>.scope`; container ids have no hyphen.
        Layout::Systemd => Some(dir_name.strip_suffix(SCOPE)?.rsplit_once('-')?.1.to_owned()),
    }
}

/// Why a UID cannot be part of a path, if it cannot.
///
/// # Errors
/// The reason, as the end of a sentence.
pub fn check_uid(uid: &PodUid) -> Result<(), &'static str> {
    match uid.as_str() {
        "" => Err("it is empty"),
        // NAME_MAX is 255; `pod`, the systemd prefix and suffix need their share.
        u if u.len() > 200 => Err("it is longer than 200 bytes"),
        u if u.contains(['/', '\0', '\n']) => Err("it contains a slash, a newline or a NUL"),
        "." | ".." => Err("it is a directory reference"),
        _ => Ok(()),
    }
}

fn parts(cgroup_root: &str) -> Vec<&str> {
    cgroup_root.split('/').filter(|p| !p.is_empty()).chain([KUBEPODS]).collect()
}

fn path(layout: Layout, parts: &[&str]) -> String {
    match layout {
        Layout::Cgroupfs => format!("/{}", parts.join("/")),
        Layout::Systemd => {
            let mut path = String::new();
            let mut slice = String::new();
            for part in parts {
                if !slice.is_empty() {
                    slice.push('-');
                }
                slice.push_str(&part.replace('-', "_"));
                path.push('/');
                path.push_str(&slice);
                path.push_str(SLICE);
            }
            path
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Layout::{Cgroupfs, Systemd};
    use QosClass::{BestEffort, Burstable, Guaranteed};
    use proptest::prelude::*;

    const UID: &str = "9c1f-4e";

    #[test]
    fn pod_paths() {
        let check = |layout, root, qos, want: &str| {
            assert_eq!(pod(layout, root, &UID.into(), qos), want);
        };
        check(Cgroupfs, "/", Guaranteed, "/kubepods/pod9c1f-4e");
        check(Cgroupfs, "/", Burstable, "/kubepods/burstable/pod9c1f-4e");
        check(Cgroupfs, "/a/b-c/", BestEffort, "/a/b-c/kubepods/besteffort/pod9c1f-4e");
        check(Systemd, "/", Guaranteed, "/kubepods.slice/kubepods-pod9c1f_4e.slice");
        check(
            Systemd,
            "/",
            Burstable,
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod9c1f_4e.slice",
        );
        check(
            Systemd,
            "/a-b",
            BestEffort,
            "/a_b.slice/a_b-kubepods.slice/a_b-kubepods-besteffort.slice/a_b-kubepods-besteffort-pod9c1f_4e.slice",
        );
    }

    #[test]
    fn class_paths() {
        assert_eq!(root(Cgroupfs, "/a/b-c/"), "/a/b-c");
        assert_eq!(root(Systemd, "/a/b-c"), "/a.slice/a-b_c.slice");
        assert_eq!([root(Cgroupfs, "/"), root(Systemd, "")], ["/", "/"]);
        assert_eq!(kubepods(Cgroupfs, "/"), "/kubepods");
        assert_eq!(kubepods(Systemd, "/"), "/kubepods.slice");
        assert_eq!(qos_class(Cgroupfs, "/x", Guaranteed), "/x/kubepods");
        assert_eq!(qos_class(Systemd, "", Burstable), "/kubepods.slice/kubepods-burstable.slice");
    }

    #[test]
    fn names_read_back() {
        let check = |layout, name, want: Option<&str>| {
            assert_eq!(pod_uid(layout, name), want.map(PodUid::from), "{name}");
        };
        check(Cgroupfs, "pod9c1f-4e", Some(UID));
        check(Cgroupfs, "burstable", None);
        check(Cgroupfs, "pod", None);
        check(Systemd, "kubepods-burstable-pod9c1f_4e.slice", Some(UID));
        check(Systemd, "kubepods-burstable.slice", None);
        check(Systemd, "kubepods-pod9c1f_4e", None);
        assert_eq!(container_id(Cgroupfs, "0af3").as_deref(), Some("0af3"));
        assert_eq!(container_id(Systemd, "cri-containerd-0af3.scope").as_deref(), Some("0af3"));
        assert_eq!(container_id(Systemd, "init"), None);
    }

    #[test]
    fn uids_that_would_leave_the_tree_are_refused() {
        for uid in ["", ".", "..", "a/b", "../x", "a\0b", "a\nb"] {
            assert!(check_uid(&uid.into()).is_err(), "{uid:?}");
        }
        assert_eq!(check_uid(&UID.into()), Ok(()));
        assert_eq!(pod(Cgroupfs, "/", &"/../../x".into(), Guaranteed), "/kubepods/pod_.._.._x");
    }

    proptest! {
        #[test]
        fn any_valid_uid_reads_back(uid in "[0-9a-f][0-9a-f-]{0,40}") {
            for layout in [Cgroupfs, Systemd] {
                for qos in QosClass::ALL {
                    let path = pod(layout, "/", &uid.as_str().into(), qos);
                    let name = path.rsplit('/').next().unwrap();
                    prop_assert_eq!(pod_uid(layout, name), Some(uid.as_str().into()));
                }
            }
        }
    }
}
