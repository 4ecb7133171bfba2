#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# ci/xen demo [c|rust]: a demonstration: a guest runs at half its memory under our pager, and gets
# all of it back.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$here/machine.sh"

take_flavour "${@:-rust}"
make_machine
cp "$here/dom0/demo.sh" "$test/run"
log=$(new_run "demo-$flavour")
say "booting Xen under emulation: about 20 s before the guest starts (log: $log)"
on_line() {
    case $1 in
        "demo: "*) printf '%4d s  %s\n' "$SECONDS" "${1#demo: }" ;;
        @@dom0-ready@@) printf '%4d s  Xen and dom0 are up\n' "$SECONDS" ;;
        "reason: "* | *"Panic on CPU"* | *"domain_crash called"*) printf '%4d s  %s\n' "$SECONDS" "$1" ;;
    esac
}
status=0
boot_machine "$flavour" "$test" "$log" 1200 on_line || status=$?
[ "$status" = 0 ] || die "the demo ended with $status: see $log"
