//! Makes a BTF fixture out of a kernel: of `/sys/kernel/btf/vmlinux`, or of an uncompressed `vmlinux` with a `.BTF`
//! section. `cargo xtask lab` keeps such kernels; with them all fixtures are made anew by
//!
//! ```sh
//! for v in 5.10 6.1 6.12 7.2; do
//!     cargo run -p oomlet --example prune_btf -- \
//!         ~/.cache/oomlet/lab/kernel/$v/vmlinux agent/tests/fixtures/btf/$v.btf
//! done
//! ```

use anyhow::{Context as _, bail};
use object::{Object as _, ObjectSection as _};
use oomlet::kernel::btf::Btf;
use oomlet::kernel::layout;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [input, output] = args.as_slice() else {
        bail!("usage: prune_btf BTF_FILE|VMLINUX OUTPUT_FILE");
    };
    let blob = std::fs::read(input).with_context(|| format!("read {input}"))?;
    let blob = if blob.starts_with(b"\x7fELF") { btf_section(&blob).context(input.clone())? } else { blob };
    let pruned = layout::prune(&Btf::parse(blob).context(input.clone())?)?;
    std::fs::write(output, &pruned).with_context(|| format!("write {output}"))?;
    println!("{output}: {} bytes", pruned.len());
    Ok(())
}

fn btf_section(elf: &[u8]) -> anyhow::Result<Vec<u8>> {
    let file = object::File::parse(elf).context("not an ELF file that can be read")?;
    let section =
        file.section_by_name(".BTF").context("no section .BTF: built without CONFIG_DEBUG_INFO_BTF")?;
    Ok(section.data()?.to_vec())
}
