# SPDX-License-Identifier: MIT OR Apache-2.0
# A sixth of a paused guest's memory goes out and comes back through foreign maps. Then the guest
# boots, and its pattern is intact.
# deadline: 600
guest_create a 96 1 "mib=32" -p
target "$domid" 81920
pager_start a "$domid" c
wait_for paged_at_least "$domid" 4096 || bad "only $(paged "$domid") pages went out"
out=$(paged "$domid")
target "$domid" 200000
wait_for paged_at_most "$domid" 0 || bad "$(paged "$domid") of $out pages still out after the target was raised"
pager_stop
xl unpause a
guest_ready a
guest_passes a 5
echo "note: $out pages out and in, guest intact at pass $(guest_pass a)"
