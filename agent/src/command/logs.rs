//! `oomlet logs`: a container's log from its files, whether an agent runs or not. Also of a pod that is gone, as long as its
//! logs are kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::DEFAULT_ROOT_DIR;
use crate::container_log::dir;
use crate::container_log::dir_watch::DirWatches;
use crate::container_log::reader::{self, LogOf};
use crate::cri::names::{container_log_path, pod_log_dir};
use crate::pod_store::{self, PodStoreError};
use oomlet_core::container_log::{kept_of, runs};
use oomlet_core::duration;
use oomlet_core::node::published::{NodeSnapshot, SavedPod};
use oomlet_core::node_api::log_options::LogOptions;
use oomlet_core::node_api::{log_source, pods};
use oomlet_core::pod::{PodRef, PodUid};

/// How often it is looked whether the container still runs.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The pod's name, as `oomlet pods` shows it; of a static pod also without the node's name at its end.
    pod: String,
    #[arg(long, short, default_value = "default")]
    namespace: String,
    /// Where the pod has more than one: the first, unless it is named here.
    #[arg(long, short)]
    container: Option<String>,
    /// Go on with what is to come, to the container's end.
    #[arg(long, short)]
    follow: bool,
    /// Of the run before this one; where there is none, of the pod of this name that was there before.
    #[arg(long, short)]
    previous: bool,
    /// So many lines from the end.
    #[arg(long)]
    tail: Option<u64>,
    /// Nothing older, such as 5m or 1h30m.
    #[arg(long, value_parser = duration::parse)]
    since: Option<Duration>,
    /// Each line with its time.
    #[arg(long)]
    timestamps: bool,
    /// The agent's root directory.
    #[arg(long, default_value = DEFAULT_ROOT_DIR)]
    root_dir: PathBuf,
    /// The configuration's `podLogsDir`.
    #[arg(long, default_value = "/var/log/pods")]
    pod_logs_dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    #[error(transparent)]
    Store(#[from] PodStoreError),
    #[error("cannot read {path}: {source}; the logs are root's, and --pod-logs-dir says where they are")]
    Read { path: PathBuf, source: std::io::Error },
    #[error(
        "there is no pod {name} in the namespace {namespace}, nor are logs of one kept in {dir} (`oomlet pods` shows what there is)"
    )]
    NoPod { namespace: String, name: String, dir: PathBuf },
    #[error("pod {pod} has no container {container}, only {}", there.join(", "))]
    NoContainer { pod: String, container: String, there: Vec<String> },
    #[error("{0}")]
    NoLog(String),
    #[error("cannot print the log: {0}")]
    Print(#[from] std::io::Error),
}

/// A log that was found.
struct Found {
    pod: PodUid,
    path: PathBuf,
    container_id: String,
}

/// # Errors
/// When there is no such log, or it cannot be read.
pub fn logs(args: &Args) -> Result<(), LogsError> {
    let (saved, unreadable) = pod_store::load(&pod_store::dir(&args.root_dir))?;
    for line in unreadable {
        eprintln!("oomlet: {line}");
    }
    let found = find(args, &saved)?;
    let since = args.since.and_then(|since| {
        let since = SignedDuration::try_from(since).ok()?;
        Timestamp::now().saturating_sub(since).ok()
    });
    let options = LogOptions {
        follow: args.follow,
        tail_lines: args.tail,
        since,
        timestamps: args.timestamps,
        ..LogOptions::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(print(found, options, pod_store::dir(&args.root_dir)))
}

async fn print(found: Found, options: LogOptions, store: PathBuf) -> Result<(), LogsError> {
    let (snapshots, of_reader) = watch::channel(Arc::default());
    let uid = found.pod.clone();
    look(&snapshots, &store, &uid);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            look(&snapshots, &store, &uid);
        }
    });
    let watches = DirWatches::new();
    tokio::spawn(watches.events(CancellationToken::new()));
    let of =
        LogOf { path: found.path, pod: found.pod, container_id: found.container_id, snapshots: of_reader };
    let (to, mut received) = mpsc::channel(16);
    let reading = async move { reader::send(of, options, &watches, to).await };
    let printing = async move {
        use std::io::Write as _;
        let mut out = std::io::stdout().lock();
        while let Some(bytes) = received.recv().await {
            match out.write_all(&bytes).and_then(|()| out.flush()) {
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
                written => written?,
            }
        }
        Ok::<_, std::io::Error>(())
    };
    let ((), printed) = tokio::join!(reading, printing);
    Ok(printed?)
}

/// As the agent has told it last; nothing of a pod that is gone.
fn look(snapshots: &watch::Sender<Arc<NodeSnapshot>>, store: &Path, uid: &PodUid) {
    let saved = pod_store::load_one(store, uid).into_iter().collect::<Vec<_>>();
    snapshots.send_replace(Arc::new(NodeSnapshot::of_saved(&saved)));
}

fn find(args: &Args, saved: &[SavedPod]) -> Result<Found, LogsError> {
    let snapshot = NodeSnapshot::of_saved(saved);
    let of_name = |name: &str| pods::by_name(&snapshot, &args.namespace, name);
    let full_name = |saved: &SavedPod| {
        let node = saved.pod.spec.as_ref()?.node_name.as_ref()?;
        let full = format!("{}-{node}", args.pod);
        (saved.pod.metadata.name.as_ref() == Some(&full)).then_some(full)
    };
    let published = of_name(&args.pod).or_else(|| of_name(&saved.iter().find_map(full_name)?));
    let Some(published) = published else {
        return kept(args, None, &args.pod);
    };
    let pod = PodRef::of(&published.pod);
    let there: Vec<String> = pods::containers(&published.pod).map(|named| named.name.to_owned()).collect();
    let container = choose(args, &pod.name, there)?;
    let dir = pod_log_dir(&args.pod_logs_dir, &pod);
    let left = list(&dir.join(&container))?;
    match log_source::run(&pod.name, &published.status, &container, args.previous, &runs(&left)) {
        Ok((run, container_id)) => {
            let path = dir.join(container_log_path(&container, run));
            Ok(Found { pod: pod.uid, path, container_id })
        }
        // The one before it has another UID.
        Err(why) if args.previous => kept(args, Some(&pod.uid), &pod.name).map_err(|_| LogsError::NoLog(why)),
        Err(why) => Err(LogsError::NoLog(why)),
    }
}

/// The last log of the newest pod of this name that is gone.
fn kept(args: &Args, but: Option<&PodUid>, name: &str) -> Result<Found, LogsError> {
    let root = &args.pod_logs_dir;
    let changed = |dir: &PathBuf| std::fs::metadata(dir).and_then(|dir| dir.modified()).ok();
    let dirs = list(root)?;
    let of_name = kept_of(&dirs, &args.namespace, name).into_iter().filter(|pod| Some(&pod.uid) != but);
    let newest =
        of_name.map(|pod| (pod_log_dir(root, &pod), pod)).max_by_key(|(dir, _)| newest_below(dir, changed));
    let Some((dir, pod)) = newest else {
        let (namespace, name) = (args.namespace.clone(), name.to_owned());
        return Err(LogsError::NoPod { namespace, name, dir: root.clone() });
    };
    let container = choose(args, &pod.name, list(&dir)?)?;
    let last = runs(&list(&dir.join(&container))?).last().copied();
    let why = || LogsError::NoLog(format!("container {container:?} of pod {} has left no log", pod.name));
    let path = dir.join(container_log_path(&container, last.ok_or_else(why)?));
    Ok(Found { pod: pod.uid, path, container_id: String::new() })
}

/// When a pod's last container began to write.
fn newest_below<T: Ord>(dir: &Path, changed: impl Fn(&PathBuf) -> Option<T>) -> Option<T> {
    let below = dir::names(dir).unwrap_or_default().into_iter().map(|name| dir.join(name));
    below.filter_map(|dir| changed(&dir)).max()
}

fn list(dir: &Path) -> Result<Vec<String>, LogsError> {
    let mut names = dir::names(dir).map_err(|source| LogsError::Read { path: dir.to_owned(), source })?;
    names.sort();
    Ok(names)
}

/// As kubectl does.
fn choose(args: &Args, pod: &str, there: Vec<String>) -> Result<String, LogsError> {
    match (&args.container, &there[..]) {
        (Some(named), _) if there.contains(named) => Ok(named.clone()),
        (None, [only]) => Ok(only.clone()),
        (None, [first, _, ..]) => {
            eprintln!("oomlet: the first container, {first:?}, out of: {}", there.join(", "));
            Ok(first.clone())
        }
        (named, _) => {
            let container = named.clone().unwrap_or_default();
            Err(LogsError::NoContainer { pod: pod.to_owned(), container, there })
        }
    }
}
