//! Environment files, which `fileKeyRef` reads: `NAME='value'`, a strict part of a shell's syntax
//! (pkg/kubelet/util/env/env_util.go).

use std::collections::BTreeMap;
use std::fmt;

/// No line may be longer (Go's `bufio.MaxScanTokenSize`).
const MAX_LINE_BYTES: usize = 64 << 10;

/// What is wrong with a file, by the line that it is about, from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvFileError {
    #[error("invalid environment variable format at line {0}: missing '='")]
    NoEquals(usize),
    #[error("invalid environment variable format at line {0}: empty variable name")]
    NoName(usize),
    #[error("invalid environment variable format at line {0}: whitespace before '=' is not allowed")]
    Space(usize),
    #[error("invalid environment variable format at line {0}: value must be enclosed in single quotes")]
    NoQuote(usize),
    #[error("invalid environment variable format at line {0}: unexpected content after closing quote")]
    AfterQuote(usize),
    #[error("invalid environment variable format starting at line {0}: unclosed single quote")]
    Unclosed(usize),
    #[error("line {0} is longer than 65535 bytes")]
    TooLong(usize),
}

/// One file that a container's `fileKeyRef` names.
#[derive(Clone, PartialEq, Eq)]
pub enum EnvFile {
    /// The pod has no such volume.
    NoVolume,
    /// `path`: on the node, for messages.
    Read {
        path: String,
        bytes: Vec<u8>,
    },
    Unreadable {
        why: String,
    },
}

/// Without the bytes: they may be a secret's.
impl fmt::Debug for EnvFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EnvFile::NoVolume => f.write_str("NoVolume"),
            EnvFile::Read { path, bytes } => write!(f, "Read({path}, {} bytes)", bytes.len()),
            EnvFile::Unreadable { why } => write!(f, "Unreadable({why})"),
        }
    }
}

/// By volume and path in it.
pub type EnvFiles = BTreeMap<(String, String), EnvFile>;

/// The value at `key`; empty where there is none. What comes after it does not count.
///
/// # Errors
/// What stands before it, or its value, is not in the form.
pub fn value(text: &[u8], key: &str) -> Result<Vec<u8>, EnvFileError> {
    let mut lines = Lines { rest: text, number: 0 };
    while let Some(line) = lines.next()? {
        let number = lines.number;
        let line = trimmed(line);
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let equals = line.iter().position(|b| *b == b'=').ok_or(EnvFileError::NoEquals(number))?;
        let (name, after) = (&line[..equals], &line[equals + 1..]);
        if name.iter().all(|b| is_space(*b)) {
            return Err(EnvFileError::NoName(number));
        }
        if name.last().is_some_and(|b| is_space(*b)) {
            return Err(EnvFileError::Space(number));
        }
        let is_it = name == key.as_bytes();
        // As a shell has it: the variable is empty, and what follows is something else.
        if after.first().is_some_and(|b| is_space(*b)) {
            if is_it {
                return Ok(Vec::new());
            }
            continue;
        }
        let quoted = after.strip_prefix(b"'").ok_or(EnvFileError::NoQuote(number))?;
        let value = lines.quoted(quoted)?;
        if is_it {
            return Ok(value);
        }
    }
    Ok(Vec::new())
}

struct Lines<'a> {
    rest: &'a [u8],
    /// Of the last one.
    number: usize,
}

impl<'a> Lines<'a> {
    /// Without its end, and a carriage return before that.
    fn next(&mut self) -> Result<Option<&'a [u8]>, EnvFileError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let end = self.rest.iter().position(|b| *b == b'\n');
        let (line, rest) = match end {
            Some(end) => (&self.rest[..end], &self.rest[end + 1..]),
            None => (self.rest, &[][..]),
        };
        self.number += 1;
        if line.len() >= MAX_LINE_BYTES {
            return Err(EnvFileError::TooLong(self.number));
        }
        self.rest = rest;
        Ok(Some(line.strip_suffix(b"\r").unwrap_or(line)))
    }

    /// Up to the closing quote, over lines if need be; after it only a comment.
    fn quoted(&mut self, first: &'a [u8]) -> Result<Vec<u8>, EnvFileError> {
        let (begun, mut part, mut value) = (self.number, first, Vec::new());
        loop {
            if let Some(end) = part.iter().position(|b| *b == b'\'') {
                value.extend(&part[..end]);
                let after = trimmed(&part[end + 1..]);
                return match after.first() {
                    None | Some(b'#') => Ok(value),
                    Some(_) => Err(EnvFileError::AfterQuote(self.number)),
                };
            }
            value.extend(part);
            value.push(b'\n');
            part = self.next()?.ok_or(EnvFileError::Unclosed(begun))?;
        }
    }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn trimmed(line: &[u8]) -> &[u8] {
    &line[line.iter().position(|b| !is_space(*b)).unwrap_or(line.len())..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, key: &str, want: Result<&str, EnvFileError>) {
        let found = value(text.as_bytes(), key).map(|v| String::from_utf8(v).unwrap());
        assert_eq!(found, want.map(str::to_owned), "{key} in {text:?}");
    }

    #[test]
    fn values() {
        let several = "# first\n\n   A='one'\n\tB='two' # note\n  # more\nC='th=r#ee'\nE=''\n";
        for (key, want) in [("A", "one"), ("B", "two"), ("C", "th=r#ee"), ("E", ""), ("D", ""), ("", "")] {
            check(several, key, Ok(want));
        }
        check("A='no newline'", "A", Ok("no newline"));
        check("A='  kept  '", "A", Ok("  kept  "));
        check("A='one\n two\n\nthree'\nB='b'", "A", Ok("one\n two\n\nthree"));
        check("A='one\n two'\nB='b'", "B", Ok("b"));
        check("A='one'\r\nB='t\r\nwo'\r\n", "B", Ok("t\nwo"));
        check("A= 'one'\nB='b'", "A", Ok(""));
        check("A= 'one'\nB='b'", "B", Ok("b"));
        check("A='\\n $X \"'", "A", Ok("\\n $X \""));
        check("A='first'\nA='second'", "A", Ok("first"));
        check("export A='x'", "A", Ok(""));
        check("", "A", Ok(""));
        // What comes after the key is not looked at.
        check("A='one'\nnonsense", "A", Ok("one"));
    }

    #[test]
    fn errors() {
        use EnvFileError as E;
        for (text, want) in [
            ("nonsense\nA='a'", E::NoEquals(1)),
            ("='a'", E::NoName(1)),
            ("\n  = 'a'", E::NoName(2)),
            ("A ='a'", E::Space(1)),
            ("B = 'b'\nA='a'", E::Space(1)),
            ("A=a", E::NoQuote(1)),
            ("A=\"a\"", E::NoQuote(1)),
            ("A=", E::NoQuote(1)),
            ("A='a'b", E::AfterQuote(1)),
            ("A='a\n'b'", E::AfterQuote(2)),
            ("B='b'\nA='a\n\n", E::Unclosed(2)),
        ] {
            check(text, "A", Err(want));
        }
        let long = format!("# {}\nA='a'", "x".repeat(MAX_LINE_BYTES));
        check(&long, "A", Err(E::TooLong(1)));
        assert_eq!(
            E::Space(3).to_string(),
            "invalid environment variable format at line 3: whitespace before '=' is not allowed"
        );
    }

    proptest! {
        #[test]
        fn any_text_has_an_answer(text in proptest::collection::vec(any::<u8>(), 0..200), key in "[A-C]?") {
            let _ = value(&text, &key);
        }

        #[test]
        fn what_is_written_in_the_form_is_read(values in proptest::collection::vec("[^'\r]{0,20}", 1..6)) {
            let text: String = values.iter().enumerate().map(|(i, v)| format!("K{i}='{v}'\n")).collect();
            for (i, want) in values.iter().enumerate() {
                let found = value(text.as_bytes(), &format!("K{i}")).unwrap();
                prop_assert_eq!(String::from_utf8(found).unwrap(), want.clone());
            }
        }
    }
}
