#!/usr/bin/env bash
# Installs what the tests need where it is missing, builds, and runs all tests.
# Wants Debian or Ubuntu, Rust, and root or sudo for what is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# Debian packages, by a program each brings.
missing=()
need() {
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null || missing+=("$2")
}
need redis-server redis-server
need redis-cli redis-tools
need redis-benchmark redis-tools
need mkfs.ext4 e2fsprogs
need mount mount
need cc gcc
need openssl openssl
need /usr/bin/python3 python3
/usr/bin/python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
if [ "${#missing[@]}" -gt 0 ]; then
    echo "test.sh: installing ${missing[*]}"
    as_root apt-get update
    # redis-server would start a server of its own: a policy that denies it, unless there is one.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod +x "$policy"
        trap 'as_root rm -f "$policy"' EXIT
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
fi
export PATH="$PATH:/usr/sbin:/sbin"

command -v cargo >/dev/null || { echo "test.sh: no cargo; install Rust from https://rustup.rs" >&2; exit 1; }

# The Python package redis, in an environment of its own.
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
python=$target/python
if ! "$python/bin/python" -c 'import redis' 2>/dev/null; then
    rm -rf "$python"
    /usr/bin/python3 -m venv "$python"
    "$python/bin/python" -m pip install --quiet 'redis>=6'
fi
export ZDB_PYTHON=$python/bin/python

# The server is tested as it is shipped; the tests themselves need no optimisation.
cargo build --release --package zdb
export ZDB_BIN=$target/release/zdb
cargo test --workspace "$@"
