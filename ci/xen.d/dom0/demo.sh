# SPDX-License-Identifier: MIT OR Apache-2.0
# What `ci/xen demo` runs in dom0: a guest that writes and checks its memory all the time is paged
# out and in.
. /test/lib.sh
show() { echo "demo: $*"; }
line() {
    set -- $(dominfo "$domid")
    show "$(printf 'resident %3d MiB, paged out %5d pages | guest: pass %s, wrong words %s, slowest page %s us' \
        $(($1 / 256)) "$2" "$(guest_pass g)" "$(guest_number g bad)" "$(guest_number g worst_us)")"
}
watch_it() {
    local end=$(($(cut -d. -f1 /proc/uptime) + $1)); shift
    until "$@"; do
        line
        [ "$(cut -d. -f1 /proc/uptime)" -lt "$end" ] || return 1
        sleep 3
    done
    line
}
show "creating a guest of 192 MiB that fills 112 MiB with a pattern and checks every word of it, pass after pass"
guest_create g 192 1 "mib=112"
guest_ready g
guest_passes g 1
line
show "the pager is told: half of that is enough"
target "$domid" 98304
# shellcheck disable=SC2046
pager_start g "$domid" rust -r 512 $(guest_only g)
watch_it 300 paged_at_least "$domid" 24000 || bad "the guest did not shrink"
show "xenpaging status: $(xenpaging-rust status)"
show "the guest goes on, its faults bring pages back while others go"
at=$(($(guest_pass g) + 1))
watch_it 300 past_pass g $at || bad "the guest stood still"
show "SIGTERM to the pager: everything comes back"
kill -TERM "$pager"
watch_it 300 pager_gone || bad "the pager did not end"
wait "$pager" || bad "the pager exited with $?"
[ "$(paged "$domid")" = 0 ] || bad "$(paged "$domid") pages are still out"
guest_passes g 2
line
guest_intact g
show "no wrong word in $(guest_pass g) passes"
