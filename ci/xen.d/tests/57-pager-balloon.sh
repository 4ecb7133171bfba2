# SPDX-License-Identifier: MIT OR Apache-2.0
# The free memory of a running guest, a quarter of its 256 MiB, is out. Its balloon gives half of it
# back. Our pager is told of each page, counts it and uses its slot again. The guest takes that
# memory again, it goes out again, and every word is right.
# deadline: 900
# c-defect: giving back a page that is out fails, and Linux' balloon driver does not survive that
guest_create k 256 1 "mib=112 spare=64 churn=4 xen_scrub_pages=0 init_on_alloc=0"
guest_ready k
guest_passes k 2
full=$(size_of "$domid")
target "$domid" 196608
# shellcheck disable=SC2046
pager_start k "$domid" rust -r 512 --keep-pagefile $(guest_log k | sed -n 's/^spare gfns//p' | sed 's/ / --only-gfns /g')
most=$((full - 49152))
wait_for paged_at_least "$domid" $((most - 3072)) || bad "only $(paged "$domid") pages went out"
guest_passes k 2
guest_balloon k 224 $((full - 8192))
figure() { xenpaging-rust status -d "$domid" | sed -n "s/.* $1=\([0-9]*\).*/\1/p"; }
# Of a page that was only nominated there is no copy to drop.
# shellcheck disable=SC2046
set -- $(xen_counters "$domid" dropped nominated evicted)
dropped=$1 in_place=$(($2 - $3))
heard() { forgotten=$(figure dropped_pages); [ "$forgotten" -le "$dropped" ] && [ "$forgotten" -ge $((dropped - in_place)) ]; }
wait_for heard || bad "Xen dropped $dropped pages, $in_place of them perhaps in place, the pager knows of $forgotten"
[ "$forgotten" -ge 1000 ] || bad "of 8192 pages given back only $forgotten were out"
# Fewer pages are to be out than there are unused ones: memory that the guest takes in each pass may
# stay resident.
target "$domid" 204800
guest_passes k 2
guest_balloon k 256 "$full"
wait_for paged_at_least "$domid" $((most - 3072)) || bad "only $(paged "$domid") pages went out again"
guest_passes k 2
slots=$(($(wc -c </tmp/pagefile-k) / 4096))
# Not more than were ever out together, plus two batches.
[ "$slots" -le $((most + 1024)) ] || bad "$slots slots for $most pages: those of dropped pages are lost"
target "$domid" 262144
pager_stop
guest_passes k 3
echo "note: $forgotten pages given back that were out, $slots slots; $(tail -n 1 /tmp/pager-k.log), guest intact at pass $(guest_pass k)"
