# SPDX-License-Identifier: MIT OR Apache-2.0
# Pages are gone for good: the pagefile is overwritten while no pager runs, and the next pager takes
# over. A guest that needs such a page is paused, once, and no word is ever wrong. Unpaused, it waits on.
# With --on-loss crash it crashes instead, when it is unpaused and asks again.
# deadline: 900
# c-defect: no pager can take over from another
state() { xl list "$1" | awk 'NR == 2 { print $5 }'; }
state_has() { case $(state "$1") in *"$2"*) return 0 ;; esac; return 1; }
said() { [ "$(grep -c "$1" /tmp/pager-x.log)" -ge "${2:-1}" ]; }
guest_create x 96 1 "mib=16"
guest_ready x
guest_passes x 1
target "$domid" 49152
pager_start x "$domid" rust -r 512
wait_for paged_at_least "$domid" 8000 || bad "only $(paged "$domid") pages went out"

# The guest asks for nothing while the pages are spoilt.
xl pause x
kill -KILL "$pager"
wait "$pager"
bytes=$(wc -c </tmp/pagefile-x)
yes spoilt | dd of=/tmp/pagefile-x conv=notrunc bs=65536 count=$((bytes / 65536)) iflag=fullblock 2>/dev/null ||
    bad "the pagefile cannot be overwritten"
pager_start x "$domid" rust -r 512
wait_for said 'taken over' || bad "no take-over: $(tail -n 2 /tmp/pager-x.log)"
! said 'is lost' || bad "said before anybody needs a page: $(grep 'is lost' /tmp/pager-x.log)"
xl unpause x
wait_for said 'is lost, and somebody needs it: .*The guest is paused' || bad "nothing said of a page that is gone: $(tail -n 3 /tmp/pager-x.log)"
state_has x p || bad "the guest is not paused: $(state x)"
xenpaging-rust status -d "$domid" | grep -q ' lost_pages=[1-9]' || bad "no lost pages in: $(xenpaging-rust status -d "$domid")"
guest_intact x
# It waits on, and is not paused again.
xl unpause x
sleep 3
! state_has x p || bad "paused twice"
[ "$(grep -c 'The guest is paused' /tmp/pager-x.log)" = 1 ] || bad "said again and again"
guest_intact x

kill -KILL "$pager"
wait "$pager"
pager_start x "$domid" rust -r 512 --on-loss crash
wait_for said 'is lost, and somebody needs it: .*The guest is crashed' || bad "nothing said of a crash: $(tail -n 3 /tmp/pager-x.log)"
wait_for state_has x c || bad "the guest is not crashed: $(state x)"
xl destroy x
wait "$pager"
[ $? = 0 ] || bad "the pager of a guest that is gone: $(tail -n 2 /tmp/pager-x.log)"
[ ! -e /tmp/pagefile-x ] && [ -z "$(ls /run/xenpaging)" ] || bad "left: $(ls /tmp/pagefile-x /run/xenpaging)"
echo "note: $(grep -o 'gfn 0x[0-9a-f]* is lost[^.]*' /tmp/pager-x.log | head -n 1)"
