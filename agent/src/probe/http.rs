//! `httpGet`: a status from 200 to 399 (pkg/probe/http). A redirect within the same host is followed; one to another host
//! counts as success, with a warning, for the probe is about this host. Certificates are not verified: a pod's is its own.

use std::time::Duration;

use reqwest::header::{ACCEPT, CONNECTION, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, RequestBuilder, Response, Url};

use super::{MAX_ANSWER_BYTES, authority, cause};
use oomlet_core::pod::probe::ProbeOutcome;

/// As Go's client has it.
const MAX_REDIRECTS: usize = 10;

#[derive(Debug, thiserror::Error)]
#[error("cannot set up the client of httpGet probes and hooks: {}", cause(.0))]
pub struct HttpError(#[from] reqwest::Error);

#[derive(Debug)]
pub(super) struct HttpClient(Client);

/// Why nobody has answered.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// Whoever is there speaks HTTP, and was asked for HTTPS.
    NoTls,
    Other(String),
}

impl HttpClient {
    pub fn new(user_agent: &str) -> Result<HttpClient, HttpError> {
        // Somebody else in this process may have chosen one before; either will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let client = Client::builder()
            .user_agent(user_agent)
            .default_headers(headers)
            .no_proxy()
            .pool_max_idle_per_host(0)
            .redirect(Policy::custom(redirect))
            // None is needed where none is asked for.
            .tls_certs_only([])
            .tls_danger_accept_invalid_certs(true);
        Ok(HttpClient(client.build()?))
    }

    /// Whatever is answered will do (pkg/kubelet/lifecycle: `runHTTPHandler`). However long that takes.
    pub async fn answers(
        &self,
        scheme: &str,
        (host, port): (&str, u16),
        path: &str,
        headers: &[(String, String)],
    ) -> Result<(), NoAnswer> {
        let (url, request) = self.request(scheme, (host, port), path, headers).map_err(NoAnswer::Other)?;
        match request.send().await {
            Ok(response) => {
                // So that its sender is not cut off.
                let _ = body(response).await;
                Ok(())
            }
            Err(error) if scheme == "https" && speaks_no_tls(&error) => Err(NoAnswer::NoTls),
            Err(error) => Err(NoAnswer::Other(said(&url, (host, port), &error))),
        }
    }

    fn request(
        &self,
        scheme: &str,
        (host, port): (&str, u16),
        path: &str,
        headers: &[(String, String)],
    ) -> Result<(Url, RequestBuilder), String> {
        let url = url(scheme, host, port, path)?;
        let request = self.0.get(url.clone()).headers(header_map(headers)?);
        Ok((url, request))
    }

    pub async fn ask(
        &self,
        scheme: &str,
        (host, port): (&str, u16),
        path: &str,
        headers: &[(String, String)],
        timeout: Duration,
    ) -> ProbeOutcome {
        let asked = self.request(scheme, (host, port), path, headers);
        let (url, request) = match asked {
            Ok(asked) => asked,
            Err(why) => return ProbeOutcome::Error(why),
        };
        let response = match request.timeout(timeout).send().await {
            Ok(response) => response,
            Err(error) => return ProbeOutcome::Failure(said(&url, (host, port), &error)),
        };
        let status = response.status().as_u16();
        match (status, body(response).await) {
            (200..400, Err(error)) => ProbeOutcome::Error(why(&error)),
            (200..300, Ok(_)) => ProbeOutcome::Success,
            (300..400, Ok(body)) => {
                ProbeOutcome::Warning(format!("Probe terminated redirects, Response body: {body}"))
            }
            // Without the body, which may say what is nobody's business (kubernetes#99425).
            (status, _) => ProbeOutcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
        }
    }
}

fn redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let same_host = attempt.previous().first().is_some_and(|first| first.host() == attempt.url().host());
    if !same_host {
        attempt.stop()
    } else if attempt.previous().len() >= MAX_REDIRECTS {
        attempt.error(format!("stopped after {MAX_REDIRECTS} redirects"))
    } else {
        attempt.follow()
    }
}

/// What is read of it.
async fn body(mut response: Response) -> Result<String, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() >= MAX_ANSWER_BYTES {
            body.truncate(MAX_ANSWER_BYTES);
            break;
        }
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// In Go's words.
fn said(url: &Url, (host, port): (&str, u16), error: &reqwest::Error) -> String {
    if error.is_connect() && !error.is_timeout() {
        let (address, cause) = (authority(host, port), cause(error));
        return format!("Get \"{url}\": dial tcp {address}: connect: {cause}");
    }
    format!("Get \"{url}\": {}", why(error))
}

/// The first bytes of the answer are no TLS record.
fn speaks_no_tls(error: &reqwest::Error) -> bool {
    error.is_connect() && cause(error).contains("InvalidContentType")
}

fn why(error: &reqwest::Error) -> String {
    if error.is_timeout() { "context deadline exceeded".to_owned() } else { cause(error) }
}

/// `path` may have a query.
fn url(scheme: &str, host: &str, port: u16, path: &str) -> Result<Url, String> {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let text = format!("{scheme}://{}{slash}{path}", authority(host, port));
    Url::parse(&text).map_err(|error| format!("{text:?} is no URL: {error}"))
}

fn header_map(headers: &[(String, String)]) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let wrong = || format!("{name:?}: {value:?} is no header");
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        map.append(key, HeaderValue::from_str(value).map_err(|_| wrong())?);
    }
    Ok(map)
}
