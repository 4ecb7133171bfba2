# SPDX-License-Identifier: MIT OR Apache-2.0
# The pagefile's disk is full: page-out stops where it is and says so, the guest goes on, and
# everything comes back.
# deadline: 600
mkdir -p /tmp/small
mount -t tmpfs -o size=8m small /tmp/small || bad "no small file system"
guest_create t 96 1 "mib=32"
guest_ready t
guest_passes t 2
target "$domid" 73728
# shellcheck disable=SC2046
pager_start t "$domid" rust -f /tmp/small/pagefile -r 512 $(guest_only t)
wait_for grep -q 'store is full' /tmp/pager-t.log || bad "nothing said of a full disk, $(paged "$domid") pages out"
# The running guest brings pages back. Their copies keep their slots on the disk until others need
# them.
xl pause t
wait_for paged_at_least "$domid" 1500 || bad "$(paged "$domid") pages out on a disk for 2048"
out=$(paged "$domid")
[ "$out" -le 2048 ] || bad "$out pages out on a disk for 2048"
xl unpause t
guest_passes t 3
pager_stop
guest_passes t 2
umount /tmp/small
echo "note: $out pages on a disk for 2048, guest intact at pass $(guest_pass t)"
