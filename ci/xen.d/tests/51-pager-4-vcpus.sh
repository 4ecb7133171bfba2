# SPDX-License-Identifier: MIT OR Apache-2.0
# Our pager and a guest of 192 MiB with four vcpus that fault on each other's pages, at 75, 50 and
# 25 % of its memory. All frames may go out, those of its kernel too. The target is lowered and
# raised while the guest thrashes, and the guest makes progress each time: pattern intact. It
# ends with exit 0, nothing out, no frame of the host lost.
# own-boot: in C the guest dies slowly, and the rest would wait for it
# deadline: 1620
# c-defect: a hypercall whose argument was paged out fails, and Linux dies of it
guest_create q 192 4 "mib=84 threads=4 share=1"
guest_ready q
guest_passes q 1
before=$(free_pages)
to_percent() { target "$domid" $((196608 * $1 / 100)); }
figure() { xenstore-read "/local/domain/$domid/memory/paging" | sed -n "s/.*$1=\([0-9]*\).*/\1/p"; }
# Pages that a vcpu has waited for.
on_demand() { echo $(($(figure paged_in_pages) - $(figure prefetched_pages))); }
on_demand_at_least() { [ "$(on_demand)" -ge "$1" ]; }
# Pages above the target that are allowed: two batches that go out while four vcpus bring pages in.
reach_percent() {
    to_percent "$1"
    wait_for resident_at_most "$domid" $((49152 * $1 / 100 + 1024)) ||
        bad "$(pages "$domid") pages resident after the target was set to $1 %"
    reached="$reached $1%:$(pages "$domid")"
}
reached=''
to_percent 75
pager_start q "$domid" rust -r 512
reach_percent 75
guest_passes q 1
reach_percent 50
guest_passes q 1
reach_percent 25
guest_passes q 1
# The pattern has 44 % of the memory: the guest thrashes at each of these targets.
for percent in 35 25 40 25; do
    to_percent $percent
    goal=$(($(on_demand) + 500))
    wait_for on_demand_at_least $goal || bad "fewer than 500 pages on demand at $percent %"
    guest_intact q
done
guest_passes q 1
thrashed=$(on_demand)
# More than the guest has, and a number beyond its maximum, both mean all of it.
to_percent 110
wait_for paged_at_most "$domid" 0 || bad "$(paged "$domid") pages out after the target was raised"
guest_passes q 1
pager_stop
# Xen keeps a few pages for its state of the domain.
wait_for free_at_least $((before - 16)) || bad "$((before - $(free_pages))) pages of the host are lost"
guest_passes q 1
echo "note: resident$reached, $thrashed pages on demand, $(tail -n 1 /tmp/pager-q.log), guest intact at pass $(guest_pass q)"
