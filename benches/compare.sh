#!/usr/bin/env bash
# Ferrite side by side with Redis, with Valkey if it is installed, and with a null server that does nothing.
#
#   benches/compare.sh [--rows NAME,...] [--rounds N] [--seconds N] [--records N] [--out FILE]
#
# One CPU serves and another one loads; all servers of a group run at the same time and are loaded in turn (A B C, A B C, ...),
# because a shared machine changes from minute to minute. Each figure is the median over the rounds. CPU is the time of all
# threads and children of the server process per answered operation: it moves little when the machine is shared, operations
# per second move a lot.
#
# Needs redis-server in PATH. FERRITE names the binary, otherwise it is built. SERVER_CPU and LOAD_CPU are the two CPUs.
# Everything listens on loopback on free ports, lives in target/compare, and is stopped at the end.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."

ALL_ROWS=P1,P2,P11,P11s,P3a,P3b,P3c,P4,P4c,Q1,Q2,Q3,Q4
ROWS=$ALL_ROWS ROUNDS=5 SECONDS_EACH=3 RECORDS=1000000 OUT=
SERVER_CPU=${SERVER_CPU:-0} LOAD_CPU=${LOAD_CPU:-1}
# Stands for Valkey where it is not installed: its CPU per operation at 16 deep, as a part of Redis 7's.
VALKEY_OF_REDIS=0.55
# Operations of the run with compaction: at least ten memtables of COMPACTION_MEMTABLE.
COMPACTION_MEMTABLE=32MiB COMPACTION_OPS=4M

usage() {
    sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    echo "Rows: $ALL_ROWS"
}

die() {
    echo "compare.sh: $*" >&2
    exit 1
}

while (($#)); do
    case $1 in
    --rows) ROWS=$2 && shift ;;
    --rounds) ROUNDS=$2 && shift ;;
    --seconds) SECONDS_EACH=$2 && shift ;;
    --records) RECORDS=$2 && shift ;;
    --out) OUT=$2 && shift ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
    esac
    shift
done

command -v taskset >/dev/null || die "taskset is needed (package util-linux)"
command -v redis-server >/dev/null || die "redis-server is needed (package redis-server)"
if [[ -z ${FERRITE:-} ]]; then
    cargo build --release --bin ferrite
    FERRITE=${CARGO_TARGET_DIR:-target}/release/ferrite
fi
[[ -x $FERRITE ]] || die "$FERRITE is not there"

WORK=$(mkdir -p target/compare && mktemp -d target/compare/run.XXXXXX)
WORK=$(cd "$WORK" && pwd)
declare -A PID=() TARGET=() PORT=()

stop() { # NAME...
    local name pid
    for name in "$@"; do
        for pid in ${PID[$name]:-}; do kill -TERM "$pid" 2>/dev/null || true; done
        for pid in ${PID[$name]:-}; do wait "$pid" 2>/dev/null || true; done
        unset "PID[$name]"
    done
}

finish() {
    local status=$?
    trap - EXIT
    stop "${!PID[@]}"
    if ((status)); then
        echo "compare.sh: failed; logs are in $WORK" >&2
    else
        rm -rf "$WORK"
    fi
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# The first of COUNT ports in a row that nobody listens on, each time another one.
NEXT_PORT=$((20000 + RANDOM % 8000))
free_ports() { # COUNT
    local at=$NEXT_PORT found=0
    while ((found < $1)); do
        ((at < 32000)) || at=20000
        if answers "$at"; then found=0; else found=$((found + 1)); fi
        at=$((at + 1))
    done
    NEXT_PORT=$at
    FIRST_PORT=$((at - $1))
}

wait_until() { # SECONDS WHAT COMMAND...
    local deadline=$(($(date +%s) + $1)) what=$2
    shift 2
    until "$@"; do
        (($(date +%s) < deadline)) || die "$what does not answer"
        sleep 0.05
    done
}

pongs() { # PORT
    local line
    { exec 3<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
    printf 'PING\r\n' >&3
    IFS= read -r -t 1 line <&3 || line=
    exec 3>&-
    [[ $line == +PONG* ]]
}

start_resp() { # NAME BINARY OPTIONS...
    local name=$1 binary=$2
    shift 2
    free_ports 1
    mkdir -p "$WORK/$name"
    taskset -c "$SERVER_CPU" "$binary" --port "$FIRST_PORT" --bind 127.0.0.1 --dir "$WORK/$name" --save '' \
        --daemonize no "$@" >"$WORK/$name.log" 2>&1 &
    PID[$name]=$! PORT[$name]=$FIRST_PORT TARGET[$name]=redis://127.0.0.1:$FIRST_PORT
    wait_until 20 "$name" pongs "$FIRST_PORT"
}

start_null() {
    free_ports 1
    taskset -c "$SERVER_CPU" "$FERRITE" null --listen "127.0.0.1:$FIRST_PORT" >"$WORK/null.log" 2>&1 &
    PID[null]=$! TARGET[null]=null://127.0.0.1:$FIRST_PORT
    TARGET[null-resp]=redis://127.0.0.1:$FIRST_PORT
    wait_until 20 "null server" answers "$FIRST_PORT"
}

init_ferrite() { # NAME NODES MEMORY MEMTABLE
    local name=$1 nodes=$2 memory=$3 memtable=$4 config=$WORK/$1.toml
    free_ports $((nodes * 10))
    "$FERRITE" init --name "$name" --nodes "$nodes" --address "127.0.0.1:$FIRST_PORT" --memory "$memory" \
        --data "$WORK/$name" --output "$config" >"$WORK/$name.init.log"
    # Every node on the serving CPU, whatever this machine has.
    sed -i "/^cores = \[.*the CPU of each core/d; s/^cores = 1 .*/cores = [$SERVER_CPU]\nmemtable = \"$memtable\"/" "$config"
    PORT[$name]=$FIRST_PORT TARGET[$name]=ferrite://127.0.0.1:$FIRST_PORT
}

start_ferrite() { # NAME NODES
    local name=$1 nodes=$2 node log
    PID[$name]=
    for ((node = 1; node <= nodes; node++)); do
        log=$WORK/$name.n$node.log
        : >"$log"
        taskset -c "$SERVER_CPU" "$FERRITE" serve --config "$WORK/$name.toml" --node "n$node" --log warn >"$log" 2>&1 &
        PID[$name]+=" $!"
    done
    for ((node = 1; node <= nodes; node++)); do
        wait_until 60 "$name, node $node" grep -q '^ready' "$WORK/$name.n$node.log"
    done
}

status_of() { # NAME FIELD: the sum over the nodes
    "$FERRITE" status --all --addr "127.0.0.1:${PORT[$1]}" 2>/dev/null | awk -v f="$2" '$1 == f { s += $2 } END { print s + 0 }'
}

# Nothing frozen in memory, no compaction owed, and none made for a while.
settled() { # NAME
    local before after
    before=$(status_of "$1" engine.compactions)
    sleep 0.5
    after=$(status_of "$1" engine.compactions)
    [[ $before == "$after" && $(status_of "$1" engine.frozen_bytes) == 0 && $(status_of "$1" engine.debt_bytes) == 0 ]]
}

load() { # OPTIONS...
    taskset -c "$LOAD_CPU" "$FERRITE" load --line --records "$RECORDS" --distribution uniform "$@"
}

fill() { # NAME
    echo "    filling $1" >&2
    load --target "${TARGET[$1]}" --workload insert --connections 50 --depth 16 --timeout 10s >"$WORK/$1.fill"
}

pids_of() { # NAME
    local list=${PID[${1%-resp}]}
    list=${list# }
    echo "${list// /,}"
}

# One measurement: a line of name=value fields into the row's file.
measure() { # ROW SYSTEM OPTIONS...
    local row=$1 system=$2
    shift 2
    load --target "${TARGET[$system]}" --server-pid "$(pids_of "$system")" "$@" >>"$WORK/$row.$system.lines" ||
        die "row $row, $system: $(tail -1 "$WORK/$row.$system.lines")"
}

wanted() { [[ ,$ROWS, == *,$1,* ]]; }
wants_any() {
    local row
    for row in "$@"; do wanted "$row" && return 0; done
    return 1
}

# Rounds of one row over some systems, in turn.
row() { # ROW TITLE JUDGED-BY(cpu|ops|p50) SYSTEMS OPTIONS...
    local id=$1 title=$2 judged=$3 systems=$4 round system
    shift 4
    wanted "$id" || return 0
    echo "  $id $title" >&2
    for ((round = 0; round < ROUNDS; round++)); do
        for system in $systems; do
            measure "$id" "$system" "$@"
        done
    done
    report "$id" "$title" "$judged" "$systems"
}

median() { # ROW SYSTEM FIELD
    { grep -o " $3=[0-9.]*" "$WORK/$1.$2.lines" || echo "=0"; } | cut -d= -f2 | sort -n |
        awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

# Appends the row's lines to the table. The ratio is the system's figure by that of the row's first system.
report() { # ROW TITLE JUDGED-BY SYSTEMS
    local id=$1 title=$2 judged=$3 system ops p50 p99 cpu cores mark figure base= ratio valkey
    local -A field=([cpu]=server_us_per_op [ops]=ops_per_second [p50]=p50_us)
    for system in $4; do
        ops=$(median "$id" "$system" ops_per_second) p50=$(median "$id" "$system" p50_us)
        p99=$(median "$id" "$system" p99_us) cpu=$(median "$id" "$system" server_us_per_op)
        cores=$(median "$id" "$system" server_cores)
        figure=$(median "$id" "$system" "${field[$judged]}")
        base=${base:-$figure}
        ratio=$(awk -v a="$figure" -v b="$base" 'BEGIN { if (b > 0) printf "%.2f", a / b; else print "-" }')
        valkey=-
        if [[ $judged == cpu && $title == *"x 16"* && $4 == redis* && $4 != *valkey* ]]; then
            valkey=$(awk -v r="$ratio" -v f=$VALKEY_OF_REDIS 'BEGIN { printf "~%.2f", r / f }')
        elif [[ $4 == *valkey* ]]; then
            base_valkey=$(median "$id" "$(grep -o 'valkey[a-z-]*' <<<"$4" | head -1)" "${field[$judged]}")
            valkey=$(awk -v a="$figure" -v b="$base_valkey" 'BEGIN { if (b > 0) printf "%.2f", a / b; else print "-" }')
        fi
        mark=
        [[ $(median "$id" "$system" saturated) == 0 ]] || mark+=" client saturated"
        [[ $(median "$id" "$system" errors) == 0 ]] || mark+=" errors"
        [[ $(median "$id" "$system" absent) == 0 ]] || mark+=" absent reads"
        awk -v id="$id" -v title="$title" -v who="$system" -v ops="$ops" -v p50="$p50" -v p99="$p99" -v cpu="$cpu" \
            -v cores="$cores" -v judged="$judged" -v ratio="$ratio" -v valkey="$valkey" -v mark="$mark" 'BEGIN {
                printf "| %-4s | %-34s | %-13s | %9d | %9.1f | %9.1f | %7.3f | %5.2f | %-4s | %5s | %5s |%s\n",
                    id, title, who, ops, p50, p99, cpu, cores, judged, ratio, valkey, mark }' >>"$WORK/table"
    done
}

note() { echo "$*" >>"$WORK/notes"; }

hits() { # NAME: where reads were answered from so far
    local field
    for field in memtable cached disk absent; do
        printf '%s %s ' "$field" "$(status_of "$1" "engine.gets_$field")"
    done
}

LOAD_BEFORE=$(cut -d' ' -f1 /proc/loadavg)
VALKEY=
command -v valkey-server >/dev/null && VALKEY=valkey
TIME=(--warmup 500ms --duration "${SECONDS_EACH}s")

start_null

if wants_any P1 P2 P11 P11s; then
    echo "Reads" >&2
    start_resp redis "$(command -v redis-server)" --appendonly no
    [[ -z $VALKEY ]] || start_resp valkey "$(command -v valkey-server)" --appendonly no
    init_ferrite ferrite 1 1GiB 32MiB
    start_ferrite ferrite 1
    for system in redis $VALKEY ferrite; do fill "$system"; done
    wait_until 120 "ferrite's compaction" settled ferrite
    stop ferrite
    start_ferrite ferrite 1
    wait_until 120 "ferrite's compaction" settled ferrite
    # Twice as many reads as records first, so that all servers are read warm.
    for system in redis $VALKEY ferrite; do
        load --target "${TARGET[$system]}" --workload c --connections 50 --depth 16 --ops "$((RECORDS * 2))" >/dev/null
    done
    before=$(hits ferrite)
    systems="redis $VALKEY ferrite null null-resp"
    row P1 "GET 50 x 1" cpu "$systems" --workload c --connections 50 --depth 1 "${TIME[@]}"
    row P2 "GET 50 x 16" cpu "$systems" --workload c --connections 50 --depth 16 "${TIME[@]}"
    row P11 "GET 1 x 1" p50 "$systems" --workload c --connections 1 --depth 1 "${TIME[@]}"
    row P11s "GET 1 x 1, spinning client" p50 "$systems" --workload c --connections 1 --depth 1 --spin "${TIME[@]}"
    note "Reads after flush, compaction and restart: $(status_of ferrite engine.tables) tables; hits before: $before; after: $(hits ferrite)"
    for system in redis $VALKEY ferrite; do
        rss=0
        for pid in ${PID[$system]}; do rss=$((rss + $(awk '/^VmRSS/ { print $2 }' "/proc/$pid/status"))); done
        note "Memory of $system after the reads: $((rss / 1024)) MiB"
    done
    stop redis $VALKEY ferrite
fi

ALWAYS=(--appendonly yes --appendfsync always)
if wants_any P3a P3b P3c P4; then
    echo "Synced writes" >&2
    start_resp redis-always "$(command -v redis-server)" "${ALWAYS[@]}" --auto-aof-rewrite-percentage 0
    [[ -z $VALKEY ]] || start_resp valkey-always "$(command -v valkey-server)" "${ALWAYS[@]}" --auto-aof-rewrite-percentage 0
    # Memtables so large that the foreground rows see no flush.
    init_ferrite ferrite-fg 1 8GiB 4GiB
    start_ferrite ferrite-fg 1
    systems="redis-always ${VALKEY:+valkey-always} ferrite-fg null null-resp"
    for system in ${systems%% null*}; do fill "$system"; done
    row P3a "PUT synced 1 x 1" ops "$systems" --workload update --connections 1 --depth 1 "${TIME[@]}"
    row P3b "PUT synced 50 x 1" ops "$systems" --workload update --connections 50 --depth 1 "${TIME[@]}"
    row P3c "PUT synced 200 x 1" ops "$systems" --workload update --connections 200 --depth 1 "${TIME[@]}"
    row P4 "PUT synced 200 x 16, foreground" cpu "$systems" --workload update --connections 200 --depth 16 "${TIME[@]}"
    groups=$(status_of ferrite-fg engine.log_groups) syncs=$(status_of ferrite-fg engine.log_syncs)
    note "Synced writes, foreground: $(status_of ferrite-fg engine.log_records) records in $groups groups, $syncs syncs, $(status_of ferrite-fg engine.flushes) flushes"
    stop redis-always ${VALKEY:+valkey-always} ferrite-fg
fi

if wanted P4c; then
    echo "Synced writes with compaction" >&2
    start_resp redis-always "$(command -v redis-server)" "${ALWAYS[@]}" --auto-aof-rewrite-percentage 0
    start_resp redis-rewrite "$(command -v redis-server)" "${ALWAYS[@]}" --auto-aof-rewrite-percentage 100 \
        --auto-aof-rewrite-min-size 64mb
    [[ -z $VALKEY ]] || start_resp valkey-always "$(command -v valkey-server)" "${ALWAYS[@]}" --auto-aof-rewrite-percentage 100
    init_ferrite ferrite-bg 1 1GiB "$COMPACTION_MEMTABLE"
    start_ferrite ferrite-bg 1
    systems="redis-always redis-rewrite ${VALKEY:+valkey-always} ferrite-bg"
    for system in $systems; do fill "$system"; done
    rounds=$ROUNDS ROUNDS=$(((ROUNDS + 2) / 3))
    row P4c "PUT synced 200 x 16, compacting" cpu "$systems" --workload update --connections 200 --depth 16 --ops "$COMPACTION_OPS"
    ROUNDS=$rounds
    note "Synced writes, compacting: $(status_of ferrite-bg engine.flushes) flushes, $(status_of ferrite-bg engine.compactions) compactions"
    stop redis-always redis-rewrite ${VALKEY:+valkey-always} ferrite-bg
fi

if wants_any Q1 Q2 Q3 Q4; then
    echo "Three nodes" >&2
    init_ferrite one-node 1 1GiB 256MiB
    start_ferrite one-node 1
    init_ferrite three-nodes 3 1GiB 256MiB
    start_ferrite three-nodes 3
    systems="one-node three-nodes"
    for system in $systems; do fill "$system"; done
    row Q1 "GET 50 x 1, QUORUM" ops "$systems" --workload c --connections 50 --depth 1 "${TIME[@]}"
    row Q2 "GET 50 x 16, QUORUM" ops "$systems" --workload c --connections 50 --depth 16 "${TIME[@]}"
    row Q3 "PUT synced 50 x 1, QUORUM" ops "$systems" --workload update --connections 50 --depth 1 "${TIME[@]}"
    row Q4 "PUT synced 50 x 16, QUORUM" ops "$systems" --workload update --connections 50 --depth 16 "${TIME[@]}"
    stop one-node three-nodes
fi

{
    echo "Made by \`benches/compare.sh --rows $ROWS --rounds $ROUNDS --seconds $SECONDS_EACH --records $RECORDS\`"
    echo "on $(date -u +%F), Linux $(uname -r), $(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo), $(nproc) CPUs, load before and after: $LOAD_BEFORE $(cut -d' ' -f1 /proc/loadavg)."
    echo "$(redis-server --version | grep -o 'v=[0-9.]*' | sed 's/v=/Redis /')${VALKEY:+, $(valkey-server --version | grep -o 'v=[0-9.]*' | sed 's/v=/Valkey /')}, $("$FERRITE" --version); values of 100 bytes, uniform keys, closed loop; medians of $ROUNDS round(s) in turn."
    echo
    printf '| %-4s | %-34s | %-13s | %9s | %9s | %9s | %7s | %5s | %-4s | %5s | %5s |\n' \
        row work server op/s 'p50 us' 'p99 us' 'us/op' cores by ratio Valkey
    echo "|---|---|---|---:|---:|---:|---:|---:|---|---:|---:|"
    cat "$WORK/table" 2>/dev/null || true
    echo
    echo "us/op: CPU time of the whole server process per operation. ratio: the figure that the row is judged by, against the row's first server;"
    echo "Valkey: the same against Valkey, or with ~ against Redis x $VALKEY_OF_REDIS where Valkey is not installed."
    [[ ! -f $WORK/notes ]] || sed 's/^/- /' "$WORK/notes"
} | tee ${OUT:+"$OUT"}
