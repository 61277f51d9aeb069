#!/bin/sh
# First process of the node's namespaces: mounts, then it reaps what others leave. Arguments: the node's folder and its name.
set -e
state=$1
mount -t proc proc /proc
hostname "$2"

# Mounted anew, a cgroup hierarchy shows the node's own cgroup as its root, and sysfs the network that the node is in.
hierarchies=$(awk '$2 ~ "^/sys/fs/cgroup" && ($3 == "cgroup" || $3 == "cgroup2") && !seen[$2]++ {print $2, $3, $4}' /proc/self/mounts)
umount -l -R /sys
mount -t sysfs sysfs /sys
case $hierarchies in
"/sys/fs/cgroup cgroup2 "*) ;;
*) mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup ;;
esac
echo "$hierarchies" | while read -r dir type options; do
    mkdir -p "$dir"
    case $type in
    cgroup2) mount -t cgroup2 cgroup2 "$dir" ;;
    cgroup)
        controllers=$(echo "$options" | tr , '\n' |
            grep -vE '^(rw|relatime|nosuid|nodev|noexec|xattr|clone_children|release_agent=.*)$' | paste -sd,)
        mount -t cgroup -o "$controllers" cgroup "$dir"
        ;;
    esac
done

# Where the suite looks on any machine; nothing of this one's is seen or written there.
resolv_conf=$(readlink -f /etc/resolv.conf || echo /etc/resolv.conf)
mount -t tmpfs -o mode=755 run /run
for dir in /var/lib /var/log; do
    mount --bind "$state$dir" "$dir"
done
mount --bind "$state/etc/hosts" /etc/hosts
mkdir -p "$(dirname "$resolv_conf")"
[ -e "$resolv_conf" ] || : >"$resolv_conf"
mount --bind "$state/etc/resolv.conf" "$resolv_conf"
# Pods' mounts reach the node where they ask for it, and the agent's the runtime.
mount --make-rshared /
sysctl -qw net.ipv4.ip_forward=1
: >"$state/ready"
exec catatonit -P
