//! `--node-labels` and `--node-ip`, held against kubelet's rules. Core.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::flags::FlagError;
use crate::label;

/// Prefixes within `kubernetes.io` and `k8s.io` that a node may label itself with, and single labels
/// (k8s.io/kubelet/pkg/apis/well_known_labels.go). NodeRestriction refuses others.
const PREFIXES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];
const LABELS: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// # Errors
/// A label that is none, or that a node must not give itself.
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), FlagError> {
    let wrong = |error| FlagError { flag: "node-labels".to_owned(), error };
    for (key, value) in labels {
        label::check_key(key).map_err(wrong)?;
        label::check_value(value).map_err(|error| wrong(format!("{key}: {error}")))?;
        if !may_set(key) {
            return Err(wrong(format!(
                "a node must not give itself the label {key}; of kubernetes.io and k8s.io it may have those below {} and {}. Remedy: kubectl label node NAME {key}={value}",
                PREFIXES.join(", "),
                LABELS.join(", ")
            )));
        }
    }
    Ok(())
}

fn may_set(key: &str) -> bool {
    let Some((prefix, _)) = key.split_once('/') else { return true };
    let below =
        |domain: &str| prefix.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let reserved = below("kubernetes.io") || below("k8s.io");
    !reserved || LABELS.contains(&key) || PREFIXES.iter().any(|allowed| below(allowed))
}

/// One address, or one of each family.
///
/// # Errors
/// No address, or two of one family.
pub fn parse_node_ips(text: &str) -> Result<Vec<IpAddr>, FlagError> {
    let wrong = |error| FlagError { flag: "node-ip".to_owned(), error };
    let mut ips: Vec<IpAddr> = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let ip: IpAddr = item.parse().map_err(|_| wrong(format!("{item:?} is not an IP address")))?;
        if ip.is_multicast() {
            return Err(wrong(format!("{ip} is a multicast address, which no node can have")));
        }
        ips.push(ip);
    }
    let families: Vec<bool> = ips.iter().map(IpAddr::is_ipv4).collect();
    match families[..] {
        [] | [_] => Ok(ips),
        [a, b] if a != b => Ok(ips),
        _ => Err(wrong(format!("{text:?} must be one address, or one IPv4 and one IPv6 address"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_a_node_may_have() {
        let one = |key: &str| check_labels(&BTreeMap::from([(key.to_owned(), "v".to_owned())]));
        for key in [
            "a",
            "example.com/a",
            "xkubernetes.io/a",
            "kubernetes.io/os",
            "node.kubernetes.io/x",
            "foo.node.kubernetes.io/x",
            "kubelet.kubernetes.io/x",
            "topology.kubernetes.io/zone",
        ] {
            assert_eq!(one(key), Ok(()), "{key}");
        }
        for key in ["node-role.kubernetes.io/worker", "kubernetes.io/x", "k8s.io/x", "a.k8s.io/x", "a b"] {
            let error = one(key).unwrap_err().to_string();
            assert!(error.starts_with("--node-labels: ") && error.contains(key), "{error}");
        }
        assert!(check_labels(&BTreeMap::from([("a".to_owned(), "b c".to_owned())])).is_err());
    }

    #[test]
    fn addresses() {
        for (text, expected) in [("", 0), ("10.0.0.1", 1), ("::1", 1), ("10.0.0.1, fd00::1", 2)] {
            assert_eq!(parse_node_ips(text).unwrap().len(), expected, "{text}");
        }
        for text in ["here", "10.0.0.1,10.0.0.2", "10.0.0.1,::1,::2", "224.0.0.1"] {
            assert!(parse_node_ips(text).unwrap_err().to_string().starts_with("--node-ip: "), "{text}");
        }
    }
}
