# SPDX-License-Identifier: MIT OR Apache-2.0
# A guest of two vcpus told what to touch when, by a program that is its pager and maps its pages: who waits, what is asked,
# what is read, at pages nominated, out and on their way; disabling and destroying with a vcpu waiting.
# deadline: 600
# Xen keeps a page now and then for small things of its own, the less the more often this has run; one that leaks is missing
# every time.
for run in 1 2 3 4 5 6 7 8; do
    faults >/tmp/faults.out || { cat /tmp/faults.out; bad "$(tail -n 1 /tmp/faults.out)"; }
    grep -q '^memory is as before = yes' /tmp/faults.out && break
done
as_in_table faults /tmp/faults.out
echo "note: nothing was missing in run $run"
