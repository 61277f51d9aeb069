//! containerd's configuration file (version 2 for 1.x, version 3 for 2.x) and the CNI network.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Version, runc};
use crate::cgroup_driver::CgroupDriver;
use crate::images;

/// The folder of what containerd keeps, in its own.
pub(super) const ROOT: &str = "root";

pub(super) fn write(version: Version, dir: &Path, network: &str, driver: CgroupDriver) -> Result<()> {
    let cni = dir.join("cni");
    fs::create_dir_all(&cni).with_context(|| format!("creating {}", cni.display()))?;
    write_file(&cni.join("10-oomlet.conflist"), &conflist(dir, network))?;
    let (cni_bin, runc) = (cni_bin_dir(), runc()?);
    let runc = runc_options(dir, &runc, driver);
    let text = match version {
        Version::V1_6 | Version::V1_7 => format!("{}{}", common(2, dir), cri_v2(dir, cni_bin, &runc)),
        Version::V2 => format!("{}{}", common(3, dir), cri_v3(dir, cni_bin, &runc)),
    };
    write_file(&dir.join("config.toml"), &text)
}

/// Has containerd call runc by a script that does what [`super::PrivateContainerd::hold_second_start`] says.
pub(super) fn wrap_runc(dir: &Path, hold: &Path) -> Result<()> {
    let (runc, wrapper, hold) = (runc()?, dir.join("slow-runc"), hold.display());
    let script = format!(
        r#"#!/bin/sh
"{runc}" "$@"
code=$?
case " $* " in
*" start "*)
    if [ -e "{hold}" ] && ! mkdir "{hold}.first" 2>/dev/null; then
        while [ -e "{hold}" ]; do
            sleep 0.1
        done
    fi
    ;;
esac
exit $code
"#,
        runc = runc.display()
    );
    write_file(&wrapper, &script)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("making {} a program", wrapper.display()))?;
    let config = dir.join("config.toml");
    let text = fs::read_to_string(&config).with_context(|| format!("reading {}", config.display()))?;
    let line = |program: &Path| format!("BinaryName = \"{}\"", program.display());
    ensure!(text.contains(&line(&runc)), "{} does not name {}", config.display(), runc.display());
    write_file(&config, &text.replace(&line(&runc), &line(&wrapper)))
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

pub(crate) fn cni_bin_dir() -> &'static str {
    ["/usr/lib/cni", "/opt/cni/bin"]
        .into_iter()
        .find(|dir| Path::new(dir).join("bridge").exists())
        .unwrap_or("/usr/lib/cni")
}

/// The bridge is inside the network namespace, so its name and addresses meet no other. No masquerading: there is
/// nowhere to go from there.
fn conflist(dir: &Path, network: &str) -> String {
    json!({
        "cniVersion": "1.0.0",
        "name": network,
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isDefaultGateway": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": dir.join("cni-addresses"),
                    "ranges": [[{ "subnet": "10.88.0.0/16" }]],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
    .to_string()
}

/// Own root, state, sockets. What a container host without special hardware does not have is off: its probing
/// costs time at start and lines in the log.
///
/// A containerd that starts again and does not hear of a running pod's shim within these limits (5 s and 2 s unless set)
/// takes the pod for dead and kills it. On an emulated CPU, with a dozen shims to ask at once, that is soon over.
fn common(format_version: u32, dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"version = {format_version}
root = "{dir}/{ROOT}"
state = "{dir}/state"
disabled_plugins = [
  "io.containerd.nri.v1.nri",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing",
]

[grpc]
address = "{dir}/containerd.sock"

[ttrpc]
address = "{dir}/containerd.sock.ttrpc"

[timeouts]
"io.containerd.timeout.shim.load" = "1m"
"io.containerd.timeout.task.state" = "1m"

[plugins."io.containerd.internal.v1.opt"]
path = "{dir}/opt"
"#
    )
}

fn runc_options(dir: &Path, runc: &Path, driver: CgroupDriver) -> String {
    let (runc, dir, systemd) = (runc.display(), dir.display(), driver == CgroupDriver::Systemd);
    format!("BinaryName = \"{runc}\"\nRoot = \"{dir}/runc\"\nSystemdCgroup = {systemd}")
}

/// `restrict_oom_score_adj`: without CAP_SYS_RESOURCE the negative value of a pause container cannot be written, and
/// runc fails. Network namespaces below the state folder are found and unmounted with it.
fn cri_v2(dir: &Path, cni_bin: &str, runc: &str) -> String {
    let (pause, dir) = (images::PAUSE, dir.display());
    format!(
        r#"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
disable_apparmor = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni_bin}"
conf_dir = "{dir}/cni"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
{runc}
"#
    )
}

fn cri_v3(dir: &Path, cni_bin: &str, runc: &str) -> String {
    let (pause, dir) = (images::PAUSE, dir.display());
    format!(
        r#"
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
disable_apparmor = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{cni_bin}"]
conf_dir = "{dir}/cni"

[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
{runc}

[plugins."io.containerd.grpc.v1.cri"]
stream_server_address = "127.0.0.1"
stream_server_port = "0"
"#
    )
}
