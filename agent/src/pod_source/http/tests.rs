use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::pod_source::TakenOver;
use oomlet_core::node::event::PodSource;

/// A server on the loopback that answers every request as it is told, and remembers what it was asked.
struct Server {
    url: String,
    answer: Arc<Mutex<(u16, String)>>,
    asked: Arc<Mutex<String>>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    fn start(status: u16, body: &str) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/pods", listener.local_addr().unwrap());
        let answer = Arc::new(Mutex::new((status, body.to_owned())));
        let (asked, requests) = (Arc::new(Mutex::default()), Arc::new(AtomicUsize::new(0)));
        let server = Server { url, answer, asked, requests };
        let (answer, asked, requests) =
            (Arc::clone(&server.answer), Arc::clone(&server.asked), Arc::clone(&server.requests));
        // Ends with the test's process; a connection that breaks off is the client's business.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                    request.push(byte[0]);
                }
                *asked.lock().unwrap() = String::from_utf8_lossy(&request).to_lowercase();
                let (status, body) = answer.lock().unwrap().clone();
                let head = format!(
                    "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
                requests.fetch_add(1, Ordering::SeqCst);
            }
        });
        server
    }

    fn answers(&self, status: u16, body: &str) {
        *self.answer.lock().unwrap() = (status, body.to_owned());
    }
}

fn here() -> Here {
    Here { node_name: "n".to_owned(), in_cluster: false, taken_over: TakenOver::default() }
}

struct Watching {
    rx: mpsc::Receiver<Event>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

fn watch(url: &str, headers: &[(&str, &[&str])]) -> Watching {
    let headers = headers
        .iter()
        .map(|(name, values)| ((*name).to_owned(), values.iter().map(|v| (*v).to_owned()).collect()));
    let source = HttpSource::new(url.to_owned(), &headers.collect(), here()).unwrap();
    let (tx, rx) = mpsc::channel(16);
    let cancel = CancellationToken::new();
    let task = tokio::spawn(source.watch(Duration::from_millis(10), tx, cancel.clone()));
    Watching { rx, cancel, task }
}

impl Watching {
    async fn until(&mut self, what: &str, fits: impl Fn(&PodUpdate) -> bool) -> PodUpdate {
        let found = timeout(Duration::from_secs(20), async {
            while let Some(Event::Pods(update)) = self.rx.recv().await {
                assert_eq!(update.source, PodSource::Http);
                if fits(&update) {
                    return update;
                }
            }
            panic!("the task ended while waiting for: {what}");
        });
        found.await.unwrap_or_else(|_| panic!("never came: {what}"))
    }

    async fn until_pods(&mut self, want: &[&str]) -> PodUpdate {
        self.until(&format!("{want:?}"), |update| names(update) == want && update.rejected.is_empty()).await
    }

    async fn stop(self) {
        self.cancel.cancel();
        timeout(Duration::from_secs(10), self.task).await.expect("ends when cancelled").unwrap();
    }
}

fn names(update: &PodUpdate) -> Vec<&str> {
    update.pods.iter().map(|p| p.pod.metadata.name.as_deref().unwrap()).collect()
}

fn list(names: &[&str]) -> String {
    let pod = |name: &&str| {
        format!("- metadata: {{name: {name}}}\n  spec: {{containers: [{{name: c, image: i}}]}}\n")
    };
    let items: String = names.iter().map(pod).collect();
    format!("apiVersion: v1\nkind: PodList\nitems:\n{items}")
}

#[tokio::test]
async fn pods_come_change_and_go() {
    let single = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}"#;
    let server = Server::start(200, single);
    let mut w = watch(&server.url, &[("X-Node", &["a", "b"]), ("Authorization", &["Bearer t"])]);
    let one = w.until_pods(&["one-n"]).await;
    assert_eq!(one.pods[0].path, PathBuf::from(&server.url));
    let asked = server.asked.lock().unwrap().clone();
    assert!(asked.starts_with("get /pods http/1.1"), "{asked}");
    for header in ["x-node: a\r\n", "x-node: b\r\n", "authorization: bearer t\r\n"] {
        assert!(asked.contains(header), "{header:?} in {asked}");
    }
    server.answers(200, &list(&["one", "two"]));
    w.until_pods(&["one-n", "two-n"]).await;
    server.answers(200, "{apiVersion: v1, kind: PodList, items: []}");
    w.until_pods(&[]).await;
    w.stop().await;
}

/// Whatever the server says that is no list of pods, the last list holds.
#[tokio::test]
async fn an_answer_that_cannot_be_used_changes_nothing() {
    let server = Server::start(200, &list(&["a", "b"]));
    let mut w = watch(&server.url, &[]);
    w.until_pods(&["a-n", "b-n"]).await;
    for (body, want) in [
        ("", "the answer is empty"),
        ("<html>Moved</html>", "apiVersion is missing"),
        (&*list(&["a", "B!"]), "items[1]"),
    ] {
        server.answers(200, body);
        let update = w.until(want, |u| !u.rejected.is_empty() && u.rejected[0].error.contains(want)).await;
        assert_eq!(names(&update), ["a-n", "b-n"], "{body}");
        assert_eq!(update.rejected[0].path, PathBuf::from(&server.url));
    }
    // A failure is no answer at all: nothing is sent, and the server is asked again.
    server.answers(500, &list(&[]));
    let asked = || server.requests.load(Ordering::SeqCst);
    let before = asked();
    let repeated = timeout(Duration::from_secs(20), async {
        while asked() < before + 6 {
            while let Ok(Event::Pods(update)) = w.rx.try_recv() {
                assert_eq!(names(&update), ["a-n", "b-n"]);
            }
            tokio::task::yield_now().await;
        }
    });
    repeated.await.expect("it is asked again");
    server.answers(200, &list(&["b"]));
    w.until_pods(&["b-n"]).await;
    w.stop().await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_waited_for() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let source = HttpSource::new(format!("http://127.0.0.1:{port}/"), &BTreeMap::new(), here()).unwrap();
    let error = source.read().await.unwrap_err().to_string();
    assert!(error.contains("staticPodURL") && error.contains("refused"), "{error}");
}

#[test]
fn what_is_no_header_is_refused_at_start() {
    for (name, value) in [("no header", "a"), ("X", "a\nb")] {
        let headers = BTreeMap::from([(name.to_owned(), vec![value.to_owned()])]);
        let error = HttpSource::new("http://x/".into(), &headers, here()).unwrap_err().to_string();
        assert!(error.contains("staticPodURLHeader") && error.contains(name), "{error}");
    }
}
