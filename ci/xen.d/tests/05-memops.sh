# SPDX-License-Identifier: MIT OR Apache-2.0
# Every paging operation on a page in every state, and every refusal of enabling: errno, page counts and requests as in the
# table of the C hypervisor (memops.table), but for the cases where Rust is meant to differ (memops.for-rust says why).
# deadline: 600
memops >/tmp/memops.out || { tail -n 2 /tmp/memops.out; bad "memops stopped"; }
as_in_table memops /tmp/memops.out
