//! The agent is killed and started again: no running pod is disturbed, and what happened meanwhile is made up for.

use std::time::Duration;

use oomlet_tests::node::Node;
use oomlet_tests::speed::rate_mib_s;
use oomlet_tests::{on_oldest_and_newest_containerd, pod};
use serde_json::json;
use xtask::node::manifest::{pod as workload, with_memory};
use xtask::private_containerd::Version;

on_oldest_and_newest_containerd!(a_killed_agent_takes_its_pods_over);

fn a_killed_agent_takes_its_pods_over(version: Version) {
    let mut node = Node::new("adoption", version);
    let mut two = workload("two", "idle", &[]);
    let mut beside = two["spec"]["containers"][0].clone();
    beside["name"] = json!("beside");
    two["spec"]["containers"].as_array_mut().unwrap().push(beside);
    two["spec"]["volumes"] = json!([{ "name": "memory", "emptyDir": { "medium": "Memory" } }]);
    let mut job = workload("job", "exit", &[]);
    job["spec"]["restartPolicy"] = json!("OnFailure");
    for manifest in [&two, &job, &workload("garbled", "idle", &[]), &workload("deleted", "idle", &[])] {
        node.put(manifest);
    }
    node.start();
    node.wait_up(&["two", "garbled", "deleted"]);
    node.wait_pod("job", "Succeeded", |pod| pod::phase(pod) == "Succeeded");
    let of = |node: &Node, name: &str| node.running_of(name);
    let (two_before, garbled_before) = (of(&node, "two"), of(&node, "garbled"));
    assert_eq!(two_before.len(), 2);
    let job_before = node.pod("job").unwrap();

    node.kill_agent().unwrap();
    assert_eq!(node.pod("two").map(|p| pod::is_up(&p)), Some(true), "`oomlet pods` works without the agent");
    node.remove_manifest("deleted").unwrap();
    node.put_manifest_text("garbled", "{ this is no manifest").unwrap();
    node.put(&workload("added", "idle", &[]));
    node.start();
    node.wait_up(&["added"]);
    node.wait_gone("deleted");
    node.wait_record("garbled's manifest", |r| {
        r.reason == "ManifestRejected" && r.message.contains("garbled")
    });

    assert_eq!(of(&node, "deleted"), []);
    // Ids and pids: nothing was restarted, and nothing runs twice.
    assert_eq!(of(&node, "two"), two_before);
    assert_eq!(of(&node, "garbled"), garbled_before);
    for name in ["two", "garbled"] {
        let pod = node.wait_pod(name, "up", pod::is_up);
        assert_eq!(pod::container(&pod, "main")["restartCount"], 0);
    }
    let job = node.pod("job").unwrap();
    assert_eq!(pod::phase(&job), "Succeeded");
    let id = |pod| pod::container(pod, "main")["containerID"].clone();
    assert_eq!(id(&job), id(&job_before), "a job that is done is not run again");
    // The agent that took over also lets go.
    node.remove_manifest("two").unwrap();
    node.wait_gone("two");
    assert_eq!(of(&node, "two"), []);

    // Asked to end, it leaves in order, and pods run on.
    let agent = node.agent.as_mut().unwrap();
    let status = agent.terminate(Duration::from_secs(10)).unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(of(&node, "garbled"), garbled_before);
    assert_eq!(of(&node, "added").len(), 1);
}

#[test]
fn an_evicted_pod_is_known_at_the_next_start_and_tried_again() {
    let mut node = Node::new("known-evicted", oomlet_tests::newest());
    node.cap_kubepods(200).unwrap();
    node.config_mut()["evictionHard"] = json!({ "memory.available": "60Mi" });
    // restartPolicy Always: what keeps it from starting again is the eviction alone.
    let args = ["--rate-mib-s", &rate_mib_s(100), "--max-mib", "1000"];
    let hog = with_memory(workload("hog", "hog", &args), "16Mi", "");
    node.put(&workload("neighbour", "idle", &[]));
    node.start();
    // On a slow machine the hog would be evicted before its neighbour has begun.
    node.wait_up(&["neighbour"]);
    node.put(&hog);
    let evicted = node.wait_pod("hog", "evicted", |pod| pod::reason(pod) == "Evicted");
    node.wait("the hog has stopped", |node| node.running_of("hog").is_empty());
    let neighbour = node.the_container_of("neighbour");

    node.kill_agent().unwrap();
    node.start();
    node.wait_record("the adoption of a failed pod", |r| {
        r.reason == "PodAdopted" && r.message.contains("failed before the agent started")
    });
    let known = node.pod("hog").unwrap();
    assert_eq!((pod::phase(&known), pod::reason(&known)), ("Failed", "Evicted"));
    assert_eq!(known["status"]["message"], evicted["status"]["message"]);
    assert_eq!(pod::condition(&known, "DisruptionTarget"), "True");
    // Its back-off is ten seconds; as it is no better than before, it is evicted again.
    node.wait_record("another try", |r| r.reason == "RetryAfterEviction");
    node.wait("the second eviction", |node| node.records("Decision").len() == 2);
    node.wait("the hog has stopped", |node| node.running_of("hog").is_empty());
    assert_eq!(node.the_container_of("neighbour"), neighbour);
    node.remove_manifest("hog").unwrap();
    node.wait_gone("hog");
}
