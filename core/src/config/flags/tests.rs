use serde_json::json;

use super::*;
use crate::config::keys;

fn value(name: &str, texts: &[&str]) -> Result<Value, String> {
    let flag = find(name).unwrap();
    let texts = texts.iter().map(|text| (*text).to_owned()).collect();
    Given { flag, texts }.value().map_err(|e| e.to_string())
}

#[test]
fn every_flag_of_kubelet_is_here_and_of_its_type() {
    let list = include_str!("../data/kubelet-1.37-flags.tsv");
    let mut seen = 0;
    for line in list.lines().skip(1) {
        let mut columns = line.split('\t');
        let (name, go_type) = (columns.next().unwrap(), columns.next().unwrap());
        seen += 1;
        if name == "help" {
            continue;
        }
        let flag = find(name).unwrap_or_else(|| panic!("--{name} is unknown"));
        let kinds: &[Kind] = match go_type {
            "bool" | "RuntimeDefault" => &[Kind::Bool],
            "int" | "int32" | "Level" => &[Kind::Int],
            "duration" => &[Kind::Duration],
            "ip" => &[Kind::Ip],
            "string" | "quantity" => &[Kind::Text],
            "strings" => &[Kind::List],
            "mapStringString" => &[Kind::Map, Kind::LessThanMap],
            "mapStringBool" => &[Kind::BoolMap],
            "colonSeparatedMultimapStringString" => &[Kind::MultiMap],
            other => panic!("--{name}: no kind for {other}"),
        };
        assert!(kinds.contains(&flag.kind), "--{name} is {go_type}, not {:?}", flag.kind);
    }
    assert!(seen > 120, "{seen}");
}

#[test]
fn keys_that_flags_set_are_keys_of_the_configuration() {
    for flag in FLAGS {
        if let Sets::Key(key) = flag.sets {
            let top = key.split('.').next().unwrap();
            let known = keys::HONOURED.contains(&top) || keys::NOT_HONOURED.contains(&top);
            assert!(known, "--{} sets {key}, which is no key", flag.name);
        }
    }
    let names: Vec<_> = FLAGS.iter().map(|flag| flag.name).collect();
    assert!(names.is_sorted() && names.windows(2).all(|two| two[0] != two[1]));
}

#[test]
fn values_as_go_reads_them() {
    for (flag, texts, expected) in [
        ("register-node", &["true"][..], json!(true)),
        ("register-node", &["F"], json!(false)),
        ("max-pods", &["20", "30"], json!(30)),
        ("oom-score-adj", &["-999"], json!(-999)),
        ("pod-cidr", &[""], json!("")),
        ("sync-frequency", &["1m30s"], json!("1m30s")),
        ("address", &["::"], json!("::")),
        ("cluster-dns", &["10.0.0.1,10.0.0.2", "10.0.0.3"], json!(["10.0.0.1", "10.0.0.2", "10.0.0.3"])),
        ("enforce-node-allocatable", &[""], json!([])),
        (
            "eviction-hard",
            &["memory.available<100Mi, nodefs.available<10%"],
            json!({"memory.available": "100Mi", "nodefs.available": "10%"}),
        ),
        ("eviction-soft-grace-period", &["memory.available=1m"], json!({"memory.available": "1m"})),
        ("system-reserved", &["cpu=200m,memory=1Gi"], json!({"cpu": "200m", "memory": "1Gi"})),
        ("feature-gates", &["A=true,B=false"], json!({"A": true, "B": false})),
        ("manifest-url-header", &["a:1,b:2", "a:3"], json!({"a": ["1", "3"], "b": ["2"]})),
        (
            "register-with-taints",
            &["a=b:NoSchedule,c:NoExecute"],
            json!([{"key": "a", "value": "b", "effect": "NoSchedule"}, {"key": "c", "effect": "NoExecute"}]),
        ),
    ] {
        assert_eq!(value(flag, texts), Ok(expected), "--{flag} {texts:?}");
    }
}

#[test]
fn a_wrong_value_names_the_flag() {
    for (flag, text) in [
        ("register-node", "yes"),
        ("max-pods", "many"),
        ("sync-frequency", "10"),
        ("address", "localhost"),
        ("eviction-hard", "memory.available=100Mi"),
        ("system-reserved", "cpu"),
        ("feature-gates", "A=maybe"),
        ("manifest-url-header", "a"),
        ("register-with-taints", "a=b"),
    ] {
        let error = value(flag, &[text]).unwrap_err();
        assert!(error.starts_with(&format!("--{flag}: ")), "{error}");
    }
}
