//! The logs of a pod's containers, as they come and go with them.

use std::io;
use std::path::Path;

use tracing::warn;

use super::{Worker, WorkerError};
use crate::container_log::{dir, links};
use crate::cri::names::pod_log_dir;
use oomlet_core::container_log::{name_of_run, restart_count, runs};
use oomlet_core::pod::lifecycle::ContainerStart;
use oomlet_core::pod::order::WorkOrder;
use oomlet_core::pod::runtime_status::ContainerStatus;
use oomlet_core::reason::Reason;

impl Worker {
    /// Where log shippers look. A container without the link runs as well.
    pub(super) async fn link_log(&self, container: &str, id: &str, restart_count: u32) {
        let (context, who) = (self.context.clone(), self.who.clone());
        let (name, id) = (container.to_owned(), id.to_owned());
        let linked = self.blocking("linking the log", move || {
            links::make(&who, &context.pod_logs_dir, &name, &id, restart_count)
        });
        match linked.await {
            Ok(Err(error)) => {
                warn!(pod = %self.who, container, %error, "the log has no link for log shippers");
            }
            Err(error) => warn!(container, %error, "the log has no link for log shippers"),
            Ok(Ok(())) => {}
        }
    }

    /// Of a container that the runtime knows no run of: it goes on counting after the last that has left a log. Of those
    /// before it the logs go, as they would have with their containers.
    pub(super) async fn after_earlier_logs(&self, start: &ContainerStart) -> ContainerStart {
        let (context, who, name) = (self.context.clone(), self.who.clone(), start.name.clone());
        let counted = self.blocking("counting earlier runs by their logs", move || {
            let dir = pod_log_dir(&context.pod_logs_dir, &who).join(name);
            let names = dir::names(&dir)?;
            if let Some((_, earlier)) = runs(&names).split_last() {
                earlier.iter().try_for_each(|run| dir::remove_run(&dir, &name_of_run(*run)))?;
            }
            Ok::<_, io::Error>(restart_count(&names))
        });
        let restart_count = match counted.await {
            Ok(Ok(count)) => count,
            Ok(Err(error)) => {
                warn!(pod = %self.who, container = start.name, %error, "what has run before is not known by its logs");
                start.restart_count
            }
            Err(_) => start.restart_count,
        };
        ContainerStart { restart_count, ..start.clone() }
    }

    /// Of containers that the runtime has no more. What stays goes with the pod.
    pub(super) async fn remove_logs_of(&self, containers: Vec<ContainerStatus>) -> Result<(), WorkerError> {
        if containers.is_empty() {
            return Ok(());
        }
        let (context, who) = (self.context.clone(), self.who.clone());
        let removed = self.blocking("removing logs of containers", move || {
            let own = pod_log_dir(&context.pod_logs_dir, &who);
            containers.iter().try_for_each(|c| {
                // Wherever else the runtime had it, it is not the agent's to remove.
                if let Some((dir, log)) = log_below(&own, &c.log_path) {
                    dir::remove_run(dir, log)?;
                }
                links::remove(&who, &context.pod_logs_dir, &c.name, &c.id)
            })
        });
        if let Err(error) = removed.await? {
            warn!(pod = %self.who, %error, "a log of a container that is gone stays");
        }
        Ok(())
    }

    /// The pod is removed to be run anew: it begins with its first log. Of any other they are kept for a while
    /// ([`crate::container_log::keeper`]).
    pub(super) fn begins_anew(&self) -> bool {
        let standing = self.orders.borrow();
        let order = standing.as_ref().map(|standing| &standing.order);
        matches!(order, Some(WorkOrder::Terminate { reason: Reason::RetryAfterEviction, .. }))
    }
}

/// Directory and name of a run's log.
fn log_below<'a>(pod_dir: &Path, log: &'a str) -> Option<(&'a Path, &'a str)> {
    let dir = Path::new(log).parent()?;
    let name = log.rsplit('/').next()?;
    (dir.parent() == Some(pod_dir) && !runs(&[name.to_owned()]).is_empty()).then_some((dir, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_below_the_pod_s_own_directory() {
        let below = |log| log_below(Path::new("/logs/ns_pod_uid"), log).map(|(_, name)| name);
        for (log, expected) in [
            ("/logs/ns_pod_uid/c/0.log", Some("0.log")),
            ("/logs/ns_pod_uid/0.log", None),
            ("/logs/ns_other_uid/c/0.log", None),
            ("/logs/ns_pod_uid/c/secret", None),
            ("/logs/ns_pod_uid/c/", None),
            ("", None),
        ] {
            assert_eq!(below(log), expected, "{log}");
        }
    }
}
