# SPDX-License-Identifier: MIT OR Apache-2.0
# A vcpu writes a page without a pause, and the page, or the right to write it, is taken from it.
# The domain was paged for 6,000 operations before. Once the hypercall has returned, no write
# reaches the frame any more.
# deadline: 900
stale 2000 40 >/tmp/stale.out || { cat /tmp/stale.out; bad "$(tail -n 1 /tmp/stale.out)"; }
as_in_table stale /tmp/stale.out
