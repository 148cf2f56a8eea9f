#!/bin/sh
# The programs that `make test-ship` needs beside those of the other tests, into the directory $1 where go has to build
# them.  What cannot be had is named, and the tests that need it are skipped by name.
set -eu

directory=$(mkdir -p "$1" && cd "$1" && pwd)
PATH="$directory:$PATH"

if ! command -v strip >/dev/null 2>&1 && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends binutils >/dev/null
fi

build() {
    command -v "$1" >/dev/null 2>&1 && return
    if command -v go >/dev/null 2>&1; then
        echo "building $1"
        GOBIN="$directory" go install "$2" || echo "go did not build $1, so the tests that need it are skipped"
    else
        echo "neither $1 nor go is here, so the tests that need it are skipped"
    fi
}

build helm helm.sh/helm/v3/cmd/helm@v3.22.0
build actionlint github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
