# SPDX-License-Identifier: MIT OR Apache-2.0
# Our pager keeps a guest of 96 MiB at half of it. All frames may go out, those of its kernel too.
# Pattern intact, exit 0.
# deadline: 720
# c-defect-sometimes: a hypercall whose argument was paged out fails, and Linux dies of it
guest_create w 96 1 "mib=32"
guest_ready w
guest_passes w 2
target "$domid" 49152
pager_start w "$domid" rust -r 512
wait_for paged_at_least "$domid" 10000 || bad "only $(paged "$domid") pages went out"
guest_passes w 2
target "$domid" 98304
pager_stop
guest_passes w 3
echo "note: $(tail -n 1 /tmp/pager-w.log), guest intact at pass $(guest_pass w)"
