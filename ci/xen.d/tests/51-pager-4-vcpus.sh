# Our pager and a guest of 256 MiB with four vcpus that fault on each other's pages, at 75, 50 and 35 % of its memory and back
# (less would take its kernel's pages too), while they go on: pattern intact, exit 0, nothing out, Xen's free memory as it was.
# deadline: 420
guest_create q 256 4 "mib=176 threads=4 share=1"
guest_ready q
guest_passes q 1 60
free=$(xen_free)
target "$domid" 196608
# shellcheck disable=SC2046
pager_start q "$domid" rust -r 512 $(guest_only q)
reached=''
for percent in 75 50 35 50; do
    target "$domid" $((262144 * percent / 100))
    wait_for 60 resident_at_most "$domid" $((65536 * percent / 100 + 256)) ||
        bad "$(pages "$domid") pages resident 60 s after the target was set to $percent %"
    reached="$reached $percent%:$(pages "$domid")"
    wait_for 10 false || true
    guest_intact q
done
target "$domid" 262144
wait_for 60 paged_at_most "$domid" 0 || bad "$(paged "$domid") pages out 60 s after the target was raised"
guest_passes q 1 60
pager_stop 30
[ "$(xen_free)" = "$free" ] || bad "Xen had $free MiB free, now it has $(xen_free)"
guest_passes q 1 60
echo "note: resident$reached, $(tail -n 1 /tmp/pager-q.log), guest intact at pass $(guest_pass q)"
