# SPDX-License-Identifier: MIT OR Apache-2.0
# Our pager and a running guest with one vcpu. Pages go out, the guest's faults bring them back, the
# target is raised, SIGTERM brings everything back: pattern intact, exit 0, nothing out.
# deadline: 600
guest_create p 96 1 "mib=32"
guest_ready p
guest_passes p 2
target "$domid" 73728
# shellcheck disable=SC2046
pager_start p "$domid" rust -r 512 $(guest_only p)
wait_for paged_at_least "$domid" 5000 || bad "only $(paged "$domid") pages went out"
guest_passes p 2
target "$domid" 98304
pager_stop
guest_passes p 3
echo "note: $(tail -n 1 /tmp/pager-p.log), guest intact at pass $(guest_pass p)"
