# SPDX-License-Identifier: MIT OR Apache-2.0
# The guest is destroyed, reboots or crashes while pages are out: our pager ends by itself with 0,
# and nothing of the domain stays. A crashed guest that is preserved keeps its pager.
# deadline: 900
gone() { ! dominfo "$1" >/dev/null; }
outlived() {
    wait_for pager_gone || bad "$1: the pager still runs"
    wait "$pager" || bad "$1: the pager exited with $?"
    wait_for gone "$domid" || bad "$1: domain $domid is still there"
}
start() {
    guest_create s 96 1 "mib=32 sysrq_always_enabled" "$@"
    guest_ready s
    target "$domid" 73728
    # shellcheck disable=SC2046
    pager_start s "$domid" rust -r 512 $(guest_only s)
    wait_for paged_at_least "$domid" 3000 || bad "only $(paged "$domid") pages went out"
}
start
xl destroy s
outlived destroyed
rm -f /tmp/pagefile-s
start
xl reboot s >/dev/null || bad "xl cannot reboot the guest"
outlived rebooted
wait_for xl domid s >/dev/null 2>&1 && xl destroy s
rm -f /tmp/pagefile-s
start 'on_crash="destroy"'
xl sysrq s c
outlived crashed
rm -f /tmp/pagefile-s
start
xl sysrq s c
wait_for crashed s || bad "the guest does not crash"
# Its memory is preserved for inspection, so its pager stays.
! pager_gone || bad "the pager has left a crashed guest"
xl destroy s
outlived "crashed and kept"
echo "note: destroyed, rebooted, crashed, crashed and kept: exit 0 each time"
