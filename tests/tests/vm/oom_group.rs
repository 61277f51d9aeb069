//! `memory.oom.group` of cgroup v2, as kubelet sets it: the kernel kills a container as a whole, unless
//! `singleProcessOOMKill` says otherwise.

use oomlet_tests::newest;
use oomlet_tests::node::{Node, pod_name};
use oomlet_tests::pod;
use oomlet_tests::speed::rate_mib_s;
use serde_json::{Value, json};
use xtask::node::manifest::{pod as workload, with_memory};

/// Its child takes more than the container may; the shell itself would go on.
fn parent_and_child() -> Value {
    let mut pod = with_memory(workload("family", "idle", &[]), "16Mi", "64Mi");
    pod["spec"]["restartPolicy"] = json!("Never");
    let rate = rate_mib_s(100);
    let script = format!(
        "/oomlet-workload hog --rate-mib-s {rate} --max-mib 200 & wait $!; echo child ended $?; sleep 1000"
    );
    pod["spec"]["containers"][0]["command"] = json!(["/bin/sh", "-c", script]);
    pod
}

fn start(label: &str, single_process: bool) -> Node {
    let mut node = Node::new(label, newest());
    if single_process {
        node.config_mut()["singleProcessOOMKill"] = json!(true);
    }
    node.start();
    node.put(&parent_and_child());
    node
}

#[test]
fn kills_take_the_whole_container() {
    let node = start("oom-group", false);
    let family = node.wait_pod("family", "Failed", |pod| pod::phase(pod) == "Failed");
    pod::assert_oom_killed(&family);
    assert_eq!(
        node.said("family", "main").matches("child ended").count(),
        0,
        "the parent did not outlive it"
    );
    let name = pod_name("family");
    let kill = node.wait_record("the kill", |r| r.kind == "OomKill" && r.pod_name() == name);
    assert_eq!(kill.domain.as_deref(), Some("container"), "{kill:?}");
}

#[test]
fn kills_take_one_process_where_that_is_asked_for() {
    let node = start("oom-single", true);
    node.wait("the child's end is logged", |node| node.said("family", "main").contains("child ended 137"));
    let name = pod_name("family");
    node.wait_record("the kill", |r| r.kind == "OomKill" && r.pod_name() == name);
    let family = node.pod("family").unwrap();
    assert!(pod::is_up(&family), "{}", family["status"]);
}
