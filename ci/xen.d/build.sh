#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# ci/xen build [c|rust]: the hypervisor only, from a copy of the unpacked source in the cache.
# XEN_DEBUG=1 builds Xen with its assertions and performance counters on, beside the ordinary one.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

flavour=${1:-c}
check_flavour "$flavour"
need_fetched
lock_cache
name=$flavour${XEN_DEBUG:+-debug}
tree=$cache/build/$name
log=$cache/build-$name.log
jobs=${XEN_JOBS:-$(nproc)}

# What the tree was made from: if the source or the seed changes, a fresh copy is made.
stamp() {
    { cat "$cache/source-version" "$here/xen.config"; printf '%s\n' "${XEN_DEBUG:+counters}" "$flavour"; grep '^NOTE' "$root/xen-glue/install"; gcc -dumpfullversion; } |
        sha256sum | cut -d' ' -f1
}

fresh_tree() {
    say "copying Xen's source to $tree"
    rm -rf "$tree"
    mkdir -p "$tree"
    cp -a "$cache/xen-source/." "$tree/"
    cp "$here/xen.config" "$tree/xen/.config"
    [ -z "${XEN_DEBUG:-}" ] || printf 'CONFIG_DEBUG=y\nCONFIG_PERF_COUNTERS=y\n' >>"$tree/xen/.config"
}

# The tree of the Rust hypervisor is the same with the crate installed. The installer prints its
# changes and may be run again.
install_rust() {
    local installer=$root/xen-glue/install
    [ -x "$installer" ] || die "no xen-glue/install in this checkout: only the C hypervisor can be built"
    "$root/xen-glue/check-guest-accesses" "$cache/xen-source" >>"$log" 2>&1 ||
        die "Xen uses guests' memory where docs/xen-guest-memory.md does not say so: see $log"
    "$installer" "$tree" >>"$log" 2>&1 || die "xen-glue/install refused the tree: see $log"
}

# A half-built tree has no 'built' file, a half-copied one has no 'stamp'. The build continues with
# both where that is safe.
if [ "$(cat "$tree/stamp" 2>/dev/null)" != "$(stamp)" ]; then
    fresh_tree
    stamp >"$tree/stamp"
elif [ "$flavour" = c ] && [ -e "$tree/built" ]; then
    say "hypervisor $name is up to date"
    exit 0
fi

rm -f "$tree/built"
: >"$log"
[ "$flavour" = rust ] && install_rust
say "building hypervisor $name (log: $log)"
started=$SECONDS
make -C "$tree/xen" olddefconfig >>"$log" 2>&1 || die "Xen's configuration failed: see $log"
grep -qx CONFIG_MEM_PAGING=y "$tree/xen/.config" || die "this Xen has no CONFIG_MEM_PAGING: see $tree/xen/.config"
nice timeout 1800 make -C "$tree/xen" -j"$jobs" >>"$log" 2>&1 || die "Xen does not build: $(grep -m1 -E 'error:|Error [0-9]' "$log" || true) (all of it: $log)"
[ -s "$tree/xen/xen" ] || die "the build made no hypervisor: see $log"
touch "$tree/built"
say "hypervisor $name: $tree/xen/xen, $(stat -c %s "$tree/xen/xen") bytes, $((SECONDS - started)) s"
