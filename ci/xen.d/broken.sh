#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# ci/xen broken: breaks invariants of the Rust hypervisor in a running machine, through QEMU's
# debugger stub (break.py). An inconsistent entry crashes its domain and no other, and Xen's console
# says so. If Xen gives an entry other rights than the crate expects, paging is refused.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$here/machine.sh"

flavour=rust
make_machine
echo rust >"$test/flavour"
stub=$(mktemp -d)
trap 'rm -rf "$test" "$stub"' EXIT
passed=0 failed=0
on_line() {
    case $1 in
        "reason: "*) [ -n "$reason" ] || reason=${1#reason: } ;;
        "note: "*) printf '          %s\n' "${1#note: }" ;;
        # The page's frame number and the place of the panic, as Xen's console prints them.
        *"memory paging: "*) said+="${1#*memory paging: }"$'\n' ;;
        *"domain_crash called from"*) said+="domain crashed"$'\n' ;;
        *"Panic on CPU"*) said+="host stopped"$'\n' ;;
    esac
}

# broken WHAT STATUS SAYS: boots a machine and breaks WHAT in it. STATUS is dom0's exit status, SAYS
# is what Xen's console must contain.
broken() {
    local what=$1 wanted=$2 says=$3 log socket=$stub/socket debugger status=0
    log=$(new_run "broken-$what") reason='' said=''
    say "breaking: $what (log: $log)"
    "$here/break.py" "$socket" "$cache/build/rust${XEN_DEBUG:+-debug}/xen/xen-syms" "$what" >"$stub/said" 2>&1 &
    debugger=$!
    XEN_QEMU_EXTRA="-gdb unix:$socket,server=on,wait=off -S" boot_machine rust "$test" "$log" 200 on_line || status=$?
    kill "$debugger" 2>/dev/null || true
    wait "$debugger" || reason=${reason:-nothing was broken: $(tail -n 1 "$stub/said")}
    rm -f "$socket"
    said=${said%$'\n'}
    if [ "$status" = "$wanted" ] && [ -z "$reason" ] && grep -qzE "$says" <<<"$said"; then
        passed=$((passed + 1)); echo "ok      $what"
    else
        failed=$((failed + 1)); echo "FAILED  $what: status $status${reason:+, $reason}; Xen said: ${said:-nothing}"
    fi
}

cp "$here/dom0/broken.sh" "$test/run"
broken entry 0 'gfn 0x[0-9a-f]+: inconsistent p2m entry: .* without a frame.*domain crashed'
broken rights 0 '^p2m type [0-9]+ has permissions 0x[0-9a-f]+, not 0x[0-9a-f]+.$'
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
