# SPDX-License-Identifier: MIT OR Apache-2.0
# If our pager cannot do something, it says so in one line and with an exit code, and changes
# nothing. What it does, it reports on request.
# deadline: 600
# refused CODE WORDS ARGUMENTS...
refused() {
    local code=$1 words=$2 status=0; shift 2
    xenpaging-rust "$@" >/tmp/refused 2>&1 || status=$?
    [ $status = "$code" ] || bad "$*: exit $status, not $code: $(cat /tmp/refused)"
    [ "$(wc -l </tmp/refused)" = 1 ] || bad "$*: $(wc -l </tmp/refused) lines: $(cat /tmp/refused)"
    grep -q "$words" /tmp/refused || bad "$*: no '$words' in: $(cat /tmp/refused)"
}
refused 3 'no domain 999' -d 999 -f /tmp/pagefile-u
refused 2 "'0'" -d 0 -f /tmp/pagefile-u
guest_create u 96 1 "mib=16"
guest_ready u
own=$(pages "$domid")
touch /tmp/there
refused 3 'exists already' -d "$domid" -f /tmp/there
[ "$(pages "$domid")" = "$own" ] || bad "a refused pager left $(pages "$domid") pages of $own"
target "$domid" 90112
# shellcheck disable=SC2046
pager_start u "$domid" rust -r 512 --metrics 9100 $(guest_only u)
wait_for paged_at_least "$domid" 1000 || bad "only $(paged "$domid") pages went out"
refused 3 'has a pager already' -d "$domid" -f /tmp/pagefile-v
guest_passes u 2
ip link set lo up
wget -q -O /tmp/metrics http://127.0.0.1:9100/metrics || bad "no metrics for Prometheus"
grep -q "^xenpaging_evicted_pages_total{domain=\"$domid\"} [1-9]" /tmp/metrics || bad "no evicted pages: $(cat /tmp/metrics)"
xenpaging-rust status >/tmp/metrics || bad "xenpaging status: exit $?"
grep -q "^domain $domid: .* evicted_pages=[1-9]" /tmp/metrics || bad "no evicted pages: $(cat /tmp/metrics)"
pager_stop
refused 3 'has no pager' status -d "$domid"
mount -t tmpfs hidden /dev/xen
mount -t tmpfs hidden /proc/xen
refused 3 'no Xen here' -d "$domid" -f /tmp/pagefile-u
umount /dev/xen /proc/xen
guest_passes u 2
echo "note: every refusal in one line"
