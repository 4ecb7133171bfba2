# SPDX-License-Identifier: MIT OR Apache-2.0
# A guest reads a quarter of its pattern over and over while it goes over the rest once. There is
# room for about two thirds of the pattern. Our pager sees accessed bits, and brings in less than
# 0.8 of the pages that it brings in when it takes pages in turn. On Xen's C it sees none, says so,
# and takes pages in turn.
# deadline: 1200
sees() { grep -q "accessed_bits=$1" /tmp/pager-a.log || bad "the pager does not say that accessed_bits=$1"; }
came_in() { xenpaging-rust status -d "$domid" | sed -n 's/.* paged_in_pages=\([0-9]*\).*/\1/p'; }
# page_ins OPTIONS...: how many pages come in during each of four passes of the guest, after the pager has
# seen three; a pass on average: $in.
page_ins() {
    guest_create a 96 1 "mib=24 hot=25"
    guest_ready a
    target "$domid" 18432
    xl pause a
    pager_start a "$domid" rust "$@"
    wait_for paged_at_least "$domid" 19500 || bad "only $(paged "$domid") pages went out"
    xl unpause a
    guest_passes a 3
    local from_pass from_in
    from_pass=$(guest_pass a) from_in=$(came_in)
    guest_passes a 4
    in=$((($(came_in) - from_in) / ($(guest_pass a) - from_pass)))
    target "$domid" 98304
    pager_stop
    guest_passes a 1
    xl destroy a
}
if [ "$(cat /test/flavour)" = rust ]; then
    # The usual 64 MiB of spared pages would be more than half of so small a guest.
    page_ins --policy sweep -r 256
    in_turn=$in
    page_ins
    sees true
    echo "note: $in pages came in for each pass, $in_turn when they were taken in turn"
    [ $((in * 10)) -lt $((in_turn * 8)) ] || bad "$in pages came in for each pass, $in_turn when they were taken in turn"
else
    page_ins
    sees false
    echo "note: no accessed bits, pages were taken in turn"
fi
