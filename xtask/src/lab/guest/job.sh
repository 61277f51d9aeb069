#!/bin/sh
# Runs the command that is on the fourth disk, its output and exit code going to the host through virtio-serial ports.
export HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/oomlet/bin
export OOMLET_SAMPLE_IMAGES=/oomlet/samples.tar OOMLET_LAB_OUT=/lab-out

port() {
    for dir in /sys/class/virtio-ports/*; do
        if [ "$(cat "$dir/name" 2>/dev/null)" = "$1" ]; then
            echo "/dev/${dir##*/}"
            return
        fi
    done
    echo "lab: there is no virtio port $1" >/dev/console
    echo /dev/console
}
output=$(port oomlet.output)
result=$(port oomlet.result)
artifacts=$(port oomlet.artifacts)
[ -c /dev/hvc0 ] && stty -F /dev/hvc0 -echo 2>/dev/null

for word in $(cat /proc/cmdline); do
    case "$word" in oomlet.slowdown=*) export OOMLET_TEST_SLOWDOWN="${word#oomlet.slowdown=}" ;; esac
done
mkdir -p "$OOMLET_LAB_OUT"
# The disk is padded with newlines.
cat /dev/vdd >/run/oomlet-lab-command
echo started >"$result"
cd /root || exit 1
if grep -q '^#interactive' /run/oomlet-lab-command; then
    setsid -c sh -i </dev/hvc0 >/dev/hvc0 2>&1
else
    sh /run/oomlet-lab-command </dev/null >"$output" 2>&1
fi
code=$?
if [ -n "$(ls -A "$OOMLET_LAB_OUT")" ]; then
    tar -C "$OOMLET_LAB_OUT" -cf "$artifacts" .
fi
echo "exit $code" >"$result"
