#!/bin/sh
# As much of systemctl as the suite asks of it: it looks for a unit called kubelet-SOMETHING, and stops and starts that. The
# unit is the agent under test, whose command line is the script `agent` in the node's folder, which is above this one's.
state=$(dirname "$(dirname "$(readlink -f "$0")")")

running() {
    [ -s "$state/agent.pid" ] && [ -d "/proc/$(cat "$state/agent.pid")" ]
}

start() {
    running && return
    cd "$state/suite" || exit 1
    setsid sh "$state/agent" </dev/null >>"$state/agent.log" 2>&1 &
    echo $! >"$state/agent.pid"
}

stop() {
    running || return 0
    kill "$(cat "$state/agent.pid")"
    tenths=0
    while running && [ "$tenths" -lt 300 ]; do
        sleep 0.1
        tenths=$((tenths + 1))
    done
    ! running || kill -9 "$(cat "$state/agent.pid")"
}

case "$1" in
list-units)
    unit="kubelet-agent.service loaded active"
    if running; then
        echo "$unit running agent under test"
    else
        case "$*" in *--state=running*) ;; *) echo "$unit exited agent under test" ;; esac
    fi
    ;;
reset-failed) ;;
kill | stop) stop ;;
start) start ;;
restart)
    stop
    start
    ;;
is-active) if running; then echo active; else echo inactive && exit 3; fi ;;
*)
    echo "systemctl of the conformance suite: not known: $*" >&2
    exit 1
    ;;
esac
