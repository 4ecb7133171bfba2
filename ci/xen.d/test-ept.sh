#!/usr/bin/env bash
# ci/xen test-ept [c|rust] [NAME...]: the tests on Bochs, whose CPU has Intel's VMX with EPT. Without names: a guest that lives
# through its faults, and one that is hunted for as many cycles as this machine has time for.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export XEN_MACHINE=bochs
flavour=rust
case ${1:-} in c | rust) flavour=$1; shift ;; esac
[ $# -gt 0 ] || set -- 20 30
exec "$here/test.sh" "$flavour" "$@"
