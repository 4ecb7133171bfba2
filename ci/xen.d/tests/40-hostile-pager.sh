# SPDX-License-Identifier: MIT OR Apache-2.0
# A pager sends garbage (indices, responses, memops). The host stays up, and the domain can be
# destroyed.
# deadline: 300
# own-boot: C hangs the host here
# c-defect: one garbage index of the ring keeps the hypervisor busy for 2^32 responses
hostile 20000 >/tmp/hostile.out 2>&1 || bad "$(tail -n 1 /tmp/hostile.out)"
echo "note: $(cat /tmp/hostile.out)"
