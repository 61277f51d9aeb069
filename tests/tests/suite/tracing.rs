//! kubelet's `tracing:` key: spans of what is done for pods, at a collector.

use std::net::{Ipv4Addr, TcpListener};

use oomlet_tests::collector::{Collector, Received};
use oomlet_tests::newest;
use oomlet_tests::node::{Node, pod_name, script};
use serde_json::json;
use xtask::node::manifest::pod as workload;

#[test]
fn the_steps_of_a_pod_are_spans_below_its_sync() {
    let collector = Collector::start();
    let mut node = Node::new("tracing", newest());
    node.config_mut()["tracing"] =
        json!({ "endpoint": collector.endpoint(), "samplingRatePerMillion": 1_000_000 });
    node.put(&workload("traced", "idle", &[]));
    let mut absent = script("absent", "true");
    absent["spec"]["containers"][0]["image"] = json!("example.com/absent:1");
    node.put(&absent);
    node.start();
    node.wait_up(&["traced"]);
    node.remove_manifest("traced").unwrap();
    node.wait_gone("traced");

    let of = |name: &str, pod: &str| -> Option<Received> {
        let pod = pod_name(pod);
        let is_of = |r: &Received| r.span.name == name && r.attribute("k8s.pod.name") == pod;
        collector.spans().into_iter().find(is_of)
    };
    // They come five seconds later at most.
    node.wait("the spans of both pods", |_| {
        of("syncTerminatedPod", "traced").is_some() && of("syncPod", "absent").is_some()
    });
    let all = collector.spans();
    assert!(all.iter().all(|r| r.service == "kubelet" && !r.host.is_empty()), "{all:?}");
    let below = |root: &Received, name: &str| -> Option<Received> {
        let is_below = |r: &&Received| r.span.parent_span_id == root.span.span_id && r.span.name == name;
        all.iter().find(is_below).cloned()
    };

    let started = all
        .iter()
        .find(|r| r.attribute("k8s.pod.name") == pod_name("traced") && below(r, "startContainer").is_some());
    let started = started.expect("a sync that has started a container");
    assert_eq!(started.span.name, "syncPod");
    let mut ends = 0;
    for step in [
        "getPodStatus",
        "ensurePodCgroup",
        "getVolumeContents",
        "setUpVolumes",
        "createPodSandbox",
        "ensureImageExists",
        "createContainer",
        "startContainer",
    ] {
        let step = below(started, step).unwrap_or_else(|| panic!("no {step}"));
        assert!(!step.is_error(), "{step:?}");
        let times = step.span.start_time_unix_nano..=step.span.end_time_unix_nano;
        // One after the other, within the sync.
        assert!(*times.start() >= ends && times.end() <= &started.span.end_time_unix_nano, "{step:?}");
        ends = *times.end();
    }
    let ending = of("syncTerminatingPod", "traced").expect("its end");
    assert!(!ending.is_error(), "{ending:?}");

    let failed = of("syncPod", "absent").unwrap();
    assert!(failed.is_error(), "{failed:?}");
    let image = below(&failed, "ensureImageExists").expect("the step that failed");
    assert!(image.is_error() && image.attribute("k8s.container.name") == "main", "{image:?}");
}

#[test]
fn a_collector_that_does_not_answer_holds_nothing_up() {
    // Connections are made and nobody reads them.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut node = Node::new("no-collector", newest());
    let endpoint = silent.local_addr().unwrap().to_string();
    node.config_mut()["tracing"] = json!({ "endpoint": endpoint, "samplingRatePerMillion": 1_000_000 });
    node.start();
    for round in 0..2 {
        let name = format!("pod-{round}");
        node.put(&workload(&name, "idle", &[]));
        node.wait_up(&[&name]);
    }
    node.wait("the loss is told", |node| node.agent_log().contains("spans are lost"));
    node.put(&workload("pod-2", "idle", &[]));
    node.wait_up(&["pod-2"]);
    assert_eq!(node.agent_log().matches("spans are lost").count(), 1);
    node.remove_manifest("pod-0").unwrap();
    node.wait_gone("pod-0");
}
