# SPDX-License-Identifier: MIT OR Apache-2.0
# Shared by every ci/xen script: paths, and how to fail with one clear line.
# shellcheck shell=bash

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${XEN_CACHE:-$root/.cache/xen}
# A relative XEN_CACHE is relative to the caller's directory; the scripts change directory later.
case $cache in /*) ;; *) cache=$PWD/$cache ;; esac

say() { printf 'ci/xen: %s\n' "$*"; }
die() { printf 'ci/xen: error: %s\n' "$*" >&2; exit 1; }

# Two runs in one cache would overwrite each other's files.
lock_cache() {
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock -w 600 9 || die "another ci/xen works in $cache for 10 minutes now: wait for it or set XEN_CACHE to another place"
}

need_fetched() {
    [ -e "$cache/fetched" ] || die "nothing fetched yet in $cache: run 'ci/xen fetch' first"
}

# Which hypervisor: c (Xen's own mem_paging.c) or rust (the crate in its place).
check_flavour() {
    case $1 in c | rust) ;; *) die "unknown hypervisor '$1': say c or rust" ;; esac
}

# Sets $flavour (c if the first argument names none) and $rest, the other arguments.
take_flavour() {
    flavour=c
    case ${1:-} in c | rust) flavour=$1; shift ;; esac
    rest=("$@")
}

# Builds what a machine needs, and makes $test, the folder that becomes dom0's /test.
make_machine() {
    "$here/build.sh" "$flavour"
    "$here/image.sh"
    test=$(mktemp -d)
    trap 'rm -rf "$test"' EXIT
    cp "$here/dom0/lib.sh" "$test/"
}

# The Debian packages are unpacked into $cache/root, never installed: they do not conflict with the
# machine's packages, and have the same versions everywhere. Their programs run with their own
# loader and libraries.
debroot() { printf '%s' "$cache/root"; }
debroot_libs() {
    local r; r=$(debroot)
    printf '%s' "$r/lib/x86_64-linux-gnu:$r/usr/lib/x86_64-linux-gnu:$r/usr/lib/xen-4.17/lib/x86_64-linux-gnu"
}
debroot_run() {
    local program=$1; shift
    "$(debroot)/lib64/ld-linux-x86-64.so.2" --library-path "$(debroot_libs)" "$(debroot)/$program" "$@"
}
