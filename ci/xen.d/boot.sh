#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# ci/xen boot [c|rust] [SCRIPT]: boots Xen and dom0, runs SCRIPT (a shell script) inside dom0, shows
# the console and exits with the script's status. Without SCRIPT it boots, lists the domains and
# powers off. XEN_TIMEOUT: seconds allowed (default 300). Exit code 124: too slow, 125: Xen or dom0
# died.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$here/machine.sh"

take_flavour "$@"
script=${rest[0]:-}
[ -z "$script" ] || [ -r "$script" ] || die "no script '$script' to run in dom0"
make_machine
if [ -n "$script" ]; then cp "$script" "$test/run"; else echo 'xl list; xl info | grep -E "xen_version|virt_caps"' >"$test/run"; fi

log=$(new_run "boot-$flavour")
say "booting (log: $log)"
status=0
boot_machine "$flavour" "$test" "$log" "${XEN_TIMEOUT:-300}" || status=$?
case $status in
    124) die "no end after ${XEN_TIMEOUT:-300} s: see $log" ;;
    125) die "Xen, dom0 or the machine died: see $log" ;;
esac
say "dom0's script exited with $status after $SECONDS s"
exit "$status"
