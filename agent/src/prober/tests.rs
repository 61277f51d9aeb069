use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

use oomlet_core::clock::Mono;
use oomlet_core::node::published::{Probing, PublishedPod};
use oomlet_core::pod::probe::ProbeKind;
use oomlet_core::pod::{PodRef, PodUid};
use serde_json::json;

use super::*;

/// Says of each pod what it is told to; counts how many runs of a pod there are at a time.
#[derive(Debug, Default)]
struct Script {
    at_once: Mutex<HashMap<PodUid, usize>>,
    most: Mutex<usize>,
}

impl Checks for Script {
    fn run(&self, run: ProbeRun) -> Pin<Box<dyn Future<Output = ProbeOutcome> + Send + '_>> {
        Box::pin(async move {
            {
                let mut at_once = self.at_once.lock().unwrap();
                let now = at_once.entry(run.pod.uid.clone()).or_default();
                *now += 1;
                let mut most = self.most.lock().unwrap();
                *most = (*most).max(*now);
            }
            tokio::task::yield_now().await;
            *self.at_once.lock().unwrap().get_mut(&run.pod.uid).unwrap() -= 1;
            match run.pod.name.as_str() {
                "panics" => panic!("as the test wants it"),
                "fails" => ProbeOutcome::Failure("no".into()),
                _ => ProbeOutcome::Success,
            }
        })
    }
}

fn published(name: &str) -> Arc<PublishedPod> {
    let probe = json!({"tcpSocket": {"port": 80}, "periodSeconds": 1, "failureThreshold": 1});
    let pod = json!({"metadata": {"uid": name, "namespace": "ns", "name": name},
        "spec": {"containers": [{"name": "c", "readinessProbe": probe}]}});
    let status = json!({"podIP": "10.0.0.1", "containerStatuses": [{"name": "c", "image": "", "imageID": "",
        "restartCount": 0, "containerID": "containerd://id", "ready": false, "started": true,
        "state": {"running": {}}}]});
    Arc::new(PublishedPod {
        pod: Arc::new(serde_json::from_value(pod).unwrap()),
        status: Arc::new(serde_json::from_value(status).unwrap()),
        probing: Probing::All,
        ..PublishedPod::default()
    })
}

#[tokio::test]
async fn verdicts_of_many_pods_arrive() {
    let (pods, snapshots) = watch::channel(Arc::default());
    let (_holds, held) = watch::channel(HeldPods::default());
    let (events, mut received) = mpsc::channel(4);
    let (checks, cancel) = (Arc::new(Script::default()), CancellationToken::new());
    let prober = Prober::new(Mono::ZERO, 0);
    let task = ProberTask {
        prober,
        checks: Arc::clone(&checks),
        snapshots,
        held,
        events,
        counted: CountedProbes::default(),
    };
    let task = tokio::spawn(task.run(cancel.clone()));
    let names: Vec<String> = (0..500).map(|n| format!("pod-{n}")).collect();
    let names = names.iter().map(String::as_str).chain(["fails", "panics"]);
    let all = names.map(published).map(|p| (PodRef::of(&p.pod).uid, p)).collect();
    pods.send(Arc::new(NodeSnapshot { pods: all, ..NodeSnapshot::default() })).unwrap();
    let mut verdicts: HashMap<PodUid, Option<bool>> = HashMap::new();
    let arrived = async {
        while verdicts.len() < 502 {
            let Some(Event::Probe(report)) = received.recv().await else { panic!("the prober has ended") };
            assert_eq!(report.kind, ProbeKind::Readiness);
            verdicts.insert(report.pod, report.verdict);
        }
    };
    tokio::time::timeout(Duration::from_secs(20), arrived).await.expect("each pod's first news");
    assert_eq!(verdicts[&PodUid::from("fails")], Some(false));
    // It is told, and says nothing of the container.
    assert_eq!(verdicts[&PodUid::from("panics")], None);
    assert_eq!(verdicts.values().filter(|v| **v == Some(true)).count(), 500);
    assert_eq!(*checks.most.lock().unwrap(), 1);
    cancel.cancel();
    tokio::time::timeout(Duration::from_secs(20), task).await.expect("it ends").unwrap();
}
