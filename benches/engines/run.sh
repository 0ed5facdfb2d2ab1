#!/usr/bin/env bash
# Ferrite's engine side by side with RocksDB and fjall; every option is the program's own, see --help.
#
#   benches/engines/run.sh [--rows load,hit,...] [--keys N] [--rounds N] [--curve] ...
#
# Needs RocksDB's headers and library (apt-get install librocksdb-dev).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
[[ -f /usr/include/rocksdb/c.h ]] || { echo "run.sh: RocksDB is not installed: apt-get install librocksdb-dev" >&2; exit 1; }
cargo build --release --quiet
exec "${CARGO_TARGET_DIR:-target}/release/ferrite-engines" "$@"
