#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# ci/xen headers: checks the layouts and numbers that the pager uses against the headers of Debian
# 13's Xen (4.20), as the ordinary tests check them against Debian 12's (4.17).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$here/apt.sh"

[ $# = 0 ] || die "headers takes no arguments"
lock_cache
aptdir=$cache/apt-trixie
headers=$cache/trixie/usr/include
if [ ! -e "$headers/xen/vm_event.h" ]; then
    log=$cache/apt-trixie.log
    apt_prepare
    sed -i -n '/^deb \[/s/ bookworm main$/ trixie main/p' "$aptdir/sources.list"
    say "downloading Debian 13's libxen-dev"
    { apt_do apt-get update && (cd "$aptdir/archives" && apt_do apt-get download libxen-dev); } >"$log" 2>&1 ||
        die "cannot download Debian 13's libxen-dev (no network?): see $log"
    rm -rf "$cache/trixie"
    dpkg-deb -x "$aptdir"/archives/libxen-dev_*.deb "$cache/trixie" || die "cannot unpack libxen-dev"
fi
say "control interface $(sed -n 's/^#define XEN_DOMCTL_INTERFACE_VERSION //p' "$headers/xen/domctl.h")"
cd "$root"
XEN_HEADERS=$headers cargo test --locked -p tests-host --test abi
