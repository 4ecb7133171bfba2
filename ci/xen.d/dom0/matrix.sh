# One hypervisor's half of `ci/xen matrix`: the same guest under Debian's pager (its responses filled in) and under ours.
# Prints "cell PAGER out/s back/s faults/s fault_us calls_per_page peak_kib".
. /test/lib.sh
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
    local which=$1 options='' out_rate back_rate began
    guest_create m 96 1 "mib=32"
    guest_ready m
    guest_passes m 2 60
    # Ours is kept to the guest's pattern: the guest's own kernel cannot bear that all its pages go.
    [ "$which" != rust ] || options="-r 512 $(guest_only m)"
    target "$domid" 73728
    xl pause m
    # shellcheck disable=SC2086
    pager_start m "$domid" "$which" $options
    at to 500 60; began=$ms had=$out
    at to 5500 120; out_rate=$(rate $((out - had)) "$began" "$ms")
    # It works against the target from here on.
    xl unpause m
    sleep 3
    local slow us
    slow=$(number slow) us=$(number slow_us) began=$(cut -d. -f1 /proc/uptime)
    guest_passes m 1 60
    sleep 20
    guest_passes m 1 60
    local took=$(($(cut -d. -f1 /proc/uptime) - began))
    slow=$(($(number slow) - slow)) us=$(($(number slow_us) - us))
    xl pause m
    local peak; peak=$(awk '/^VmHWM/ { print $2 }' "/proc/$pager/status")
    sleep 1
    local left; left=$(paged "$domid")
    kill -TERM "$pager"
    set -- $(paced "$domid" to 0 1); began=$1
    at from 0 200; back_rate=$(rate "$left" "$began" "$ms")
    wait_for 60 pager_gone || bad "the pager does not end"
    wait "$pager" || bad "the pager exited with $?"
    xl unpause m
    guest_passes m 3 60
    # Pages that went out and came back, in all.
    local calls moved
    case $which in
        rust) moved=$(sed -n 's/.* evicted=\([0-9]*\).*/\1/p' /tmp/pager-m.log | tail -n 1) ;;
        *) moved=$(sed -n 's/^responses \([0-9]*\).*/\1/p' /tmp/pager-m.log) ;;
    esac
    calls=$(sed -n 's/.*hypercalls=\([0-9]*\) maps=\([0-9]*\).*/\1 \2/p' /tmp/pager-m.log | tail -n 1)
    echo "cell $which out/s $out_rate back/s $back_rate faults/s $((slow / took)) fault_us $((us / (slow ? slow : 1))) calls $calls moved $moved peak_kib $peak pages_back $left"
    guest_intact m
    xl destroy m
    rm -f /tmp/pager-m.log /tmp/pagefile-m
}
cell "$(cat /test/first)"
cell "$(cat /test/second)"
