#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# ci/xen refusals: every error gets one clear line and an exit code that is not 0, and nothing is
# left half done. The installer is tested on a copy of the files of Xen's source that it edits. It
# must also be able to undo itself exactly.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_fetched

glue=$root/xen-glue
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
passed=0 failed=0

# check WHAT COMMAND...
check() {
    local what=$1; shift
    if "$@"; then
        passed=$((passed + 1)); echo "ok      $what"
    else
        failed=$((failed + 1)); echo "FAILED  $what: $(tail -n 3 "$work/said" | tr '\n' ';')"
    fi
}
not() { ! "$@"; }
says() { grep -q -- "$1" "$work/said"; }
# refused WHAT SAYS COMMAND...: the exit code is not 0, the last line gives the reason, and no
# Python trace is printed.
refused() {
    local what=$1 why=$2 status=0; shift 2
    "$@" >"$work/said" 2>&1 </dev/null || status=$?
    clear_line() { [ "$status" != 0 ] && tail -n 1 "$work/said" | grep -q -- "$why" && not says Traceback; }
    check "$what" clear_line
}

# The files that the installer edits, as they come from Debian.
edited() { python3 -B -c 'import sys; sys.path.insert(0, sys.argv[1]); import edits; print("\n".join(sorted({e.file for e in edits.EDITS})))' "$glue"; }
fresh() {
    rm -rf "$work/tree"
    mkdir -p "$work/tree"
    (cd "$cache/xen-source" && cp --parents xen/Makefile $(edited | sed 's|^|xen/|') "$work/tree")
}
same() { diff -r "$work/tree" "$work/$1" >"$work/said" 2>&1; }
keep() { rm -rf "${work:?}/$1"; cp -a "$work/tree" "$work/$1"; }
unchanged() { check "... and changes nothing" same as-was; }

fresh; keep original
"$glue/install" "$work/tree" >"$work/said" 2>&1 || true
check "fits a fresh tree" test -e "$work/tree/xen/.p2m-rs-installed"
keep fitted
"$glue/install" "$work/tree" >"$work/said" 2>&1 || true
check "a second time there is nothing to do" says "nothing to do"
check "... and nothing is done" same fitted
sed -i 's|^#include <xen/lib.h>|&\n/* a line of somebody else'"'"'s */|' "$work/tree/xen/common/memory.c"
"$glue/install" "$work/tree" >"$work/said" 2>&1 || true
"$glue/install" --remove "$work/tree" >"$work/said" 2>&1 || true
check "--remove leaves what others changed" grep -q "somebody else" "$work/tree/xen/common/memory.c"
sed -i '/somebody else/d' "$work/tree/xen/common/memory.c"
find "$work/tree" -type d -empty -delete
check "--remove restores every byte" same original

fresh; sed -i 's/^export XEN_SUBVERSION .*/export XEN_SUBVERSION = 18/' "$work/tree/xen/Makefile"; keep as-was
refused "another version of Xen" "is Xen 4.18; this script knows Xen 4.17 only" "$glue/install" "$work/tree"; unchanged
fresh; echo '/* MEM_PAGING_RUST */' >>"$work/tree/xen/common/vm_event.c"; keep as-was
refused "a half-fitted tree" "half fitted.*unpack the source again" "$glue/install" "$work/tree"; unchanged
fresh; sed -i '/p2m_mem_paging_populate(currd,/d' "$work/tree/xen/arch/x86/hvm/hvm.c"; keep as-was
refused "a file that has been changed otherwise" "hvm.c is not the file of Xen 4.17.*nothing was changed" "$glue/install" "$work/tree"; unchanged
rm -rf "$work/tree"; cp -a "$work/fitted" "$work/tree"; sed -i '/mem_paging_cleanup(d);/d' "$work/tree/xen/common/vm_event.c"; keep as-was
refused "removal of what was changed since" "was changed after it was fitted.*nothing was changed" "$glue/install" --remove "$work/tree"; unchanged
rm -rf "$work/tree"; cp -a "$work/fitted" "$work/tree"; echo '{' >"$work/tree/xen/.p2m-rs-installed"; keep as-was
refused "a damaged note" "is damaged: unpack the source again" "$glue/install" "$work/tree"; unchanged
refused "no tree" "is no Xen source tree" "$glue/install" "$work"
refused "no argument" "restores every file as it was\|Known: Xen" "$glue/install"

# Runs as a user who may write all files but one.
nobody=()
[ "$(id -u)" != 0 ] || nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups)
fresh; chmod -R a+rwX "$work/tree"; chmod a-w "$work/tree/xen/include/xen/sched.h"; keep as-was
refused "a file that cannot be written" "cannot write .*sched.h: Permission denied" "${nobody[@]}" "$glue/install" "$work/tree"
check "... and changes no file of Xen's" not grep -rq "struct p2m_rs\b\|CONFIG_MEM_PAGING_RUST" "$work/tree/xen/common" "$work/tree/xen/include"

# Builds the object with compilers that have no source of their library: those of this machine must
# not be found.
mkdir -p "$work/bin"
printf '#!/bin/sh\necho %s\n' "$work" >"$work/bin/rustc"; chmod +x "$work/bin/rustc"
no_rust() { unshare -m sh -c 'for r in /usr/bin/rustc; do [ ! -e $r ] || mount --bind "$1/bin/rustc" $r; done; PATH=$1/bin:$PATH; shift; exec "$@"' sh "$work" "$@"; }
if [ "$(id -u)" = 0 ]; then
    refused "a Rust without its library's source" "rustup component add rust-src, or apt-get install" no_rust "$glue/build-object" "$work/out.o" "$work/target"
    refused "the same for the crate alone" "rustup component add rust-src, or apt-get install" no_rust "$root/ci/host/freestanding"
    refused "no network" "cannot read Debian's package lists (no network?)" unshare -n env XEN_CACHE="$work/cache" "$root/ci/xen" fetch
    check "... and counts as not fetched" not test -e "$work/cache/fetched"
fi
printf '#!/bin/sh\nexit 1\n' >"$work/bin/dpkg-query"; chmod +x "$work/bin/dpkg-query"; mkdir -m 777 "$work/cache2"
refused "a missing package, without root" "packages are missing: run as root, or: apt-get install" \
    "${nobody[@]}" env PATH="$work/bin:$PATH" XEN_CACHE="$work/cache2" "$root/ci/xen" fetch
refused "nothing fetched" "run .ci/xen fetch. first" env XEN_CACHE="$work/empty" "$root/ci/xen" build c
refused "an unknown hypervisor" "say c or rust" "$root/ci/xen" build ocaml
refused "an unknown test" "no test is called like" "$root/ci/xen" test rust no-such-test
refused "an unknown command" "needs the network" "$root/ci/xen" frobnicate

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
