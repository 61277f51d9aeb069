//! What a container is to do before its stop signal. Hooks of all containers that are to end begin at once; each container
//! then waits for its own, and for its turn.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use super::Deadline;
use crate::clock;
use crate::pod_worker::WorkerContext;
use crate::probe::hook::Done;
use oomlet_core::pod::hook::PreStop;
use oomlet_core::pod::{ContainerInstance, PodRef};
use oomlet_core::reason::Reason;
use oomlet_core::trace::record::{Kind, Record};

/// One that has begun. It ends with this: the runtime kills what is left of its command, no later than its container.
#[derive(Debug)]
pub(in crate::pod_worker) struct RunningHook {
    told: Arc<Told>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for RunningHook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where its failure is told.
#[derive(Debug)]
struct Told {
    context: Arc<WorkerContext>,
    pod: PodRef,
    container: ContainerInstance,
    sleeps: bool,
}

impl Told {
    fn tell(&self, kind: Kind, reason: Reason, message: impl Into<String>) {
        let record = Record::new(clock::now(), kind, reason, message).pod(&self.pod);
        self.context.journal.publish(record.container(self.container.name.clone()));
    }

    /// What it has said is nobody's business: it may have secrets in it.
    fn failed(&self) {
        self.tell(Kind::Warning, Reason::FailedPreStopHook, "PreStopHook failed");
    }
}

impl RunningHook {
    /// Begins it.
    pub fn begin(
        context: &Arc<WorkerContext>,
        pod: &PodRef,
        container: &ContainerInstance,
        pre_stop: PreStop,
    ) -> RunningHook {
        let PreStop { hook, address } = pre_stop;
        let told = Arc::new(Told {
            context: Arc::clone(context),
            pod: pod.clone(),
            container: container.clone(),
            sleeps: hook.sleeps().is_some(),
        });
        let its = Arc::clone(&told);
        let task = tokio::spawn(async move {
            let (pod, name) = (&its.pod, &its.container.name);
            info!(%pod, container = name, ?hook, "preStop hook");
            match its.context.hooks.run(&hook, &its.container.id, address.as_deref()).await {
                Ok(Done::AsAsked) => {}
                Ok(Done::WithoutTls(host)) => {
                    its.tell(Kind::Warning, Reason::LifecycleHTTPFallback, without_tls(&host));
                }
                Err(why) => {
                    warn!(%pod, container = name, error = hook.failed(name, pod, &why), "preStop hook failed");
                    its.failed();
                }
            }
        });
        RunningHook { told, task }
    }

    /// Comes back when it has ended, or the grace has.
    pub async fn ends(mut self, kill_at: &mut watch::Receiver<Deadline>) {
        loop {
            let deadline = *kill_at.borrow_and_update();
            let left = deadline.at.since(clock::now());
            if left.is_zero() {
                let Told { pod, container, sleeps, .. } = &*self.told;
                if self.task.is_finished() {
                    return;
                }
                warn!(%pod, container = container.name, cut = deadline.cut, "the preStop hook is not done, and the grace is over");
                if !sleeps {
                    self.told.failed();
                }
                return;
            }
            // Cancel-safe: the hook goes on in the next turn.
            tokio::select! {
                // A panic is told where it was.
                _ = &mut self.task => return,
                () = sleep(left) => {}
                changed = kill_at.changed() => if changed.is_err() {
                    // Nobody is left to have it come earlier, and this ends with them before long.
                    sleep(left).await;
                },
            }
        }
    }
}

/// kubelet's words.
pub(in crate::pod_worker) fn without_tls(host: &str) -> String {
    format!("request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded")
}
