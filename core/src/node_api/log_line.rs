//! Lines of a container's log file, as the CRI has them or as Docker's json-file driver wrote them, and what of them goes
//! to the caller (k8s.io/cri-client/pkg/logs).

use std::borrow::Cow;

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use super::log_options::{LogOptions, Streams};

/// What a line of the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine<'a> {
    /// RFC 3339.
    pub time: Cow<'a, str>,
    pub at: Timestamp,
    pub stderr: bool,
    /// With its newline, unless it is part of a longer line.
    pub text: Cow<'a, [u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Cri,
    DockerJson,
}

#[derive(Deserialize)]
struct DockerLine {
    #[serde(default)]
    log: String,
    #[serde(default)]
    stream: String,
    time: String,
}

fn parse(format: Format, line: &[u8]) -> Option<LogLine<'_>> {
    match format {
        Format::Cri => parse_cri(line),
        Format::DockerJson => parse_docker(line),
    }
}

/// When a line was written; `None` of what is no line of a log.
#[must_use]
pub fn time(line: &[u8]) -> Option<Timestamp> {
    [Format::Cri, Format::DockerJson].into_iter().find_map(|format| parse(format, line)).map(|line| line.at)
}

/// `2026-01-02T03:04:05.678901234Z stdout F the line`; the tag `P`: more of the line follows.
fn parse_cri(line: &[u8]) -> Option<LogLine<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let at = time.parse().ok()?;
    let stderr = is_stderr(std::str::from_utf8(parts.next()?).ok()?)?;
    let tags = parts.next()?;
    let mut text = parts.next()?;
    if tags.split(|byte| *byte == b':').next() == Some(b"P") {
        text = text.strip_suffix(b"\n").unwrap_or(text);
    }
    Some(LogLine { time: Cow::Borrowed(time), at, stderr, text: Cow::Borrowed(text) })
}

fn parse_docker(line: &[u8]) -> Option<LogLine<'_>> {
    let parsed: DockerLine = serde_json::from_slice(line).ok()?;
    let at = parsed.time.parse().ok()?;
    let stderr = is_stderr(&parsed.stream)?;
    Some(LogLine { time: Cow::Owned(parsed.time), at, stderr, text: Cow::Owned(parsed.log.into_bytes()) })
}

fn is_stderr(stream: &str) -> Option<bool> {
    match stream {
        "stdout" => Some(false),
        "stderr" => Some(true),
        _ => None,
    }
}

/// The same moment with nine digits of a second, as kubelet writes it.
fn with_nanoseconds(time: &str) -> String {
    let (seconds, rest) = time.split_at(time.find(['.', 'Z', 'z', '+']).unwrap_or_else(|| {
        // A zone west of Greenwich: after the date's own hyphens.
        time.rfind('-').filter(|at| *at > 10).unwrap_or(time.len())
    }));
    let fraction = rest.strip_prefix('.').unwrap_or_default();
    let digits = fraction.find(|c: char| !c.is_ascii_digit()).unwrap_or(fraction.len());
    let zone = if rest.starts_with('.') { &fraction[digits..] } else { rest };
    format!("{seconds}.{:0<9.9}{zone}", &fraction[..digits])
}

/// From lines of the file to bytes for the caller.
#[derive(Debug)]
pub struct LogFilter {
    streams: Streams,
    since: Option<Timestamp>,
    timestamps: bool,
    bytes_left: Option<u64>,
    lines_left: Option<u64>,
    format: Option<Format>,
    line_begins: bool,
    read_to: Option<Timestamp>,
}

/// Whether there is more to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    Yes,
    /// The caller has all that was asked for.
    No,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unsupported log format: {0:?}")]
pub struct UnsupportedFormat(pub String);

impl LogFilter {
    #[must_use]
    pub fn new(options: &LogOptions) -> LogFilter {
        LogFilter {
            streams: options.streams,
            since: options.since,
            timestamps: options.timestamps,
            bytes_left: options.limit_bytes,
            // Who follows wants what comes after the last lines too.
            lines_left: options.tail_lines.filter(|_| !options.follow),
            format: None,
            line_begins: true,
            read_to: None,
        }
    }

    /// The time of the last line.
    #[must_use]
    pub fn read_to(&self) -> Option<Timestamp> {
        self.read_to
    }

    /// Before any line: there may be nothing to send.
    #[must_use]
    pub fn more(&self) -> More {
        if self.lines_left == Some(0) || self.bytes_left == Some(0) { More::No } else { More::Yes }
    }

    /// One line of the file, with its newline where it has one; what the caller gets of it is added to `out`.
    ///
    /// # Errors
    /// The file's first line is of no known format. Later ones that cannot be read are passed over.
    pub fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<More, UnsupportedFormat> {
        let known = self.format.or_else(|| {
            [Format::Cri, Format::DockerJson].into_iter().find(|format| parse(*format, line).is_some())
        });
        let Some(format) = known else {
            return Err(UnsupportedFormat(String::from_utf8_lossy(line).into_owned()));
        };
        self.format = Some(format);
        let Some(parsed) = parse(format, line) else { return Ok(More::Yes) };
        self.read_to = Some(parsed.at);
        self.write(&parsed, out);
        if let Some(left) = &mut self.lines_left {
            *left = left.saturating_sub(1);
        }
        self.line_begins = parsed.text.last().is_none_or(|byte| *byte == b'\n');
        Ok(self.more())
    }

    fn write(&mut self, line: &LogLine<'_>, out: &mut Vec<u8>) {
        let wanted = match self.streams {
            Streams::All => true,
            Streams::Stdout => !line.stderr,
            Streams::Stderr => line.stderr,
        };
        if !wanted || self.since.is_some_and(|since| line.at < since) {
            return;
        }
        let before = out.len();
        if self.timestamps && self.line_begins {
            out.extend_from_slice(with_nanoseconds(&line.time).as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(&line.text);
        if let Some(left) = &mut self.bytes_left {
            let written = (out.len() - before).min(usize::try_from(*left).unwrap_or(usize::MAX));
            out.truncate(before + written);
            *left -= written as u64;
        }
    }
}

#[cfg(test)]
mod tests;
