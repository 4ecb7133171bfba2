#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# ci/xen fetch: downloads everything that needs the network into the cache, once.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$here/packages.sh"
. "$here/apt.sh"

lock_cache
[ "$(uname -m)" = x86_64 ] || die "this needs an x86-64 machine (found $(uname -m))"

install_build_tools() {
    local missing=() p
    for p in "${build_tools[@]}"; do
        dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
    done
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" = 0 ] || die "packages are missing: run as root, or: apt-get install --no-install-recommends ${missing[*]}"
    say "installing ${missing[*]}"
    { apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "${missing[@]}"; } \
        >"$cache/install.log" 2>&1 || die "apt-get could not install ${missing[*]}: see $cache/install.log"
}

# The stamp names what was requested. The manifest has each file's hash as apt verified it. Both
# must still match.
wanted() { printf '%s\n' "${rooted[*]}" "${kernels[*]}" "$xen_source" | sha256sum | cut -d' ' -f1; }
already_fetched() {
    [ -e "$cache/fetched" ] && [ "$(cat "$cache/fetched")" = "$(wanted)" ] && [ -e "$cache/root/.unpacked" ] &&
        (cd "$aptdir" && sha256sum --quiet --strict -c manifest >/dev/null 2>&1)
}

fetch_packages() {
    local log=$cache/apt.log images=() k image
    say "reading package lists"
    apt_do apt-get update >"$log" 2>&1 && ! grep -q '^[WE]:.*Failed to fetch' "$log" ||
        die "cannot read Debian's package lists (no network?): see $log"
    rm -rf "$aptdir/source" "$aptdir"/archives/*.deb
    mkdir -p "$aptdir/source"
    say "downloading ${rooted[*]} and what they depend on"
    apt_do apt-get install --download-only -y --no-install-recommends "${rooted[@]}" >>"$log" 2>&1 ||
        die "cannot download the dom0 and QEMU packages: see $log"
    # The files that belong to the small Debian.
    apt_do apt-get install -s --no-install-recommends "${debian_root[@]}" 2>>"$log" | awk '$1 == "Inst" { print $2 }' >"$aptdir/debian-root"
    for k in "${kernels[@]}"; do
        image=$(apt_do apt-cache depends "$k" | awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ { print $2; exit }')
        [ -n "$image" ] || die "$k names no kernel: is the package list whole? see $log"
        images+=("$image")
    done
    say "downloading ${images[*]}"
    (cd "$aptdir/archives" && apt_do apt-get download "${images[@]}") >>"$log" 2>&1 || die "cannot download ${images[*]}: see $log"
}

fetch_source() {
    local log=$cache/apt.log listed v
    # The newest first, after the one that we know.
    listed=$(apt_do apt-cache showsrc --only-source xen 2>>"$log" | awk '$1 == "Version:" { print $2 }' | sort -ruV) ||
        die "apt lists no source package xen: see $log"
    for v in "$xen_source" $listed; do
        rm -rf "$aptdir/source"; mkdir -p "$aptdir/source"
        say "downloading Xen's source $v"
        if (cd "$aptdir/source" && apt_do apt-get source --download-only "xen=$v") >>"$log" 2>&1; then
            printf '%s\n' "$v" >"$cache/source-version"
            return
        fi
        say "source $v is not to be had, trying the next"
    done
    die "none of the listed versions of Xen's source could be downloaded: see $log"
}

unpack() {
    local deb
    say "unpacking"
    rm -rf "$cache/root" "$cache/xen-source"
    mkdir -p "$cache/root"
    for deb in "$aptdir"/archives/*.deb; do
        dpkg-deb -x "$deb" "$cache/root" || die "cannot unpack $deb: remove $cache/fetched and fetch again"
    done
    # The .dsc files have their uploaders' signatures; apt has checked the hashes against the signed
    # lists.
    dpkg-source --no-check -x "$aptdir"/source/xen_*.dsc "$cache/xen-source" >>"$cache/apt.log" 2>&1 ||
        die "cannot unpack Xen's source: see $cache/apt.log"
    touch "$cache/root/.unpacked"
}

install_build_tools
if already_fetched; then
    say "already fetched (Xen source $(cat "$cache/source-version"))"
    exit 0
fi
rm -f "$cache/fetched"
apt_prepare
fetch_packages
fetch_source
unpack
(cd "$aptdir" && sha256sum archives/*.deb source/* >manifest)
wanted >"$cache/fetched"
say "fetched: $(du -shc "$aptdir/archives" "$aptdir/source" | awk 'END { print $1 }') downloaded, Xen source $(cat "$cache/source-version")"
