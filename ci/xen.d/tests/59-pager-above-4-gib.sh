# SPDX-License-Identifier: MIT OR Apache-2.0
# A guest of 4.5 GiB whose pattern lies above 4 GiB, at gfns above the number of its pages: a third
# of it goes out and comes back intact. Not part of ci/test: it needs a machine with 8 GiB.
# deadline: 1200
# memory: 6656
guest_create z 4608 1 "mib=96"
guest_ready z
guest_passes z 1
high=$(guest_log z | sed -n 's/^pattern gfns//p' | tr ' ' '\n' | grep '^0x1[0-9a-f]\{5\}-')
[ -n "$high" ] || bad "nothing of the guest's pattern lies above 4 GiB"
target "$domid" $((($(size_of "$domid") - 8192) * 4))
xl pause z
# shellcheck disable=SC2046
pager_start z "$domid" rust -r 512 $(echo "$high" | sed 's/^/--only-gfns /')
wait_for paged_at_least "$domid" 8000 || bad "only $(paged "$domid") pages went out"
refused=$(xenpaging-rust status -d "$domid" | sed -n 's/.* refused_pages=\([0-9]*\).*/\1/p')
# Some pages come back because the guest needs them, the others because the target rises.
xl unpause z
target "$domid" $((4608 * 1024))
guest_passes z 1
pager_stop
guest_passes z 1
echo "note: $(echo "$high" | tr '\n' ' ')are above 4 GiB, $refused refused; $(tail -n 1 /tmp/pager-z.log), guest intact at pass $(guest_pass z)"
