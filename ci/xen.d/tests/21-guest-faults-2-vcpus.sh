# SPDX-License-Identifier: MIT OR Apache-2.0
# Two vcpus fault at once, both on every page (alternate words), in a guest of 256 MiB that uses
# 150: pattern intact, exit 0.
# deadline: 1200
# own-boot: C can hang the host here
# c-defect-sometimes: a vcpu that is woken for a ring slot and finds none waits again, which crashes its domain (common/wait.c), and destroying that domain hangs the host
guest_create c 256 2 "mib=150 threads=2 share=1"
guest_ready c
guest_passes c 2
target "$domid" 204800
pager_start c "$domid" fixed
wait_for paged_at_least "$domid" 10000 || bad "only $(paged "$domid") pages went out"
guest_passes c 2
target "$domid" 262144
pager_stop
guest_passes c 3
echo "note: $(grep responses /tmp/pager-c.log | tail -n 1), guest intact at pass $(guest_pass c)"
