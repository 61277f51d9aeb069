use std::convert::Infallible;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use opentelemetry::Value;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::SpanData;

use super::*;

/// A collector that keeps what it gets, and takes nothing before it is told to.
#[derive(Debug)]
struct Kept {
    spans: Arc<Mutex<Vec<SpanData>>>,
    open: Mutex<Receiver<()>>,
}

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        // The sender is dropped to open it.
        let _ = self.open.lock().unwrap().recv();
        self.spans.lock().unwrap().extend(batch);
        Ok(())
    }
}

fn pod() -> PodRef {
    PodRef { uid: "u1".into(), namespace: "shop".to_owned(), name: "web".to_owned() }
}

fn attribute(span: &SpanData, key: &str) -> Option<Value> {
    span.attributes.iter().find(|a| a.key.as_str() == key).map(|a| a.value.clone())
}

#[tokio::test]
async fn a_sync_has_its_steps_below_it() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let (_, open) = channel();
    let exporter = Kept { spans: Arc::clone(&kept), open: Mutex::new(open) };
    let spans = Spans::through(exporter, 1.0, "node-1");
    let sync = spans.of_pod("syncPod", &pod());
    let made = sync.step("createPodSandbox", None, async { Ok::<_, Infallible>(7) }).await;
    assert_eq!(made, Ok(7));
    let failed = sync.step("createContainer", Some("main"), async { Err::<(), _>("no room") }).await;
    assert_eq!(failed, Err("no room"));
    sync.past("pullImage", Duration::from_secs(3), "main", "busybox:1");
    sync.failed("1 of 1 containers did not start");
    drop(sync);
    drop(Spans::default().of_pod("syncPod", &pod()));
    spans.end();

    let kept = kept.lock().unwrap();
    let named = |name: &str| kept.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(kept.len(), 4, "{kept:?}");
    let root = named("syncPod");
    assert_eq!(attribute(root, "k8s.pod"), Some("shop/web".into()));
    assert_eq!(root.status, Status::error("1 of 1 containers did not start"));
    for step in ["createPodSandbox", "createContainer", "pullImage"] {
        assert_eq!(named(step).parent_span_id, root.span_context.span_id(), "{step}");
        assert_eq!(named(step).span_context.trace_id(), root.span_context.trace_id(), "{step}");
    }
    assert_eq!(named("createPodSandbox").status, Status::Unset);
    assert_eq!(named("createContainer").status, Status::error("no room"));
    assert_eq!(attribute(named("createContainer"), "k8s.container.name"), Some("main".into()));
    let pull = named("pullImage");
    assert_eq!(pull.end_time.duration_since(pull.start_time).unwrap(), Duration::from_secs(3));
}

#[tokio::test]
async fn a_collector_that_takes_nothing_costs_spans_and_no_time() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let (closed, open) = channel();
    let spans = Spans::through(Kept { spans: Arc::clone(&kept), open: Mutex::new(open) }, 1.0, "node-1");
    // Each of these would wait for ever if it waited for the collector.
    for _ in 0..3 * QUEUE {
        drop(spans.of_pod("syncPod", &pod()));
    }
    assert!(kept.lock().unwrap().is_empty());
    drop(closed);
    spans.end();
    let arrived = kept.lock().unwrap().len();
    assert!((QUEUE..=QUEUE + BATCH).contains(&arrived), "{arrived}");
}

#[tokio::test]
async fn what_is_not_sampled_is_not_told() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let (_, open) = channel();
    let spans = Spans::through(Kept { spans: Arc::clone(&kept), open: Mutex::new(open) }, 0.0, "node-1");
    let sync = spans.of_pod("syncPod", &pod());
    sync.step("killPod", None, async { Ok::<_, Infallible>(()) }).await.unwrap();
    drop(sync);
    spans.end();
    assert!(kept.lock().unwrap().is_empty());
}
