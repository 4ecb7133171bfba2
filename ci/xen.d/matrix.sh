#!/usr/bin/env bash
# ci/xen matrix [c|rust]: both pagers (Debian's with its responses filled in, ours) on a hypervisor, or on both, one after the
# other: the same guest, the same target, its pattern checked. Prints a line a cell; docs/xen-pager.md has a table of them.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$here/machine.sh"

case ${1:-both} in
    c | rust) flavours=("$1") ;;
    both) flavours=(c rust) ;;
    *) check_flavour "$1" ;;
esac
"$here/image.sh"
test=$(mktemp -d)
trap 'rm -rf "$test"' EXIT
cp "$here/dom0/lib.sh" "$test/"
cp "$here/dom0/matrix.sh" "$test/run"
echo fixed >"$test/first"
echo rust >"$test/second"
failed=0
for flavour in "${flavours[@]}"; do
    "$here/build.sh" "$flavour"
    log=$(new_run "matrix-$flavour")
    say "hypervisor $flavour (log: $log)"
    on_line() {
        case $1 in
            "cell "*) echo "hypervisor $flavour, pager ${1#cell }" ;;
            "reason: "* | *"Panic on CPU"* | *"domain_crash called"*) echo "hypervisor $flavour: $1" ;;
        esac
    }
    boot_machine "$flavour" "$test" "$log" "${XEN_TIMEOUT:-560}" on_line || { failed=1; say "ended with $?: see $log"; }
done
exit "$failed"
