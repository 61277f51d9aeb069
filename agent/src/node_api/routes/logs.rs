//! `/logs/`: files below `/var/log`, and node log query: what services have said (`enableSystemLogHandler`,
//! `enableSystemLogQuery`). A link that leads out of `/var/log` leads nowhere: a pod that may write there shows nobody the
//! node's other files.

use std::path::{Path, PathBuf};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path as Segments, RawQuery, State};
use axum::http::header::{HeaderValue, LOCATION};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use axum::routing::any;
use tokio::io::AsyncReadExt as _;

use super::{Routes, Shared, only, query};
use crate::node_api::{answer, journal};
use oomlet_core::node_api::log_query::{self, LogQuery};

const LOG_DIR: &str = "/var/log";
const CHUNK: usize = 64 << 10;

pub(super) fn routes() -> Routes {
    only("GET", Router::new().route("/logs/", any(root)).route("/logs/{*path}", any(below)))
}

pub(super) fn disabled_routes() -> Routes {
    let disabled = || async { answer::error(StatusCode::METHOD_NOT_ALLOWED, "logs endpoint is disabled.") };
    Router::new().route("/logs/", any(disabled)).route("/logs/{*path}", any(disabled))
}

async fn root(state: State<Shared>, uri: Uri, raw: RawQuery) -> Response {
    serve(state, uri.path(), "", raw).await
}

async fn below(state: State<Shared>, Segments(path): Segments<String>, uri: Uri, raw: RawQuery) -> Response {
    serve(state, uri.path(), &path, raw).await
}

async fn serve(State(api): State<Shared>, uri: &str, path: &str, RawQuery(raw): RawQuery) -> Response {
    if !api.config.system_log_query {
        return file(path, uri.ends_with('/')).await;
    }
    match log_query::parse(&query(raw.as_deref()), path.is_empty()) {
        Err(refused) => {
            let status = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::BAD_REQUEST);
            answer::error(status, &refused.message)
        }
        Ok(None) => file(path, uri.ends_with('/')).await,
        Ok(Some(LogQuery::File(asked))) => match find(&asked).await {
            Some(_) => file(&asked, true).await,
            None => {
                let why = format!("query: Invalid value: []string{{{asked:?}}}: no such file or directory");
                answer::error(StatusCode::NOT_ACCEPTABLE, &why)
            }
        },
        Ok(Some(LogQuery::Services { services, options })) => answer::with_type(
            StatusCode::OK,
            HeaderValue::from_static("text/plain;charset=UTF-8"),
            journal::read(services, options, LOG_DIR.into()),
        ),
    }
}

/// The file or directory itself, where it is below `/var/log`.
async fn find(path: &str) -> Option<PathBuf> {
    let mut inside = PathBuf::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                inside.pop();
            }
            name => inside.push(name),
        }
    }
    let root = tokio::fs::canonicalize(LOG_DIR).await.ok()?;
    let found = tokio::fs::canonicalize(root.join(inside)).await.ok()?;
    found.starts_with(&root).then_some(found)
}

async fn file(path: &str, with_slash: bool) -> Response {
    let not_found = || answer::error(StatusCode::NOT_FOUND, "404 page not found");
    let Some(found) = find(path).await else { return not_found() };
    let Ok(metadata) = tokio::fs::metadata(&found).await else { return not_found() };
    if metadata.is_dir() {
        return if with_slash { list(&found).await } else { redirect(path) };
    }
    // A named pipe would be waited for.
    if !metadata.is_file() {
        return not_found();
    }
    match tokio::fs::File::open(&found).await {
        Ok(file) => answer::text(StatusCode::OK, stream(file)),
        Err(_) => answer::error(StatusCode::FORBIDDEN, "403 Forbidden"),
    }
}

/// To the directory's own path, so that links in its list hold.
fn redirect(path: &str) -> Response {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let mut response = answer::untyped(StatusCode::MOVED_PERMANENTLY, "");
    if let Ok(location) = HeaderValue::from_str(&format!("{name}/")) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// As Go's file server lists a directory.
async fn list(dir: &Path) -> Response {
    let mut names = Vec::new();
    if let Ok(mut entries) = tokio::fs::read_dir(dir).await {
        while let Ok(Some(entry)) = entries.next_entry().await {
            let is_dir = entry.file_type().await.is_ok_and(|kind| kind.is_dir());
            names.push(entry.file_name().to_string_lossy().into_owned() + if is_dir { "/" } else { "" });
        }
    }
    names.sort();
    let escape = |text: &str| {
        let mut escaped = String::new();
        for c in text.chars() {
            match c {
                '&' => escaped.push_str("&amp;"),
                '<' => escaped.push_str("&lt;"),
                '>' => escaped.push_str("&gt;"),
                '"' => escaped.push_str("&#34;"),
                '\'' => escaped.push_str("&#39;"),
                c => escaped.push(c),
            }
        }
        escaped
    };
    let lines = names.iter().map(|name| {
        // A colon in a relative reference would read as a scheme.
        let path: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
        let path = path.replace('+', "%20").replace("%2F", "/");
        format!("<a href=\"{path}\">{}</a>\n", escape(name))
    });
    let lines: String = lines.collect();
    let page = format!(
        "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n{lines}</pre>\n"
    );
    answer::with_type(StatusCode::OK, HeaderValue::from_static("text/html; charset=utf-8"), page)
}

/// No faster than it is taken. The end at the start is the end: what grows is not followed.
fn stream(mut file: tokio::fs::File) -> Body {
    let (to, body) = answer::channel();
    tokio::spawn(async move {
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            match file.read_buf(&mut chunk).await {
                Ok(read) if read > 0 && to.send(chunk.into()).await.is_ok() => {}
                _ => return,
            }
        }
    });
    body
}
