//! Container images without a registry: OCI archives made from static programs, kept in the cache under a name that
//! changes with their content.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{build, elf, paths, process};

pub const PAUSE: &str = "oomlet.dev/pause:1";
pub const BUSYBOX: &str = "oomlet.dev/busybox:1";
pub const WORKLOAD: &str = "oomlet.dev/workload:1";

/// Names the archive where it was made elsewhere: for a machine that is slow at making it.
const READY_MADE: &str = "OOMLET_SAMPLE_IMAGES";

/// One archive with all sample images: the pause image (`catatonit -P`: what a sandbox's first process has to do, as
/// Debian packages it), busybox (a shell and its applets), and the workload with busybox beside it for exec and for
/// looking around.
pub fn samples() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(READY_MADE).map(PathBuf::from) {
        ensure!(path.is_file(), "{READY_MADE} is set, but there is no {}", path.display());
        return Ok(path);
    }
    let mut pause = Files::default();
    pause.program("catatonit", "/catatonit")?;
    let mut busybox = Files::default();
    busybox.busybox()?;
    let path = build::workload_path()?;
    ensure!(path.is_file(), "{} is missing; build it by `cargo xtask build`", path.display());
    let mut workload = Files::default();
    workload.executable("/oomlet-workload", &path)?;
    let (pause, busybox, workload) = (pause.layer()?, busybox.layer()?, workload.layer()?);
    archive(
        "samples",
        &[
            Image { name: PAUSE, layers: &[&pause], entrypoint: &["/catatonit", "-P"] },
            Image { name: BUSYBOX, layers: &[&busybox], entrypoint: &["/bin/sh"] },
            Image { name: WORKLOAD, layers: &[&busybox, &workload], entrypoint: &["/oomlet-workload"] },
        ],
    )
}

struct Image<'a> {
    name: &'a str,
    /// Tar archives, the lowest first.
    layers: &'a [&'a [u8]],
    entrypoint: &'a [&'a str],
}

/// What an image holds, by path without the leading slash.
#[derive(Debug, Default)]
struct Files(BTreeMap<String, Entry>);

#[derive(Debug)]
enum Entry {
    Dir { mode: u32 },
    Executable(Vec<u8>),
    Text(&'static str),
    Link { to: &'static str },
}

impl Files {
    /// A static program of this machine.
    fn program(&mut self, name: &str, at: &str) -> Result<()> {
        let path =
            paths::program(name).with_context(|| format!("there is no {name}; run `cargo xtask setup`"))?;
        self.executable(at, &path)
    }

    fn executable(&mut self, at: &str, path: &Path) -> Result<()> {
        ensure!(
            elf::is_static(path)?,
            "{} is not static: an image that holds it alone cannot run it",
            path.display()
        );
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        self.0.insert(at.trim_start_matches('/').to_owned(), Entry::Executable(bytes));
        Ok(())
    }

    fn busybox(&mut self) -> Result<()> {
        self.program("busybox", "/bin/busybox")?;
        let applets = process::output(Command::new("busybox").arg("--list"))?;
        for applet in applets.lines().filter(|name| *name != "busybox" && !name.is_empty()) {
            self.0.insert(format!("bin/{applet}"), Entry::Link { to: "busybox" });
        }
        self.0.insert("tmp".to_owned(), Entry::Dir { mode: 0o1777 });
        self.0.insert("root".to_owned(), Entry::Dir { mode: 0o700 });
        self.0.insert(
            "etc/passwd".to_owned(),
            Entry::Text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
        );
        self.0.insert("etc/group".to_owned(), Entry::Text("root:x:0:\nnogroup:x:65534:\n"));
        Ok(())
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, entry) in &self.0 {
            let mut header = tar::Header::new_ustar();
            header.set_size(0);
            match entry {
                Entry::Dir { mode } => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    tar.append_data(&mut header, path, std::io::empty())?;
                }
                Entry::Executable(bytes) => append(&mut tar, header, path, 0o755, bytes)?,
                Entry::Text(text) => append(&mut tar, header, path, 0o644, text.as_bytes())?,
                Entry::Link { to } => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    tar.append_link(&mut header, path, to)?;
                }
            }
        }
        Ok(tar.into_inner()?)
    }
}

fn append(
    tar: &mut tar::Builder<Vec<u8>>,
    mut header: tar::Header,
    path: &str,
    mode: u32,
    bytes: &[u8],
) -> Result<()> {
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, path, bytes)?;
    Ok(())
}

/// Writes the OCI image layout (image-spec: oci-layout, index.json, blobs) as one tar into the cache.
fn archive(name: &str, images: &[Image<'_>]) -> Result<PathBuf> {
    let mut blobs: BTreeMap<String, Cow<'_, [u8]>> = BTreeMap::new();
    let mut manifests = Vec::new();
    for image in images {
        let digests: Vec<String> = image.layers.iter().map(|layer| hex(layer)).collect();
        let config = json!({
            "architecture": oci_architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": image.entrypoint,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "WorkingDir": "/",
            },
            "rootfs": {
                "type": "layers",
                "diff_ids": digests.iter().map(|d| format!("sha256:{d}")).collect::<Vec<_>>(),
            },
        });
        let config = serde_json::to_vec(&config)?;
        let layer = |bytes: &&[u8]| descriptor("application/vnd.oci.image.layer.v1.tar", bytes);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": image.layers.iter().map(layer).collect::<Vec<_>>(),
        });
        let manifest = serde_json::to_vec(&manifest)?;
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["annotations"] = json!({ "io.containerd.image.name": image.name });
        manifests.push(entry);
        for blob in [config, manifest] {
            blobs.insert(hex(&blob), blob.into());
        }
        blobs.extend(digests.into_iter().zip(image.layers.iter().map(|layer| Cow::Borrowed(*layer))));
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    });
    let index = serde_json::to_vec(&index)?;

    let dir = paths::cache()?.join("images");
    let path = dir.join(format!("{name}-{}.tar", &hex(&index)[..16]));
    if path.is_file() {
        return Ok(path);
    }
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, bytes: &[u8]| append(&mut tar, tar::Header::new_ustar(), path, 0o644, bytes);
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add("index.json", &index)?;
    for (digest, blob) in &blobs {
        add(&format!("blobs/sha256/{digest}"), blob)?;
    }
    // Tests run in parallel: whoever renames last replaces a file with its equal.
    let file = tempfile::NamedTempFile::new_in(&dir)?;
    fs::write(file.path(), tar.into_inner()?)?;
    file.persist(&path).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": format!("sha256:{}", hex(blob)), "size": blob.len() })
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Go's name of this architecture.
fn oci_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_blob_is_named_by_its_content() {
        let mut files = Files::default();
        files.0.insert("hello".to_owned(), Entry::Text("world\n"));
        files.0.insert("tmp".to_owned(), Entry::Dir { mode: 0o1777 });
        let layer = files.layer().unwrap();
        let one = Image { name: "oomlet.dev/unit:1", layers: &[&layer], entrypoint: &["/hello"] };
        let two = Image { name: "oomlet.dev/unit:2", layers: &[&layer], entrypoint: &["/tmp"] };
        let path = archive("unit", &[one, two]).unwrap();
        let one = Image { name: "oomlet.dev/unit:1", layers: &[&layer], entrypoint: &["/hello"] };
        let two = Image { name: "oomlet.dev/unit:2", layers: &[&layer], entrypoint: &["/tmp"] };
        let again = archive("unit", &[one, two]).unwrap();
        assert_eq!(path, again, "the same content has the same name");
        let mut blobs = 0;
        let mut tar = tar::Archive::new(fs::File::open(&path).unwrap());
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            if let Some(digest) = name.strip_prefix("blobs/sha256/") {
                assert_eq!(digest, hex(&bytes));
                blobs += 1;
            }
        }
        assert_eq!(blobs, 5, "a layer that two images share is there once");
        fs::remove_file(path).unwrap();
    }
}
