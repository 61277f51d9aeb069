#!/usr/bin/env bash
# Installs the agent as a systemd service beside a containerd that makes systemd slices too. For a machine that
# provision.sh has made a node. Safe to run again. Run as root.
#
#   install-agent.sh BINARY PACKAGING_FOLDER
set -euo pipefail

binary="${1:?the path of the oomlet program}"
packaging="${2:?the folder packaging of the repository}"
if [ "$(id -u)" -ne 0 ]; then
    echo "install-agent.sh installs a service and needs root: sudo $0" >&2
    exit 1
fi

# By rename: the program may be running.
install -m 0755 "$binary" /usr/local/bin/oomlet.new
mv /usr/local/bin/oomlet.new /usr/local/bin/oomlet
install -d /etc/oomlet /etc/kubernetes/manifests
[ -e /etc/oomlet/kubelet.yaml ] || install -m 0644 "$packaging/kubelet.yaml" /etc/oomlet/kubelet.yaml
install -m 0644 "$packaging/systemd/oomlet.service" /etc/systemd/system/oomlet.service

# Both sides have to agree on who makes cgroups. And a containerd that starts again on a busy node takes a pod whose shim
# does not answer in time (5 s and 2 s by default) for dead, and kills it.
config=/etc/containerd/config.toml
slices='^[[:space:]]*SystemdCgroup = true'
if ! grep -qsE "$slices" "$config"; then
    install -d /etc/containerd
    containerd config default | sed -E \
        -e 's/SystemdCgroup = false/SystemdCgroup = true/' \
        -e 's/("io.containerd.timeout.(shim.load|task.state)" = ).*/\1"1m"/' >"$config.new"
    # Older releases' defaults do not name the option at all.
    if ! grep -qE "$slices" "$config.new"; then
        echo "install-agent.sh: $(containerd --version) has no SystemdCgroup in its default configuration" >&2
        exit 1
    fi
    if [ -e "$config" ] && [ ! -e "$config.before-oomlet" ]; then
        cp -p "$config" "$config.before-oomlet"
        echo "install-agent.sh: containerd's default configuration with systemd slices replaces $config; what was there is in $config.before-oomlet"
    fi
    mv "$config.new" "$config"
    systemctl restart containerd
fi
systemctl daemon-reload
echo "oomlet is installed: systemctl enable --now oomlet, or sudo oomlet check"
