# SPDX-License-Identifier: MIT OR Apache-2.0
# Two guests under one pager, on a host whose memory becomes short because more guests come. Pages
# of the idle guest go out, those of the busy one stay. When only reserves are left, one guest gives
# them and the log says why. When the new guests are gone, memory comes back. The end of one guest
# does not affect the other. Patterns intact, exit 0, nothing out.
# deadline: 1200
guest_create idle 192 1 "mib=8 rest=5000"
idle=$domid
guest_create busy 128 1 "mib=64"
busy=$domid
guest_ready idle
guest_ready busy
figure() { xenstore-read "/local/domain/$1/memory/paging" | sed -n "s/.* $2=\([0-9]*\).*/\1/p"; }
free=$(free_pages)
kib() { echo "$(((free - $1) * 4))K"; }
xenpaging-rust -v --guest "$idle:/tmp/pagefile-idle" --guest "$busy:/tmp/pagefile-busy" --metrics 9100 \
    --watermarks "$(kib 8192),$(kib 2560),$(kib 2048)" >/tmp/pager-w.log 2>&1 &
pager=$!
echo "$pager" >>/tmp/pagers
# The pages that they use are known after two passes over their accessed bits (512 pages together,
# where Xen maps them together).
idle_is_seen() { [ "$(figure "$idle" working_set_pages)" -lt 20000 ] && [ "$(figure "$busy" working_set_pages)" -gt 15000 ]; }
wait_for idle_is_seen || bad "used: $(figure "$idle" working_set_pages) by the idle one, $(figure "$busy" working_set_pages) by the busy one"
[ "$(paged "$idle")" = 0 ] && [ "$(paged "$busy")" = 0 ] || bad "pages are out although the host has enough free memory"
used="$(figure "$idle" working_set_pages) $(figure "$busy" working_set_pages)"

# A new guest of 64 MiB that does not run.
guest_create newcomer 64 1 "mib=1" -p
newcomer=$domid
there_is_room() { free_at_least $((free - 2560)); }
wait_for there_is_room || bad "$((free - $(free_pages))) pages fewer are free after a newcomer came: $(tail -n 2 /tmp/pager-w.log)"
first="$(paged "$idle") $(paged "$busy")"
# shellcheck disable=SC2086
set -- $first
[ "$1" -ge 8000 ] || bad "only $1 pages of the idle guest are out"
[ "$2" -le $(($1 / 8)) ] || bad "$2 pages of the busy guest are out beside $1 of the idle one"
guest_passes busy 1
guest_passes idle 1
ip link set lo up
wget -q -O - http://127.0.0.1:9100/metrics >/tmp/metrics || bad "no metrics for Prometheus"
for id in "$idle" "$busy"; do
    grep -q "^xenpaging_balance_limit_pages{domain=\"$id\"} [0-9]" /tmp/metrics || bad "no metrics of domain $id: $(head -n 3 /tmp/metrics)"
done
[ "$(xenpaging-rust status | grep -c 'working_set_pages=')" = 2 ] || bad "status: $(xenpaging-rust status)"
# All or none: after a pager that could not attach to the busy guest, the new guest has none either,
# so that the second try ends as the first.
for try in 1 2; do
    said=$(xenpaging-rust --guest "$newcomer:/tmp/pagefile-n" --guest "$busy:/tmp/pagefile-b" 2>&1)
    [ $? = 3 ] || bad "try $try: a pager for a guest that has one is not refused: $said"
    case $said in "xenpaging: domain $busy "*" has a pager already") ;; *) bad "try $try: $said" ;; esac
done

# More than both can give without their reserves. They are paused, so that nothing comes in
# meanwhile.
xl pause idle
xl pause busy
guest_create large 320 1 "mib=1" -p
one_has_paid() { grep -q 'pays with all it can give' /tmp/pager-w.log; }
wait_for one_has_paid || bad "nobody pays: $(paged "$idle") and $(paged "$busy") out, $((free - $(free_pages))) fewer free: $(tail -n 3 /tmp/pager-w.log)"
paid=$(grep 'pays with all it can give' /tmp/pager-w.log | head -n 1 | sed 's/.*WARN //')

# Everything comes back, bit by bit, once they are gone.
xl destroy large
xl destroy newcomer
xl unpause busy
xl unpause idle
back() { [ "$(paged "$idle")" = 0 ] && [ "$(paged "$busy")" = 0 ]; }
wait_for back || bad "$(paged "$idle") and $(paged "$busy") pages out after the newcomers went: $(tail -n 2 /tmp/pager-w.log)"
guest_passes busy 1
guest_passes idle 1

xl destroy idle
idle_is_over() { [ "$(grep -c ' done ' /tmp/pager-w.log)" = 1 ]; }
wait_for idle_is_over || bad "the pager of a guest that is gone does not end: $(tail -n 2 /tmp/pager-w.log)"
target "$busy" 81920
wait_for paged_at_least "$busy" 3000 || bad "only $(paged "$busy") pages went out after the other guest's end"
domid=$busy
pager_stop
guest_passes busy 1
echo "note: used (idle, busy) $used; out for a newcomer $first; $paid"
