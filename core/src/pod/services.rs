//! Environment variables that name Services, as every container gets them (pkg/kubelet/envvars). Core.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Service};

/// Where the API server's own Service is (`metav1.NamespaceDefault`), and what it is called (`masterServices`).
const MASTER_NAMESPACE: &str = "default";
const MASTER_SERVICE: &str = "kubernetes";

/// `KUBERNETES_*` always; of the Services in the pod's namespace, unless `enableServiceLinks` is false.
#[must_use]
pub fn service_env(services: &[Service], pod: &Pod) -> BTreeMap<String, String> {
    let own = pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let is = |s: &Service, namespace: &str| s.metadata.namespace.as_deref() == Some(namespace);
    let name = |s: &Service| s.metadata.name.clone().unwrap_or_default();
    let mut wanted: BTreeMap<String, &Service> = BTreeMap::new();
    for service in services.iter().filter(|s| has_cluster_ip(s)) {
        let master = is(service, MASTER_NAMESPACE) && name(service) == MASTER_SERVICE;
        if is(service, own) && (links || master) {
            wanted.insert(name(service), service);
        } else if master {
            // One of that name in the pod's own namespace comes first.
            wanted.entry(name(service)).or_insert(service);
        }
    }
    let mut env = BTreeMap::new();
    for (name, service) in wanted {
        add(&name, service, &mut env);
    }
    env
}

fn cluster_ip(service: &Service) -> &str {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).unwrap_or_default()
}

fn has_cluster_ip(service: &Service) -> bool {
    !matches!(cluster_ip(service), "" | "None")
}

fn add(name: &str, service: &Service, env: &mut BTreeMap<String, String>) {
    let ip = cluster_ip(service);
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let Some(first) = ports.first() else { return };
    let prefix = variable(name);
    let mut set = |name: String, value: String| _ = env.insert(name, value);
    set(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    set(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    for port in ports {
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            set(format!("{prefix}_SERVICE_PORT_{}", variable(name)), port.port.to_string());
        }
    }
    // As Docker's links had them.
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().filter(|p| !p.is_empty()).unwrap_or("TCP");
        let (number, scheme) = (port.port, protocol.to_lowercase());
        let url = format!("{scheme}://{host}:{number}");
        if index == 0 {
            set(format!("{prefix}_PORT"), url.clone());
        }
        let prefix = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
        set(prefix.clone(), url);
        set(format!("{prefix}_PROTO"), scheme);
        set(format!("{prefix}_PORT"), number.to_string());
        set(format!("{prefix}_ADDR"), ip.to_owned());
    }
}

fn variable(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn services() -> Vec<Service> {
        let service = |ns: &str, name: &str, ip: &str, ports: serde_json::Value| {
            serde_json::from_value(json!({"metadata": {"namespace": ns, "name": name},
                "spec": {"clusterIP": ip, "ports": ports}}))
            .unwrap()
        };
        vec![
            service("default", "kubernetes", "10.0.0.1", json!([{"name": "https", "port": 443}])),
            service(
                "shop",
                "my-db",
                "10.0.0.9",
                json!([{"port": 5432}, {"name": "x-y", "port": 53, "protocol": "UDP"}]),
            ),
            service("shop", "headless", "None", json!([{"port": 1}])),
            service("other", "far", "10.0.0.7", json!([{"port": 1}])),
            service("shop", "six", "fd00::1", json!([{"port": 80}])),
        ]
    }

    fn env(namespace: &str, links: Option<bool>) -> Vec<String> {
        let pod = json!({"metadata": {"namespace": namespace}, "spec": {"containers": [], "enableServiceLinks": links}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        service_env(&services(), &pod).into_iter().map(|(k, v)| format!("{k}={v}")).collect()
    }

    const KUBERNETES: [&str; 8] = [
        "KUBERNETES_PORT=tcp://10.0.0.1:443",
        "KUBERNETES_PORT_443_TCP=tcp://10.0.0.1:443",
        "KUBERNETES_PORT_443_TCP_ADDR=10.0.0.1",
        "KUBERNETES_PORT_443_TCP_PORT=443",
        "KUBERNETES_PORT_443_TCP_PROTO=tcp",
        "KUBERNETES_SERVICE_HOST=10.0.0.1",
        "KUBERNETES_SERVICE_PORT=443",
        "KUBERNETES_SERVICE_PORT_HTTPS=443",
    ];

    #[test]
    fn the_api_server_is_always_there() {
        for (namespace, links) in
            [("nowhere", None), ("nowhere", Some(true)), ("shop", Some(false)), ("default", Some(false))]
        {
            assert_eq!(env(namespace, links), KUBERNETES, "{namespace} {links:?}");
        }
    }

    #[test]
    fn services_of_the_namespace() {
        let env = env("shop", None);
        for want in [
            "MY_DB_SERVICE_HOST=10.0.0.9",
            "MY_DB_SERVICE_PORT=5432",
            "MY_DB_SERVICE_PORT_X_Y=53",
            "MY_DB_PORT=tcp://10.0.0.9:5432",
            "MY_DB_PORT_53_UDP=udp://10.0.0.9:53",
            "MY_DB_PORT_53_UDP_PROTO=udp",
            "SIX_PORT=tcp://[fd00::1]:80",
            "SIX_PORT_80_TCP_ADDR=fd00::1",
        ] {
            assert!(env.iter().any(|v| v == want), "{want} is not in {env:?}");
        }
        assert!(KUBERNETES.iter().all(|v| env.iter().any(|e| e == v)));
        assert!(!env.iter().any(|v| v.starts_with("HEADLESS") || v.starts_with("FAR")), "{env:?}");
    }
}
