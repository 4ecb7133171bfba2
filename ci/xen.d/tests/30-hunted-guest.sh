# SPDX-License-Identifier: MIT OR Apache-2.0
# A hunted guest, all of whose memory may go out: its stacks, page tables, IDT and per-cpu pages go
# out over and over while it makes hypercalls all the time, and so do the arguments of these
# hypercalls. 200 cycles out and in (80 where the machine is slow). At the end the guest is alive
# and intact.
# deadline: 900
# own-boot: C can hang the host here
# c-defect: a hypercall whose argument is paged out fails with EFAULT (hvm_translate_get_page, copy_from_user_hvm); the guest's kernel dies of it
cycles=200
[ "$(cat /test/machine)" = qemu ] || cycles=80
guest_create h 96 1 "mib=16 naps=1 asks=1 rest=20"
guest_ready h
asked() { local n; n=$(guest_number h asks); [ "${n:-0}" -ge 20 ]; }
wait_for asked || bad "the guest makes no hypercalls"
guest_passes h 1
# shellcheck disable=SC2046
hunter "$domid" 24576 1 "$cycles" $(guest_log h | sed -n 's/^asks gfns//p') >/tmp/pager-h.log 2>&1 &
pager=$!
echo "$pager" >>/tmp/pagers
hunted() { pager_gone || guest_lost h >/dev/null; }
wait_for hunted || bad "the hunt stands still: $(tail -n 1 /tmp/pager-h.log)"
guest_intact h
wait "$pager" || bad "the hunter ended with $?"
guest_passes h 2
echo "note: $(tail -n 1 /tmp/pager-h.log)"
xl debug-keys q
again=$(xl dmesg | sed -n 's/.*hypercalls executed again \([0-9]*\).*/\1/p' | tail -n 1)
[ "$(cat /test/flavour)" = c ] || [ "${again:-0}" -gt 0 ] || bad "no hypercall has missed a page: this shows nothing"
echo "note: guest intact at pass $(guest_pass h), $(guest_number h naps) naps, $(guest_number h asks) hypercalls with arguments left alone, ${again:-0} executed again, worst page $(guest_worst h) us"
