//! What the needs of a machine are there for, and which of them each command has.

/// Each need has one role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs pods.
    Node,
    /// Compiles and links what runs in user space.
    Build,
    /// Sample images are made from it.
    Fixture,
    /// Compiles and links the eBPF programs.
    Ebpf,
    /// Format and lints.
    Checks,
    /// Releases of containerd besides the system's own: the tests run against each.
    Containerds,
    /// Builds a Kubernetes control plane.
    ControlPlane,
    /// Builds and runs Kubernetes' own tests of a node.
    Conformance,
    /// Scrapes the agent's metrics, and checks rules and dashboards.
    Monitoring,
    /// A kubectl as old as any that nodes meet.
    OldKubectl,
    /// Makes and boots virtual machines.
    Lab,
    /// Checks the Vagrantfile.
    Vagrant,
    /// Inside the lab's virtual machines only.
    Guest,
}

impl Role {
    /// As `vagrant/packages.txt` names it. The others have no packages of the system's.
    pub fn of_packages(name: &str) -> Option<Role> {
        Some(match name {
            "node" => Role::Node,
            "build" => Role::Build,
            "fixture" => Role::Fixture,
            "ebpf" => Role::Ebpf,
            "conformance" => Role::Conformance,
            "lab" => Role::Lab,
            "vagrant" => Role::Vagrant,
            "guest" => Role::Guest,
            _ => return None,
        })
    }
}

/// The agent and the workload.
pub const BUILD: &[Role] = &[Role::Build, Role::Ebpf];
/// Pods on this machine: `demo`, `bench`.
pub const DEMO: &[Role] = &[Role::Node, Role::Build, Role::Fixture, Role::Ebpf];
/// `demo --cluster`.
pub const CLUSTER_DEMO: &[Role] = &[Role::Node, Role::Build, Role::Fixture, Role::Ebpf, Role::ControlPlane];
/// `cargo xtask control-plane`.
pub const CONTROL_PLANE: &[Role] = &[Role::ControlPlane];
/// Pods of a control plane on this machine.
pub const COMPARE: &[Role] =
    &[Role::Node, Role::Build, Role::Fixture, Role::Ebpf, Role::Containerds, Role::ControlPlane];
/// Upstream's tests on this machine.
pub const CONFORMANCE: &[Role] = &[
    Role::Node,
    Role::Build,
    Role::Fixture,
    Role::Ebpf,
    Role::Containerds,
    Role::ControlPlane,
    Role::Conformance,
];
/// `bench scrape`, besides what it runs pods with.
pub const SCRAPE: &[Role] = &[Role::Monitoring];
/// Pods in virtual machines.
pub const LAB: &[Role] = &[Role::Node, Role::Build, Role::Fixture, Role::Ebpf, Role::Lab];
/// `cargo xtask test`, and what `cargo xtask setup` installs: all but Vagrant, whose hundred packages of Ruby check
/// one file.
pub const TEST: &[Role] = &[
    Role::Node,
    Role::Build,
    Role::Fixture,
    Role::Ebpf,
    Role::Checks,
    Role::Containerds,
    Role::ControlPlane,
    Role::Monitoring,
    Role::OldKubectl,
    Role::Lab,
];
/// `cargo xtask setup --vagrant`.
pub const WITH_VAGRANT: &[Role] = &[
    Role::Node,
    Role::Build,
    Role::Fixture,
    Role::Ebpf,
    Role::Checks,
    Role::Containerds,
    Role::ControlPlane,
    Role::Monitoring,
    Role::OldKubectl,
    Role::Lab,
    Role::Vagrant,
];
