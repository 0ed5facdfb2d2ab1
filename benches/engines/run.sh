#!/usr/bin/env bash
# Ferrite's engine side by side with RocksDB and fjall; every other option is the program's own, see --help.
#
#   benches/engines/run.sh [--rows load,hit,...] [--keys N] [--stores 16,1] [--lz4 1,0] [--rounds N] ...
#   benches/engines/run.sh --curve       after 1, 2, 5 and 10 times --keys
#   benches/engines/run.sh --final       all that the goals ask for, in about half an hour of two quiet CPUs
#   benches/engines/run.sh --tables FILE [--final]         the tables of a run, whole or cut off
#
# Figures go to a file as they come, progress to stderr, tables to stdout.
#
# Needs RocksDB's headers and library (apt-get install librocksdb-dev).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

die() {
    echo "run.sh: $*" >&2
    exit 1
}

for option in "$@"; do
    case $option in
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]##*/}" ;;
    esac
done

[[ -f /usr/include/rocksdb/c.h ]] || die "RocksDB is not installed: apt-get install librocksdb-dev"
cargo build --release --quiet
exec "${CARGO_TARGET_DIR:-target}/release/ferrite-engines" "$@"
