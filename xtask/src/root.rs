//! Commands that make cgroups, mounts and network namespaces need root: said at once, with how to go on.

use anyhow::{Result, bail};

/// `why` completes "needs root: ".
pub fn require(why: &str) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    bail!("{}", refusal(&args, why));
}

fn refusal(args: &[String], why: &str) -> String {
    let args = args.join(" ");
    format!(
        "`cargo xtask {args}` needs root: {why}.\nGo on with:\n\n    sudo -E env \"PATH=$PATH\" cargo xtask {args}\n"
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_refusal_can_be_pasted() {
        let text = super::refusal(&["demo".into(), "--headless".into()], "it starts pods");
        assert!(text.contains("sudo -E env \"PATH=$PATH\" cargo xtask demo --headless\n"), "{text}");
    }
}
