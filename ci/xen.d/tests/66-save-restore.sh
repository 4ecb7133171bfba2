# SPDX-License-Identifier: MIT OR Apache-2.0
# A guest that lives at half its memory is saved and restored, ten times. The save gets each page
# that is out from the pager. The pager ends with the saved domain, and a new pager holds the
# restored one at half its memory again. Then the guest is migrated while it runs, to this host. Its
# pattern is intact each time.
# deadline: 2400
# c-defect: the save takes pages that are out for pages that do not exist, and the restored guest lacks them
guest_create s 64 1 "mib=16"
guest_ready s
guest_passes s 1
half() {
    target "$domid" 32768
    pager_start s "$domid" rust -r 512
    wait_for resident_at_most "$domid" 8704 || bad "round $round: $(pages "$domid") pages are resident"
    out="$out $(paged "$domid")"
}
# The old domain is gone, its pager has ended with it, and the new domain goes on.
moved() {
    wait_for pager_gone || bad "round $round: the pager does not end with its domain"
    wait "$pager" || bad "round $round: the pager of the saved domain exited with $?"
    rm -f /tmp/pagefile-s
    domid=$(xl domid s) || bad "round $round: the restored domain is not there"
    guest_passes s 1
}
out='' round=0
while [ "$round" -lt 10 ]; do
    round=$((round + 1))
    half
    xl save s /tmp/saved >/tmp/save.log 2>&1 || bad "round $round: xl save: $(tail -n 3 /tmp/save.log)"
    xl restore /tmp/saved >/tmp/restore.log 2>&1 || bad "round $round: xl restore: $(tail -n 3 /tmp/restore.log)"
    rm /tmp/saved
    moved
done
half
xl migrate -s 'sh -c "shift; exec \"\$@\"" sh' s localhost >/tmp/migrate.log 2>&1 ||
    bad "xl migrate: $(tail -n 3 /tmp/migrate.log)"
moved
half
pager_stop
guest_passes s 1
echo "note: pages out each time:$out; guest intact at pass $(guest_pass s)"
