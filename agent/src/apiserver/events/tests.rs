use std::sync::Mutex;

use kube::client::Body;
use oomlet_core::clock::Mono;
use oomlet_core::reason::Reason;
use tokio_util::sync::CancellationToken;

use super::*;

/// An API server that takes every Event, and keeps its message. One whose message is `panic` it dies of.
fn server(told: &Arc<Mutex<Vec<String>>>) -> ApiServer {
    let told = Arc::clone(told);
    let answer = move |request: http::Request<Body>| {
        let told = Arc::clone(&told);
        async move {
            let body = request.into_body().collect_bytes().await.unwrap();
            let event: Event = serde_json::from_slice(&body).unwrap();
            let message = event.message.clone().unwrap_or_default();
            told.lock().unwrap().push(message.clone());
            assert_ne!(message, "panic", "as the test wants it");
            let answer = Body::from(serde_json::to_vec(&event).unwrap());
            Ok::<_, std::convert::Infallible>(http::Response::builder().status(201).body(answer).unwrap())
        }
    };
    ApiServer(kube::Client::new(tower::service_fn(answer), "default"))
}

fn record(message: &str) -> Record {
    let pod = oomlet_core::pod::PodRef { uid: "u".into(), namespace: "d".into(), name: "p".into() };
    Record::new(Mono::ZERO, Kind::Warning, Reason::FailedMount, message).pod(&pod)
}

#[tokio::test]
async fn a_writer_that_starts_anew_tells_nothing_twice() {
    let (journal, _) = Journal::open(16, None).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let writer = EventWriter {
        client: server(&told),
        node_name: "n".into(),
        journal: Arc::clone(&journal),
        taken: Arc::default(),
        snapshots: watch::channel(Arc::default()).1,
        per_second: 0,
        burst: 0,
    };
    for message in ["a", "b", "panic", "c"] {
        journal.publish(record(message));
    }
    let panicked = tokio::spawn(writer.clone().run()).await.unwrap_err();
    assert!(panicked.is_panic());
    assert_eq!(*told.lock().unwrap(), ["a", "b", "panic"]);
    let cancel = CancellationToken::new();
    let again = tokio::spawn(cancel.clone().run_until_cancelled_owned(writer.run()));
    journal.publish(record("d"));
    let all = async {
        while told.lock().unwrap().len() < 5 {
            sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.expect("what had not been told");
    assert_eq!(*told.lock().unwrap(), ["a", "b", "panic", "c", "d"]);
    cancel.cancel();
    again.await.unwrap();
}
