//! Which kernel parameters a pod may set: those that are its own namespaces' and harm nobody else, and those that the node's
//! configuration allows besides (pkg/kubelet/sysctl, k8s.io/component-helpers/node/util/sysctl). Core.

use super::Pod;

/// All of them are namespaced in every kernel that the agent runs on.
const SAFE: [&str; 14] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_notsent_lowat",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Net,
    User,
    Uts,
}

impl Namespace {
    /// Of a name, or of what a pattern begins with. `None`: it is not known to be namespaced.
    fn of(name: &str) -> Option<Namespace> {
        let ipc = ["kernel.sem", "kernel.shm", "kernel.shmall", "kernel.shmmax", "kernel.shmmni"];
        let more =
            ["kernel.shm_rmid_forced", "kernel.msg", "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni"];
        if name == "kernel.domainname" {
            Some(Namespace::Uts)
        } else if ipc.contains(&name) || more.contains(&name) || name.starts_with("fs.mqueue.") {
            Some(Namespace::Ipc)
        } else if name.starts_with("net.") {
            Some(Namespace::Net)
        } else if name.starts_with("user.") {
            Some(Namespace::User)
        } else {
            None
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Namespace::Ipc => "IPC",
            Namespace::Net => "Net",
            Namespace::User => "User",
            Namespace::Uts => "UTS",
        }
    }
}

/// `allowedUnsafeSysctls`, beside those that are safe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedSysctls(Vec<Pattern>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    /// All that begin with it, or the one.
    name: String,
    is_prefix: bool,
}

impl AllowedSysctls {
    /// # Errors
    /// What is wrong with the first pattern that is none.
    pub fn new(patterns: &[String]) -> Result<AllowedSysctls, String> {
        let read = |pattern: &String| {
            let fits = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
            let name = normal(pattern);
            let (start, is_prefix) =
                name.strip_suffix('*').map_or((name.as_str(), false), |start| (start, true));
            if start.is_empty() || !start.chars().all(fits) {
                return Err(format!(
                    "{pattern:?} is no kernel parameter; write one as net.core.somaxconn or net.core.*"
                ));
            }
            match Namespace::of(start) {
                None => Err(format!(
                    "{pattern:?} is not known to be namespaced: what one pod sets all would have"
                )),
                Some(_) => Ok(Pattern { name: start.to_owned(), is_prefix }),
            }
        };
        patterns.iter().map(read).collect::<Result<_, _>>().map(AllowedSysctls)
    }

    fn has(&self, name: &str) -> bool {
        let fits = |p: &Pattern| if p.is_prefix { name.starts_with(&p.name) } else { name == p.name };
        SAFE.contains(&name) || self.0.iter().any(fits)
    }

    /// # Errors
    /// In kubelet's words, of the first that the pod may not set.
    pub fn check(&self, pod: &Pod) -> Result<(), String> {
        let Some(spec) = &pod.spec else { return Ok(()) };
        for sysctl in spec.security_context.iter().flat_map(|s| s.sysctls.iter().flatten()) {
            let name = normal(&sysctl.name);
            if !self.has(&name) {
                return Err(format!("forbidden sysctl: {name:?} not allowlisted"));
            }
            let of_host = Namespace::of(&name).filter(|namespace| match namespace {
                Namespace::Ipc => spec.host_ipc == Some(true),
                Namespace::Net => spec.host_network == Some(true),
                Namespace::User => spec.host_users != Some(false),
                Namespace::Uts => false,
            });
            if let Some(namespace) = of_host {
                let namespace = namespace.as_str();
                return Err(format!("forbidden sysctl: {name:?} not allowed with host {namespace} enabled"));
            }
        }
        Ok(())
    }
}

/// With dots between its parts: `net/ipv4/conf/eno2.100/rp_filter` is `net.ipv4.conf.eno2/100.rp_filter`.
#[must_use]
pub fn normal(name: &str) -> String {
    if name.find(['.', '/']).and_then(|at| name.get(at..=at)) != Some("/") {
        return name.to_owned();
    }
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(swap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_pod_may_set() {
        let unsafe_too = AllowedSysctls::new(&["net.core.*".into(), "kernel.msgmax".into()]).unwrap();
        let safe = AllowedSysctls::default();
        for (allowed, name, spec, want) in [
            (&safe, "kernel.shm_rmid_forced", json!({}), Ok(())),
            (&safe, "net/ipv4/tcp_syncookies", json!({}), Ok(())),
            (&safe, "net.core.somaxconn", json!({}), Err("\"net.core.somaxconn\" not allowlisted")),
            (&unsafe_too, "net.core.somaxconn", json!({}), Ok(())),
            (&unsafe_too, "kernel.msgmax", json!({}), Ok(())),
            (&unsafe_too, "kernel.msgmnb", json!({}), Err("\"kernel.msgmnb\" not allowlisted")),
            (
                &unsafe_too,
                "net.core.somaxconn",
                json!({ "hostNetwork": true }),
                Err("\"net.core.somaxconn\" not allowed with host Net enabled"),
            ),
            (
                &safe,
                "kernel.shm_rmid_forced",
                json!({ "hostIPC": true }),
                Err("\"kernel.shm_rmid_forced\" not allowed with host IPC enabled"),
            ),
        ] {
            let mut spec = spec;
            spec["securityContext"] = json!({ "sysctls": [{ "name": name, "value": "1" }] });
            spec["containers"] = json!([]);
            let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
            let want = want.map_err(|why| format!("forbidden sysctl: {why}"));
            assert_eq!(allowed.check(&pod), want, "{name} {spec}");
        }
    }

    #[test]
    fn patterns_and_names() {
        for (pattern, want) in [
            ("vm.swappiness", "not known to be namespaced"),
            ("kernel.*", "not known to be namespaced"),
            ("net.*.x", "is no kernel parameter"),
            ("", "is no kernel parameter"),
        ] {
            let error = AllowedSysctls::new(&[pattern.to_owned()]).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
        for pattern in ["kernel.shm*", "kernel.msg*", "fs.mqueue.*", "net.*", "user.max_user_namespaces"] {
            AllowedSysctls::new(&[pattern.to_owned()]).expect(pattern);
        }
        for (written, want) in [
            ("net.ipv4.conf.eno2/100.rp_filter", "net.ipv4.conf.eno2/100.rp_filter"),
            ("net/ipv4/conf/eno2.100/rp_filter", "net.ipv4.conf.eno2/100.rp_filter"),
            ("kernel", "kernel"),
        ] {
            assert_eq!(normal(written), want);
        }
    }
}
