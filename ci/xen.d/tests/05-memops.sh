# SPDX-License-Identifier: MIT OR Apache-2.0
# Every paging operation on a page in every state, and every refusal of enabling. Errno, page counts
# and requests must be those in the table of the C hypervisor (memops.table), except for the cases
# where Rust is meant to differ (memops.for-rust gives the reasons).
# deadline: 600
memops >/tmp/memops.out || { tail -n 2 /tmp/memops.out; bad "memops stopped"; }
as_in_table memops /tmp/memops.out
