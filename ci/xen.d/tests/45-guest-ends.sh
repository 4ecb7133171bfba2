# SPDX-License-Identifier: MIT OR Apache-2.0
# A guest is destroyed, and one shuts itself down, both while pages are out and faults wait. The
# domain goes away, its pager ends, and the host gets every page back.
# deadline: 720
# domain_gone ID: the domain does not exist, not even as a zombie.
domain_gone() { ! dominfo "$1" >/dev/null; }
end_by() {
    local name=$1; shift
    guest_create "$name" 96 1 "mib=32"
    guest_ready "$name"
    target "$domid" 83968
    pager_start "$name" "$domid" fixed
    wait_for paged_at_least "$domid" 3000 || bad "only $(paged "$domid") pages went out"
    guest_passes "$name" 1
    echo "note: $* with $(paged "$domid") pages out"
    "$@" "$name" || bad "$* failed"
    wait_for domain_gone "$domid" || bad "the domain is still there after: $*"
    wait_for pager_gone || bad "the pager did not end with its guest"
    wait_for free_at_least "$before" || bad "$(($before - $(free_pages))) pages of the host are lost after: $*"
}
# Dom0's tools keep a few pages, which they take for the first domain.
guest_create warm 96 1 "mib=1" -p
xl destroy warm
wait_for domain_gone "$domid"
before=$(free_pages)
end_by d xl destroy
end_by e xl shutdown -w
