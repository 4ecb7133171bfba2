# SPDX-License-Identifier: MIT OR Apache-2.0
# A running guest's own faults bring its pages back (Debian's pager, its responses filled in):
# pattern intact, exit 0.
# deadline: 600
guest_create b 96 1 "mib=32"
guest_ready b
guest_passes b 1
target "$domid" 83968
pager_start b "$domid" fixed
wait_for paged_at_least "$domid" 3000 || bad "only $(paged "$domid") pages went out"
guest_passes b 2
target "$domid" 98304
pager_stop
guest_passes b 1
echo "note: $(grep responses /tmp/pager-b.log | tail -n 1), guest intact at pass $(guest_pass b)"
