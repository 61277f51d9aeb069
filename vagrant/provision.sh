#!/usr/bin/env bash
# Makes a Debian or Ubuntu machine a node that pods can run on: the `node` lines of packages.txt beside this file.
# Safe to run again; what is there already is left alone. Run as root.
#
#   provision.sh [LIST [ROLE...]]    # another list, and the lines of these roles
#
# `cargo xtask lab` makes its virtual machines with it, Vagrant its boxes.
set -euo pipefail

list="${1:-$(dirname "$0")/packages.txt}"
shift || true
roles=" ${*:-node} "
if [ "$(id -u)" -ne 0 ]; then
    echo "provision.sh installs packages and needs root: sudo $0" >&2
    exit 1
fi
if [ ! -r "$list" ]; then
    echo "provision.sh: there is no package list at $list" >&2
    exit 1
fi

# One of these exists: a program on PATH, or a file.
there() {
    local mark
    for mark in ${1//,/ }; do
        mark="${mark//@multiarch@/$(uname -m)-linux-gnu}"
        case "$mark" in
            /*) [ -e "$mark" ] && return 0 ;;
            *) PATH="$PATH:/usr/sbin:/sbin" command -v "$mark" >/dev/null && return 0 ;;
        esac
    done
    return 1
}

missing=()
while IFS='|' read -r role package marks why; do
    role="$(echo $role)" package="$(echo $package)" marks="$(echo $marks)"
    case "$roles" in *" $role "*) ;; *) continue ;; esac
    if ! there "$marks"; then
        echo "-> $package:$why"
        missing+=("$package")
    fi
done < <(grep -v -e '^#' -e '^[[:space:]]*$' "$list")

if [ "${#missing[@]}" -eq 0 ]; then
    echo "provision: everything is there"
else
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    # apt-get at times fails once with "Sub-process dpkg returned an error" and succeeds when run again.
    apt-get -qq install --yes --no-install-recommends "${missing[@]}" ||
        apt-get -qq install --yes --no-install-recommends "${missing[@]}"
fi

# sudo looks the host's own name up; without the entry each call waits for a name server.
if ! grep -qw "$(hostname)" /etc/hosts; then
    echo "127.0.1.1 $(hostname)" >>/etc/hosts
fi

# Layers of images, and bridged pod traffic seen by iptables. A kernel may have them built in.
if command -v modprobe >/dev/null; then
    modprobe --quiet overlay || true
    modprobe --quiet br_netfilter || true
fi
