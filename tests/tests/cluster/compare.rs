//! The agent held against what kubelet did with the same manifests: what differs has its reason in
//! tests/compare/reasons.yaml. `cargo xtask compare` runs all of them, with kubelet too; here is what takes little time.

use oomlet_tests::cluster;
use oomlet_tests::slot::Slot;
use xtask::compare::difference::{self, Reasons, Standing};
use xtask::compare::peer::Kind;
use xtask::compare::record::Recording;
use xtask::compare::{self, corpus};

/// Those that are about time are for the command.
const FAST: [&str; 12] = [
    "besteffort",
    "config-missing",
    "env",
    "guaranteed",
    "names",
    "node-affinity",
    "post-start-fails",
    "pre-stop",
    "security-context",
    "two-ends",
    "volume-missing",
    "volumes",
];

#[test]
fn what_differs_from_kubelet_has_its_reason() {
    let plane = cluster::shared();
    let slot = Slot::take();
    let mut cases = corpus::read(&compare::corpus_dir(), None).unwrap();
    cases.retain(|case| FAST.contains(&case.name.as_str()));
    assert_eq!(cases.len(), FAST.len());
    let kubelet = Recording::read(&compare::recorded_dir(), &cases).unwrap();
    let oomlet = compare::run_peer(plane, Kind::Oomlet, &cases).unwrap();
    drop(slot);
    let reasons = Reasons::read(&compare::reasons_path()).unwrap();
    let found = difference::between(&kubelet, &oomlet, &reasons);
    let unexplained: Vec<String> =
        found.iter().filter(|one| one.standing == Standing::Unexplained).map(ToString::to_string).collect();
    assert!(unexplained.is_empty(), "{}", unexplained.join("\n"));
}
