# SPDX-License-Identifier: MIT OR Apache-2.0
# Six times on one guest: our pager starts, a quarter of the guest's memory goes out, SIGTERM
# brings it back. Nothing leaks: the domain's pages and Xen's free memory are as before, and the
# guest's pattern is intact.
# deadline: 1260
guest_create r 96 1 "mib=32"
guest_ready r
guest_passes r 2
target "$domid" 73728
round=0
while [ $round -lt 6 ]; do
    round=$((round + 1))
    # shellcheck disable=SC2046
    pager_start r "$domid" rust -r 512 $(guest_only r)
    wait_for paged_at_least "$domid" 4000 || bad "round $round: only $(paged "$domid") pages went out"
    pager_stop
    # The first round takes the ring's page from the guest, and memory for Xen's state of the
    # domain.
    [ $round -gt 1 ] || { own=$(pages "$domid"); before=$(free_pages); }
    [ "$(pages "$domid")" = "$own" ] || bad "round $round: $(pages "$domid") pages, $own before"
    guest_intact r
done
guest_passes r 2
# Less than a frame a round: one or two frames come and go by themselves.
wait_for free_at_least $((before - 4)) || bad "$((before - $(free_pages))) pages of the host are lost"
echo "note: $round rounds, $(tail -n 1 /tmp/pager-r.log), guest intact at pass $(guest_pass r)"
