# SPDX-License-Identifier: MIT OR Apache-2.0
# A vcpu that writes a page without a pause, and the page's write right, or the page, taken from it, in a domain that was paged for
# 6,000 operations: once the hypercall has returned no write lands any more.
# deadline: 900
stale 2000 40 >/tmp/stale.out || { cat /tmp/stale.out; bad "$(tail -n 1 /tmp/stale.out)"; }
as_in_table stale /tmp/stale.out
