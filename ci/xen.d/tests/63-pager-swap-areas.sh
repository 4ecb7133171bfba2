# SPDX-License-Identifier: MIT OR Apache-2.0
# Our pager with two swap areas in place of a pagefile, sandboxed as it is on a real Xen. Pages go
# to the area with the higher priority. That area is drained while the guest faults on its pages,
# and is given back, twice. Pattern intact, exit 0, both areas free in the end.
# deadline: 720
xenpaging-rust mkswap /tmp/first --size 24M >/dev/null && xenpaging-rust mkswap /tmp/second --size 48M >/dev/null ||
    bad "no swap areas were made"
guest_create w 96 1 "mib=32"
guest_ready w
guest_passes w 1
target "$domid" 73728
# shellcheck disable=SC2046
pager_start w "$domid" rust -r 512 --swap /tmp/first:1 --swap /tmp/second $(guest_only w)
# The slots in use in an area, from the pager's own list.
used() { xenpaging-rust swaps -d "$domid" | sed -n "s|^/tmp/$1: .*, \([0-9]*\) of .*|\1|p"; }
uses_at_least() { [ "$(used "$1")" -ge "$2" ] 2>/dev/null; }
wait_for paged_at_least "$domid" 5000 || bad "only $(paged "$domid") pages went out"
uses_at_least first 5000 || bad "the area with priority has $(used first) pages: $(xenpaging-rust swaps -d "$domid")"
for round in 1 2; do
    drained=$(xenpaging-rust swapoff -d "$domid" /tmp/first 2>&1) || bad "swapoff, round $round: $drained"
    xenpaging-rust swaps /tmp/first | grep -q ', free$' || bad "the drained area is not free: $(xenpaging-rust swaps /tmp/first)"
    uses_at_least second 1 || bad "the other area has $(used second) pages"
    guest_passes w 1
    xenpaging-rust swapon -d "$domid" /tmp/first:1 >/dev/null || bad "swapon, round $round"
    guest_passes w 1
done
# An area that a pager uses is refused to anybody else.
taken=$(xenpaging-rust mkswap /tmp/first 2>&1) && bad "an area in use was made anew"
pager_stop
guest_passes w 1
for area in first second; do
    xenpaging-rust swaps /tmp/$area | grep -q ', free$' || bad "$area is not free in the end"
done
echo "note: $drained; refused: $taken; $(tail -n 1 /tmp/pager-w.log), guest intact at pass $(guest_pass w)"
