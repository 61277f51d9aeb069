//! The query of a request, decoded: names with their values in the order in which they came.

/// Decoded pairs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UrlValues(pub Vec<(String, String)>);

impl UrlValues {
    /// The first value of the name; `None`: it is not there.
    #[must_use]
    pub fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// As Kubernetes decodes it into a bool: there and neither `false` nor `0` (apimachinery/pkg/runtime/converter.go). What
    /// is empty is true.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.first(name).is_some_and(|value| !value.eq_ignore_ascii_case("false") && value != "0")
    }
}

impl<const N: usize> From<[(&str, &str); N]> for UrlValues {
    fn from(pairs: [(&str, &str); N]) -> UrlValues {
        UrlValues(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec())
    }
}
