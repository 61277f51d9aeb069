use proptest::prelude::*;

use super::*;

fn through(options: &LogOptions, lines: &[&str]) -> (String, More) {
    let mut filter = LogFilter::new(options);
    let (mut out, mut more) = (Vec::new(), filter.more());
    for line in lines {
        if more == More::Yes {
            more = filter.line(line.as_bytes(), &mut out).unwrap();
        }
    }
    (String::from_utf8(out).unwrap(), more)
}

const LINES: &[&str] = &[
    "2026-01-02T03:04:05.5Z stdout F one\n",
    "2026-01-02T03:04:06Z stderr F two\n",
    "2026-01-02T03:04:07.123456789+02:00 stdout P thr\n",
    "2026-01-02T03:04:07.2Z stdout F ee\n",
];

#[test]
fn what_comes_of_each_option() {
    let all = LogOptions::default;
    for (options, expected) in [
        (all(), "one\ntwo\nthree\n"),
        (LogOptions { streams: Streams::Stdout, ..all() }, "one\nthree\n"),
        (LogOptions { streams: Streams::Stderr, ..all() }, "two\n"),
        (
            LogOptions { timestamps: true, ..all() },
            "2026-01-02T03:04:05.500000000Z one\n2026-01-02T03:04:06.000000000Z two\n2026-01-02T03:04:07.123456789+02:00 three\n",
        ),
        (LogOptions { limit_bytes: Some(5), ..all() }, "one\nt"),
        (LogOptions { limit_bytes: Some(0), ..all() }, ""),
        (LogOptions { tail_lines: Some(0), ..all() }, ""),
        (LogOptions { tail_lines: Some(1), ..all() }, "one\n"),
        (LogOptions { tail_lines: Some(1), follow: true, ..all() }, "one\ntwo\nthree\n"),
        (LogOptions { since: Some("2026-01-02T03:04:06Z".parse().unwrap()), ..all() }, "two\nee\n"),
    ] {
        assert_eq!(through(&options, LINES).0, expected, "{options:?}");
    }
    assert_eq!(through(&LogOptions { limit_bytes: Some(5), ..all() }, LINES).1, More::No);
    assert_eq!(through(&all(), LINES).1, More::Yes);
}

#[test]
fn docker_s_lines() {
    let lines = [
        r#"{"log":"one\n","stream":"stdout","time":"2026-01-02T03:04:05.5Z"}"#,
        r#"{"log":"two\n","stream":"stderr","time":"2026-01-02T03:04:06Z"}"#,
    ];
    assert_eq!(through(&LogOptions::default(), &lines).0, "one\ntwo\n");
}

#[test]
fn lines_that_cannot_be_read() {
    let mut filter = LogFilter::new(&LogOptions::default());
    let mut out = Vec::new();
    let error = filter.line(b"no log\n", &mut out).unwrap_err().to_string();
    assert_eq!(error, "unsupported log format: \"no log\\n\"");
    filter.line(b"2026-01-02T03:04:06Z stderr F two\n", &mut out).unwrap();
    for bad in ["", "\n", "half a", "2026-01-02T03:04:06Z nowhere F x\n", "2026-01-02T03:04:06Z stdout"] {
        assert_eq!(filter.line(bad.as_bytes(), &mut out), Ok(More::Yes));
    }
    assert_eq!(out, b"two\n");
}

#[test]
fn times_with_nine_digits() {
    for (time, expected) in [
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000000000Z"),
        ("2026-01-02T03:04:05.12-05:00", "2026-01-02T03:04:05.120000000-05:00"),
        ("2026-01-02T03:04:05-05:00", "2026-01-02T03:04:05.000000000-05:00"),
        ("2026-01-02T03:04:05.1234567891+00:30", "2026-01-02T03:04:05.123456789+00:30"),
    ] {
        assert_eq!(with_nanoseconds(time), expected);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_taken(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..8)) {
        let mut filter = LogFilter::new(&LogOptions { timestamps: true, ..LogOptions::default() });
        let mut out = Vec::new();
        filter.line(b"2026-01-02T03:04:06Z stderr F two\n", &mut out).unwrap();
        for line in lines {
            prop_assert!(filter.line(&line, &mut out).is_ok());
        }
    }

    #[test]
    fn a_bound_is_kept(limit in 0u64..60, timestamps: bool) {
        let options = LogOptions { limit_bytes: Some(limit), timestamps, ..LogOptions::default() };
        let (out, _) = through(&options, LINES);
        let (all, _) = through(&LogOptions { timestamps, ..LogOptions::default() }, LINES);
        prop_assert_eq!(&out, &all[..all.len().min(usize::try_from(limit).unwrap())]);
    }
}
