use std::path::PathBuf;

use proptest::prelude::*;
use proptest::test_runner::{Config as ProptestConfig, TestRunner};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::Semaphore;

use super::*;
use crate::node_api::access::Access;
use crate::node_api::authn::Authenticator;
use crate::node_api::authz::Authorizer;
use crate::node_api::routes;
use crate::node_api::state::NodeApi;
use oomlet_core::node::published::NodeSnapshot;

/// Nobody has credentials for it.
fn secured(anonymous: bool) -> Router {
    let state = NodeApi::of(
        "unix:///nonexistent/runtime.sock",
        NodeSnapshot::default(),
        PathBuf::from("/nonexistent"),
    );
    let authenticator = Authenticator { client_ca: None, tokens: None, anonymous };
    let access = Access { authenticator, authorizer: Authorizer::AlwaysAllow };
    routes::secured(&Arc::new(state), Arc::new(access))
}

/// The caller's end of a connection.
fn connect(router: &Router) -> DuplexStream {
    let (caller, server) = tokio::io::duplex(256 << 10);
    let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    let peer = Peer { certificates: Arc::default(), place: Arc::new(place) };
    let (proof, unproven) = (Arc::new(Proof::default()), Arc::default());
    let server = Metered::new(server, unproven, Arc::clone(&proof));
    tokio::spawn(requests(server, router.clone(), peer, proof, Instant::now() + FIRST_REQUEST));
    caller
}

/// To the end that the agent makes of it. With the time paused: half a request is waited for.
async fn exchange(router: &Router, bytes: &[u8]) -> Vec<u8> {
    let mut caller = connect(router);
    // It may be closed before all is taken.
    let _ = caller.write_all(bytes).await;
    let mut answer = Vec::new();
    caller.read_to_end(&mut answer).await.unwrap();
    answer
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_is_slow_to_say_who_they_are_is_closed() {
    let router = secured(true);
    // Nothing at all, and a head that comes byte by byte.
    let begun = Instant::now();
    let mut idle = connect(&router);
    assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(begun.elapsed().as_secs(), FIRST_REQUEST.as_secs());
    let begun = Instant::now();
    let mut slow = connect(&router);
    slow.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
    while slow.write_all(b"a: b\r\n").await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(begun.elapsed() <= FIRST_REQUEST + Duration::from_secs(2), "{:?}", begun.elapsed());
    // Who was let in has longer.
    let begun = Instant::now();
    let mut known = connect(&router);
    known.write_all(b"GET /healthz HTTP/1.1\r\nHost: n\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    known.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
    assert!(begun.elapsed() >= IDLE, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn heads_have_a_bound() {
    let router = secured(true);
    let long = format!("GET /healthz?{} HTTP/1.1\r\nHost: n\r\n\r\n", "x".repeat(60_000));
    assert!(exchange(&router, long.as_bytes()).await.starts_with(b"HTTP/1.1 200"));
    let longer = format!("GET /healthz HTTP/1.1\r\nHost: n\r\na: {}\r\n\r\n", "x".repeat(2 * HEAD_BYTES));
    assert!(exchange(&router, longer.as_bytes()).await.starts_with(b"HTTP/1.1 431"));
    let many = "a: b\r\n".repeat(200);
    let many = format!("GET /healthz HTTP/1.1\r\n{many}\r\n");
    assert!(exchange(&router, many.as_bytes()).await.starts_with(b"HTTP/1.1 431"));
}

/// What may go out without credentials: refusals of what is no request, which say nothing, and one 401.
fn tells_nothing(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return text.is_empty() };
    let status = head.split(' ').nth(1).unwrap_or_default();
    match status {
        // To HEAD there is no body.
        "401" => body == "Unauthorized" || body.is_empty(),
        "400" | "414" | "431" => body.is_empty(),
        _ => false,
    }
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof![
        8 => prop::sample::select(vec!["GET", "POST", "HEAD", "PUT", "OPTIONS", "CONNECT", "TRACE", "PRI"]).prop_map(str::to_owned),
        1 => "[A-Z]{1,9}",
    ];
    let path = prop_oneof![
        8 => prop::sample::select(vec![
            "/", "/healthz", "/pods", "/runningpods/", "/configz", "/metrics", "/metrics/cadvisor", "/stats/summary",
            "/containerLogs/a/b/c?follow=1", "/exec/a/b/c?command=x&output=1", "/attach/a/b/c?output=1",
            "/portForward/a/b", "/run/a/b/c?cmd=x", "/logs/", "/logs/?query=x", "/logs/../../etc/passwd",
            "/checkpoint/a/b/c", "/debug/pprof/", "*", "http://n/pods", "//pods", "/%70ods", "/exec/%2e%2e/b/c",
        ]).prop_map(str::to_owned),
        2 => "/[ -~]{0,40}",
        1 => "\\PC{0,20}",
    ];
    let header = prop_oneof![
        12 => prop::sample::select(vec![
            "Host: n", "Connection: Upgrade", "Connection: close", "Connection: keep-alive, Upgrade", "Upgrade: SPDY/3.1",
            "Upgrade: websocket", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol: v5.channel.k8s.io",
            "Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.YWJj, v4.channel.k8s.io",
            "X-Stream-Protocol-Version: v4.channel.k8s.io", "Authorization: Bearer abc", "Authorization: Basic YTpi",
            "Authorization: Bearer ", "X-Remote-User: admin", "X-Remote-Group: system:masters",
            "Impersonate-User: admin", "X-Forwarded-For: 127.0.0.1", "Expect: 100-continue", "Content-Length: 5",
            "Content-Length: 99999999999999999999", "Content-Length: -1", "Transfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked", "Accept-Encoding: gzip",
        ]).prop_map(str::to_owned),
        2 => "[a-zA-Z-]{1,10}: [ -~]{0,20}",
        1 => "\\PC{0,20}",
    ];
    let version =
        prop::sample::select(vec!["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9", ""]);
    let body = prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => Just(b"5\r\nhello\r\n0\r\n\r\n".to_vec()),
        1 => Just(b"GET /configz HTTP/1.1\r\nHost: n\r\n\r\n".to_vec()),
    ];
    let whole = (method, path, version, prop::collection::vec(header, 0..6), body).prop_map(
        |(method, path, version, headers, body)| {
            let lines: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
            let mut bytes = format!("{method} {path} {version}\r\n{lines}\r\n").into_bytes();
            bytes.extend(body);
            bytes
        },
    );
    let mutated = (whole.clone(), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4))
        .prop_map(|(mut bytes, changes)| {
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        });
    let cut = (whole.clone(), any::<prop::sample::Index>())
        .prop_map(|(bytes, at)| bytes[..at.index(bytes.len())].to_vec());
    let noise = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..80),
        // HTTP/2 with prior knowledge; a SPDY frame; a TLS record where none is expected.
        Just(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00".to_vec()),
        Just(b"\x80\x03\x00\x01\x01\x00\x00\x0a\x00\x00\x00\x01".to_vec()),
        Just(b"\x16\x03\x01\x00\x05hello".to_vec()),
    ];
    prop_oneof![6 => whole, 3 => mutated, 1 => cut, 1 => noise]
}

/// How many requests; `OOMLET_FUZZ_REQUESTS` for a long run.
fn requests_wanted() -> usize {
    std::env::var("OOMLET_FUZZ_REQUESTS").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

#[test]
fn without_credentials_nothing_comes_out() {
    const BATCH: usize = 50;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let router = {
        let _inside = runtime.enter();
        secured(false)
    };
    let cases = u32::try_from(requests_wanted().div_ceil(BATCH)).unwrap();
    let mut runner =
        TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() });
    let mut unauthorized = 0_usize;
    let counted = std::cell::RefCell::new(&mut unauthorized);
    runner
        .run(&prop::collection::vec(request(), BATCH), |batch| {
            runtime.block_on(async {
                for bytes in batch {
                    let bound = Duration::from_secs(60);
                    let answer = timeout(bound, exchange(&router, &bytes)).await;
                    let Ok(answer) = answer else {
                        return Err(TestCaseError::fail(format!(
                            "hangs: {:?}",
                            String::from_utf8_lossy(&bytes)
                        )));
                    };
                    prop_assert!(
                        tells_nothing(&answer),
                        "{:?} gets {:?}",
                        String::from_utf8_lossy(&bytes),
                        String::from_utf8_lossy(&answer)
                    );
                    **counted.borrow_mut() += usize::from(answer.starts_with(b"HTTP/1.1 401"));
                }
                Ok(())
            })
        })
        .unwrap();
    // The requests get as far as to be refused.
    assert!(unauthorized > requests_wanted() / 10, "{unauthorized}");
}
