//! A kernel that was booted with `lockdown=confidentiality` lets nobody read its memory: programs that do are refused.
//! The others are loaded, and pods are evicted in time all the same.

use oomlet_tests::capped::CappedNode;
use oomlet_tests::newest;

#[test]
fn a_locked_down_kernel_costs_programs_not_evictions() {
    let lockdown = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap();
    assert!(lockdown.contains("[confidentiality]"), "this test wants another boot: {lockdown}");
    let capped = CappedNode::start("lockdown", newest(), "100Mi", |_| ());
    let started = capped.node.wait_record("the start", |r| r.reason == "AgentStarted");
    assert!(started.number("tier").is_some_and(|tier| tier < 2), "{}", started.message);
    let log = capped.node.agent_log();
    let refused: Vec<&str> = log.lines().filter(|l| l.contains("eBPF program unavailable")).collect();
    assert!(refused.iter().any(|l| l.contains("oom_kill_process")), "{log}");
    assert!(refused.iter().any(|l| l.contains("lockdown")), "the reason is named: {refused:#?}");
    capped.hog(100, &["--max-mib", "1000"]);
    capped.expect_eviction();
}
