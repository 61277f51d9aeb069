//! A pod's resolver settings from its dnsPolicy and the node's resolv.conf. Pure
//! (kubelet: pkg/kubelet/network/dns/dns.go).

use k8s_cri::v1 as cri;

use oomlet_core::pod::{Pod, PodRef};
use oomlet_core::reason::Reason;

/// glibc reads three name servers; Kubernetes allows 32 search domains, of 2048 characters together
/// (pkg/apis/core/validation), each as long as a name may be.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_LINE: usize = 2048;
const MAX_DOMAIN: usize = 253;

/// A pod's resolver settings, and what there is to tell of them.
#[derive(Clone, Debug, Default)]
pub struct PodDns {
    pub config: cri::DnsConfig,
    /// Each an Event of the pod.
    pub told: Vec<(Reason, String)>,
}

/// What a resolv.conf says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// The node's side: its resolv.conf, and kubelet's `clusterDNS` and `clusterDomain`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeDns {
    pub host: ResolvConf,
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
}

impl ResolvConf {
    /// Unknown lines are skipped, the last `search` and `options` line counts, as resolv.conf(5) says.
    #[must_use]
    pub fn parse(text: &str) -> ResolvConf {
        let mut conf = ResolvConf::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let keyword = words.next();
            let rest = words.map(str::to_owned);
            match keyword {
                Some("nameserver") => conf.nameservers.extend(rest.take(1)),
                Some("search") => {
                    // The root is searched anyway, and a trailing dot changes nothing here.
                    conf.searches = rest
                        .filter(|s| s != ".")
                        .map(|s| s.strip_suffix('.').map_or(s.clone(), str::to_owned))
                        .collect();
                }
                Some("options") => conf.options = rest.collect(),
                _ => {}
            }
        }
        conf
    }
}

/// The pod's resolver settings.
#[must_use]
pub fn dns_config(pod: &Pod, node: &NodeDns) -> PodDns {
    let mut told = Vec::new();
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|s| s.host_network).unwrap_or(false);
    let policy = spec.and_then(|s| s.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirst" => !host_network,
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut conf = if policy == "None" {
        ResolvConf::default()
    } else if cluster && !node.cluster_dns.is_empty() {
        cluster_conf(pod, node)
    } else {
        if cluster {
            told.push((Reason::MissingClusterDNS, missing_cluster_dns(pod)));
        }
        node.host.clone()
    };
    if let Some(own) = spec.and_then(|s| s.dns_config.as_ref()) {
        extend_unique(&mut conf.nameservers, own.nameservers.iter().flatten().cloned());
        extend_unique(&mut conf.searches, own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let Some(name) = option.name.as_deref() else { continue };
            conf.options.retain(|o| o.split(':').next() != Some(name));
            conf.options
                .push(option.value.as_deref().map_or_else(|| name.to_owned(), |v| format!("{name}:{v}")));
        }
    }
    for cut in [cut_nameservers(&mut conf.nameservers), cut_searches(&mut conf.searches)] {
        told.extend(cut.map(|message| (Reason::DNSConfigForming, message)));
    }
    let config = cri::DnsConfig { servers: conf.nameservers, searches: conf.searches, options: conf.options };
    PodDns { config, told }
}

fn missing_cluster_dns(pod: &Pod) -> String {
    format!(
        "pod: \"{}\". kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. \
         Falling back to \"Default\" policy.",
        PodRef::of(pod).with_uid()
    )
}

/// What it comes to, when not all had room.
fn cut_nameservers(nameservers: &mut Vec<String>) -> Option<String> {
    let too_many = nameservers.len() > MAX_NAMESERVERS;
    nameservers.truncate(MAX_NAMESERVERS);
    too_many.then(|| {
        format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            nameservers.join(" ")
        )
    })
}

fn cut_searches(searches: &mut Vec<String>) -> Option<String> {
    let asked = searches.len();
    searches.truncate(MAX_SEARCHES);
    searches.retain(|search| search.len() <= MAX_DOMAIN);
    let line = |searches: &[String]| searches.iter().map(|s| s.len() + 1).sum::<usize>().saturating_sub(1);
    while line(searches) > MAX_SEARCH_LINE {
        searches.pop();
    }
    (searches.len() < asked).then(|| {
        format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            searches.join(" ")
        )
    })
}

fn cluster_conf(pod: &Pod, node: &NodeDns) -> ResolvConf {
    let mut searches = Vec::new();
    if !node.cluster_domain.is_empty() {
        let (namespace, domain) =
            (pod.metadata.namespace.as_deref().unwrap_or("default"), &node.cluster_domain);
        searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    }
    extend_unique(&mut searches, node.host.searches.iter().cloned());
    ResolvConf { nameservers: node.cluster_dns.clone(), searches, options: vec!["ndots:5".to_owned()] }
}

fn extend_unique(list: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(
            serde_json::json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec}),
        )
        .unwrap()
    }

    fn node(cluster: bool) -> NodeDns {
        NodeDns {
            host: ResolvConf::parse(
                "nameserver 1.1.1.1\nsearch corp.example. .\n#nameserver 9.9.9.9\noptions edns0\n",
            ),
            cluster_dns: if cluster { vec!["10.96.0.10".into()] } else { vec![] },
            cluster_domain: "cluster.local".into(),
        }
    }

    #[test]
    fn resolv_conf() {
        for (text, servers, searches, options) in [
            ("", vec![], vec![], vec![]),
            ("nameserver 1.1.1.1 # first\n nameserver\t::1\n", vec!["1.1.1.1", "::1"], vec![], vec![]),
            ("search a b.\nsearch c\n", vec![], vec!["c"], vec![]),
            (
                "options ndots:2 rotate\n; options x\nsortlist 1.2.3.4\n",
                vec![],
                vec![],
                vec!["ndots:2", "rotate"],
            ),
            ("nameserver\n", vec![], vec![], vec![]),
        ] {
            let c = ResolvConf::parse(text);
            assert_eq!(
                (c.nameservers, c.searches, c.options),
                (s(&servers), s(&searches), s(&options)),
                "{text:?}"
            );
        }
    }

    fn s(v: &[&str]) -> Vec<String> {
        v.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn policies() {
        let cluster_search = ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"];
        let containers = serde_json::json!([{"name": "c"}]);
        for (policy, host_network, with_cluster, servers, searches, options) in [
            ("Default", false, true, vec!["1.1.1.1"], vec!["corp.example"], vec!["edns0"]),
            ("ClusterFirst", false, true, vec!["10.96.0.10"], cluster_search.to_vec(), vec!["ndots:5"]),
            ("ClusterFirst", true, true, vec!["1.1.1.1"], vec!["corp.example"], vec!["edns0"]),
            (
                "ClusterFirstWithHostNet",
                true,
                true,
                vec!["10.96.0.10"],
                cluster_search.to_vec(),
                vec!["ndots:5"],
            ),
            ("ClusterFirst", false, false, vec!["1.1.1.1"], vec!["corp.example"], vec!["edns0"]),
            ("None", false, true, vec![], vec![], vec![]),
        ] {
            let p = pod(
                serde_json::json!({"dnsPolicy": policy, "hostNetwork": host_network, "containers": containers}),
            );
            let PodDns { config: c, told } = dns_config(&p, &node(with_cluster));
            let is_missing = policy.starts_with("Cluster") && !host_network && !with_cluster;
            let reasons: Vec<Reason> = told.iter().map(|(reason, _)| *reason).collect();
            assert_eq!(
                reasons,
                if is_missing { vec![Reason::MissingClusterDNS] } else { vec![] },
                "{told:?}"
            );
            assert_eq!(
                (c.servers, c.searches, c.options),
                (s(&servers), s(&searches), s(&options)),
                "{policy}"
            );
        }
    }

    #[test]
    fn own_settings_are_added_and_replace_options_of_the_same_name() {
        let p = pod(serde_json::json!({"containers": [], "dnsPolicy": "ClusterFirst", "dnsConfig": {
            "nameservers": ["10.96.0.10", "8.8.8.8", "8.8.4.4", "9.9.9.9"], "searches": ["own"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "rotate"}]}}));
        let PodDns { config: c, told } = dns_config(&p, &node(true));
        let line = "the applied nameserver line is: 10.96.0.10 8.8.8.8 8.8.4.4";
        assert!(
            told.len() == 1 && told[0].0 == Reason::DNSConfigForming && told[0].1.ends_with(line),
            "{told:?}"
        );
        assert_eq!(c.servers, ["10.96.0.10", "8.8.8.8", "8.8.4.4"]);
        assert_eq!(c.searches.last().map(String::as_str), Some("own"));
        assert_eq!(c.options, ["ndots:2", "rotate"]);
    }

    #[test]
    fn searches_that_do_not_fit_are_left_out_and_told() {
        let searches = |all: Vec<String>| {
            let mut all = all;
            let told = cut_searches(&mut all);
            (all.len(), told.is_some())
        };
        let name = |length: usize| "a".repeat(length);
        assert_eq!(searches((0..32).map(|n| n.to_string()).collect()), (32, false));
        assert_eq!(searches((0..33).map(|n| n.to_string()).collect()), (32, true));
        assert_eq!(searches(vec![name(253), name(254)]), (1, true));
        assert_eq!(searches(vec![name(200); 11]), (10, true));
    }
}
