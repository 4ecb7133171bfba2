# SPDX-License-Identifier: MIT OR Apache-2.0
# A running guest's balloon gives back memory that is out, under Debian's pager (its responses
# filled in), and takes it again.
# deadline: 900
# c-defect: giving back a page that is out fails, and Linux' balloon driver does not survive that
guest_create l 128 1 "mib=16 churn=4 xen_scrub_pages=0 init_on_alloc=0"
guest_ready l
guest_passes l 2
full=$(size_of "$domid")
target "$domid" 73728
pager_start l "$domid" fixed -v
wait_for paged_at_least "$domid" 12000 || bad "only $(paged "$domid") pages went out"
guest_passes l 2
guest_balloon l 112 $((full - 4096))
heard=$(grep -c drop_page /tmp/pager-l.log)
[ "$heard" -ge 500 ] || bad "of 4096 pages given back the pager heard of $heard that were out"
guest_passes l 2
guest_balloon l 128 "$full"
guest_passes l 2
target "$domid" 131072
pager_stop
guest_passes l 3
echo "note: $heard pages given back that were out, guest intact at pass $(guest_pass l)"
