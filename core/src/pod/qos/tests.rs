use serde_json::{Value, json};

use super::*;

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
}

/// `cpu/memory` pairs; `-` leaves one out.
fn container(name: &str, requests: &str, limits: &str) -> Value {
    let list = |text: &str| {
        let (cpu, memory) = text.split_once('/').unwrap();
        let mut map = serde_json::Map::new();
        for (key, value) in [("cpu", cpu), ("memory", memory)] {
            if value != "-" {
                map.insert(key.into(), value.into());
            }
        }
        map
    };
    json!({"name": name, "image": "i", "resources": {"requests": list(requests), "limits": list(limits)}})
}

fn sidecar(name: &str, requests: &str, limits: &str) -> Value {
    let mut c = container(name, requests, limits);
    c["restartPolicy"] = "Always".into();
    c
}

#[test]
fn classes() {
    use QosClass::{BestEffort, Burstable, Guaranteed};
    for (what, spec, want) in [
        ("nothing", json!({"containers": [container("a", "-/-", "-/-")]}), BestEffort),
        ("zeros", json!({"containers": [container("a", "0/0", "0/-")]}), BestEffort),
        ("equal", json!({"containers": [container("a", "1/1Gi", "1000m/1024Mi")]}), Guaranteed),
        ("no cpu limit", json!({"containers": [container("a", "-/1Gi", "-/1Gi")]}), Burstable),
        ("request only", json!({"containers": [container("a", "1/-", "-/-")]}), Burstable),
        ("less asked than allowed", json!({"containers": [container("a", "1/1Gi", "1/2Gi")]}), Burstable),
        (
            "one of two",
            json!({"containers": [container("a", "1/1Gi", "1/1Gi"), container("b", "-/-", "-/-")]}),
            Burstable,
        ),
        (
            "init container without limits",
            json!({"containers": [container("a", "1/1Gi", "1/1Gi")], "initContainers": [container("i", "-/-", "-/-")]}),
            Burstable,
        ),
        (
            "pod level",
            json!({"containers": [container("a", "-/-", "-/-")],
                "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}}),
            Guaranteed,
        ),
    ] {
        assert_eq!(QosClass::of(&pod(spec)), want, "{what}");
    }
}

#[test]
fn requests_are_the_peak() {
    const MI: u64 = 1 << 20;
    for (what, spec, milli_cpu, memory_mib) in [
        (
            "sum",
            json!({"containers": [container("a", "1/10Mi", "-/-"), container("b", "500m/5Mi", "-/-")]}),
            1500,
            15,
        ),
        (
            "hungry init container",
            json!({"containers": [container("a", "1/10Mi", "-/-")], "initContainers": [container("i", "100m/50Mi", "-/-")]}),
            1000,
            50,
        ),
        (
            "sidecar before an init container",
            json!({"containers": [container("a", "1/10Mi", "-/-")],
                "initContainers": [sidecar("s", "100m/20Mi", "-/-"), container("i", "2/30Mi", "-/-")]}),
            2100,
            50,
        ),
        (
            "sidecar after an init container",
            json!({"containers": [container("a", "1/10Mi", "-/-")],
                "initContainers": [container("i", "100m/25Mi", "-/-"), sidecar("s", "100m/20Mi", "-/-")]}),
            1100,
            30,
        ),
        (
            "overhead",
            json!({"containers": [container("a", "1/10Mi", "-/-")], "overhead": {"cpu": "250m", "memory": "1Mi"}}),
            1250,
            11,
        ),
    ] {
        assert_eq!(pod_requests(&pod(spec)), Amounts { milli_cpu, memory_bytes: memory_mib * MI }, "{what}");
    }
}

#[test]
fn pod_cgroups() {
    let resources = |spec| pod_cgroup_resources(&pod(spec), None);
    let best_effort = resources(json!({"containers": [container("a", "-/-", "-/-")]}));
    assert_eq!(best_effort, CgroupResources { cpu_shares: Some(2), ..Default::default() });

    let guaranteed = resources(json!({"containers": [container("a", "500m/64Mi", "500m/64Mi")]}));
    assert_eq!(
        guaranteed,
        CgroupResources {
            memory_limit_bytes: Some(64 << 20),
            cpu_shares: Some(512),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            pids_limit: None,
        }
    );

    // One container without a memory limit: the pod has none. Both have a CPU limit: the pod has.
    let burstable = pod_cgroup_resources(
        &pod(json!({"containers": [container("a", "1m/-", "1m/64Mi"), container("b", "1m/-", "1m/-")]})),
        Some(100),
    );
    assert_eq!(
        burstable,
        CgroupResources {
            memory_limit_bytes: None,
            cpu_shares: Some(2),
            cpu_quota_us: Some(1000),
            cpu_period_us: Some(100_000),
            pids_limit: Some(100),
        }
    );
}

#[test]
fn container_cgroups() {
    let of = |requests, limits| {
        container_resources(&serde_json::from_value(container("a", requests, limits)).unwrap())
    };
    assert_eq!(of("-/-", "-/-"), CgroupResources { cpu_shares: Some(2), ..Default::default() });
    // A limit without a request is the request.
    assert_eq!(of("-/-", "2/32Mi").cpu_shares, Some(2048));
    assert_eq!(of("-/-", "2/32Mi").memory_limit_bytes, Some(32 << 20));
    assert_eq!(of("250m/-", "2/-").cpu_shares, Some(256));
    assert_eq!(of("9999/-", "-/-").cpu_shares, Some(262_144));
}

#[test]
fn class_cgroups() {
    for (milli_cpu, shares) in [(0, 2), (1500, 1536), (u64::MAX, 262_144)] {
        assert_eq!(burstable_class_resources(milli_cpu).cpu_shares, Some(shares), "{milli_cpu}");
    }
}

#[test]
fn oom_scores() {
    const GI: u64 = 1 << 30;
    let adj = |spec: Value, name: &str| {
        let pod = pod(spec);
        let container = pod.spec.iter().flat_map(all_containers).find(|c| c.name == name).unwrap();
        oom_score_adj(&pod, container, 8 * GI)
    };
    assert_eq!(adj(json!({"containers": [container("a", "-/-", "-/-")]}), "a"), 1000);
    assert_eq!(adj(json!({"containers": [container("a", "1/1Gi", "1/1Gi")]}), "a"), -997);
    assert_eq!(adj(json!({"containers": [container("a", "-/4Gi", "-/-")]}), "a"), 500);
    assert_eq!(adj(json!({"containers": [container("a", "1/-", "-/-")]}), "a"), 999);
    assert_eq!(adj(json!({"containers": [container("a", "-/8Gi", "-/-")]}), "a"), 3);
    let with_sidecar = json!({"containers": [container("a", "-/4Gi", "-/-")], "initContainers": [sidecar("s", "-/1Mi", "-/-")]});
    assert_eq!(adj(with_sidecar, "s"), 500);
    let critical =
        json!({"containers": [container("a", "-/-", "-/-")], "priorityClassName": "system-node-critical"});
    assert_eq!(adj(critical, "a"), -997);
}

#[test]
fn critical_by_priority() {
    let critical = |spec| is_critical(&pod(spec));
    assert!(!critical(json!({"containers": []})));
    assert!(!critical(json!({"containers": [], "priority": 1_999_999_999})));
    assert!(critical(json!({"containers": [], "priority": 2_000_000_000})));
    for (class, want) in [("system-node-critical", true), ("system-cluster-critical", true), ("high", false)]
    {
        assert_eq!(critical(json!({"containers": [], "priorityClassName": class})), want, "{class}");
    }
    assert!(!is_critical(&Pod::default()));
}
