#!/bin/sh
# The real programs that the tests talk to.  As root on Debian they are installed; elsewhere what is
# missing is named, and the tests that need it are skipped by name.  Arguments are more programs to look for.
set -eu

missing=""
for program in docker-registry skopeo zstd openssl tinyproxy buildah containerd nginx "$@"; do
    command -v "$program" >/dev/null 2>&1 || missing="$missing $program"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing:$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # The packages of the registry, of tinyproxy, of containerd and of nginx would start services of their own; the tests start theirs.
    # shellcheck disable=SC2086
    RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "not installed, so the tests that need it are skipped:$missing"
fi
