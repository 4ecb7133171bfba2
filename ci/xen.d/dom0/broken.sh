# SPDX-License-Identifier: MIT OR Apache-2.0
# What dom0 does in ci/xen broken: a program that is its own pager meets what is broken; its domain is crashed, or not paged. Its memory,
# that of the pages that are out included, comes back when it is destroyed, and a domain after it is paged as if nothing had been.
. /test/lib.sh
before=$(free_pages)
! costs >/tmp/costs.out || bad "nothing was broken"
echo "note: its pager saw: $(sed -n 's/^reason: //p' /tmp/costs.out)"
for d in $(dominfo all); do domkill "$d"; done
# Of the domain's 513. Xen keeps a page now and then for small things of its own (06-faults).
wait_for free_at_least $((before - 3)) || bad "$((before - $(free_pages))) pages are missing"
costs >/tmp/costs.out || bad "the next domain is not paged: $(tail -n 1 /tmp/costs.out)"
echo "note: its pages are back, and the next domain is paged"
