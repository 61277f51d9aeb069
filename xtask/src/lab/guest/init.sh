#!/bin/sh
# PID 1 of the fast profile: mounts what systemd would, runs the job, powers off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sys /sys
mount -t securityfs security /sys/kernel/security
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t tmpfs -o nosuid,nodev,mode=755 run /run
# udev's links. Without /dev/fd an old kernel's TOMOYO finds no program to execute from a memfd, which runc does.
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
# What systemd's PID 1 does: every mount is shared, so that pods can ask for mount propagation.
mount --make-rshared /

# All controllers, for everybody below; PID 1 itself may stay in the root.
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
for module in overlay br_netfilter bridge veth nf_tables nft_compat iptable_nat ip6table_nat; do
    modprobe --quiet "$module"
done
hostname "$(cat /etc/hostname)"
ip link set lo up

sh /oomlet/lab/job.sh
# Not to stop in order: all that is left is on a disk that nobody will read.
echo o >/proc/sysrq-trigger
while :; do sleep 1; done
