//! A read-only registry that serves an OCI archive under upstream's names: for pods that always pull, and for images that a test
//! has removed. As much of HTTP/1.1 as containerd speaks to it; on the node's own loopback, where nobody else is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use serde_json::Value;

#[derive(Debug)]
pub(super) struct Registry {
    file: File,
    /// By digest (without its algorithm): offset and length in the archive.
    blobs: BTreeMap<String, (u64, u64)>,
    /// By `path:tag`, without the registry's host.
    tags: BTreeMap<String, String>,
}

struct Answer {
    status: &'static str,
    kind: &'static str,
    digest: Option<String>,
    body: Vec<u8>,
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

impl Registry {
    pub fn open(archive: &Path) -> Result<Registry> {
        let file = File::open(archive).with_context(|| format!("opening {}", archive.display()))?;
        let mut blobs = BTreeMap::new();
        let mut index = Value::Null;
        for entry in tar::Archive::new(BufReader::new(&file)).entries_with_seek()? {
            let entry = entry.with_context(|| format!("reading {}", archive.display()))?;
            let (name, at) = (entry.path()?.to_string_lossy().into_owned(), entry.raw_file_position());
            let size = entry.size();
            if let Some(digest) = name.strip_prefix("blobs/sha256/") {
                blobs.insert(digest.to_owned(), (at, size));
            } else if name == "index.json" {
                index = serde_json::from_reader(entry).context("reading the archive's index")?;
            }
        }
        let mut tags = BTreeMap::new();
        for manifest in index["manifests"].as_array().into_iter().flatten() {
            let name = manifest["annotations"]["io.containerd.image.name"].as_str().unwrap_or_default();
            let digest = manifest["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
            if let (Some((_, path)), Some(digest)) = (name.split_once('/'), digest) {
                tags.insert(path.to_owned(), digest.to_owned());
            }
        }
        Ok(Registry { file, blobs, tags })
    }

    /// Until this program ends.
    pub fn serve(self, listener: TcpListener) {
        let registry = Arc::new(self);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let registry = registry.clone();
                thread::spawn(move || registry.talk(stream));
            }
        });
    }

    /// Answers on one connection until the client has gone.
    fn talk(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut out = stream.try_clone()?;
        let mut lines = BufReader::new(stream).lines();
        while let Some(request) = lines.next().transpose()? {
            // None of its headers change what is answered.
            for header in lines.by_ref() {
                if header?.is_empty() {
                    break;
                }
            }
            let mut words = request.split_whitespace();
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let answer = self.answer(path);
            let digest = answer.digest.map(|digest| format!("Docker-Content-Digest: sha256:{digest}\r\n"));
            write!(
                out,
                "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}\r\n",
                answer.status,
                answer.kind,
                answer.body.len(),
                digest.unwrap_or_default()
            )?;
            if method != "HEAD" {
                out.write_all(&answer.body)?;
            }
        }
        Ok(())
    }

    fn answer(&self, path: &str) -> Answer {
        let path = path.split('?').next().unwrap_or_default();
        let json = |status, body: &str| Answer {
            status,
            kind: "application/json",
            digest: None,
            body: body.as_bytes().to_vec(),
        };
        let Some(rest) = path.strip_prefix("/v2").map(|rest| rest.trim_start_matches('/')) else {
            return json("404 Not Found", "{}");
        };
        if rest.is_empty() {
            return json("200 OK", "{}");
        }
        self.blob(rest).unwrap_or_else(|| {
            json("404 Not Found", r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"not here"}]}"#)
        })
    }

    /// `NAME/manifests/TAG`, `NAME/manifests/sha256:DIGEST` or `NAME/blobs/sha256:DIGEST`.
    fn blob(&self, path: &str) -> Option<Answer> {
        let (path, wanted) = path.rsplit_once('/')?;
        let (name, kind) = path.rsplit_once('/')?;
        let digest = match wanted.strip_prefix("sha256:") {
            Some(digest) => digest,
            None => self.tags.get(&format!("{name}:{wanted}"))?,
        };
        let (offset, length) = self.blobs.get(digest)?;
        let mut body = vec![0; usize::try_from(*length).ok()?];
        self.file.read_exact_at(&mut body, *offset).ok()?;
        let kind = if kind == "manifests" { MANIFEST } else { "application/octet-stream" };
        Some(Answer { status: "200 OK", kind, digest: Some(digest.to_owned()), body })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use serde_json::json;

    use super::*;
    use crate::images::{self, Image};

    #[test]
    fn an_archive_is_served_by_tag_and_by_digest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("images.tar");
        let layer = vec![0; 1024];
        let image = Image { name: "registry.example/some/one:1", layers: &[&layer], config: json!({}) };
        images::layout(&[image]).unwrap().write(&path).unwrap();
        let registry = Registry::open(&path).unwrap();
        let digest = registry.tags["some/one:1"].clone();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        registry.serve(listener);
        for (request, expected, holds) in [
            ("GET /v2/".to_owned(), "200", "{}"),
            ("GET /v2/some/one/manifests/1".to_owned(), "200", "\"layers\""),
            (format!("GET /v2/any/manifests/sha256:{digest}"), "200", "\"layers\""),
            (format!("HEAD /v2/any/manifests/sha256:{digest}"), "200", "Docker-Content-Digest"),
            ("GET /v2/some/one/manifests/2".to_owned(), "404", "MANIFEST_UNKNOWN"),
            ("GET /other".to_owned(), "404", "{}"),
        ] {
            let mut stream = TcpStream::connect(address).unwrap();
            write!(stream, "{request} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut said = String::new();
            stream.read_to_string(&mut said).unwrap();
            assert!(
                said.starts_with(&format!("HTTP/1.1 {expected}")) && said.contains(holds),
                "{request}: {said}"
            );
        }
    }
}
