# SPDX-License-Identifier: MIT OR Apache-2.0
# Accessed bits, read and cleared: a page that a guest's vcpu reads, writes or runs is seen, one that it leaves alone is not, and
# what is no question is refused. Xen's C says that it knows no such operation (ENOSYS).
# deadline: 600
uses >/tmp/uses.out || { cat /tmp/uses.out; bad "$(tail -n 1 /tmp/uses.out)"; }
if [ "$(cat /test/flavour)" = c ]; then
    [ "$(cat /tmp/uses.out)" = "asked = ENOSYS" ] || bad "Xen's C says $(cat /tmp/uses.out)"
    echo "note: $(cat /tmp/uses.out)"
else
    as_in_table uses /tmp/uses.out
    # Where the bits have to be turned on (Intel), they are not beside a monitor; only there are alternate p2ms.
    if [ "$(cat /test/machine)" = bochs ]; then
        uses beside >/tmp/beside.out || { cat /tmp/beside.out; bad "$(tail -n 1 /tmp/beside.out)"; }
        as_in_table uses-beside /tmp/beside.out
    fi
fi
