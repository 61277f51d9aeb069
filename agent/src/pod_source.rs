//! Static pods: watches `staticPodPath` (a directory of manifests, or one manifest) and sends its complete
//! list as [`Event::Pods`]. Shell; what a manifest means is decided in [`oomlet_core::manifest`]. [`http`]: those of a
//! server.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::watched_dir::Looks;
use oomlet_core::node::event::Event;

mod directory;
pub mod http;
mod taken_over;

use directory::Directory;
pub use taken_over::TakenOver;

/// Where manifests become pods.
#[derive(Clone, Debug)]
pub struct Here {
    /// The node's name, which goes into theirs.
    pub node_name: String,
    /// There is an API server, and what it holds is not for static pods.
    pub in_cluster: bool,
    /// What ran before this agent did.
    pub taken_over: TakenOver,
}

/// The task. Ends when `cancel` is cancelled or nobody receives any more. `rescan`: `fileCheckFrequency`.
pub async fn watch(
    path: PathBuf,
    here: Here,
    rescan: Duration,
    tx: mpsc::Sender<Event>,
    cancel: CancellationToken,
) {
    let mut directory = Directory::new(path.clone(), here);
    let mut looks = Looks::new(&path, rescan);
    // Cancel-safe: the agent ends.
    while let Some(removed) = cancel.run_until_cancelled(looks.next()).await {
        let scan = tokio::task::spawn_blocking(move || {
            let updates = directory.scan(&removed);
            (directory, updates)
        });
        let updates = match scan.await {
            Ok((back, updates)) => {
                directory = back;
                updates
            }
            Err(error) => {
                // Only a panic or the runtime's end gets here; the pods that run are not this task's to stop.
                tracing::error!(path = %path.display(), %error, "static pod manifests are not watched any more");
                return;
            }
        };
        for update in updates {
            tokio::select! {
                // Cancel-safe: the agent ends, so does the list.
                () = cancel.cancelled() => return,
                sent = tx.send(Event::Pods(update)) => if sent.is_err() { return },
            }
        }
    }
}

#[cfg(test)]
mod tests;
