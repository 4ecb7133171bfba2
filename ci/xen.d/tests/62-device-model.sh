# SPDX-License-Identifier: MIT OR Apache-2.0
# Our pager beside a device model that has pages of the guest mapped (a stand-in that takes commands
# as qemu-traditional does). The pages are in use and stay resident. The device model is told to
# unmap them, and then they go out and come back.
# deadline: 720
guest_create dm 96 1 "mib=16"
guest_ready dm
guest_passes dm 1
set -- $(guest_only_gfns dm)
first=${1%-*}
device-model "$domid" "$first" 256 >/tmp/device-model.log 2>&1 &
echo $! >>/tmp/pagers
wait_for grep -q '^256 frames mapped' /tmp/device-model.log || bad "no device model: $(cat /tmp/device-model.log)"
target "$domid" 90112
# The pager may choose mapped pages only.
pager_start dm "$domid" rust -r 0 --only-gfns "$(printf '%#x-%#x' "$first" $((first + 255)))"
wait_for grep -q '^flush-cache' /tmp/device-model.log || bad "the device model is not told to let go of pages, $(paged "$domid") out"
told=$(sed -n 's/^flush-cache //p' /tmp/device-model.log | head -n 1)
[ "$told" = 'with 256 frames mapped, 0 pages out' ] || bad "told $told"
# The guest goes on using them.
wait_for paged_at_least "$domid" 64 || bad "$(paged "$domid") of 256 pages out that the device model had"
guest_passes dm 2
pager_stop
guest_passes dm 1
! xenstore-exists "/local/domain/0/device-model/$domid/command" || bad "a command is left behind"
echo "note: told $(grep -c '^flush-cache' /tmp/device-model.log) times, the first $told; $(tail -n 1 /tmp/pager-dm.log)"
