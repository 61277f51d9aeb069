use serde_json::{Value, json};

use super::*;

fn node() -> NodeFacts {
    NodeFacts {
        name: "node-1".into(),
        allocatable: Amounts { milli_cpu: 2000, memory_bytes: 1000 },
        allowed_sysctls: AllowedSysctls::default(),
        max_pods: 3,
        os: "linux".into(),
        arch: "amd64".into(),
        labels: BTreeMap::from([("disk".into(), "ssd".into()), ("gen".into(), "7".into())]),
        memory_pressure: false,
        disk_pressure: false,
        pid_pressure: false,
        critical: false,
        is_static_pod: false,
        apparmor: false,
        taints: Vec::new(),
    }
}

fn pod(uid: &str, spec: Value) -> Pod {
    let mut spec = spec;
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "a", "image": "i"}]);
    }
    serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid}, "spec": spec})).unwrap()
}

fn asking(uid: &str, cpu: &str, memory: &str) -> Pod {
    let requests = json!({"cpu": cpu, "memory": memory});
    pod(uid, json!({"containers": [{"name": "a", "image": "i", "resources": {"requests": requests}}]}))
}

fn taken_by(pods: &[Pod]) -> Taken {
    let requests = pods.iter().fold(Amounts::default(), |sum, pod| sum.plus(pod_requests(pod)));
    Taken { requests, pods: pods.len() }
}

#[test]
fn resources_fit() {
    let active = [asking("1", "1", "600"), asking("2", "500m", "100")];
    for (what, pod, want) in [
        ("fits exactly", asking("3", "500m", "300"), Ok(())),
        ("asks for nothing", pod("3", json!({})), Ok(())),
        (
            "cpu",
            asking("3", "501m", "1"),
            Err((Reason::OutOfcpu, "resource: cpu, requested: 501, used: 1500, capacity: 2000")),
        ),
        (
            "memory",
            asking("3", "1m", "301"),
            Err((Reason::OutOfmemory, "resource: memory, requested: 301, used: 700, capacity: 1000")),
        ),
    ] {
        match (admit(&pod, &node(), &taken_by(&active)), want) {
            (Ok(()), Ok(())) => {}
            (Err(r), Err((reason, text))) => {
                assert!(r.reason == reason && r.message.contains(text), "{what}: {r:?}");
            }
            (got, want) => panic!("{what}: {got:?}, wanted {want:?}"),
        }
    }
    let full = [active[0].clone(), active[1].clone(), pod("3", json!({}))];
    assert_eq!(admit(&pod("4", json!({})), &node(), &taken_by(&full)).unwrap_err().reason, Reason::OutOfpods);
}

#[test]
fn other_pressures_refuse_all_but_critical_pods() {
    for (memory, disk, pid, want) in [
        (false, true, false, "The node had condition: [DiskPressure]. "),
        (true, true, false, "The node had condition: [MemoryPressure DiskPressure]. "),
        (false, false, true, "The node had condition: [PIDPressure]. "),
    ] {
        let node = NodeFacts { memory_pressure: memory, disk_pressure: disk, pid_pressure: pid, ..node() };
        let refused = |pod: &Pod| admit(pod, &node, &Taken::default()).unwrap_err().message;
        assert_eq!(refused(&asking("1", "1m", "1")), want);
        let tolerates = json!({"tolerations": [{"operator": "Exists"}]});
        assert_eq!(refused(&pod("1", tolerates)), want, "no toleration helps");
        assert_eq!(admit(&pod("1", json!({"priority": 2_000_000_000})), &node, &Taken::default()), Ok(()));
    }
}

#[test]
fn memory_pressure_refuses_best_effort() {
    let node = NodeFacts { memory_pressure: true, ..node() };
    let rejection = admit(&pod("1", json!({})), &node, &Taken::default()).unwrap_err();
    assert_eq!(rejection.reason, Reason::Evicted);
    assert_eq!(rejection.message, "The node had condition: [MemoryPressure]. ");
    assert_eq!(admit(&asking("1", "1m", "1"), &node, &Taken::default()), Ok(()));
    assert_eq!(admit(&pod("1", json!({"priority": 2_000_000_000})), &node, &Taken::default()), Ok(()));
    let key = "node.kubernetes.io/memory-pressure";
    for (toleration, admitted) in [
        (json!({"key": key, "operator": "Exists", "effect": "NoSchedule"}), true),
        (json!({"key": key, "operator": "Exists"}), true),
        (json!({"operator": "Exists"}), true),
        (json!({"key": key}), true),
        (json!({"key": key, "value": "x"}), false),
        (json!({"key": key, "operator": "Exists", "effect": "NoExecute"}), false),
        (json!({"key": "other", "operator": "Exists"}), false),
    ] {
        let pod = pod("1", json!({"tolerations": [toleration]}));
        assert_eq!(admit(&pod, &node, &Taken::default()).is_ok(), admitted, "{toleration}");
    }
}

#[test]
fn selectors() {
    let affinity = |term: Value| {
        json!({"affinity": {"nodeAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}})
    };
    let expr = |key: &str, operator: &str, values: Value| {
        affinity(json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}))
    };
    for (spec, admitted) in [
        (json!({"nodeSelector": {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}}), true),
        (json!({"nodeSelector": {"kubernetes.io/hostname": "node-1", "disk": "ssd"}}), true),
        (json!({"nodeSelector": {"kubernetes.io/arch": "arm64"}}), false),
        (json!({"nodeSelector": {"none": ""}}), false),
        (expr("disk", "In", json!(["hdd", "ssd"])), true),
        (expr("disk", "NotIn", json!(["ssd"])), false),
        (expr("none", "NotIn", json!(["ssd"])), true),
        (expr("none", "Exists", json!(null)), false),
        (expr("none", "DoesNotExist", json!(null)), true),
        (expr("gen", "Gt", json!(["6"])), true),
        (expr("gen", "Lt", json!(["6"])), false),
        (expr("gen", "Resembles", json!(["7"])), false),
        (
            affinity(
                json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}),
            ),
            true,
        ),
        (affinity(json!({})), false),
    ] {
        let result = admit(&pod("1", spec.clone()), &node(), &Taken::default());
        assert_eq!(result.is_ok(), admitted, "{spec}");
        if let Err(rejection) = result {
            assert_eq!(rejection.reason, Reason::NodeAffinity);
        }
    }
    let windows =
        admit(&pod("1", json!({"os": {"name": "windows"}})), &node(), &Taken::default()).unwrap_err();
    assert_eq!(windows.reason, Reason::PodOSNotSupported);
}

#[test]
fn a_taint_that_evicts_keeps_out_who_does_not_tolerate_it() {
    let taint = |effect: &str| Taint {
        key: "k".into(),
        value: Some("v".into()),
        effect: effect.into(),
        ..Taint::default()
    };
    let tolerates = |value: Value| json!({ "tolerations": [value] });
    for (effect, spec, refused) in [
        ("NoExecute", json!({}), true),
        ("NoSchedule", json!({}), false),
        ("NoExecute", tolerates(json!({"operator": "Exists"})), false),
        ("NoExecute", tolerates(json!({"key": "k", "value": "v"})), false),
        ("NoExecute", tolerates(json!({"key": "k", "value": "other"})), true),
        ("NoExecute", tolerates(json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"})), true),
    ] {
        let tainted = NodeFacts { taints: vec![taint(effect)], ..node() };
        let got = admit(&pod("1", spec.clone()), &tainted, &Taken::default());
        assert_eq!(
            got.map_err(|no| no.reason).err(),
            refused.then_some(Reason::TaintToleration),
            "{effect} {spec}"
        );
        let static_pod = NodeFacts { is_static_pod: true, ..tainted };
        assert_eq!(admit(&pod("1", spec), &static_pod, &Taken::default()), Ok(()));
    }
}

#[test]
fn refused_features_are_named() {
    let volume = |v: Value| json!({"volumes": [v]});
    let container = |mut c: Value| {
        c["name"] = "a".into();
        c["image"] = "i".into();
        json!({"containers": [c]})
    };
    for (spec, want) in [
        (
            volume(json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}})),
            "spec.volumes[v]: persistentVolumeClaim",
        ),
        (volume(json!({"name": "v", "emptyDir": {"medium": "HugePages"}})), "HugePages"),
        (
            volume(json!({"name": "v", "iscsi": {"iqn": "q", "lun": 0, "targetPortal": "t"}})),
            "this volume type",
        ),
        (json!({"hostUsers": false}), "spec.hostUsers"),
        (container(json!({"resources": {"limits": {"nvidia.com/gpu": "1"}}})), "\"nvidia.com/gpu\""),
        (container(json!({"volumeDevices": [{"name": "d", "devicePath": "/d"}]})), "volumeDevices"),
    ] {
        let rejection = admit(&pod("1", spec), &node(), &Taken::default()).unwrap_err();
        assert_eq!(rejection.reason, Reason::UnsupportedFeature);
        assert!(rejection.message.contains(want), "{}", rejection.message);
    }
    let fine = volume(json!({"name": "v", "emptyDir": {"medium": "Memory"}}));
    assert_eq!(admit(&pod("1", fine), &node(), &Taken::default()), Ok(()));
}

#[test]
fn what_is_left_undone_is_listed() {
    let plain = pod("1", json!({}));
    assert_eq!(unsupported(&plain), Vec::<String>::new());
    let busy = pod(
        "1",
        json!({
            // These are acted on.
            "dnsConfig": {}, "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a"]}],
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "subdomain": "s",
            "activeDeadlineSeconds": 1,
            "containers": [{"name": "a", "livenessProbe": {}, "restartPolicyRules": [],
                "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}],
            "imagePullSecrets": [{"name": "s"}],
        }),
    );
    assert_eq!(unsupported(&busy), ["spec.imagePullSecrets"]);
}

#[test]
fn apparmor() {
    let profile = |kind: &str| json!({"appArmorProfile": {"type": kind, "localhostProfile": "p"}});
    let of_pod = |kind: &str| json!({"securityContext": profile(kind)});
    let both = |of_pod: &str, own: &str| json!({"securityContext": profile(of_pod), "containers": [{"name": "a", "securityContext": profile(own)}]});
    for (spec, without) in [
        (json!({}), true),
        (of_pod("Unconfined"), true),
        (of_pod("RuntimeDefault"), false),
        (both("Unconfined", "Localhost"), false),
        (both("RuntimeDefault", "Unconfined"), true),
    ] {
        for (apparmor, admitted) in [(true, true), (false, without)] {
            let node = NodeFacts { apparmor, ..node() };
            let answer = admit(&pod("1", spec.clone()), &node, &Taken::default());
            assert_eq!(answer.is_ok(), admitted, "{spec}, AppArmor on the node: {apparmor}");
            let reason = answer.err().map(|rejection| rejection.reason);
            assert!(reason.is_none_or(|reason| reason == Reason::AppArmor), "{reason:?}");
        }
    }
}
