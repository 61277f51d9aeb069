//! tracefs: where it is mounted, mounting it where it is not, and the `format` files of its events.

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

/// The two places that the kernel makes for it, and that aya looks in when it attaches a tracepoint.
const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

#[derive(Debug, thiserror::Error)]
pub enum TracefsError {
    #[error("tracefs is not mounted at {path}; mount it there, or leave the option out to have it found")]
    NotThere { path: PathBuf },
    #[error("tracefs is not mounted, and `mount -t tracefs tracefs {path}` failed: {source}")]
    Mount { path: PathBuf, source: std::io::Error },
    #[error(
        "tracefs is mounted at {path} and shows no events: the kernel's lockdown, `confidentiality`, hides them"
    )]
    Hidden { path: PathBuf },
    #[error("read {path}: {source}; this kernel has no such tracepoint")]
    Format { path: PathBuf, source: std::io::Error },
    #[error("{path} does not list the field `{field}` as this program reads it")]
    Field { path: PathBuf, field: &'static str },
}

fn is_tracefs(path: &Path) -> bool {
    path.join("events").is_dir()
}

/// Where tracefs is mounted already.
#[must_use]
pub fn find() -> Option<PathBuf> {
    PLACES.iter().map(PathBuf::from).find(|path| is_tracefs(path))
}

/// The given place, or one that is found, or one that is mounted now.
///
/// # Errors
/// It is not at `wanted`, or cannot be mounted (not root, read-only /sys, no CONFIG_TRACING).
pub fn find_or_mount(wanted: Option<&Path>) -> Result<PathBuf, TracefsError> {
    if let Some(path) = wanted {
        return if is_tracefs(path) {
            Ok(path.to_owned())
        } else {
            Err(TracefsError::NotThere { path: path.to_owned() })
        };
    }
    if let Some(path) = find() {
        return Ok(path);
    }
    let path = PathBuf::from(PLACES[0]);
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tracefs", &path, "tracefs", flags, None).map_err(|errno| match errno {
        // There already. tracefs_create_file makes none under this lockdown.
        Errno::BUSY => TracefsError::Hidden { path: path.clone() },
        errno => TracefsError::Mount { path: path.clone(), source: errno.into() },
    })?;
    if !is_tracefs(&path) {
        return Err(TracefsError::Hidden { path });
    }
    tracing::info!(path = %path.display(), "mounted tracefs: the plain tracepoints need it");
    Ok(path)
}

/// Reads the `format` file of `category:name`.
///
/// # Errors
/// The event does not exist.
pub fn format(tracefs: &Path, category: &str, name: &str) -> Result<Format, TracefsError> {
    let path = tracefs.join("events").join(category).join(name).join("format");
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Format { fields: parse_format(&text), path }),
        Err(source) => Err(TracefsError::Format { path, source }),
    }
}

/// The fields of one event's record.
#[derive(Debug)]
pub struct Format {
    path: PathBuf,
    fields: Vec<Field>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    name: String,
    /// `__data_loc`: the field holds where in the record the data is.
    data_loc: bool,
    offset: u32,
    size: u32,
}

impl Format {
    /// Offset of a field in the record, if it has the size that the program reads.
    #[must_use]
    pub fn offset(&self, name: &str, size: u32) -> Option<u32> {
        self.fields.iter().find(|f| f.name == name && f.size == size && !f.data_loc).map(|f| f.offset)
    }

    /// Offset of a `__data_loc` word.
    #[must_use]
    pub fn data_loc(&self, name: &str) -> Option<u32> {
        self.fields.iter().find(|f| f.name == name && f.size == 4 && f.data_loc).map(|f| f.offset)
    }

    /// The error for a field that has to be there and is not.
    #[must_use]
    pub fn lacks(&self, field: &'static str) -> TracefsError {
        TracefsError::Field { path: self.path.clone(), field }
    }
}

/// Lines like `field:unsigned long total_vm; offset:16; size:8; signed:0;`, with tabs between. Others are skipped.
fn parse_format(text: &str) -> Vec<Field> {
    text.lines().filter_map(parse_field).collect()
}

fn parse_field(line: &str) -> Option<Field> {
    let mut parts = line.trim().split(';').map(str::trim);
    let declaration = parts.next()?.strip_prefix("field:")?;
    let mut number = |key: &str| parts.next()?.strip_prefix(key)?.parse::<u32>().ok();
    let offset = number("offset:")?;
    let size = number("size:")?;
    // `char comm[16]`, `__data_loc char[] comm`, `u64 id`: the name is the last word, without its dimension.
    let name = declaration.split_whitespace().last()?.split('[').next()?;
    (!name.is_empty()).then(|| Field {
        name: name.to_owned(),
        data_loc: declaration.starts_with("__data_loc "),
        offset,
        size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, data_loc: bool, offset: u32, size: u32) -> Field {
        Field { name: name.to_owned(), data_loc, offset, size }
    }

    #[test]
    fn fields_of_a_format_file() {
        let text = "name: mark_victim\nID: 609\nformat:\n\
            \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\
            \tfield:int pid;\toffset:8;\tsize:4;\tsigned:1;\n\
            \tfield:__data_loc char[] comm;\toffset:12;\tsize:4;\tsigned:0;\n\
            \tfield:char prev_comm[16];\toffset:16;\tsize:16;\tsigned:0;\n\
            \tfield:unsigned long total_vm;\toffset:32;\tsize:8;\tsigned:0;\n\n\
            print fmt: \"pid=%d\", REC->pid\n";
        assert_eq!(
            parse_format(text),
            [
                field("common_type", false, 0, 2),
                field("pid", false, 8, 4),
                field("comm", true, 12, 4),
                field("prev_comm", false, 16, 16),
                field("total_vm", false, 32, 8),
            ]
        );
    }

    #[test]
    fn lines_that_are_no_field() {
        for line in ["", "field:", "field:int pid", "field:int pid;\toffset:x;\tsize:4;", "print fmt: \"\""] {
            assert_eq!(parse_field(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_field_of_another_width_is_not_read() {
        let format = Format {
            path: PathBuf::from("format"),
            fields: vec![field("id", false, 16, 4), field("path", true, 24, 4)],
        };
        assert_eq!(format.offset("id", 8), None);
        assert_eq!(format.offset("path", 4), None);
        assert_eq!(format.data_loc("path"), Some(24));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(text in ".{0,400}") {
            let _ = parse_format(&text);
        }
    }
}
