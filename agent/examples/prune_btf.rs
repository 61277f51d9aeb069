//! Makes a BTF fixture: `cargo run -p oomlet --example prune_btf -- /sys/kernel/btf/vmlinux OUT`.

use std::path::Path;

use anyhow::{Context as _, bail};
use oomlet::kernel::btf::Btf;
use oomlet::kernel::layout;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [input, output] = args.as_slice() else {
        bail!("usage: prune_btf BTF_FILE OUTPUT_FILE");
    };
    let blob = layout::prune(&Btf::read(Path::new(input))?)?;
    std::fs::write(output, &blob).with_context(|| format!("write {output}"))?;
    println!("{output}: {} bytes", blob.len());
    Ok(())
}
