//! A node of a cluster: the agent on a containerd of its own, joined to a control plane under the node's own identity.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};

use serde_json::{Value, json};
use xtask::control_plane::ControlPlane;
use xtask::node::RunningContainer;
use xtask::relay::Relay;

use super::fault_proxy::FaultProxy;
use super::{condition, wait_object};
use crate::newest;
use crate::node::Node;

/// It goes before the control plane does; the Node object is deleted with it.
#[derive(Debug)]
pub struct Joined<'a> {
    node: Node,
    pub name: String,
    plane: &'a ControlPlane,
    /// The API server's way to the node's own API.
    inward: Option<Relay>,
}

impl Deref for Joined<'_> {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl DerefMut for Joined<'_> {
    fn deref_mut(&mut self) -> &mut Node {
        &mut self.node
    }
}

impl<'a> Joined<'a> {
    /// The agent does not run yet. The name is the node's, and its pods' namespace's.
    #[track_caller]
    #[must_use]
    pub fn new(plane: &'a ControlPlane, name: &str) -> Joined<'a> {
        let mut node = Node::new(name, newest());
        node.join_as(plane, name).unwrap();
        Joined::of(plane, name, node)
    }

    /// The same, and all that it says to the API server goes through the proxy.
    #[track_caller]
    #[must_use]
    pub fn through_faults(plane: &'a ControlPlane, name: &str) -> (FaultProxy, Joined<'a>) {
        let mut node = Node::new(name, newest());
        let kubeconfig = plane.node_kubeconfig(name).unwrap();
        let proxy = FaultProxy::start(&kubeconfig, node.scratch().path());
        node.join_by(proxy.address(), name, proxy.kubeconfig()).unwrap();
        (proxy, Joined::of(plane, name, node))
    }

    fn of(plane: &'a ControlPlane, name: &str, node: Node) -> Joined<'a> {
        super::namespace(plane, name);
        Joined { node, name: name.to_owned(), plane, inward: None }
    }

    /// The agent runs and the node is Ready.
    #[track_caller]
    #[must_use]
    pub fn ready(plane: &'a ControlPlane, name: &str) -> Joined<'a> {
        let mut node = Joined::new(plane, name);
        node.start();
        node.wait_ready();
        node
    }

    /// The agent does not run yet; its own API will be reached from out here, by the API server too, at
    /// [`Joined::api_address`].
    #[track_caller]
    #[must_use]
    pub fn serving(plane: &'a ControlPlane, name: &str) -> Joined<'a> {
        let mut node = Joined::new(plane, name);
        let relay = Relay::inward(node.containerd.netns()).unwrap();
        let ca = plane.authority_path();
        let config = node.config_mut();
        config["port"] = json!(relay.address().port());
        config["authentication"] = json!({ "x509": { "clientCAFile": ca } });
        node.add_arguments(&["--node-ip=127.0.0.1"]);
        node.inward = Some(relay);
        node
    }

    /// Of the node's own API.
    #[track_caller]
    #[must_use]
    pub fn api_address(&self) -> SocketAddr {
        self.inward.as_ref().expect("the node was made by `serving`").address()
    }

    #[track_caller]
    pub fn wait_ready(&self) -> Value {
        let is_ready = |node: &Value| condition(node, "Ready")["status"] == "True";
        self.wait_object(&["node", &self.name], "Ready", is_ready)
    }

    /// Of this node's namespace, or of the cluster.
    #[track_caller]
    pub fn wait_object(&self, args: &[&str], what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let namespace = [args, &["--namespace", &self.name]].concat();
        let diagnosed = std::panic::AssertUnwindSafe(|| wait_object(self.plane, &namespace, what, &holds));
        match std::panic::catch_unwind(diagnosed) {
            Ok(object) => object,
            Err(panic) => {
                eprintln!("{}", self.diagnosis());
                std::panic::resume_unwind(panic)
            }
        }
    }

    /// Running containers of the pod with exactly this name.
    #[must_use]
    pub fn containers_of_pod(&self, pod: &str) -> Vec<RunningContainer> {
        self.running().unwrap().into_iter().filter(|c| c.pod == pod).collect()
    }

    /// The one that it has.
    #[track_caller]
    #[must_use]
    pub fn container_of_pod(&self, pod: &str) -> RunningContainer {
        let mut running = self.containers_of_pod(pod);
        assert_eq!(running.len(), 1, "containers of {pod}: {running:?}\n{}", self.diagnosis());
        running.remove(0)
    }

    /// Makes a pod on this node.
    #[track_caller]
    pub fn run_pod(&self, name: &str, spec: &Value) {
        let mut spec = spec.clone();
        spec["nodeSelector"] = json!({ "test": self.name });
        self.plane
            .apply(&json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": name, "namespace": self.name },
                "spec": spec,
            }))
            .unwrap();
    }

    /// The pod as the API server has it, once it is so.
    #[track_caller]
    pub fn wait_api_pod(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.wait_object(&["pod", name], what, holds)
    }

    #[track_caller]
    pub fn wait_api_pod_gone(&self, name: &str) {
        super::wait(&format!("pod {name} is gone\n{}", self.diagnosis()), || {
            let listed = self.plane.kubectl_json(&["get", "pods", "--namespace", &self.name]).ok()?;
            let items = listed["items"].as_array()?;
            items.iter().all(|pod| pod["metadata"]["name"] != name).then_some(())
        });
    }

    /// Reason, count and message of the Events about an object of this node's namespace, as `kubectl` lists them.
    #[must_use]
    pub fn events(&self, object: &str) -> Vec<(String, u64, String)> {
        let listed = self.plane.kubectl_json(&["get", "events", "--namespace", &self.name]).unwrap();
        let about = |event: &&Value| event["involvedObject"]["name"] == object;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let items = listed["items"].as_array().into_iter().flatten().filter(about);
        items.map(|e| (text(&e["reason"]), e["count"].as_u64().unwrap_or(1), text(&e["message"]))).collect()
    }
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        // First the agent, which would make it anew.
        let _ = self.node.kill_agent();
        let _ = self.plane.kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
        let _ = self.plane.kubectl(&["delete", "node", &self.name, "--wait=false"]);
        let _ = self.plane.kubectl(&["delete", "pods", "--all", "--force", "--namespace", &self.name]);
    }
}

/// A busybox container that runs a shell script.
#[must_use]
pub fn shell(name: &str, script: &str) -> Value {
    crate::node::shell(name, script)
}

/// It runs until it is asked to end, and ends at once then.
pub const OBEDIENT: &str = "trap 'exit 0' TERM; while true; do sleep 0.1; done";

/// A pod of one obedient container.
#[must_use]
pub fn obedient() -> Value {
    json!({ "terminationGracePeriodSeconds": 5, "automountServiceAccountToken": false, "containers": [shell("main", OBEDIENT)] })
}
