use super::*;
use crate::config::flags;

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

fn given(flags: &[(&str, &str)]) -> Vec<Given> {
    let of = |(name, text): &(&str, &str)| Given {
        flag: flags::find(name).unwrap(),
        texts: vec![(*text).to_owned()],
    };
    flags.iter().map(of).collect()
}

fn load(file: &str, drop_ins: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let mut layers = Layers::default();
    layers.file(&format!("{HEAD}{file}"), Path::new("/etc/kubelet.yaml"))?;
    for (name, text) in drop_ins {
        layers.drop_in(&format!("{HEAD}{text}"), Path::new(name))?;
    }
    layers.flags(&given(flags))?;
    layers.load()
}

/// kubernetes.io/docs/reference/node/kubelet-config-directory-merging has these cases.
#[test]
fn drop_ins_are_merged_as_kubelet_merges_them() {
    for (file, drop_ins, key, expected) in [
        ("maxPods: 10", &["maxPods: 20", "maxPods: 30"][..], "maxPods", json!(30)),
        ("clusterDNS: [10.0.0.1, 10.0.0.2]", &["clusterDNS: [10.0.0.3]"], "clusterDNS", json!(["10.0.0.3"])),
        (
            "featureGates: {A: true, B: true}",
            &["featureGates: {B: false, C: true}"],
            "featureGates",
            json!({"A": true, "B": false, "C": true}),
        ),
        (
            "staticPodURLHeader: {a: [\"1\", \"2\"], b: [\"3\"]}",
            &["staticPodURLHeader: {b: [\"4\"]}"],
            "staticPodURLHeader",
            json!({"a": ["1", "2"], "b": ["4"]}),
        ),
        (
            "authorization: {mode: Webhook, webhook: {cacheAuthorizedTTL: 5m, cacheUnauthorizedTTL: 30s}}",
            &["authorization: {webhook: {cacheAuthorizedTTL: 8m}}"],
            "authorization",
            json!({"mode": "Webhook", "webhook": {"cacheAuthorizedTTL": "8m", "cacheUnauthorizedTTL": "30s"}}),
        ),
        ("maxPods: 10", &["maxPods: null"], "maxPods", json!(110)),
        // Default thresholds are there before the merge, unless the file has some.
        (
            "",
            &["evictionHard: {memory.available: 1Gi}"],
            "evictionHard",
            json!({"memory.available": "1Gi",
            "nodefs.available": "10%", "nodefs.inodesFree": "5%", "imagefs.available": "15%", "imagefs.inodesFree": "5%"}),
        ),
        (
            "evictionHard: {memory.available: 2Gi}",
            &["evictionHard: {pid.available: 1k}"],
            "evictionHard",
            json!({"memory.available": "2Gi", "pid.available": "1k"}),
        ),
    ] {
        let named: Vec<_> = drop_ins.iter().map(|text| ("/etc/kubelet.d/10.conf", *text)).collect();
        let loaded = load(file, &named, &[]).unwrap();
        assert_eq!(loaded.effective[key], expected, "{file} {drop_ins:?}");
    }
}

#[test]
fn flags_win_and_take_the_place_of_their_key() {
    let file = "maxPods: 10\nsystemReserved: {cpu: 1, memory: 1Gi}\nfeatureGates: {A: true}\nevictionHard: {pid.available: 1k}";
    let flags = [
        ("max-pods", "30"),
        ("system-reserved", "memory=2Gi"),
        ("feature-gates", "B=false"),
        ("eviction-hard", "memory.available<1Gi"),
        ("rotate-certificates", "true"),
        ("node-labels", "a=b"),
    ];
    let loaded = load(file, &[("/10.conf", "maxPods: 20")], &flags).unwrap();
    assert_eq!(loaded.config.max_pods, 30);
    assert!(loaded.config.rotate_certificates);
    let reserved: Vec<_> = loaded.config.system_reserved.into_iter().collect();
    assert_eq!(reserved, [("memory".to_owned(), "2Gi".to_owned())]);
    assert_eq!(loaded.effective["featureGates"], json!({"A": true, "B": false}));
    assert_eq!(loaded.effective["evictionHard"], json!({"memory.available": "1Gi"}));
}

#[test]
fn a_flag_without_effect_is_named_once() {
    let flags = [
        ("anonymous-auth", "false"),
        ("client-ca-file", "/ca"),
        ("lock-file", "/x"),
        ("feature-gates", "A=true,B=true"),
        ("kube-api-content-type", "application/json"),
        ("max-pods", "10"),
        ("cpu-cfs-quota", "true"),
        ("registry-qps", "3"),
    ];
    let loaded = load("", &[], &flags).unwrap();
    let mut lines: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    lines.sort();
    let text = "is not honoured by this agent yet and has no effect";
    let expected = ["cpu-cfs-quota", "feature-gates", "lock-file", "registry-qps"];
    assert_eq!(lines, expected.map(|flag| format!("--{flag} {text}")));
    assert_eq!(loaded.effective["authentication"]["anonymous"]["enabled"], json!(false));
    assert_eq!(loaded.effective["authentication"]["webhook"]["enabled"], json!(true), "a default beside it");

    // In the file and by flag: both are told.
    let loaded = load("hairpinMode: none", &[], &[("hairpin-mode", "none")]).unwrap();
    let lines: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(lines, [format!("hairpinMode {text}"), format!("--hairpin-mode {text}")]);
}

/// What a kubelet 1.37.2 says of itself at `/configz`.
#[test]
fn without_a_file_the_defaults_are_those_of_the_flags() {
    let parts = |loaded: &Loaded| {
        let of = |path: &str| loaded.effective.pointer(path).cloned().unwrap_or_default();
        json!([
            of("/authentication/anonymous/enabled"),
            of("/authentication/webhook/enabled"),
            of("/authorization/mode"),
            of("/readOnlyPort")
        ])
    };
    for (has_file, drop_ins, flags, expected) in [
        (true, &[][..], &[][..], json!([false, true, "Webhook", null])),
        (false, &[], &[], json!([true, false, "AlwaysAllow", 10255])),
        (
            false,
            &["readOnlyPort: 0\nauthorization: null"],
            &[("anonymous-auth", "false")],
            json!([false, false, "Webhook", 0]),
        ),
    ] {
        let mut layers = Layers::default();
        if has_file {
            layers.file(HEAD, Path::new("/etc/kubelet.yaml")).unwrap();
        } else {
            layers.no_file();
        }
        for text in drop_ins {
            layers.drop_in(&format!("{HEAD}{text}"), Path::new("/10.conf")).unwrap();
        }
        layers.flags(&given(flags)).unwrap();
        let loaded = layers.load().unwrap();
        assert_eq!(parts(&loaded), expected, "{drop_ins:?} {flags:?}");
        // Nobody has asked for them, so nobody is told that they have no effect.
        let asked_for = drop_ins.len() * 2 + flags.len();
        assert!(loaded.warnings.len() <= asked_for, "{:?}", loaded.warnings);
    }
}

#[test]
fn an_error_names_the_layer_it_comes_from() {
    for (file, drop_in, flag, expected) in [
        ("maxPods: many", "", ("v", "2"), "configuration /etc/kubelet.yaml: maxPods: "),
        ("", "oomScoreAdj: 2000", ("v", "2"), "configuration /etc/kubelet.d/x.conf: oomScoreAdj: "),
        ("", "", ("eviction-hard", "memory.available<lots"), "flag --eviction-hard: evictionHard"),
        ("", "", ("cluster-dns", "here"), "flag --cluster-dns: clusterDNS"),
        ("", "", ("max-pods", "many"), "--max-pods: \"many\" is not a whole number"),
    ] {
        let error = load(file, &[("/etc/kubelet.d/x.conf", drop_in)], &[flag]).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    let error = Layers::default().drop_in("kind: Pod", Path::new("/etc/x.conf")).unwrap_err().to_string();
    assert!(error.contains("/etc/x.conf"), "{error}");
}

#[test]
fn the_effective_document_has_every_default_and_nothing_of_ours() {
    let loaded = load("oomlet: {kernel: {maxTier: 0}}\nnoSuchKey: 1", &[], &[]).unwrap();
    let defaults: Map<String, Value> =
        serde_saphyr::from_str(include_str!("../data/kubelet-1.37-defaults.yaml")).unwrap();
    for (key, value) in &defaults {
        assert_eq!(loaded.effective[key], *value, "{key}");
    }
    assert!(loaded.effective.get("oomlet").is_none() && loaded.effective.get("noSuchKey").is_none());
}
