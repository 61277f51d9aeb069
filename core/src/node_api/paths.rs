//! Where a path that is no route leads: as in Go's `net/http.ServeMux` and in go-restful, which kubelet's routes are made of.

/// Families of routes; what is below one and no route of it is told in go-restful's words.
pub const SERVICES: [&str; 10] = [
    "/attach",
    "/checkpoint",
    "/containerLogs",
    "/debug/pprof",
    "/exec",
    "/logs",
    "/pods",
    "/portForward",
    "/run",
    "/stats",
];
/// Those that are there without `enableDebuggingHandlers`.
pub const OPEN_SERVICES: [&str; 2] = ["/pods", "/stats"];
/// Families whose own path ends with a slash.
const WITH_SLASH: [&str; 4] = ["/debug/pprof", "/logs", "/runningpods", "/stats"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nowhere {
    /// Below a family of routes.
    InService,
    Elsewhere,
    /// This path is meant.
    Redirect(String),
}

/// `services`: those of the port; none where it has health alone.
#[must_use]
pub fn nowhere(path: &str, services: &[&str]) -> Nowhere {
    let clean = clean(path);
    if clean != path {
        return Nowhere::Redirect(clean);
    }
    if !services.is_empty() && WITH_SLASH.contains(&path) {
        return Nowhere::Redirect(format!("{path}/"));
    }
    let is_below = |service: &&str| {
        path.strip_prefix(*service).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if services.iter().any(is_below) { Nowhere::InService } else { Nowhere::Elsewhere }
}

/// Without empty parts, `.` and `..`; a slash at its end stays.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let slash = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
    format!("/{}{slash}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_paths_lead() {
        let redirect = |to: &str| Nowhere::Redirect(to.to_owned());
        for (path, expected) in [
            ("/", Nowhere::Elsewhere),
            ("/nowhere", Nowhere::Elsewhere),
            ("/podsx", Nowhere::Elsewhere),
            ("/pods/x", Nowhere::InService),
            ("/exec", Nowhere::InService),
            ("/stats", redirect("/stats/")),
            ("/stats/", Nowhere::InService),
            ("//pods", redirect("/pods")),
            ("/pods//", redirect("/pods/")),
            ("/pods/../configz", redirect("/configz")),
            ("/../../x/./y/", redirect("/x/y/")),
            ("", redirect("/")),
        ] {
            assert_eq!(nowhere(path, &SERVICES), expected, "{path}");
        }
        assert_eq!(nowhere("/exec", &OPEN_SERVICES), Nowhere::Elsewhere);
        assert_eq!(nowhere("/stats", &[]), Nowhere::Elsewhere);
    }
}
