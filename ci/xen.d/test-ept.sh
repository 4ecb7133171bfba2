#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# ci/xen test-ept [c|rust] [NAME...]: the tests on Bochs, with two CPUs with Intel's VMX and EPT:
# dom0 on the first, guests on the second. Without names: every paging operation, faults of vcpus at
# pages that are out, stale translations, accessed bits, and a hunted guest for as many cycles as
# this machine has time for. One boot, about eight minutes. XEN_DEBUG=1: with Xen's assertions on.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export XEN_MACHINE=bochs
flavour=rust
case ${1:-} in c | rust) flavour=$1; shift ;; esac
[ $# -gt 0 ] || set -- 05 06 08 30 60
exec "$here/test.sh" "$flavour" "$@"
