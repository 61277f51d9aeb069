//! Which streams of a process, or which ports of a pod, a request is about (k8s.io/cri-streaming/pkg/streaming).

use super::url_values::UrlValues;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamOptions {
    pub stdin: bool,
    pub stdout: bool,
    /// Never with a terminal, which has one output.
    pub stderr: bool,
    pub tty: bool,
}

/// # Errors
/// No stream at all.
pub fn parse(query: &UrlValues) -> Result<StreamOptions, &'static str> {
    let is = |name| query.first(name) == Some("1");
    let tty = is("tty");
    let options =
        StreamOptions { stdin: is("input"), stdout: is("output"), stderr: is("error") && !tty, tty };
    if !(options.stdin || options.stdout || options.stderr) {
        return Err("you must specify at least 1 of stdin, stdout, stderr");
    }
    Ok(options)
}

/// SPDY names its ports on the streams; a WebSocket has to name them in the query.
///
/// # Errors
/// A WebSocket that names none, or what is none.
pub fn ports(query: &UrlValues, is_websocket: bool) -> Result<Vec<i32>, String> {
    if !is_websocket {
        return Ok(Vec::new());
    }
    let given: Vec<&str> = query.all("port").collect();
    if given.is_empty() {
        return Err("query parameter \"port\" is required".to_owned());
    }
    let mut ports = Vec::new();
    for text in given {
        if text.is_empty() {
            return Err("query parameter \"port\" cannot be empty".to_owned());
        }
        for word in text.split(',') {
            let port: u16 = word.parse().map_err(|_| format!("unable to parse {text:?} as a port"))?;
            if port == 0 {
                return Err(format!("port {text:?} must be > 0"));
            }
            ports.push(i32::from(port));
        }
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams() {
        let all = [("input", "1"), ("output", "1"), ("error", "1")];
        let expected = StreamOptions { stdin: true, stdout: true, stderr: true, tty: false };
        assert_eq!(parse(&all.into()), Ok(expected));
        let expected = StreamOptions { stdout: true, tty: true, ..StreamOptions::default() };
        assert_eq!(parse(&[("output", "1"), ("error", "1"), ("tty", "1")].into()), Ok(expected));
        assert!(parse(&[("tty", "1"), ("error", "1")].into()).is_err());
        assert!(parse(&[("input", "true")].into()).is_err());
    }

    #[test]
    fn ports_of_a_websocket() {
        assert_eq!(ports(&[].into(), false), Ok(vec![]));
        assert_eq!(ports(&[("port", "80,81"), ("port", "82")].into(), true), Ok(vec![80, 81, 82]));
        for bad in ["", "0", "x", "70000", "80,"] {
            assert!(ports(&[("port", bad)].into(), true).is_err(), "{bad}");
        }
        assert!(ports(&[].into(), true).is_err());
    }
}
