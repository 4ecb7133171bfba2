# SPDX-License-Identifier: MIT OR Apache-2.0
# Our pager is killed with SIGKILL again and again, at random instants, while a guest of two vcpus
# works at half its memory. Another pager takes over from the index and the pagefile; every second one
# is killed only after it has taken over. The guest goes on, and its pattern is intact. A second pager
# is refused while the first one lives. The last one is upgraded: it ends with 5, and another takes
# over. At the end everything comes back, and no file is left.
# deadline: 1800
# c-defect: no pager can take over from another
kills=25
guest_create x 128 2 "mib=56 threads=2 share=1"
guest_ready x
guest_passes x 1
target "$domid" 65536
pager_start x "$domid" rust -r 512
wait_for paged_at_least "$domid" 12000 || bad "only $(paged "$domid") pages went out"
second=$(xenpaging-rust -d "$domid" -f /tmp/pagefile-x 2>&1)
[ $? = 3 ] || bad "a second pager is not refused: $second"
case $second in *"has a pager already"*) ;; *) bad "a second pager is refused with: $second" ;; esac
mkdir /tmp/pager-logs
seed=$(date +%s)
echo "seed $seed"
killed=0
serves() { grep -q 'taken over' /tmp/pager-x.log || pager_gone; }
while [ "$killed" -lt "$kills" ]; do
    killed=$((killed + 1))
    # An instant within two seconds.
    [ $((killed % 2)) = 1 ] || wait_for serves || bad "kill $killed: the pager does not take over: $(tail -n 2 /tmp/pager-x.log)"
    seed=$(((seed * 1103515245 + 12345) & 0x7fffffff))
    usleep $((seed % 2000000))
    kill -KILL "$pager" || bad "kill $killed: the pager is not there any more: $(tail -n 2 /tmp/pager-x.log)"
    wait "$pager"
    mv /tmp/pager-x.log "/tmp/pager-logs/$killed"
    pager_start x "$domid" rust -r 512
done
wait_for serves || bad "the last pager does not take over: $(tail -n 2 /tmp/pager-x.log)"
said=$(xenpaging-rust upgrade -d "$domid" 2>&1) || bad "upgrade: $said"
wait "$pager"
status=$?
[ $status = 5 ] || bad "the upgraded pager exited with $status, not 5"
mv /tmp/pager-x.log /tmp/pager-logs/upgraded
pager_start x "$domid" rust -r 512
wait_for serves || bad "nobody takes over from the upgraded pager: $(tail -n 2 /tmp/pager-x.log)"
guest_passes x 2
taken=$(cat /tmp/pager-logs/* /tmp/pager-x.log | grep -c 'taken over')
lost=$(cat /tmp/pager-logs/* /tmp/pager-x.log | sed -n 's/.*taken over.* lost_pages=\([0-9]*\).*/\1/p' | sort -n | tail -n 1)
[ "${lost:-0}" = 0 ] || bad "$lost pages are lost"
[ "$taken" -ge $((kills / 2)) ] || bad "only $taken of $kills pagers took over: $(cat /tmp/pager-x.log | head -n 3)"
target "$domid" 200000
wait_for paged_at_most "$domid" 0 || bad "$(paged "$domid") pages are still out"
pager_stop
guest_passes x 2
[ ! -e /tmp/pagefile-x ] && [ -z "$(ls /run/xenpaging)" ] || bad "left: $(ls /tmp/pagefile-x /run/xenpaging)"
echo "note: $killed pagers killed, $taken took over, guest intact at pass $(guest_pass x), worst page $(guest_worst x) us"
