//! What the integration tests (`tests/suite`, `tests/cluster`) share. Each test has a node of its own: a private
//! containerd, and the agent as users get it, as a process that is given a configuration, manifests and signals.
//!
//! - [`node`]: that node, and the questions that tests ask of it.
//! - [`capped`]: a node under a cap, with a hog and neighbours.
//! - [`cluster`]: a real control plane.
//! - [`slot`]: how many nodes there are at a time.
//! - [`speed`]: how fast things go here.
//! - [`command`]: the agent's commands, run to their end.
//! - [`pod`]: a pod's status as `oomlet pods --output json` shows it.
//! - [`cgroup`]: limits and shares of cgroups, whichever version the machine has.
//!
//! This is test code: what cannot go on panics, and the panic says what was looked for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

pub mod capped;
pub mod cgroup;
pub mod cluster;
pub mod command;
pub mod https;
pub mod node;
pub mod pod;
pub mod slot;
pub mod speed;

pub use node::Node;
use xtask::private_containerd::Version;

/// The oldest containerd of the machine: Debian stable's own, which has no event stream for containers.
#[must_use]
pub fn oldest() -> Version {
    *Version::available().unwrap().first().expect("`cargo xtask setup` installs containerd")
}

/// The newest one.
#[must_use]
pub fn newest() -> Version {
    *Version::available().unwrap().last().expect("`cargo xtask setup` installs containerd")
}

/// Those that are neither the oldest nor the newest, if the machine has three or more.
#[must_use]
pub fn between() -> Vec<Version> {
    let available = Version::available().unwrap();
    available.into_iter().filter(|v| *v != oldest() && *v != newest()).collect()
}

/// Makes two tests of each function that takes a containerd version.
#[macro_export]
macro_rules! on_oldest_and_newest_containerd {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            #[test]
            fn on_the_oldest_containerd() {
                super::$name($crate::oldest());
            }

            #[test]
            fn on_the_newest_containerd() {
                if $crate::newest() == $crate::oldest() {
                    eprintln!("there is one containerd only; `cargo xtask setup` says why");
                    return;
                }
                super::$name($crate::newest());
            }
        }
    )+};
}
