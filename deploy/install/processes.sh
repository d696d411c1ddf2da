# Sourced: background processes, known by pid files in $run. A pid file counts only while its process is still the
# program that was started: pids are used again.

alive() { # NAME
    [ -r "$run/$1.pid" ] || return 1
    read -r pid program <"$run/$1.pid" || return 1
    [ "$(readlink "/proc/$pid/exe" 2>/dev/null | sed 's/ (deleted)$//')" = "$program" ]
}

start() { # NAME PROGRAM ARGUMENT...
    name=$1
    shift
    if alive "$name"; then
        echo "$name: running already (process $pid)"
        return
    fi
    nohup "$@" >"$run/$name.log" 2>&1 </dev/null &
    echo "$! $(readlink -f "$1")" >"$run/$name.pid"
    echo "$name: process $!, log $run/$name.log"
}

stop() { # NAME
    if alive "$1"; then
        kill "$pid"
        tries=0
        while alive "$1" && [ $tries -lt 150 ]; do
            sleep 0.1
            tries=$((tries + 1))
        done
        if alive "$1"; then
            echo "$1: process $pid did not drain in 15 s: killed"
            kill -9 "$pid"
        else
            echo "$1: stopped"
        fi
    fi
    rm -f "$run/$1.pid"
}

# Callers before those they call.
stop_all() {
    for name in reset association gateway custody auditor meters; do
        stop "$name"
    done
}

port_is_ours_or_free() {
    alive gateway && return
    # Listening (0A) on 127.0.0.1 or on every address, port 4059 = 0FDB.
    if grep -qE ' (0100007F|00000000):0FDB [0-9A-F:]+ 0A ' /proc/net/tcp; then
        echo "port 4059 of 127.0.0.1 is taken: stop what holds it (ss -lntp 'sport = 4059' names it) and run this again" >&2
        exit 69
    fi
}

# Why a service is not healthy, as far as its log says.
last_words() {
    for name in $services meters; do
        alive "$name" || { echo "--- $name has ended:" >&2; tail -n 5 "$run/$name.log" >&2; }
    done
}
