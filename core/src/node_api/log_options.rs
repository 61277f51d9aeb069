//! What of a container's log is asked for: PodLogOptions as the query of a request has them.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::url_values::UrlValues;

/// Whose lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Streams {
    #[default]
    All,
    Stdout,
    Stderr,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    /// Of the run before this one.
    pub previous: bool,
    /// Lines from the end; `None`: all.
    pub tail_lines: Option<u64>,
    /// Nothing older.
    pub since: Option<Timestamp>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// `None`: no bound.
    pub limit_bytes: Option<u64>,
    pub streams: Streams,
}

/// A status and kubelet's body for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub status: u16,
    pub body: &'static str,
}

const UNDECODABLE: Refused = Refused { status: 400, body: r#"{"message": "Unable to decode query."}"# };
const INVALID: Refused = Refused { status: 422, body: r#"{"message": "Invalid request."}"# };

/// # Errors
/// [`Refused`], as kubelet refuses it.
pub fn parse(query: &UrlValues, now: Timestamp) -> Result<LogOptions, Refused> {
    // `tail` is what `tailLines` once was called.
    let tail = match query.first("tail").filter(|text| !text.is_empty()) {
        Some("all") => None,
        Some(tail) => Some(tail),
        None => query.first("tailLines"),
    };
    let tail_lines = number(tail)?;
    let limit_bytes = number(query.first("limitBytes"))?;
    let since_seconds = number(query.first("sinceSeconds"))?;
    let since_time = match query.first("sinceTime") {
        None | Some("" | "null") => None,
        Some(text) => Some(text.parse::<Timestamp>().map_err(|_| UNDECODABLE)?),
    };
    let streams = match query.first("stream") {
        None | Some("All") => Streams::All,
        Some("Stdout") => Streams::Stdout,
        Some("Stderr") => Streams::Stderr,
        Some(_) => return Err(INVALID),
    };
    let negative_tail = tail_lines.is_some_and(|n| n < 0);
    let no_bytes = limit_bytes.is_some_and(|n| n < 1);
    let both = since_seconds.is_some() && query.first("sinceTime").is_some();
    let no_seconds = since_seconds.is_some_and(|n| n < 1);
    let tail_of_one = streams != Streams::All && tail_lines.is_some();
    if negative_tail || no_bytes || both || no_seconds || tail_of_one {
        return Err(INVALID);
    }
    let ago = |seconds| now.saturating_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN);
    Ok(LogOptions {
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        tail_lines: tail_lines.and_then(|n| u64::try_from(n).ok()),
        since: since_seconds.map(ago).or(since_time),
        timestamps: query.flag("timestamps"),
        limit_bytes: limit_bytes.and_then(|n| u64::try_from(n).ok()),
        streams,
    })
}

fn number(text: Option<&str>) -> Result<Option<i64>, Refused> {
    text.map(|text| text.parse().map_err(|_| UNDECODABLE)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn options() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let ok = |pairs: &[(&str, &str)]| {
            let query =
                UrlValues(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>());
            parse(&query, now).map_err(|refused| refused.status)
        };
        let none = LogOptions::default;
        for (query, expected) in [
            (&[][..], Ok(none())),
            (
                &[("follow", "true"), ("previous", "1")],
                Ok(LogOptions { follow: true, previous: true, ..none() }),
            ),
            (&[("follow", "false"), ("previous", "0")], Ok(none())),
            (&[("timestamps", "")], Ok(LogOptions { timestamps: true, ..none() })),
            (&[("tailLines", "7")], Ok(LogOptions { tail_lines: Some(7), ..none() })),
            (&[("tail", "all"), ("tailLines", "7")], Ok(none())),
            (&[("tail", "0")], Ok(LogOptions { tail_lines: Some(0), ..none() })),
            (&[("limitBytes", "9")], Ok(LogOptions { limit_bytes: Some(9), ..none() })),
            (
                &[("sinceSeconds", "5")],
                Ok(LogOptions { since: Some("2026-01-02T03:04:00Z".parse().unwrap()), ..none() }),
            ),
            (
                &[("sinceTime", "2026-01-01T00:00:00+01:00")],
                Ok(LogOptions { since: Some("2025-12-31T23:00:00Z".parse().unwrap()), ..none() }),
            ),
            (&[("stream", "Stderr")], Ok(LogOptions { streams: Streams::Stderr, ..none() })),
            (&[("tailLines", "x")], Err(400)),
            (&[("sinceTime", "yesterday")], Err(400)),
            (&[("limitBytes", "99999999999999999999")], Err(400)),
            (&[("tailLines", "-1")], Err(422)),
            (&[("limitBytes", "0")], Err(422)),
            (&[("sinceSeconds", "0")], Err(422)),
            (&[("sinceSeconds", "1"), ("sinceTime", "2026-01-01T00:00:00Z")], Err(422)),
            (&[("stream", "stdout")], Err(422)),
            (&[("stream", "Stdout"), ("tailLines", "1")], Err(422)),
        ] {
            assert_eq!(ok(query), expected, "{query:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(pairs in prop::collection::vec((
            prop::sample::select(vec!["tail", "tailLines", "sinceSeconds", "sinceTime", "limitBytes", "stream", "follow"]),
            "[-0-9a-zA-Z:]{0,20}",
        ), 0..6)) {
            let query = UrlValues(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect());
            let _ = parse(&query, Timestamp::MIN);
            let _ = parse(&query, Timestamp::MAX);
        }
    }
}
