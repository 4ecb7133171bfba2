# SPDX-License-Identifier: MIT OR Apache-2.0
# A page added (populate_physmap) at a gfn that was paged out and asked for but has no frame yet. A guest's other vcpu can do
# that to itself, so it must cost the host nothing.
# deadline: 120
# own-boot: C dies
# c-defect: p2m_add_page takes paging_in for a page with a frame and writes the M2P entry of an invalid frame: host panic
memops deadly >/tmp/memops.out || { tail -n 2 /tmp/memops.out; bad "memops stopped"; }
echo "note: $(cat /tmp/memops.out)"
