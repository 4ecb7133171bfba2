# SPDX-License-Identifier: MIT OR Apache-2.0
# A guest that lives at half its memory is saved and restored. A save while pages are out brings them
# in, or it is refused, says so, and the guest goes on: which of both, Linux decides by where the
# pages lie. Once its target is raised and everything is in, it is saved and restored. The pager ends
# with the saved domain, and a new pager holds the restored one at half its memory again. Then the
# guest is migrated to this host while it runs. Its pattern is intact each time.
# deadline: 2400
# c-defect: the save takes pages that are out for pages that do not exist, and the restored guest lacks them
incoming=/var/log/xen/console/guest-s--incoming.log
out='' round=0
guest_create s 96 1 "mib=16"
guest_ready s
guest_passes s 1
half() {
    target "$domid" 49152
    pager_start s "$domid" rust -r 512
    wait_for resident_at_most "$domid" 12800 || bad "round $round: $(pages "$domid") pages are resident"
    out="$out $(paged "$domid")"
}
whole() {
    target "$domid" 200000
    wait_for paged_at_most "$domid" 0 || bad "round $round: $(paged "$domid") pages are out after the target was raised"
}
# The old domain is gone, its pager has ended with it, and the new domain goes on. A domain that was
# migrated has a log of its own.
moved() {
    wait_for pager_gone || bad "round $round: the pager does not end with its domain"
    wait "$pager" || bad "round $round: the pager of the saved domain exited with $?"
    domid=$(xl domid s) || bad "round $round: the restored domain is not there"
    [ ! -e "$incoming" ] || ln -f "$incoming" /var/log/xen/console/guest-s.log
    guest_passes s 1
}
restored() {
    xl restore /tmp/saved >/tmp/restore.log 2>&1 || bad "round $round: xl restore: $(tail -n 3 /tmp/restore.log)"
    rm /tmp/saved
    moved
    half
}
half
if xl save s /tmp/saved >/tmp/save.log 2>&1; then
    first='brought them in'
    restored
else
    first=$(sed -n 's/.*error: \(Mapping of pfn .* failed [-0-9]*\).*/was refused: \1/p' /tmp/save.log | head -n 1)
    [ -n "$first" ] || bad "a save is refused with: $(tail -n 3 /tmp/save.log | tr '\n' ';')"
    guest_passes s 1
fi
round=1
whole
xl save s /tmp/saved >/tmp/save.log 2>&1 || bad "xl save: $(head -n 12 /tmp/save.log | tr '\n' ';')"
restored
round=2
whole
xl migrate -s 'sh -c "shift; exec \"\$@\"" sh' s localhost >/tmp/migrate.log 2>&1 ||
    bad "xl migrate: $(tail -n 12 /tmp/migrate.log | tr '\n' ';')"
moved
half
pager_stop
guest_passes s 1
echo "note: a save with pages out $first; pages out each time:$out; guest intact at pass $(guest_pass s)"
