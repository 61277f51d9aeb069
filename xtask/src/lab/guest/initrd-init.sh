#!/bin/busybox sh
# First program of a lab machine, in its initial RAM disk: loads what the root disk needs, mounts the disks and hands
# over to the profile's init.
bb=/bin/busybox
$bb mkdir -p /dev /proc /sys /new
$bb mount -t devtmpfs dev /dev
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
for module in /modules/*.ko; do
    $bb insmod "$module" || echo "lab: cannot load $module"
done

# root, kernel modules, what the host shares, the command
for disk in vda vdb vdc vdd; do
    tries=0
    until [ -b "/dev/$disk" ] || [ "$tries" -ge 500 ]; do
        $bb usleep 10000
        tries=$((tries + 1))
    done
done
$bb mount -t ext4 -o noatime /dev/vda /new || exec $bb poweroff -f
$bb mkdir -p /new/usr/lib/modules /new/oomlet
$bb mount -t ext4 -o ro,noatime /dev/vdb /new/usr/lib/modules
$bb mount -t ext4 -o ro,noatime /dev/vdc /new/oomlet

profile=fast
for word in $($bb cat /proc/cmdline); do
    case "$word" in oomlet.profile=*) profile="${word#oomlet.profile=}" ;; esac
done
if [ "$profile" = systemd ]; then
    units=/new/etc/systemd/system
    $bb mkdir -p "$units/multi-user.target.wants"
    $bb ln -sf /oomlet/lab/oomlet-lab.service "$units/multi-user.target.wants/oomlet-lab.service"
    $bb ln -sf /oomlet/lab/oomlet-lab.service "$units/oomlet-lab.service"
    init=/sbin/init
else
    init=/oomlet/lab/init.sh
fi
$bb umount /proc
$bb umount /sys
$bb mount --move /dev /new/dev
exec $bb switch_root /new "$init"
