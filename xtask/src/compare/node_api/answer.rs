//! One request to a node's API, and what of its answer is compared.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::caller::Caller;
use super::request::Request;
use crate::node::TestNode;
use crate::process;

/// An answer that takes longer is none.
const BOUND_S: &str = "20";
/// An upgraded connection goes on: for its head this is enough.
const UPGRADE_BOUND_S: &str = "1";
/// Of each answer another, or whether it is written in pieces, which no client asks for.
const LEFT_OUT: [&str; 3] = ["date", "content-length", "transfer-encoding"];
/// Whether they are there is what counts.
const TIMES: [&str; 2] = ["last-modified", "process-start-time-unix"];
/// A longer body says something of the node.
const LONGEST_BODY: usize = 400;

/// Status and headers, and the body where it is words.
pub(super) fn of(node: &TestNode, caller: &Caller, request: &Request) -> Result<Value> {
    let mut command = curl(node);
    let bound = if request.is_upgrade() { UPGRADE_BOUND_S } else { BOUND_S };
    command.args(["--include", "--http1.1", "--path-as-is", "--max-time", bound]);
    match request.method {
        "HEAD" => command.arg("--head"),
        method => command.args(["--request", method]),
    };
    for header in request.headers {
        command.args(["--header", header]);
    }
    caller.asks(&mut command, &request.path);
    let output = command.stdin(Stdio::null()).output().context("starting curl")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let is_words = request.path.starts_with("/healthz") || request.path.starts_with("/run/");
    parse(&said, is_words).with_context(|| {
        format!("{} by {}: {}", request.name(), caller.name, String::from_utf8_lossy(&output.stderr))
    })
}

/// The body of an answer with status 200.
pub(super) fn body(node: &TestNode, caller: &Caller, path: &str) -> Result<String> {
    let mut command = curl(node);
    command.args(["--fail", "--max-time", BOUND_S]);
    caller.asks(&mut command, path);
    process::output(&mut command)
}

/// Which one is spoken with somebody who would speak the newer.
pub(super) fn http_version(node: &TestNode, caller: &Caller) -> Result<String> {
    let mut command = curl(node);
    command.args([
        "--http2",
        "--max-time",
        BOUND_S,
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_version}",
    ]);
    caller.asks(&mut command, "/healthz");
    process::output(&mut command)
}

fn curl(node: &TestNode) -> Command {
    let mut command = node.containerd.netns().command("curl");
    command.args(["--silent", "--show-error", "--insecure"]);
    command
}

fn parse(said: &str, is_words: bool) -> Result<Value> {
    let (head, body) = said.split_once("\r\n\r\n").context("no answer")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status")?;
    let status: u16 = status.parse().context("no status")?;
    ensure!(status != 0, "no status");
    let mut answer = Map::from_iter([("status".to_owned(), json!(status))]);
    let mut headers: Vec<(String, String)> = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').with_context(|| format!("no header: {line}"))?;
        let name = name.to_ascii_lowercase();
        if !LEFT_OUT.contains(&name.as_str()) {
            let value = if TIMES.contains(&name.as_str()) { "$TIME" } else { value.trim() };
            headers.push((name, value.to_owned()));
        }
    }
    headers.sort();
    for (name, value) in headers {
        answer
            .entry(name)
            .and_modify(|first| *first = json!(format!("{}, {value}", first.as_str().unwrap_or_default())))
            .or_insert(json!(value));
    }
    // After a 101 it is the stream.
    if status >= 300 || (is_words && status >= 200) {
        answer.insert("body".to_owned(), json!(body.chars().take(LONGEST_BODY).collect::<String>()));
    }
    Ok(Value::Object(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_of_an_answer_counts() {
        let said =
            "HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\nDate: now\r\nX-A: 2\r\nX-A: 1\r\n\r\nno\n";
        let expected = json!({ "status": 405, "allow": "GET", "x-a": "1, 2", "body": "no\n" });
        assert_eq!(parse(said, false).unwrap(), expected);
        let said = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        assert_eq!(parse(said, false).unwrap(), json!({ "status": 200 }));
        assert_eq!(parse(said, true).unwrap(), json!({ "status": 200, "body": "ok" }));
        let said = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\n\r\n\u{1}";
        assert_eq!(parse(said, true).unwrap(), json!({ "status": 101, "upgrade": "SPDY/3.1" }));
        assert!(parse("", false).is_err());
    }
}
