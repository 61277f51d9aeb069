//! Container images without a registry: OCI archives made from static programs, kept in the cache under a name that
//! changes with their content.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
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
            Image { name: PAUSE, layers: &[&pause], config: entrypoint(&["/catatonit", "-P"]) },
            Image { name: BUSYBOX, layers: &[&busybox], config: entrypoint(&["/bin/sh"]) },
            Image {
                name: WORKLOAD,
                layers: &[&busybox, &workload],
                config: entrypoint(&["/oomlet-workload"]),
            },
        ],
    )
}

fn entrypoint(command: &[&str]) -> Value {
    json!({ "Entrypoint": command })
}

pub(crate) struct Image<'a> {
    pub name: &'a str,
    /// Tar archives, the lowest first.
    pub layers: &'a [&'a [u8]],
    /// The `config` of an OCI image configuration, over what each has.
    pub config: Value,
}

/// What an image holds, by path without the leading slash.
#[derive(Debug, Default)]
pub(crate) struct Files(BTreeMap<String, Entry>);

#[derive(Debug)]
enum Entry {
    Dir { mode: u32 },
    File { mode: u32, bytes: Vec<u8> },
    Link { to: String },
}

impl Files {
    pub fn dir(&mut self, at: &str, mode: u32) {
        self.0.insert(at.to_owned(), Entry::Dir { mode });
    }

    pub fn file(&mut self, at: &str, mode: u32, bytes: impl Into<Vec<u8>>) {
        self.0.insert(at.to_owned(), Entry::File { mode, bytes: bytes.into() });
    }

    pub fn link(&mut self, at: &str, to: &str) {
        self.0.insert(at.to_owned(), Entry::Link { to: to.to_owned() });
    }

    /// A static program of this machine.
    pub fn program(&mut self, name: &str, at: &str) -> Result<()> {
        let path =
            paths::program(name).with_context(|| format!("there is no {name}; run `cargo xtask setup`"))?;
        self.executable(at, &path)
    }

    pub fn executable(&mut self, at: &str, path: &Path) -> Result<()> {
        ensure!(
            elf::is_static(path)?,
            "{} is not static: an image that holds it alone cannot run it",
            path.display()
        );
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        self.file(at.trim_start_matches('/'), 0o755, bytes);
        Ok(())
    }

    fn busybox(&mut self) -> Result<()> {
        let busybox = paths::program("busybox").context("there is no busybox; run `cargo xtask setup`")?;
        self.applets(&busybox, |_| true)?;
        self.dir("tmp", 0o1777);
        self.dir("root", 0o700);
        self.file(
            "etc/passwd",
            0o644,
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        );
        self.file("etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n");
        Ok(())
    }

    /// This busybox, and those of its applets as links to it.
    pub fn applets(&mut self, busybox: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
        self.executable("/bin/busybox", busybox)?;
        let applets = process::output(Command::new(busybox).arg("--list"))?;
        for applet in applets.lines().filter(|name| *name != "busybox" && !name.is_empty() && wanted(name)) {
            self.link(&format!("bin/{applet}"), "busybox");
        }
        Ok(())
    }

    pub fn layer(&self) -> Result<Vec<u8>> {
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
                Entry::File { mode, bytes } => append(&mut tar, header, path, *mode, bytes)?,
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

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
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

/// An OCI image layout (image-spec: oci-layout, index.json, blobs).
pub(crate) struct Layout<'a> {
    index: Vec<u8>,
    blobs: BTreeMap<String, Cow<'a, [u8]>>,
}

pub(crate) fn layout<'a>(images: &[Image<'a>]) -> Result<Layout<'a>> {
    let mut blobs: BTreeMap<String, Cow<'_, [u8]>> = BTreeMap::new();
    let mut manifests = Vec::new();
    for image in images {
        let digests: Vec<String> = image.layers.iter().map(|layer| hex(layer)).collect();
        let mut own = json!({
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "WorkingDir": "/",
        });
        if let (Some(own), Some(more)) = (own.as_object_mut(), image.config.as_object()) {
            own.extend(more.clone());
        }
        let config = json!({
            "architecture": oci_architecture(),
            "os": "linux",
            // Two names never share an image's id.
            "author": image.name,
            "config": own,
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
    Ok(Layout { index: serde_json::to_vec(&index)?, blobs })
}

impl Layout<'_> {
    /// As one tar archive. Others may be writing the same: whoever is last replaces a file with its equal.
    pub fn write(&self, path: &Path) -> Result<()> {
        let dir = path.parent().context("an archive is in a folder")?;
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let file = tempfile::NamedTempFile::new_in(dir)?;
        let mut tar = tar::Builder::new(std::io::BufWriter::new(file.as_file()));
        let mut add =
            |path: &str, bytes: &[u8]| append(&mut tar, tar::Header::new_ustar(), path, 0o644, bytes);
        add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        add("index.json", &self.index)?;
        for (digest, blob) in &self.blobs {
            add(&format!("blobs/sha256/{digest}"), blob)?;
        }
        tar.into_inner()?.flush()?;
        file.persist(path).with_context(|| format!("writing {}", path.display()))?;
        Ok(())
    }

    /// The index's digest, by which a registry knows it.
    pub fn index_digest(&self) -> String {
        hex(&self.index)
    }

    /// All of it as a registry serves it: `manifests` or `blobs`, digest, bytes.
    pub fn parts(&self) -> Result<Vec<(&'static str, String, &[u8])>> {
        let index: Value = serde_json::from_slice(&self.index)?;
        let listed = index["manifests"].as_array().into_iter().flatten();
        let manifests: BTreeSet<&str> =
            listed.filter_map(|entry| entry["digest"].as_str()?.strip_prefix("sha256:")).collect();
        let mut parts = vec![("manifests", self.index_digest(), &self.index[..])];
        for (digest, blob) in &self.blobs {
            let kind = if manifests.contains(digest.as_str()) { "manifests" } else { "blobs" };
            parts.push((kind, digest.clone(), blob));
        }
        Ok(parts)
    }
}

/// In the cache, under a name that changes with the content.
fn archive(name: &str, images: &[Image<'_>]) -> Result<PathBuf> {
    let layout = layout(images)?;
    let path = paths::cache()?.join("images").join(format!("{name}-{}.tar", &hex(&layout.index)[..16]));
    if !path.is_file() {
        layout.write(&path)?;
    }
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
        files.file("hello", 0o644, "world\n");
        files.dir("tmp", 0o1777);
        let layer = files.layer().unwrap();
        let one = Image { name: "oomlet.dev/unit:1", layers: &[&layer], config: entrypoint(&["/hello"]) };
        let two = Image { name: "oomlet.dev/unit:2", layers: &[&layer], config: entrypoint(&["/tmp"]) };
        let path = archive("unit", &[one, two]).unwrap();
        let one = Image { name: "oomlet.dev/unit:1", layers: &[&layer], config: entrypoint(&["/hello"]) };
        let two = Image { name: "oomlet.dev/unit:2", layers: &[&layer], config: entrypoint(&["/tmp"]) };
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
        let kinds =
            layout(&[]).unwrap().parts().unwrap().into_iter().map(|(kind, ..)| kind).collect::<Vec<_>>();
        assert_eq!(kinds, ["manifests"], "the index itself");
        assert_eq!(blobs, 5, "a layer that two images share is there once");
        fs::remove_file(path).unwrap();
    }
}
