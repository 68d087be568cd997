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
need redis-sentinel redis-sentinel
need redis-benchmark redis-tools
need mkfs.ext4 e2fsprogs
need mount mount
need losetup mount
need ip iproute2
need nft nftables
need cc gcc
need c++ g++
need openssl openssl
need stdbuf coreutils
need fio fio
need tmux tmux
need node nodejs
need npm npm
[ -e /usr/include/hiredis/hiredis.h ] || missing+=(libhiredis-dev)
need /usr/bin/python3 python3
/usr/bin/python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
if [ "${#missing[@]}" -gt 0 ]; then
    echo "test.sh: installing ${missing[*]}"
    as_root apt-get update
    # redis-server and redis-sentinel would start servers of their own: a policy that denies it, unless there is one.
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

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
clients=$PWD/compat-tests/clients

# Client libraries in an environment of their own, made anew when another version is wanted.
python=$target/python
wanted=$clients/python/requirements.txt
if ! cmp -s "$wanted" "$python/requirements.txt"; then
    rm -rf "$python"
    /usr/bin/python3 -m venv "$python"
    "$python/bin/python" -m pip install --quiet --requirement "$wanted"
    cp "$wanted" "$python/requirements.txt"
fi
export ZDB_PYTHON=$python/bin/python

# The current ones want Node 20; for the 18 of Debian 12 there are the last that run on it.
packages=$clients/node/packages-18
[ "$(node -p 'process.versions.node.split(".")[0]')" -lt 20 ] || packages=$clients/node/packages-20
if ! cmp -s "$packages/package-lock.json" "$target/node/package-lock.json" ||
    [ ! -e "$target/node/node_modules/.package-lock.json" ]; then
    rm -rf "$target/node"
    mkdir "$target/node"
    cp "$packages"/package*.json "$target/node"
    (cd "$target/node" && npm ci --silent --no-audit --no-fund --ignore-scripts)
fi
export ZDB_NODE_MODULES=$target/node/node_modules

# The server is tested as it is shipped; the tests themselves need no optimisation.
cargo build --release --package zdb
export ZDB_BIN=$target/release/zdb
cargo test --workspace "$@"

# Once more with sockets in further threads, in about a minute and a half: the suites in which connections come and
# go, ask in pipelines, send and get large values, do not read, watch others, are let go, or meet the server's end.
# What is about disks, files and the index says nothing new of sockets.
with_threads() {
    local threads=$1 suites=()
    shift
    while [ "$1" != -- ]; do
        suites+=(--test "$1")
        shift
    done
    shift
    ZDB_TEST_THREADS=$threads cargo test --package compat-tests "${suites[@]}" "$@"
}
# Many clients at once: of two threads each has half of them.
with_threads 2 clients connections doors load process pubsub regressions watch -- "$@"
# One client at a time: the hub's own thread would keep it, but of nine threads it has no sockets.
with_threads 9 background kernel_tls requests tls transcripts -- "$@"
