# A Linux guest's balloon takes pages that are out: they are given back, the pager forgets them, the guest stays intact, and
# gets its memory again.
# deadline: 240
# own-boot: C loses the guest here
# c-defect: a page that is out cannot be given back (p2m_remove_entry fails with EILSEQ): Linux's balloon driver stops with a BUG
# Pages are not written before they are given back, else each would come in first.
guest_create f 96 1 "mib=32 xen_scrub_pages=0 init_on_alloc=0 init_on_free=0"
guest_ready f
guest_passes f 1 60
target "$domid" 73728
pager_start f "$domid" fixed -v
wait_for 60 paged_at_least "$domid" 5000 || bad "only $(paged "$domid") pages went out in 60 s"
out=$(paged "$domid")
xl mem-set f 80 || bad "xl mem-set failed"
held() { set -- $(dominfo "$domid"); [ $(($1 + $2)) -le "$held_at_most" ]; }
held_at_most=$((82 * 256))
wait_for 90 held || bad "the balloon took only $((96 * 256 - $(pages "$domid") - $(paged "$domid"))) pages: $(guest_lost f | head -n 1)"
guest_passes f 2 90
heard=$(grep -c 'drop_page' /tmp/pager-f.log)
[ "$heard" -gt 100 ] || bad "the pager heard of $heard pages given back"
xl mem-set f 96 || bad "xl mem-set failed"
held_again() { ! held; }
held_at_most=$((94 * 256))
wait_for 90 held_again || bad "the guest did not get its memory again"
target "$domid" 98304
pager_stop 60
guest_passes f 2 60
echo "note: $out pages out, $heard given back and forgotten, guest intact at pass $(guest_pass f)"
