//! Every image that the suite names, without a registry to pull from: one archive of stand-ins under upstream's names, made
//! of busybox, a small Debian root and upstream's own programs.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::busybox;
use super::programs::{Program, Programs};
use crate::images::{self, Files, Image};
use crate::progress;
use crate::setup::apt::Mirror;

/// Raised when what is made here changes: a cached archive is of its own recipe.
const RECIPE: u32 = 2;

const E2E: &str = "registry.k8s.io/e2e-test-images";
pub(super) const PAUSE: &str = "registry.k8s.io/pause:3.10.2";

/// Images that the suite pulls beforehand and no test here runs: they are names of the pause image.
pub(super) const NAMES_OF_PAUSE: [&str; 9] = [
    "docker.io/nfvpe/sriov-device-plugin:v3.1",
    "gcr.io/cadvisor/cadvisor:v0.47.2",
    "registry.k8s.io/e2e-test-images/busybox@sha256:a9155b13325b2abef48e71de77bb8ac015412a566829f621d06bfae5c699b1b9",
    "registry.k8s.io/e2e-test-images/node-perf/npb-ep:1.6.0",
    "registry.k8s.io/e2e-test-images/node-perf/npb-is:1.7.0",
    "registry.k8s.io/e2e-test-images/node-perf/pytorch-wide-deep:1.0.0",
    "registry.k8s.io/e2e-test-images/volume/nfs:1.6.0",
    "registry.k8s.io/etcd:3.7.0-0",
    "registry.k8s.io/node-problem-detector/node-problem-detector:v1.35.2",
];

/// The release of Debian that the larger images are made of, and what of it.
const SUITE: &str = "bookworm";
const PACKAGES: &str = "bash,bind9-dnsutils,ca-certificates,curl,iproute2,iptables,netcat-openbsd,nginx-light,perl-base,socat,util-linux";

/// Users that tests run as by name, besides those of any system.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
    mail:x:8:8:mail:/var/spool/mail:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\nmail:x:8:\nnogroup:x:65533:\nnobody:x:65534:\n";
const IN_IMAGE_PASSWD: &str = "user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n";
const IN_IMAGE_GROUP: &str =
    "user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n";

const NGINX: &str = "user nginx; worker_processes 1; pid /run/nginx.pid; error_log /dev/stderr notice;\n\
    events { worker_connections 1024; }\n\
    http { include mime.types; access_log /dev/stdout; server { listen 80; root /usr/share/nginx/html; } }\n";
const WELCOME: &str =
    "<html><head><title>Welcome to nginx!</title></head><body><h1>Welcome to nginx!</h1></body></html>\n";

/// The archive, from the cache or made now.
pub(super) fn ensure(programs: &Programs) -> Result<PathBuf> {
    let path = programs.dir().join(format!("images-{RECIPE}.tar"));
    if !path.is_file() {
        let busybox = busybox::ensure(programs)?;
        progress::step("images of the conformance suite, with a Debian root by mmdebstrap", |step| {
            let root = programs.dir().join(format!("root-{RECIPE}.tar"));
            step.run(&mut bootstrap(&root)?)?;
            step.doing("writing the archive");
            make(programs, &Debian::read(&root, busybox)?, &path)?;
            fs::remove_file(&root).with_context(|| format!("removing {}", root.display()))
        })?;
    }
    Ok(path)
}

fn bootstrap(target: &Path) -> Result<Command> {
    let mirror = Mirror::of_this_machine()?;
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=extract", &format!("--include={PACKAGES}")]);
    for left_out in ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"] {
        command.arg(format!("--dpkgopt=path-exclude={left_out}"));
    }
    if let Some(keyring) = &mirror.keyring {
        command.arg(format!("--keyring={keyring}"));
    }
    command.arg(SUITE).arg(target).arg(&mirror.uri);
    Ok(command)
}

/// A layer with Debian's packages.
struct Debian {
    layer: Vec<u8>,
    /// Names of its programs.
    programs: BTreeSet<String>,
    /// Stands in for what is not among them.
    busybox: PathBuf,
}

impl Debian {
    /// Without package lists, what is for people to read, and devices, which a runtime makes.
    fn read(path: &Path, busybox: PathBuf) -> Result<Debian> {
        let file = fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let mut source = tar::Archive::new(std::io::BufReader::new(file));
        let (mut layer, mut programs) = (tar::Builder::new(Vec::new()), BTreeSet::new());
        for entry in source.entries()? {
            let mut entry = entry.with_context(|| format!("reading {}", path.display()))?;
            let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
            let kind = entry.header().entry_type();
            let unwanted = ["var/cache/apt/", "var/lib/apt/", "var/lib/dpkg/", "dev/"];
            if kind.is_character_special()
                || kind.is_block_special()
                || (!kind.is_dir() && unwanted.iter().any(|dir| name.starts_with(dir)))
            {
                continue;
            }
            if let Some((dir, program)) = name.rsplit_once('/')
                && ["bin", "sbin", "usr/bin", "usr/sbin"].contains(&dir)
            {
                programs.insert(program.to_owned());
            }
            let mut header = entry.header().clone();
            header.set_mtime(0);
            match entry.link_name()?.filter(|_| kind.is_symlink() || kind.is_hard_link()) {
                Some(to) => layer.append_link(&mut header, &name, to)?,
                None if name.is_empty() => {}
                None => {
                    let mut bytes = Vec::new();
                    entry.read_to_end(&mut bytes)?;
                    layer.append_data(&mut header, &name, &bytes[..])?;
                }
            }
        }
        Ok(Debian { layer: layer.into_inner()?, programs, busybox })
    }

    /// What comes over it: busybox for whatever Debian's packages lack, and the users.
    fn over(&self, users: &str, groups: &str) -> Result<Files> {
        let mut files = Files::default();
        for (dir, mode) in [("tmp", 0o1777), ("root", 0o700), ("uploads", 0o755), ("home", 0o755)] {
            files.dir(dir, mode);
        }
        files.applets(&self.busybox, |name| name != "nc" && !self.programs.contains(name))?;
        files.link("bin/nc", "nc.openbsd");
        files.file("etc/passwd", 0o644, format!("{PASSWD}{users}"));
        files.file("etc/group", 0o644, format!("{GROUP}{groups}"));
        files.file("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nhosts: files dns\n");
        Ok(files)
    }
}

fn make(programs: &Programs, debian: &Debian, path: &Path) -> Result<()> {
    let busybox = busybox_alone(&debian.busybox)?.layer()?;
    let mut pause = Files::default();
    pause.program("catatonit", "/pause")?;
    let pause_config = json!({ "Entrypoint": ["/pause", "-P"], "User": "65535:65535" });
    let pause = pause.layer()?;
    let base = debian.over("", "")?.layer()?;
    let agnhost = agnhost(programs, debian, &pause, &pause_config)?.layer()?;
    let agnhost_config = |command: &str| {
        let ports = ["80/tcp", "8080/tcp", "8081/tcp", "9376/tcp", "5000/tcp"]
            .map(|port| (port.to_owned(), json!({})));
        let ports: serde_json::Map<String, Value> = ports.into_iter().collect();
        json!({ "Entrypoint": ["/agnhost"], "Cmd": [command], "ExposedPorts": ports })
    };
    let animal = |name: &str| -> Result<Vec<u8>> {
        let mut files = Files::default();
        files.file("data.json", 0o644, format!("{{\"image\":\"{name}.jpg\"}}"));
        files.file(&format!("{name}.jpg"), 0o644, b"\xff\xd8\xff\xd9");
        files.layer()
    };
    let (kitten, nautilus) = (animal("kitten")?, animal("nautilus")?);
    let nginx = nginx(debian)?.layer()?;
    let nginx_config = |label: &str| json!({ "Cmd": ["nginx", "-g", "daemon off;"], "ExposedPorts": { "80/tcp": {} }, "StopSignal": "SIGQUIT", "Labels": { "e2e": label } });
    let mut nnp = Files::default();
    nnp.file("usr/local/bin/nnp", 0o6755, fs::read(programs.path(Program::NoNewPrivs))?);
    let nnp = nnp.layer()?;
    let mut plugin = debian.over("", "")?;
    plugin.executable("/sampledeviceplugin", &programs.path(Program::SampleDevicePlugin))?;
    let plugin = plugin.layer()?;
    let plugin_config = json!({ "Entrypoint": ["/sampledeviceplugin"] });
    let (shell, debian) = (json!({ "Cmd": ["sh"] }), &debian.layer[..]);
    let all: Vec<(String, Vec<&[u8]>, Value)> = vec![
        (PAUSE.to_owned(), vec![&pause], pause_config),
        (format!("{E2E}/busybox:1.37.0-2"), vec![&busybox], shell.clone()),
        (format!("{E2E}/agnhost:2.66.1"), vec![debian, &agnhost], agnhost_config("pause")),
        (format!("{E2E}/agnhost:2.55"), vec![debian, &agnhost], agnhost_config("pause")),
        (format!("{E2E}/kitten:1.8"), vec![debian, &agnhost, &kitten], agnhost_config("test-webserver")),
        (format!("{E2E}/nautilus:1.8"), vec![debian, &agnhost, &nautilus], agnhost_config("test-webserver")),
        (format!("{E2E}/nginx:1.27.0-2"), vec![debian, &nginx], nginx_config("old")),
        (format!("{E2E}/nginx:1.28.0-2"), vec![debian, &nginx], nginx_config("new")),
        (format!("{E2E}/nonewprivs:1.4"), vec![&busybox, &nnp], json!({ "Cmd": ["nnp"] })),
        (format!("{E2E}/nonroot:1.5"), vec![&busybox], json!({ "User": "1234", "Cmd": ["sh"] })),
        (format!("{E2E}/ipc-utils:1.4"), vec![debian, &base], shell.clone()),
        (format!("{E2E}/glibc-dns-testing:2.1.1"), vec![debian, &base], shell),
        (format!("{E2E}/perl:5.26"), vec![debian, &base], json!({ "Cmd": ["perl"] })),
        (format!("{E2E}/sample-device-plugin:1.7"), vec![debian, &plugin], plugin_config.clone()),
        (format!("{E2E}/sample-device-plugin:1.8.0"), vec![debian, &plugin], plugin_config),
    ];
    let images: Vec<Image<'_>> =
        all.iter().map(|(name, layers, config)| Image { name, layers, config: config.clone() }).collect();
    images::layout(&images)?.write(path)
}

fn busybox_alone(busybox: &Path) -> Result<Files> {
    let mut files = Files::default();
    for dir in ["etc", "home", "usr", "usr/sbin", "var", "var/spool", "var/spool/mail", "proc", "sys", "dev"]
    {
        files.dir(dir, 0o755);
    }
    files.dir("tmp", 0o1777);
    files.dir("root", 0o700);
    files.applets(busybox, |_| true)?;
    files.file("etc/passwd", 0o644, PASSWD);
    files.file("etc/group", 0o644, GROUP);
    files.file("etc/shadow", 0o640, "root:*:10933:0:99999:7:::\n");
    files.link("usr/bin", "../bin");
    Ok(files)
}

/// agnhost, with what its registry serves: the pause image as `pause:testing`.
fn agnhost(programs: &Programs, debian: &Debian, pause: &[u8], pause_config: &Value) -> Result<Files> {
    let mut files = debian.over(IN_IMAGE_PASSWD, IN_IMAGE_GROUP)?;
    files.executable("/agnhost", &programs.path(Program::Agnhost))?;
    files.link("agnhost-2", "agnhost");
    for path in programs.certificate() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.file(&name, 0o644, fs::read(&path).with_context(|| format!("reading {}", path.display()))?);
    }
    let image = Image { name: "pause:testing", layers: &[pause], config: pause_config.clone() };
    let layout = images::layout(&[image])?;
    let top = "var/registry/pause";
    for (kind, digest, bytes) in layout.parts()? {
        files.file(&format!("{top}/{kind}/sha256/{}/{digest}/data", &digest[..2]), 0o644, bytes);
    }
    files.file(&format!("{top}/manifests/testing"), 0o644, format!("sha256:{}\n", layout.index_digest()));
    Ok(files)
}

fn nginx(debian: &Debian) -> Result<Files> {
    let mut files = debian.over("nginx:x:101:101:nginx:/nonexistent:/bin/false\n", "nginx:x:101:\n")?;
    for dir in ["var/lib/nginx", "var/log/nginx", "usr/share/nginx/html"] {
        files.dir(dir, 0o755);
    }
    files.file("etc/nginx/nginx.conf", 0o644, NGINX);
    files.file("usr/share/nginx/html/index.html", 0o644, WELCOME);
    Ok(files)
}
