# SPDX-License-Identifier: MIT OR Apache-2.0
# An apt of our own: Debian's sources with deb-src, lists and downloads in the cache, and an empty
# package database (so that "install --download-only" brings a whole dependency closure). The
# system's configuration is only read.
# shellcheck shell=bash

aptdir=$cache/apt

apt_prepare() {
    command -v apt-get >/dev/null || die "no apt-get: this needs Debian 12 (or a container of it)"
    mkdir -p "$aptdir"/{lists/partial,archives/partial,source}
    : >"$aptdir/status"
    local key=/usr/share/keyrings/debian-archive-keyring.gpg lines
    [ -e "$key" ] || die "no $key: install the package debian-archive-keyring"
    # The mirrors are those of the system: behind a proxy or a local mirror no setting is needed
    # here.
    lines=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk '$2 ~ /^bookworm(-security|-updates)?$/ && $3 == "main"' | sort -u)
    [ -n "$lines" ] || die "apt knows no Debian 12 (bookworm, main) source on this machine: add one and run apt-get update"
    awk -v key="$key" '{ print "deb [arch=amd64 signed-by=" key "] " $0; print "deb-src [signed-by=" key "] " $0 }' \
        <<<"$lines" >"$aptdir/sources.list"
}

# apt_do TOOL ARGS...: apt-get or apt-cache with that private state.
apt_do() {
    local tool=$1; shift
    "$tool" -q -o Dir::Etc::SourceList="$aptdir/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$aptdir/lists" -o Dir::State::status="$aptdir/status" \
        -o Dir::Cache="$aptdir" -o Dir::Cache::Archives="$aptdir/archives" -o APT::Architecture=amd64 \
        -o APT::Architectures::=amd64 -o APT::Sandbox::User=root -o Acquire::Retries=3 -o Acquire::http::Timeout=60 "$@"
}
