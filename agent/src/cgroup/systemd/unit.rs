//! The slice that a cgroup of the systemd layout is. Pure.

use crate::cgroup::CgroupError;

/// systemd's UNIT_NAME_MAX, without the NUL.
const NAME_MAX: usize = 255;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    pub name: String,
    /// The slice above, `-.slice` for the root.
    pub parent: String,
}

/// The unit of the cgroup at `path`, which is what [`oomlet_core::cgroup::names`] has made: the last part is the unit's name.
///
/// # Errors
/// [`CgroupError::Unit`] where the last part cannot name a slice.
pub fn of(path: &str) -> Result<Slice, CgroupError> {
    let mut parts = path.rsplit('/').filter(|part| !part.is_empty());
    let name = parts.next().unwrap_or_default().to_owned();
    if let Some(why) = why_not(&name) {
        return Err(CgroupError::Unit { action: "get asked to make", unit: name, why: why.to_owned() });
    }
    Ok(Slice { name, parent: parts.next().unwrap_or("-.slice").to_owned() })
}

/// systemd.unit(5); a slice may neither begin nor end with its separator, nor repeat it (systemd.slice(5)).
fn why_not(name: &str) -> Option<&'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\".contains(c);
    let stem = name.strip_suffix(".slice").unwrap_or_default();
    match () {
        () if stem.is_empty() => Some("its name does not end in `.slice`"),
        () if name.len() > NAME_MAX => Some("its name is longer than 255 bytes"),
        () if !stem.chars().all(allowed) => {
            Some("its name has a character other than ASCII letters, digits and `:_.\\-`")
        }
        () if stem.starts_with('-') || stem.ends_with('-') || stem.contains("--") => {
            Some("a part of its name is empty")
        }
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oomlet_core::cgroup::names::{self, Layout};
    use oomlet_core::pod::qos::QosClass;

    #[test]
    fn slices_of_paths() {
        for (path, name, parent) in [
            ("/kubepods.slice", "kubepods.slice", "-.slice"),
            ("/kubepods.slice/kubepods-burstable.slice", "kubepods-burstable.slice", "kubepods.slice"),
            ("/a_b.slice/a_b-kubepods.slice/", "a_b-kubepods.slice", "a_b.slice"),
        ] {
            assert_eq!(of(path).unwrap(), Slice { name: name.into(), parent: parent.into() });
        }
    }

    #[test]
    fn what_names_no_slice_is_refused() {
        let long = format!("/{}.slice", "x".repeat(250));
        for (path, part) in [
            ("/", ".slice"),
            ("/kubepods", ".slice"),
            ("/.slice", ".slice"),
            ("/a-.slice", "empty"),
            ("/-a.slice", "empty"),
            ("/a--b.slice", "empty"),
            ("/a b.slice", "character"),
            ("/ä.slice", "character"),
            (&long, "255"),
        ] {
            let error = of(path).unwrap_err().to_string();
            assert!(error.contains(part), "{path}: {error}");
        }
    }

    #[test]
    fn every_cgroup_of_a_node_has_a_unit() {
        for root in ["/", "/oomlet-demo-x1", "/a/b-c"] {
            let uid = "0b1a77c4-18f0-4d13-9f2e-b6a3c0aa11d2".into();
            for qos in QosClass::ALL {
                let path = names::pod(Layout::Systemd, root, &uid, qos);
                let above = names::qos_class(Layout::Systemd, root, qos);
                assert_eq!(of(&path).unwrap().parent, of(&above).unwrap().name);
            }
        }
    }
}
