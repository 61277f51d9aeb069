//! Waiting while the trace is shown.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::Interrupted;
use super::show::Watcher;
use crate::node::TestNode;

const PAUSE: Duration = Duration::from_millis(20);

/// Fails when it is interrupted, when the agent ends, and after `bound`.
pub fn wait<T>(
    node: &mut TestNode,
    watcher: &mut Watcher,
    stop: &Interrupted,
    bound: Duration,
    what: &str,
    mut find: impl FnMut(&TestNode) -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + bound;
    loop {
        let looked = Instant::now();
        stop.check()?;
        watcher.show(node)?;
        if let Some(found) = find(node)? {
            return Ok(found);
        }
        if let Some(status) = node.agent.as_mut().and_then(|agent| agent.ended()) {
            bail!("the agent ended with {status} while waiting: {what}");
        }
        if Instant::now() >= end {
            bail!("not within {} s: {what}", bound.as_secs());
        }
        // Looking takes no more than half of a CPU from what is looked at.
        std::thread::sleep(PAUSE.max(looked.elapsed()));
    }
}
