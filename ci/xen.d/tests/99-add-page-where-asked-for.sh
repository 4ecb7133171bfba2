# SPDX-License-Identifier: MIT OR Apache-2.0
# A page is added (populate_physmap) at a gfn that was paged out, is requested and has no frame yet.
# A guest's other vcpu can do that itself, so it must not harm the host.
# deadline: 120
# own-boot: C dies
# c-defect: p2m_add_page takes paging_in for a page with a frame and writes the M2P entry of an invalid frame: host panic
memops deadly >/tmp/memops.out || { tail -n 2 /tmp/memops.out; bad "memops stopped"; }
echo "note: $(cat /tmp/memops.out)"
