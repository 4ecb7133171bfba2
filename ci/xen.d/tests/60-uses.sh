# SPDX-License-Identifier: MIT OR Apache-2.0
# Accessed bits, read and cleared: a page that a guest's vcpu reads, writes or executes is seen, and
# one that it does not touch is not. Invalid calls are refused. Xen's C does not know the operation
# (ENOSYS).
# deadline: 600
uses >/tmp/uses.out || { cat /tmp/uses.out; bad "$(tail -n 1 /tmp/uses.out)"; }
if [ "$(cat /test/flavour)" = c ]; then
    [ "$(cat /tmp/uses.out)" = "asked = ENOSYS" ] || bad "Xen's C says $(cat /tmp/uses.out)"
    echo "note: $(cat /tmp/uses.out)"
else
    as_in_table uses /tmp/uses.out
    # Where the bits have to be turned on (Intel), they are off beside a monitor. Only there are
    # alternate p2ms.
    if [ "$(cat /test/machine)" = bochs ]; then
        uses beside >/tmp/beside.out || { cat /tmp/beside.out; bad "$(tail -n 1 /tmp/beside.out)"; }
        as_in_table uses-beside /tmp/beside.out
    fi
fi
