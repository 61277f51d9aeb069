//! Tasks that have no end. One that panics, which is a defect of the agent, starts anew, and the others do not notice.

use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio::time::sleep;

/// From the end of a task to its next start.
const START_AGAIN: Duration = Duration::from_secs(1);

type Run = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What starts a task, each time anew.
pub(super) struct Task {
    name: &'static str,
    start: Box<dyn Fn() -> Run + Send>,
}

impl Task {
    pub fn new<F>(name: &'static str, start: impl Fn() -> F + Send + 'static) -> Task
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Task { name, start: Box::new(move || Box::pin(start())) }
    }
}

/// Never ends while there is a task. They all end when it is dropped.
pub(super) async fn run(tasks: Vec<Task>) {
    let mut running = JoinSet::new();
    let mut of_id: HashMap<Id, Task> = HashMap::new();
    for task in tasks {
        let id = running.spawn((task.start)()).id();
        of_id.insert(id, task);
    }
    while let Some(ended) = running.join_next_with_id().await {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let Some(task) = of_id.remove(&id) else { continue };
        if let Err(error) = ended {
            tracing::error!(
                task = task.name,
                %error,
                "a task that talks to the API server has failed, which is a defect of the agent; it starts anew"
            );
        }
        let again = (task.start)();
        let id = running.spawn(async {
            sleep(START_AGAIN).await;
            again.await;
        });
        of_id.insert(id.id(), task);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_panics_starts_anew_alone() {
        let starts: Arc<[AtomicUsize; 2]> = Arc::default();
        let counted = |which: usize, panics: usize| {
            let starts = Arc::clone(&starts);
            Task::new("test", move || {
                let starts = Arc::clone(&starts);
                async move {
                    let before = starts[which].fetch_add(1, Ordering::SeqCst);
                    assert!(before >= panics, "as the test wants it");
                    std::future::pending::<()>().await;
                }
            })
        };
        let running = run(vec![counted(0, 2), counted(1, 0)]);
        timeout(Duration::from_secs(60), running).await.expect_err("it goes on");
        assert_eq!(starts.each_ref().map(|n| n.load(Ordering::SeqCst)), [3, 1]);
    }
}
