use proptest::prelude::*;

use super::*;
use crate::eviction::psi::{PsiThreshold, PsiThresholds};
use crate::eviction::resources::ResourceSignal;
use crate::eviction::threshold::{Signal, Threshold, ThresholdValue};
use crate::pod::memory_limit::MemoryLimitPolicy;

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

fn parse(body: &str) -> Result<(Config, Vec<ConfigWarning>), ConfigError> {
    Config::parse(&format!("{HEAD}{body}"), Path::new("kubelet.yaml"))
}

fn config(body: &str) -> Config {
    let (config, warnings) = parse(body).unwrap();
    assert_eq!(warnings, [], "{body}");
    config
}

#[test]
fn nothing_but_the_kind_gives_the_defaults() {
    let config = config("");
    assert_eq!(config, Config::default());
    let enforced: Vec<_> = config.eviction_thresholds.enforced.iter().map(|t| (t.signal, t.value)).collect();
    let default = ThresholdValue::Bytes(100 << 20);
    assert_eq!(enforced, [(Signal::MemoryAvailable, default), (Signal::AllocatableMemoryAvailable, default)]);
    let resources = &config.eviction_thresholds.resources;
    let resources: Vec<_> = resources.iter().map(|t| (t.signal.as_str(), t.value)).collect();
    let share = ThresholdValue::Share;
    assert_eq!(
        resources,
        [
            ("imagefs.available", share(0.15)),
            ("imagefs.inodesFree", share(0.05)),
            ("nodefs.available", share(0.1)),
            ("nodefs.inodesFree", share(0.05)),
        ]
    );
    assert!(config.eviction_thresholds.not_enforced.is_empty());
}

#[test]
fn everything_we_honour() {
    let config = config(
        r#"
staticPodPath: /etc/kubernetes/manifests
fileCheckFrequency: 1m30s
syncFrequency: 0s
containerRuntimeEndpoint: unix:///run/x.sock
imageServiceEndpoint: ""
cgroupRoot: /oomlet
cgroupDriver: systemd
enforceNodeAllocatable: [none]
systemReserved: {cpu: 500m, memory: 1Gi}
kubeReserved: {cpu: 1, memory: 67108864, pid: "100"}
evictionHard: {memory.available: 200Mi, nodefs.available: 0%}
evictionSoft: {memory.available: 10%, pid.available: 1k}
evictionSoftGracePeriod: {memory.available: 1m30s, pid.available: 1m}
evictionMinimumReclaim: {memory.available: 50Mi}
localStorageCapacityIsolation: false
imageGCHighThresholdPercent: 70
imageGCLowThresholdPercent: 0
imageMinimumGCAge: 1s
imageMaximumGCAge: 24h
evictionMaxPodGracePeriod: 60
evictionPressureTransitionPeriod: 30s
maxPods: 30
podPidsLimit: 1024
podLogsDir: /var/log/oomlet
crashLoopBackOff: {maxContainerRestartPeriod: 60s}
oomScoreAdj: 0
serializeImagePulls: false
singleProcessOOMKill: true
resolvConf: ""
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
oomlet:
  eviction:
    enabled: false
    safety: 3
    psi: {node: {full: 40%}, pod: {full: 62.5%, window: 30s}}
    memoryLimitPolicy: graceful
    memoryLimitGrace: 1m30s
    resourceInterval: 500ms
  kernel: {maxTier: 1, ringBytes: 1Mi, btfPath: /btf}
  trace: {file: /trace.jsonl}
"#,
    );
    assert_eq!(config.static_pod_path.as_deref(), Some(Path::new("/etc/kubernetes/manifests")));
    assert_eq!(config.file_check_frequency.as_secs(), 90);
    assert_eq!(config.sync_frequency.as_secs(), 60, "zero is not set");
    assert_eq!(config.image_service_endpoint, None);
    assert_eq!(config.cgroup_driver, CgroupDriver::Systemd);
    assert!(!config.enforce_pods_allocatable);
    assert_eq!(config.reserved(), Amounts { milli_cpu: 1500, memory_bytes: (1 << 30) + (64 << 20) });
    let (signal, min_reclaim) = (Signal::MemoryAvailable, Some(ThresholdValue::Bytes(50 << 20)));
    let threshold =
        |value, seconds| Threshold { signal, value, grace_period: Duration::from_secs(seconds), min_reclaim };
    assert_eq!(
        config.eviction_thresholds,
        Thresholds {
            enforced: vec![
                threshold(ThresholdValue::Bytes(200 << 20), 0),
                threshold(ThresholdValue::Share(0.1), 90),
            ],
            resources: vec![Threshold {
                signal: ResourceSignal::PidAvailable,
                value: ThresholdValue::Bytes(1000),
                grace_period: Duration::from_secs(60),
                min_reclaim: None,
            }],
            not_enforced: vec![],
        },
        "the defaults are dropped, pods are not enforced"
    );
    assert_eq!(config.eviction_max_pod_grace_period.as_secs(), 60);
    assert_eq!(config.pod_pids_limit, Some(1024));
    assert_eq!(config.max_container_restart_period.as_secs(), 60);
    assert_eq!(config.single_process_oom_kill, Some(true));
    let psi = |share, seconds| Some(PsiThreshold { share, window: Duration::from_secs(seconds) });
    assert_eq!(
        config.oomlet.eviction,
        extension::Eviction {
            enabled: false,
            safety: 3.0,
            psi: PsiThresholds { node: psi(0.4, 10), pod: psi(0.625, 30) },
            memory_limit_policy: MemoryLimitPolicy::Graceful,
            memory_limit_grace: Duration::from_secs(90),
            resource_interval: Duration::from_millis(500),
            ..extension::Eviction::default()
        }
    );
    assert!(!config.local_storage_capacity_isolation);
    let (min_age, max_age) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
    assert_eq!(config.image_gc, GcPolicy { high_percent: 70, low_percent: 0, min_age, max_age });
    assert_eq!((config.oomlet.kernel.max_tier, config.oomlet.kernel.ring_bytes), (1, 1 << 20));
    assert_eq!(config.oomlet.kernel.fault_sample_period, 64);
    assert_eq!(config.oomlet.trace.file.as_deref(), Some(Path::new("/trace.jsonl")));
}

#[test]
fn the_packaged_configuration_is_valid() {
    let text = include_str!("../../../packaging/kubelet.yaml");
    let (config, warnings) = Config::parse(text, Path::new("kubelet.yaml")).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.cgroup_driver, CgroupDriver::Systemd);
    assert!(config.static_pod_path.is_some());
}

#[test]
fn json_is_yaml() {
    let text =
        r#"{"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "maxPods": 5}"#;
    assert_eq!(Config::parse(text, Path::new("c.json")).unwrap().0.max_pods, 5);
}

#[test]
fn default_thresholds_can_be_merged() {
    for (merge, resources) in [(true, 4), (false, 0)] {
        let t = config(&format!(
            "mergeDefaultEvictionSettings: {merge}\nevictionHard: {{memory.available: 1Gi}}"
        ))
        .eviction_thresholds;
        assert!(t.enforced.iter().all(|t| t.value == ThresholdValue::Bytes(1 << 30)), "{t:?}");
        assert_eq!((t.enforced.len(), t.resources.len()), (2, resources));
    }
}

#[test]
fn a_threshold_without_effect_is_warned_of_only_where_the_file_names_it() {
    for (body, want) in [
        ("", &[][..]),
        ("evictionHard: {nodefs.available: 10%, pid.available: 5%}", &[]),
        (
            "evictionHard: {containerfs.available: 10%, containerfs.inodesFree: 5%}",
            &["containerfs.available", "containerfs.inodesFree"],
        ),
        ("evictionHard: {containerfs.available: 0%}", &[]),
        (
            "evictionSoft: {containerfs.available: 20%}\nevictionSoftGracePeriod: {containerfs.available: 1m}",
            &["containerfs.available"],
        ),
    ] {
        let warnings = parse(body).unwrap().1;
        let want: Vec<_> =
            want.iter().map(|s| ConfigWarning::NotEnforced { signal: (*s).to_owned() }).collect();
        assert_eq!(warnings, want, "{body}");
    }
}

#[test]
fn what_has_no_effect_is_warned_of() {
    let text = |body| parse(body).unwrap().1.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        text("cpuManagerPolicy: static\nlogging: {format: text}"),
        [
            "cpuManagerPolicy is not honoured by this agent yet and has no effect",
            "logging is not honoured by this agent yet and has no effect",
        ]
    );
    assert_eq!(
        text("registryPullQPS: 5\nhairpinMode: none\npodsPerCore: 1").len(),
        3,
        "kubelet acts on them, this agent does not yet"
    );
    assert_eq!(text("maxPod: 5"), ["maxPod is not a known key and has no effect; did you mean maxPods?"]);
    assert_eq!(text("zzz: 5"), ["zzz is not a known key and has no effect"]);
    assert_eq!(
        text("oomlet: {eviction: {safty: 3}}"),
        ["oomlet.eviction.safty is not a known key and has no effect; did you mean oomlet.eviction.safety?"]
    );
    assert_eq!(
        text("crashLoopBackOff: {maxRestart: 3}")[0].split(';').next().unwrap(),
        "crashLoopBackOff.maxRestart is not a known key and has no effect"
    );
    assert_eq!(
        text("featureGates: {SomeGate: true}\nenforceNodeAllocatable: [pods, kube-reserved]"),
        [
            "enforceNodeAllocatable[kube-reserved] is not honoured by this agent yet and has no effect",
            "featureGates.SomeGate is not honoured by this agent yet and has no effect",
        ]
    );
}

#[test]
fn wrong_values_are_refused_by_name() {
    for (body, want) in [
        ("maxPods: many", "maxPods: invalid type: string \"many\", expected u32"),
        ("maxPods: -1", "maxPods: invalid value: integer `-1`, expected u32"),
        ("fileCheckFrequency: 20", "fileCheckFrequency: invalid type: integer `20`, expected a string"),
        ("fileCheckFrequency: 20 s", "fileCheckFrequency: \"20 s\" is not a duration"),
        (
            "cgroupDriver: upstart",
            "cgroupDriver: unknown variant `upstart`, expected `cgroupfs` or `systemd`",
        ),
        ("enforceNodeAllocatable: [all]", "enforceNodeAllocatable: \"all\" must be"),
        ("enforceNodeAllocatable: [pods, none]", "none must stand alone"),
        ("evictionHard: {memory.free: 1Mi}", "evictionHard[\"memory.free\"]: not an eviction signal"),
        ("evictionHard: {memory.available: lots}", "evictionHard[\"memory.available\"]: quantity \"lots\""),
        ("evictionMinimumReclaim: {memory.free: 1Mi}", "evictionMinimumReclaim[\"memory.free\"]: not an"),
        ("evictionSoftGracePeriod: {memory.free: 1m}", "evictionSoftGracePeriod[\"memory.free\"]: not an"),
        ("evictionHard: {memory.available: 101%}", "\"101%\" is not a percentage"),
        ("evictionHard: {memory.available: '0'}", "must be more than 0"),
        (
            "evictionHard: {memory.available: 100}",
            "evictionHard.memory.available: invalid type: integer `100`",
        ),
        ("evictionHard: []", "evictionHard: invalid type: sequence, expected a map"),
        ("evictionSoft: {memory.available: 1Gi}", "add the signal to evictionSoftGracePeriod"),
        ("evictionSoftGracePeriod: {memory.available: x}", "evictionSoftGracePeriod.memory.available: \"x\""),
        ("systemReserved: {memory: 1GB}", "systemReserved[\"memory\"]: quantity \"1GB\""),
        ("kubeReserved: {gpu: 1}", "kubeReserved[\"gpu\"]: not a reservable resource"),
        ("oomScoreAdj: -1001", "oomScoreAdj: -1001 is out of range, must be -1000 to 1000"),
        ("podPidsLimit: 0", "podPidsLimit: 0 is out of range"),
        ("podLogsDir: logs", "podLogsDir: \"logs\" is out of range, must be an absolute path"),
        ("cgroupRoot: /a/../b", "cgroupRoot"),
        (
            "containerRuntimeEndpoint: tcp://1.2.3.4",
            "containerRuntimeEndpoint: \"tcp://1.2.3.4\" must be a unix socket",
        ),
        ("crashLoopBackOff: {maxContainerRestartPeriod: 301s}", "must be 1s to 300s"),
        ("clusterDNS: [dns]", "clusterDNS[0]"),
        ("oomlet: {eviction: {safety: 0.5}}", "oomlet.eviction.safety: 0.5 is out of range"),
        (
            "oomlet: {eviction: {psi: {node: {full: 40}}}}",
            "oomlet.eviction.psi.node.full: invalid type: integer `40`",
        ),
        ("oomlet: {eviction: {psi: {node: {full: '40'}}}}", "oomlet.eviction.psi.node: full: \"40\" must be"),
        ("oomlet: {eviction: {psi: {pod: {full: 0%}}}}", "oomlet.eviction.psi.pod: full: \"0%\" must be"),
        ("oomlet: {eviction: {psi: {pod: {window: 10s}}}}", "oomlet.eviction.psi.pod: missing field `full`"),
        ("oomlet: {eviction: {psi: {pod: {full: 5%, window: 1ms}}}}", "the window 1ms is out of range"),
        (
            "oomlet: {eviction: {memoryLimitPolicy: gentle}}",
            "oomlet.eviction.memoryLimitPolicy: unknown variant `gentle`, expected `kernel` or `graceful`",
        ),
        (
            "oomlet: {eviction: {memoryLimitGrace: 5}}",
            "oomlet.eviction.memoryLimitGrace: invalid type: integer `5`",
        ),
        (
            "oomlet: {eviction: {memoryLimitGrace: 0s}}",
            "oomlet.eviction.memoryLimitGrace: 0s must be more than 0",
        ),
        (
            "oomlet: {eviction: {resourceInterval: 1ms}}",
            "oomlet.eviction.resourceInterval: 1ms is out of range, must be 100ms to 10m",
        ),
        ("oomlet: {eviction: {resourceInterval: 5}}", "oomlet.eviction.resourceInterval"),
        ("imageGCHighThresholdPercent: 101", "imageGCHighThresholdPercent: 101 is out of range"),
        ("imageGCLowThresholdPercent: -1", "imageGCLowThresholdPercent: -1 is out of range"),
        (
            "imageGCLowThresholdPercent: 85",
            "imageGCLowThresholdPercent: 85 must be less than imageGCHighThresholdPercent, which is 85",
        ),
        ("imageMaximumGCAge: 2m", "imageMaximumGCAge: 120s must be more than imageMinimumGCAge"),
        ("imageMinimumGCAge: -1s", "imageMinimumGCAge: \"-1s\" is not a duration"),
        ("oomlet: {kernel: {maxTier: 3}}", "oomlet.kernel.maxTier: 3"),
        ("oomlet: {kernel: {ringBytes: 5000}}", "oomlet.kernel.ringBytes: 5000 must be a power of two"),
        ("oomlet: {trace: {journalRecords: 0}}", "oomlet.trace.journalRecords: 0"),
        ("oomlet: 5", "oomlet: invalid type"),
        ("maxPods: 1\nmaxPods: 2", "is not valid YAML or JSON"),
        ("maxPods: [", "is not valid YAML or JSON"),
    ] {
        let error = parse(body).expect_err(body).to_string();
        assert!(error.contains(want), "{body}: {error}");
        assert!(error.contains("kubelet.yaml"), "{body}: {error}");
    }
}

#[test]
fn a_server_of_static_pods() {
    let config = config(
        "staticPodURL: https://pods.example/node\nstaticPodURLHeader: {X-Node: [a, b]}\nhttpCheckFrequency: 5s",
    );
    assert_eq!(config.static_pod_url.as_deref(), Some("https://pods.example/node"));
    let values = ["a".to_owned(), "b".to_owned()].to_vec();
    assert_eq!(config.static_pod_url_header, BTreeMap::from([("X-Node".to_owned(), values)]));
    assert_eq!(config.http_check_frequency, Duration::from_secs(5));
    let none = Config::default();
    assert_eq!((none.static_pod_url, none.http_check_frequency), (None, Duration::from_secs(20)));
    let error = parse("staticPodURL: pods.example").unwrap_err().to_string();
    assert!(error.contains("staticPodURL: \"pods.example\"") && error.contains("https://"), "{error}");
}

#[test]
fn another_kind_is_refused() {
    for (text, want) in [
        ("", "apiVersion is missing"),
        ("just text", "apiVersion is missing"),
        ("apiVersion: v1\nkind: Pod", "apiVersion is \"v1\", must be \"kubelet.config.k8s.io/v1beta1\""),
        ("apiVersion: kubelet.config.k8s.io/v1beta1", "kind is missing"),
    ] {
        let error = Config::parse(text, Path::new("c")).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn no_key_is_both_honoured_and_not() {
    for key in keys::NOT_HONOURED {
        assert!(!keys::HONOURED.contains(key), "{key}");
    }
    for key in keys::HONOURED.iter().filter(|k| !k.contains('.')) {
        // A honoured key given as null is not set, and not a reason to warn.
        if !["apiVersion", "kind"].contains(key) {
            config(&format!("{key}: null"));
        }
    }
}

proptest! {
    #[test]
    fn never_panics(body in "\\PC{0,200}") {
        let _ = parse(&body);
        let _ = Config::parse(&body, Path::new("c"));
    }
}

#[test]
fn every_key_of_kubelet_is_honoured_or_known_not_to_be() {
    let list = include_str!("data/kubelet-1.37-keys.tsv");
    let mut seen = 0;
    for key in list.lines().skip(1).filter_map(|line| line.split('\t').next()) {
        seen += 1;
        let (honoured, not) = (keys::HONOURED.contains(&key), keys::NOT_HONOURED.contains(&key));
        assert!(honoured != not, "{key}: honoured {honoured}, not honoured {not}");
        // And the parser is of the same mind.
        let warnings = match parse(&format!("{key}: null")) {
            Ok((_, warnings)) => warnings,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(!warnings.is_empty(), not, "{key}: {warnings:?}");
    }
    assert!(seen > 120, "{seen}");
}
