//! Resources of the QoS classes, set by a task of their own: with the systemd driver PID 1 has to answer first, and the
//! SyncLoop waits for nobody. What is overtaken by a newer order is never set.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::driver::CgroupDriver;
use oomlet_core::pod::qos::{CgroupResources, QosClass};

type Order = Option<(QosClass, CgroupResources)>;

/// Never waits.
#[derive(Debug)]
pub struct ClassUpdates {
    newest: watch::Sender<Order>,
}

impl ClassUpdates {
    /// The task ends with `cancel`, or when the handle is dropped.
    pub fn new(
        cgroups: Arc<CgroupDriver>,
        cancel: CancellationToken,
    ) -> (ClassUpdates, impl Future<Output = ()>) {
        let (newest, orders) = watch::channel(None);
        (ClassUpdates { newest }, run(cgroups, orders, cancel))
    }

    pub fn order(&self, class: QosClass, resources: CgroupResources) {
        self.newest.send_replace(Some((class, resources)));
    }
}

async fn run(cgroups: Arc<CgroupDriver>, mut orders: watch::Receiver<Order>, cancel: CancellationToken) {
    loop {
        // Cancel-safe: a change that is not seen here is seen by the next call.
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = orders.changed() => if changed.is_err() { return },
        }
        let Some((class, resources)) = *orders.borrow_and_update() else { continue };
        let cgroups = Arc::clone(&cgroups);
        let updated = tokio::task::spawn_blocking(move || cgroups.update_qos(class, &resources)).await;
        if let Ok(Err(error)) = updated {
            tracing::warn!(class = class.as_str(), %error, "the QoS class keeps its old CPU shares");
        }
    }
}
