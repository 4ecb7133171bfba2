# A guest of two vcpus told what to touch when, by a program that is its pager and maps its pages: who waits, what is asked,
# what is read, at pages nominated, out and on their way; disabling and destroying with a vcpu waiting.
# deadline: 120
faults >/tmp/faults.out || { cat /tmp/faults.out; bad "$(tail -n 1 /tmp/faults.out)"; }
as_in_table faults /tmp/faults.out
