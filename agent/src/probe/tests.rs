use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic_health::server::HealthReporter;

use super::http::HttpClient;
use super::*;

const TIMEOUT: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_secs(1);

/// Answers each request by its path, and keeps what it was asked.
#[derive(Debug)]
struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(answer: impl Fn(&str, u16) -> String + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, kept) = (Arc::new(answer), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (answer, kept) = (Arc::clone(&answer), Arc::clone(&kept));
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        let mut byte = [0];
                        if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                            return;
                        }
                        request.push(byte[0]);
                    }
                    let request = String::from_utf8(request).unwrap();
                    let path = request.split(' ').nth(1).unwrap().to_owned();
                    kept.lock().unwrap().push(request);
                    let answer = answer(&path, port);
                    if answer.is_empty() {
                        std::future::pending::<()>().await;
                    }
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        Server { port, asked }
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn site(path: &str, port: u16) -> String {
    match path {
        "/ok" | "/x?y=z" | "/" => answer("200 OK", "", "fine"),
        "/long" => answer("200 OK", "", &"x".repeat(3 * MAX_ANSWER_BYTES)),
        "/away" => answer("302 Found", "Location: http://other.invalid/\r\n", "gone"),
        "/here" => answer("302 Found", &format!("Location: http://127.0.0.1:{port}/ok\r\n"), ""),
        "/relative" => answer("301 Moved", "Location: /fails\r\n", ""),
        "/loop" => answer("302 Found", "Location: /loop\r\n", ""),
        "/fails" => answer("503 No", "", "secret"),
        _ => String::new(),
    }
}

#[tokio::test]
async fn http_answers() {
    let server = Server::start(site).await;
    let client = HttpClient::new(USER_AGENT).unwrap();
    let ask = async |path: &str| client.ask("http", ("127.0.0.1", server.port), path, &[], SHORT).await;
    let failure = |text: &str| ProbeOutcome::Failure(text.to_owned());
    for (path, expected) in [
        ("/ok", ProbeOutcome::Success),
        ("ok", ProbeOutcome::Success),
        ("", ProbeOutcome::Success),
        ("/x?y=z", ProbeOutcome::Success),
        ("/long", ProbeOutcome::Success),
        ("/here", ProbeOutcome::Success),
        ("/away", ProbeOutcome::Warning("Probe terminated redirects, Response body: gone".into())),
        ("/relative", failure("HTTP probe failed with statuscode: 503")),
        ("/fails", failure("HTTP probe failed with statuscode: 503")),
    ] {
        assert_eq!(ask(path).await, expected, "{path}");
    }
    for (path, word) in [("/loop", "stopped after 10 redirects"), ("/silent", "context deadline exceeded")] {
        match ask(path).await {
            ProbeOutcome::Failure(text) => {
                assert!(text.starts_with("Get \"http://127.0.0.1:") && text.contains(word), "{text}");
            }
            other => panic!("{path}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn http_headers() {
    let server = Server::start(site).await;
    let client = HttpClient::new(USER_AGENT).unwrap();
    let own = [("Host", "name.test"), ("X-Probe", "a"), ("X-Probe", "b"), ("User-Agent", "mine")];
    let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
    for headers in [&[][..], &own] {
        let outcome = client.ask("http", ("127.0.0.1", server.port), "/ok", headers, TIMEOUT).await;
        assert_eq!(outcome, ProbeOutcome::Success);
    }
    let asked = server.asked.lock().unwrap().clone();
    let lines = |request: &str| request.to_lowercase().lines().map(str::to_owned).collect::<Vec<_>>();
    let has = |request: &str, line: &str| lines(request).iter().any(|l| l == line);
    for line in ["user-agent: kube-probe/1.37", "accept: */*", "connection: close"] {
        assert!(has(&asked[0], line), "{line} in {}", asked[0]);
    }
    for line in ["user-agent: mine", "host: name.test", "x-probe: a", "x-probe: b", "accept: */*"] {
        assert!(has(&asked[1], line), "{line} in {}", asked[1]);
    }
    assert!(!has(&asked[1], "user-agent: kube-probe/1.37"));
    let wrong = [("a b".to_owned(), "c".to_owned())];
    let outcome = client.ask("http", ("127.0.0.1", server.port), "/ok", &wrong, TIMEOUT).await;
    assert!(matches!(outcome, ProbeOutcome::Error(_)), "{outcome:?}");
}

/// A server with a certificate that nobody has signed, and for another name. Answers one request.
fn https_server() -> u16 {
    use std::io::{BufRead, BufReader, Write};
    let made = rcgen::generate_simple_self_signed(vec!["elsewhere.test".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let tls = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = BufReader::new(rustls::StreamOwned::new(tls, stream));
        let mut line = String::new();
        while stream.read_line(&mut line).unwrap() > 2 {
            line.clear();
        }
        stream.get_mut().write_all(site("/ok", port).as_bytes()).unwrap();
        stream.get_mut().conn.send_close_notify();
        stream.get_mut().flush().unwrap();
    });
    port
}

#[tokio::test]
async fn a_certificate_is_not_verified() {
    let port = https_server();
    let outcome =
        HttpClient::new(USER_AGENT).unwrap().ask("https", ("127.0.0.1", port), "/ok", &[], TIMEOUT).await;
    assert_eq!(outcome, ProbeOutcome::Success);
}

/// A port on which nobody listens.
async fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn nobody_listens() {
    let port = closed_port().await;
    let said = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(tcp::ask("127.0.0.1", port, TIMEOUT).await, ProbeOutcome::Failure(said.clone()));
    let http = HttpClient::new(USER_AGENT).unwrap().ask("http", ("127.0.0.1", port), "/", &[], TIMEOUT).await;
    assert_eq!(http, ProbeOutcome::Failure(format!("Get \"http://127.0.0.1:{port}/\": {said}")));
    let said = format!("error: failed to connect service at \"127.0.0.1:{port}\": connection refused");
    assert_eq!(grpc::ask("127.0.0.1", port, "", TIMEOUT).await, ProbeOutcome::Failure(said));
}

#[tokio::test]
async fn a_port_that_is_open() {
    let server = Server::start(site).await;
    assert_eq!(tcp::ask("127.0.0.1", server.port, TIMEOUT).await, ProbeOutcome::Success);
    // Whoever accepts and says nothing is no gRPC server.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let outcome = grpc::ask("127.0.0.1", mute.local_addr().unwrap().port(), "", SHORT).await;
    assert_eq!(outcome, ProbeOutcome::Failure("timeout: health rpc did not complete within 1s".into()));
}

#[tokio::test]
async fn grpc_answers() {
    use tonic_health::ServingStatus;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (reporter, service): (HealthReporter, _) = tonic_health::server::health_reporter();
    reporter.set_service_status("up", ServingStatus::Serving).await;
    reporter.set_service_status("down", ServingStatus::NotServing).await;
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    let unhealthy = "service unhealthy (responded with \"NOT_SERVING\")";
    for (service, expected) in [
        ("", ProbeOutcome::Success),
        ("up", ProbeOutcome::Success),
        ("down", ProbeOutcome::Failure(unhealthy.into())),
    ] {
        assert_eq!(grpc::ask("127.0.0.1", port, service, TIMEOUT).await, expected, "{service}");
    }
    match grpc::ask("127.0.0.1", port, "unknown", TIMEOUT).await {
        ProbeOutcome::Failure(text) => {
            assert!(text.contains("health rpc probe failed") && text.contains("NotFound"));
        }
        other => panic!("{other:?}"),
    }
}

/// Letters of what each try comes to: success, warning, failure, error → which of them is the run's.
#[tokio::test]
async fn what_could_not_be_asked_is_asked_again_at_once() {
    let outcome = |letter: char| match letter {
        's' => ProbeOutcome::Success,
        'w' => ProbeOutcome::Warning("w".into()),
        'f' => ProbeOutcome::Failure("f".into()),
        number => ProbeOutcome::Error(number.into()),
    };
    for (tries, expected, asked) in
        [("s", 's', 1), ("w", 'w', 1), ("f", 'f', 1), ("1s", 's', 2), ("12f", 'f', 3), ("123s", '3', 3)]
    {
        let left = Mutex::new(tries.chars());
        let ask = || std::future::ready(outcome(left.lock().unwrap().next().unwrap()));
        assert_eq!(tried(ask).await, outcome(expected), "{tries}");
        assert_eq!(tries.len() - left.lock().unwrap().as_str().len(), asked, "{tries}");
    }
}

#[test]
fn addresses() {
    for (host, expected) in [("10.0.0.1", "10.0.0.1:80"), ("fd00::1", "[fd00::1]:80"), ("[::1]", "[::1]:80")]
    {
        assert_eq!(authority(host, 80), expected);
    }
}
