//! Whether a text is an image's name, in the words in which kubelet says why not (distribution/reference, `ParseNormalizedNamed`
//! and `ReferenceRegexp`; pkg/util/parsers).

/// `RepositoryNameTotalLengthMax`.
const MAX_PATH: usize = 255;
const MAX_TAG: usize = 128;
const DEFAULT_DOMAIN: &str = "docker.io";
const INVALID: &str = "invalid reference format";

/// The name as the runtime is asked for it: `busybox` becomes `busybox:latest`; a tag or a digest stays.
///
/// # Errors
/// What is wrong with it, as `couldn't parse image name "X": repository name must be lowercase`.
pub fn with_default_tag(image: &str) -> Result<String, String> {
    let tagged = parse(image).map_err(|why| format!("couldn't parse image name {image:?}: {why}"))?;
    Ok(if tagged { image.to_owned() } else { format!("{image}:latest") })
}

/// Whether it has a tag or a digest.
fn parse(image: &str) -> Result<bool, String> {
    if image.len() == 64 && image.bytes().all(is_lower_hex) {
        let why = "cannot specify 64-byte hexadecimal strings";
        return Err(format!("invalid repository name ({image}), {why}"));
    }
    let (domain, rest) = split_domain(image);
    let repository = rest.split(':').next().unwrap_or_default();
    if repository.to_lowercase() != repository {
        return Err(format!("{INVALID}: repository name ({repository}) must be lowercase"));
    }
    match Reference::of(domain, &rest) {
        Some(found) if found.path.len() > MAX_PATH => {
            Err(format!("repository name must not be more than {MAX_PATH} characters"))
        }
        Some(found) => {
            found.digest.map_or(Ok(()), check_digest)?;
            Ok(found.tag.is_some() || found.digest.is_some())
        }
        None if Reference::of(&domain.to_lowercase(), &rest.to_lowercase()).is_some() => {
            Err("repository name must be lowercase".to_owned())
        }
        None => Err(INVALID.to_owned()),
    }
}

/// What stands before the first slash is a registry if it looks like one, else a part of Docker Hub's names.
fn split_domain(image: &str) -> (&str, String) {
    let (domain, rest) = match image.split_once('/') {
        Some((first, rest))
            if first == "localhost" || first.contains(['.', ':']) || first.to_lowercase() != first =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, image),
    };
    let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
    let official = domain == DEFAULT_DOMAIN && !rest.contains('/');
    (domain, if official { format!("library/{rest}") } else { rest.to_owned() })
}

struct Reference<'a> {
    path: &'a str,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

impl<'a> Reference<'a> {
    /// `None`: it has not the form of one.
    fn of(domain: &str, rest: &'a str) -> Option<Reference<'a>> {
        let (name, digest) = match rest.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (rest, None),
        };
        let (path, tag) = match name.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (name, None),
        };
        // What is no registry's name may still be the first part of a path.
        let is_known = is_domain(domain) || is_component(domain);
        let is_one = is_known
            && path.split('/').all(is_component)
            && tag.is_none_or(is_tag)
            && digest.is_none_or(has_form_of_digest);
        is_one.then_some(Reference { path, tag, digest })
    }
}

/// Lower-case letters and digits, with one dot, one or two underscores, or dashes between them.
fn is_component(part: &str) -> bool {
    let is_atom = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_separator = |between: &str| {
        matches!(between, "." | "_" | "__") || !between.is_empty() && between.chars().all(|c| c == '-')
    };
    let ends = part.starts_with(is_atom) && part.ends_with(is_atom);
    ends && part.split(is_atom).filter(|between| !between.is_empty()).all(is_separator)
}

fn is_domain(text: &str) -> bool {
    let digits = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    if let Some((address, port)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let is_address = !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
        return is_address && (port.is_empty() || port.strip_prefix(':').is_some_and(digits));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let is_label = |label: &str| {
        let alphanumeric = |c: char| c.is_ascii_alphanumeric();
        label.starts_with(alphanumeric)
            && label.ends_with(alphanumeric)
            && label.chars().all(|c| alphanumeric(c) || c == '-')
    };
    host.split('.').all(is_label) && port.is_none_or(digits)
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= MAX_TAG && tag.starts_with(word) && tag.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}

/// `ALGORITHM:HEX`, with at least 32 digits.
fn has_form_of_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphabetic()) && word.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    algorithm.split(['-', '_', '+', '.']).all(is_word)
        && hex.len() >= 32
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

/// go-digest's `Validate`.
fn check_digest(digest: &str) -> Result<(), String> {
    let (algorithm, hex) = digest.split_once(':').unwrap_or_default();
    let digits = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err("unsupported digest algorithm".to_owned()),
    };
    if hex.len() != digits {
        return Err("invalid checksum digest length".to_owned());
    }
    if !hex.bytes().all(is_lower_hex) {
        return Err("invalid checksum digest format".to_owned());
    }
    Ok(())
}

fn is_lower_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_a_tag() {
        let digest = format!("busybox@sha256:{}", "0a".repeat(32));
        for (image, expected) in [
            ("busybox", "busybox:latest"),
            ("reg:5000/a/busybox", "reg:5000/a/busybox:latest"),
            ("reg:5000/busybox:1", "reg:5000/busybox:1"),
            ("[::1]:5000/a__b/c-d.e", "[::1]:5000/a__b/c-d.e:latest"),
            ("127.0.0.1:1/not-there:1", "127.0.0.1:1/not-there:1"),
            ("foo_bar.com/x", "foo_bar.com/x:latest"),
            ("Registry.example/x:V1.0_a", "Registry.example/x:V1.0_a"),
            ("sha256", "sha256:latest"),
            (&digest, &digest),
        ] {
            assert_eq!(with_default_tag(image).as_deref(), Ok(expected), "{image}");
        }
    }

    #[test]
    fn what_is_no_name_is_told_as_kubelet_tells_it() {
        let (hex, long) = ("0".repeat(64), format!("a/{}", "b".repeat(254)));
        let hex_error =
            format!("invalid repository name ({hex}), cannot specify 64-byte hexadecimal strings");
        for (image, expected) in [
            ("", INVALID),
            (
                "Not_A_Name!",
                "invalid reference format: repository name (library/Not_A_Name!) must be lowercase",
            ),
            ("a/B:1", "invalid reference format: repository name (a/B) must be lowercase"),
            ("not a name", INVALID),
            ("a..b", INVALID),
            ("a___b", INVALID),
            ("-a", INVALID),
            ("a/", INVALID),
            ("/a", INVALID),
            ("a:", INVALID),
            ("a:-1", INVALID),
            ("reg:port/a", INVALID),
            ("a@sha256:00", INVALID),
            ("a@sha256:00000000000000000000000000000000", "invalid checksum digest length"),
            ("a@md5:00000000000000000000000000000000", "unsupported digest algorithm"),
            (&hex, &hex_error),
            (&long, "repository name must not be more than 255 characters"),
        ] {
            let expected = format!("couldn't parse image name {image:?}: {expected}");
            assert_eq!(with_default_tag(image), Err(expected), "{image}");
        }
    }
}
