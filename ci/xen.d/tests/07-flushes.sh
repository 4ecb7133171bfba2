# SPDX-License-Identifier: MIT OR Apache-2.0
# Pages go out under a running guest. Counts the interrupts that make the other CPU flush them: at
# most one for each call and 64 pages of it. Xen's C takes one page a call, and needs one interrupt
# for each. Only the debug build counts them.
# deadline: 600
flushes >/tmp/flushes.out || { cat /tmp/flushes.out; bad "$(tail -n 1 /tmp/flushes.out)"; }
sed 's/^/note: /' /tmp/flushes.out
grep -q '^not counted' /tmp/flushes.out && exit 0
# A few interrupts are not for flushes.
awk '/together/ { if ($(NF - 1) > $(NF - 3) / 64 + 8) bad = bad " " $0 }
     /one by one/ { if ($(NF - 1) > $(NF - 3) + 8) bad = bad " " $0 }
     END { print bad; exit bad != "" }' /tmp/flushes.out >/tmp/flushes.bad || bad "too many:$(cat /tmp/flushes.bad)"
