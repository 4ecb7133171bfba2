# SPDX-License-Identifier: MIT OR Apache-2.0
# Two vcpus fault at once, both on every page (alternate words), in a guest of 128 MiB that uses
# 56: pattern intact, exit 0.
# deadline: 1200
# own-boot: C can hang the host here
# c-defect-sometimes: a vcpu that is woken for a ring slot and finds none waits again, which crashes its domain (common/wait.c), and destroying that domain hangs the host
guest_create c 128 2 "mib=56 threads=2 share=1"
guest_ready c
guest_passes c 1
target "$domid" 102400
pager_start c "$domid" fixed
wait_for paged_at_least "$domid" 5000 || bad "only $(paged "$domid") pages went out"
guest_passes c 2
target "$domid" 131072
pager_stop
guest_passes c 1
echo "note: $(grep responses /tmp/pager-c.log | tail -n 1), guest intact at pass $(guest_pass c)"
