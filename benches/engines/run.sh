#!/usr/bin/env bash
# Ferrite's engine side by side with RocksDB and fjall; every other option is the program's own, see --help.
#
#   benches/engines/run.sh [--built-rocksdb] [--rows load,hit,...] [--keys N] [--stores 16,1] [--lz4 1,0] [--rounds N] ...
#   benches/engines/run.sh [--built-rocksdb] --curve       after 1, 2, 5 and 10 times --keys
#   benches/engines/run.sh [--built-rocksdb] --final       all that the goals ask for, in about half an hour of two quiet CPUs
#   benches/engines/run.sh --tables FILE [--final]         the tables of a run, whole or cut off
#
# Figures go to a file as they come, progress to stderr, tables to stdout.
#
# Needs RocksDB's headers and library (apt-get install librocksdb-dev), or with --built-rocksdb what it takes to build RocksDB: its
# crate's newer version with io_uring, which is what RocksDB's asynchronous reads need and Debian's lacks. That takes an hour
# of one CPU, once (apt-get install g++ pkg-config liburing-dev clang libclang-dev).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

die() {
    echo "run.sh: $*" >&2
    exit 1
}

build=() given=()
for option in "$@"; do
    case $option in
    --built-rocksdb) build=(--features built-rocksdb) ;;
    -h | --help) sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]##*/}" && given+=("$option") ;;
    *) given+=("$option") ;;
    esac
done

if ((${#build[@]})); then
    command -v c++ >/dev/null || die "a C++ compiler is needed: apt-get install g++"
    command -v pkg-config >/dev/null || die "pkg-config is needed: apt-get install pkg-config"
    pkg-config --exists liburing || die "liburing is needed: apt-get install liburing-dev"
    command -v clang >/dev/null || die "libclang is needed: apt-get install clang libclang-dev"
    # As RocksDB's own Makefile builds it for the machine it is on: checksums and filters in the instructions that this one has.
    export CXXFLAGS=${CXXFLAGS--march=native}
else
    [[ -f /usr/include/rocksdb/c.h ]] || die "RocksDB is not installed: apt-get install librocksdb-dev, or --built-rocksdb"
fi
cargo build --release --quiet ${build[@]+"${build[@]}"}
exec "${CARGO_TARGET_DIR:-target}/release/ferrite-engines" ${given[@]+"${given[@]}"}
