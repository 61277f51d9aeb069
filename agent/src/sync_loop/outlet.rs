//! Where the SyncLoop's picture of its pods leaves it: a `watch` of the newest [`NodeSnapshot`]. Whoever wants to know
//! (the pod store, the status manager, `/pods`, metrics) holds a receiver and looks when it has time; one that is slow
//! misses what has been overtaken meanwhile, and nobody waits for it.

use std::sync::Arc;

use tokio::sync::watch;

use oomlet_core::node::published::{NodeSnapshot, PublishedNode, PublishedPod};
use oomlet_core::pod::status::of_gone;
use oomlet_core::pod::{PodRef, PodUid};

#[derive(Debug)]
pub struct Outlet {
    snapshot: NodeSnapshot,
    /// Since it was sent last.
    changed: bool,
    tx: watch::Sender<Arc<NodeSnapshot>>,
}

impl Outlet {
    /// `first`: the pods as the last run of the agent left them.
    #[must_use]
    pub fn new(first: NodeSnapshot) -> (Outlet, watch::Receiver<Arc<NodeSnapshot>>) {
        let (tx, rx) = watch::channel(Arc::new(first.clone()));
        (Outlet { snapshot: first, changed: false, tx }, rx)
    }

    pub fn publish(&mut self, pod: Arc<PublishedPod>) {
        self.snapshot.pods.insert(PodRef::of(&pod.pod).uid, pod);
        self.changed = true;
    }

    /// Nothing of the pod is left on the node. One that was deleted stays listed as ended, see [`Outlet::unlist`].
    pub fn forget(&mut self, uid: &PodUid, now_unix_ns: i64) {
        let Some(pod) = self.snapshot.pods.remove(uid) else { return };
        if pod.pod.metadata.deletion_timestamp.is_some() {
            let mut last = PublishedPod::clone(&pod);
            last.status = Arc::new(of_gone(&pod.status, now_unix_ns));
            self.snapshot.ended.insert(uid.clone(), Arc::new(last));
        }
        self.changed = true;
    }

    /// The source of a pod that was deleted does not name it any more.
    pub fn unlist(&mut self, uid: &PodUid) {
        self.changed |= self.snapshot.ended.remove(uid).is_some();
    }

    pub fn publish_node(&mut self, node: PublishedNode) {
        self.snapshot.node = node;
        self.changed = true;
    }

    /// At the end of a turn: what has changed in it goes out as one.
    pub fn flush(&mut self) {
        if std::mem::take(&mut self.changed) {
            // Nobody needs to be there.
            self.tx.send_replace(Arc::new(self.snapshot.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str) -> Arc<PublishedPod> {
        let mut pod = oomlet_core::pod::Pod::default();
        pod.metadata.uid = Some(uid.to_owned());
        Arc::new(PublishedPod { pod: Arc::new(pod), ..PublishedPod::default() })
    }

    #[test]
    fn a_turn_goes_out_as_one_and_nothing_goes_out_for_nothing() {
        let (mut outlet, mut rx) = Outlet::new(NodeSnapshot::default());
        outlet.publish(pod("a"));
        outlet.publish(pod("b"));
        outlet.forget(&"b".into(), 0);
        assert!(!rx.has_changed().unwrap());
        outlet.flush();
        let seen = Arc::clone(&rx.borrow_and_update());
        assert_eq!(seen.pods.keys().map(PodUid::as_str).collect::<Vec<_>>(), ["a"]);
        outlet.forget(&"never".into(), 0);
        outlet.flush();
        assert!(!rx.has_changed().unwrap());
    }
}
