//! Node log query: which services' logs, or which file below `/var/log`, `/logs/?query=…` asks for
//! (pkg/kubelet/kubelet_server_journal.go).

use k8s_openapi::jiff::Timestamp;

use super::url_values::UrlValues;

const MAX_TAIL_LINES: i64 = 100_000;
const MAX_SERVICE_LENGTH: usize = 256;
const MAX_SERVICES: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogQuery {
    /// Below `/var/log`.
    File(String),
    Services {
        services: Vec<String>,
        options: QueryOptions,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryOptions {
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    pub tail_lines: Option<i64>,
    /// 0: this one; −1: the one before.
    pub boot: Option<i64>,
    pub pattern: Option<String>,
}

/// A status, and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub status: u16,
    pub message: String,
}

/// `None`: nothing is asked for, and the path names a file. `is_root`: it names none.
///
/// # Errors
/// [`Refused`]: 400 for what cannot be read, 406 for what is not allowed.
pub fn parse(query: &UrlValues, is_root: bool) -> Result<Option<LogQuery>, Refused> {
    let queries: Vec<&str> = query.all("query").collect();
    let (files, services): (Vec<&str>, Vec<&str>) = queries.iter().partition(|q| q.contains(['/', '\\']));
    let services: Vec<String> =
        services.into_iter().filter(|service| !service.trim().is_empty()).map(str::to_owned).collect();
    let mut errors = Vec::new();
    if !queries.is_empty() && files.is_empty() && services.is_empty() {
        errors.push(format!("query: Invalid value: {}: may not be empty", list(&queries)));
    }
    let options = options(query, &mut errors);
    refuse(400, errors)?;
    if files.is_empty() && services.is_empty() && options == QueryOptions::default() {
        return Ok(None);
    }
    if !is_root {
        return Err(Refused { status: 406, message: "path not allowed in query mode".to_owned() });
    }
    refuse(406, wrong(&files, &services, &options))?;
    match files.first() {
        // The backslash is of clients on Windows.
        Some(file) => Ok(Some(LogQuery::File(file.replace('\\', "/")))),
        None => Ok(Some(LogQuery::Services { services, options })),
    }
}

fn options(query: &UrlValues, errors: &mut Vec<String>) -> QueryOptions {
    let given = |name| query.first(name).filter(|text| !text.is_empty());
    let mut time = |name| {
        let text = given(name)?;
        let parsed = text.parse::<Timestamp>().ok();
        if parsed.is_none() {
            errors.push(format!("{name}: Invalid value: {text:?}: invalid time format"));
        }
        parsed
    };
    let (since, until) = (time("sinceTime"), time("untilTime"));
    let mut number = |name| {
        let text = given(name)?;
        let parsed = text.parse::<i64>().ok();
        if parsed.is_none() {
            errors.push(format!(
                "{name}: Invalid value: {text:?}: strconv.Atoi: parsing {text:?}: invalid syntax"
            ));
        }
        parsed
    };
    let (boot, tail_lines) = (number("boot"), number("tailLines"));
    QueryOptions { since, until, tail_lines, boot, pattern: given("pattern").map(str::to_owned) }
}

fn wrong(files: &[&str], services: &[String], options: &QueryOptions) -> Vec<String> {
    let mut errors = Vec::new();
    for service in services {
        if service.len() > MAX_SERVICE_LENGTH {
            errors.push(format!(
                "query: Invalid value: {service:?}: length must be less than {MAX_SERVICE_LENGTH}"
            ));
        } else if !service.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:@".contains(c)) {
            errors.push(format!("query: Invalid value: {service:?}: input contains unsupported characters"));
        }
    }
    if services.len() > MAX_SERVICES {
        errors.push(format!("query: Too many: {}: must have at most {MAX_SERVICES} items", services.len()));
    }
    let invalid = |why: &str| format!("query: Invalid value: {}: {why}", list(files));
    match (files.len(), services.is_empty()) {
        (0, true) => errors.push("query: Required value: cannot be empty with options".to_owned()),
        (0, false) => {}
        (_, false) => errors.push(invalid("cannot specify a file and service")),
        (1, true) if *options != QueryOptions::default() => {
            errors.push(invalid("cannot specify file with options"));
        }
        (1, true) => {}
        (_, true) => errors.push(invalid("cannot specify more than one file")),
    }
    if let (Some(since), Some(until)) = (options.since, options.until)
        && since > until
    {
        errors.push(format!("untilTime: Invalid value: {until}: must be after `sinceTime`"));
    }
    if let Some(boot) = options.boot.filter(|boot| *boot > 0) {
        errors.push(format!("boot: Invalid value: {boot}: must be less than 1"));
    }
    if let Some(lines) = options.tail_lines.filter(|lines| !(0..=MAX_TAIL_LINES).contains(lines)) {
        errors.push(format!(
            "tailLines: Invalid value: {lines}: must be between 0 and {MAX_TAIL_LINES}, inclusive"
        ));
    }
    errors
}

fn refuse(status: u16, errors: Vec<String>) -> Result<(), Refused> {
    match errors.len() {
        0 => Ok(()),
        1 => Err(Refused { status, message: errors.concat() }),
        _ => Err(Refused { status, message: format!("[{}]", errors.join(", ")) }),
    }
}

/// As Go writes a list of strings.
fn list(texts: &[&str]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    format!("[]string{{{}}}", quoted.join(", "))
}

/// What `journalctl` is called with. Each word is one argument: no shell reads it.
#[must_use]
pub fn journalctl_arguments(services: &[String], options: &QueryOptions) -> Vec<String> {
    let time = |at: Timestamp| at.strftime("%Y-%-m-%-d %-H:%-M:%-S").to_string();
    let mut args = ["--utc", "--no-pager", "--output=short-precise"].map(str::to_owned).to_vec();
    args.extend(options.since.map(|since| format!("--since={}", time(since))));
    args.extend(options.until.map(|until| format!("--until={}", time(until))));
    if let Some(lines) = options.tail_lines {
        args.extend(["--pager-end".to_owned(), format!("--lines={lines}")]);
    }
    args.extend(services.iter().map(|service| format!("--unit={service}")));
    args.extend(options.pattern.iter().map(|pattern| format!("--grep={pattern}")));
    if let Some(boot) = options.boot {
        args.extend(["--boot".to_owned(), boot.to_string()]);
    }
    args
}

/// Where a service that does not log to the journal may have a file, below `/var/log`.
#[must_use]
pub fn files_of(service: &str) -> [String; 3] {
    [service.to_owned(), format!("{service}.log"), format!("{service}/{service}.log")]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(query: &UrlValues, root: bool) -> (u16, String) {
        let refused = parse(query, root).unwrap_err();
        (refused.status, refused.message)
    }

    #[test]
    fn what_is_asked_for() {
        assert_eq!(parse(&[].into(), false), Ok(None));
        assert_eq!(parse(&[("query", "/a.log")].into(), true), Ok(Some(LogQuery::File("/a.log".into()))));
        assert_eq!(parse(&[("query", "a\\b.log")].into(), true), Ok(Some(LogQuery::File("a/b.log".into()))));
        let query =
            [("query", "kubelet"), ("query", "crio"), ("boot", "-1"), ("tailLines", "5"), ("pattern", "x y")];
        let Ok(Some(LogQuery::Services { services, options })) = parse(&query.into(), true) else { panic!() };
        let expected = [
            "--utc",
            "--no-pager",
            "--output=short-precise",
            "--pager-end",
            "--lines=5",
            "--unit=kubelet",
            "--unit=crio",
            "--grep=x y",
            "--boot",
            "-1",
        ];
        assert_eq!(journalctl_arguments(&services, &options), expected);
    }

    #[test]
    fn what_is_refused() {
        for (query, root, status, part) in [
            (vec![("query", "  ")], true, 400, "query: Invalid value: []string{\"  \"}: may not be empty"),
            (vec![("sinceTime", "x")], true, 400, "sinceTime: Invalid value: \"x\": invalid time format"),
            (vec![("query", "a"), ("boot", "x"), ("tailLines", "y")], true, 400, "[boot: "),
            (vec![("query", "a")], false, 406, "path not allowed in query mode"),
            (vec![("tailLines", "3")], true, 406, "query: Required value: cannot be empty with options"),
            (vec![("query", "a b")], true, 406, "unsupported characters"),
            (vec![("query", "--all")], true, 200, ""),
            (vec![("query", "a"), ("query", "/b")], true, 406, "cannot specify a file and service"),
            (vec![("query", "/a"), ("query", "/b")], true, 406, "more than one file"),
            (vec![("query", "/a"), ("boot", "0")], true, 406, "cannot specify file with options"),
            (vec![("query", "a"), ("boot", "1")], true, 406, "boot: Invalid value: 1: must be less than 1"),
            (vec![("query", "a"), ("tailLines", "100001")], true, 406, "between 0 and 100000"),
            (vec![("query", "a"); 5], true, 406, "Too many"),
            (
                vec![
                    ("query", "a"),
                    ("sinceTime", "2026-01-02T00:00:00Z"),
                    ("untilTime", "2026-01-01T00:00:00Z"),
                ],
                true,
                406,
                "must be after `sinceTime`",
            ),
        ] {
            let query = UrlValues(query.into_iter().map(|(k, v)| (k.into(), v.into())).collect());
            if status == 200 {
                assert!(parse(&query, root).is_ok());
                continue;
            }
            let (found, message) = refused(&query, root);
            assert!(found == status && message.contains(part), "{query:?}: {found} {message}");
        }
    }

    proptest! {
        #[test]
        fn a_service_is_never_an_option(service in "\\PC{0,20}") {
            if let Ok(Some(LogQuery::Services { services, options })) = parse(&[("query", service.as_str())].into(), true) {
                let args = journalctl_arguments(&services, &options);
                prop_assert!(args[3..].iter().all(|arg| arg.starts_with("--unit=")));
            }
        }
    }
}
