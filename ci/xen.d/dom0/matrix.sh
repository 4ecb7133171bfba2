# SPDX-License-Identifier: MIT OR Apache-2.0
# One boot of `ci/xen matrix`: the same guest under Debian's pager (its responses filled in) and
# under ours, in the order of /test/pagers. Both are restricted to the frames of the guest's pattern
# and take them in turn, and both spare the same number of pages that came in lately. Read-ahead is
# off: every page of the pattern is to be out when its turn comes.
# Prints "cell PAGER NAME VALUE ...".
. /test/lib.sh
# A page for which the guest needed longer than this was out.
slow_us=$(cat /test/slow_us)
# rate PAGES FROM_MS TO_MS
rate() { echo $(($1 * 1000 / ($3 - $2 > 0 ? $3 - $2 : 1))); }
# at DIRECTION N SECONDS: sets $ms and $out.
at() {
    set -- $(paced "$domid" "$@") || true
    [ $# = 2 ] || bad "not there after $3 s: $(paged "$domid") pages out"
    ms=$1 out=$2
}
number() { guest_number m "$1"; }

cell() {
    local which=$1 only='' out_ns back_ns out_rate back_rate began had slow us ms_before passes
    guest_create m 96 1 "mib=32 slow_us=$slow_us"
    guest_ready m
    guest_passes m 2
    target "$domid" 73728
    xl pause m
    ONLY_GFNS=$(guest_only_gfns m)
    export ONLY_GFNS
    [ "$which" != rust ] || only="--policy sweep --no-read-ahead $(guest_only m)"
    # shellcheck disable=SC2086
    pager_start m "$domid" "$which" -r 512 $only
    at to 500 60; began=$ms had=$out
    at to 5500 120; out_rate=$(rate $((out - had)) "$began" "$ms") out_ns=$(((ms - began) * 1000000 / (out - had)))
    # From here on the guest runs above the target: every page of the pattern is out when its turn
    # comes.
    xl unpause m
    guest_passes m 1
    slow=$(number slow) us=$(number slow_us) ms_before=$(number at_ms) passes=$(guest_pass m)
    guest_passes m 2
    passes=$(($(guest_pass m) - passes)) ms_before=$(($(number at_ms) - ms_before))
    slow=$(($(number slow) - slow)) us=$(($(number slow_us) - us))
    local p50 p99 peak left
    p50=$(number p50_us) p99=$(number p99_us)
    xl pause m
    peak=$(awk '/^VmHWM/ { print $2 }' "/proc/$pager/status")
    sleep 1
    left=$(paged "$domid")
    kill -TERM "$pager"
    set -- $(paced "$domid" to 0 1); began=$1
    at from 0 200; back_rate=$(rate "$left" "$began" "$ms") back_ns=$(((ms - began) * 1000000 / left))
    wait_for pager_gone || bad "the pager does not end"
    wait "$pager" || bad "the pager exited with $?"
    xl unpause m
    guest_passes m 3
    # All pages that went out and came back, and the calls that they took.
    local calls moved
    case $which in
        rust) moved=$(sed -n 's/.* evicted=\([0-9]*\).*/\1/p' /tmp/pager-m.log | tail -n 1) ;;
        *) moved=$(sed -n 's/^responses \([0-9]*\).*/\1/p' /tmp/pager-m.log) ;;
    esac
    calls=$(sed -n 's/.*hypercalls=\([0-9]*\) maps=\([0-9]*\).*/\1 \2/p' /tmp/pager-m.log | tail -n 1)
    # shellcheck disable=SC2086
    set -- $calls
    guest_intact m
    echo "cell $which out/s $out_rate back/s $back_rate faults/s $(rate "$slow" 0 "$ms_before")" \
        "fault_us $((us / (slow ? slow : 1))) p50_us $p50 p99_us $p99" \
        "calls $(awk "BEGIN { printf \"%.2f\", ($1 + $2) / 2 / $moved }") peak_kib $peak" \
        "out_ns $out_ns back_ns $back_ns cycle_ns $((ms_before * 1000000 / (slow ? slow : 1)))" \
        "faults/pass $((slow / passes)) moved $moved"
    xl destroy m
    rm -f /tmp/pager-m.log /tmp/pagefile-m
}
for pager_kind in $(cat /test/pagers); do cell "$pager_kind"; done
