# SPDX-License-Identifier: MIT OR Apache-2.0
# The pagefile's disk is full and gets room again, then refuses writes, then refuses reads, then
# works again. Page-out waits and says so, and the guest goes on with the pages that it has. A page
# that cannot be read back is reported, once, and its vcpu waits. No word is ever wrong.
# deadline: 900
sectors=131072
disk() {
    { dmsetup suspend --noflush --nolockfs pages && dmsetup load pages --table "0 $sectors $1" && dmsetup resume pages; } >/dev/null ||
        bad "the disk cannot be made: $1"
}
export DM_DISABLE_UDEV=1
for module in crc16 mbcache jbd2 crc32c_generic ext4 dm-mod dm-flakey; do
    insmod "/modules/$module.ko" || bad "cannot load $module"
done
insmod /modules/brd.ko rd_nr=1 rd_size=$((sectors / 2)) || bad "no RAM disk"
dmsetup create pages --table "0 $sectors linear /dev/ram0 0" >/dev/null || bad "no device mapper"
mke2fs /dev/mapper/pages >/dev/null 2>&1 || bad "no file system"
mkdir -p /tmp/disk
mount -t ext2 /dev/mapper/pages /tmp/disk || bad "the file system cannot be mounted"
# The file system writes nothing by itself: only the pager's writes fail.
echo 0 >/proc/sys/vm/dirty_writeback_centisecs
head -c $((60 << 20)) /dev/zero >/tmp/disk/hog
guest_create x 96 1 "mib=16"
guest_ready x
guest_passes x 2
said() { [ "$(grep -c "$1" /tmp/pager-x.log)" -ge "${2:-1}" ]; }

# The guest is paused while pages go out, so that none comes back meanwhile.
xl pause x
target "$domid" 92160
# shellcheck disable=SC2046
pager_start x "$domid" rust -f /tmp/disk/pagefile -r 512 $(guest_only x)
wait_for said 'store is full' || bad "nothing said of a full disk, $(paged "$domid") pages out"
full=$(paged "$domid")
[ "$full" -lt 1024 ] || bad "$full pages out on a disk for fewer than 1024"
xl unpause x
guest_passes x 1
xl pause x
rm /tmp/disk/hog
wait_for paged_at_least "$domid" 1500 || bad "only $(paged "$domid") pages out on a disk that has room again"

sync
echo 3 >/proc/sys/vm/drop_caches
disk "flakey /dev/ram0 0 0 3600 1 error_writes"
target "$domid" 90112
wait_for said 'cannot be saved, page-out waits: input/output error 5' || bad "nothing said of a disk that takes no writes"
xl unpause x
wait_for paged_at_most "$domid" 64 || bad "$(paged "$domid") pages still out: they do not come back from a disk that can be read"
guest_passes x 1
xl pause x
disk "linear /dev/ram0 0"
wait_for paged_at_least "$domid" 1500 || bad "only $(paged "$domid") pages out on a disk that takes writes again"

sync
disk error
echo 3 >/proc/sys/vm/drop_caches
xl unpause x
wait_for said 'gfn 0x[0-9a-f]* cannot be read back, and is read again until it can: input/output error 5' || bad "nothing said of a disk that gives nothing back"
waits() { xl debug-keys q; xl dmesg | grep -q 'paging: v0 waits for gfn'; }
[ "$(cat /test/flavour)" = c ] || wait_for waits || bad "the guest does not wait for a page that cannot be read"
guest_intact x
disk "linear /dev/ram0 0"
guest_passes x 2
wait_for said 'every page that could not be read back has been' || bad "nothing said of a disk that gives everything back"
[ "$(grep -c 'cannot be read back, and' /tmp/pager-x.log)" = 1 ] || bad "said again and again"
target "$domid" 98304
pager_stop
guest_passes x 2
echo "note: $full pages on the full disk, $(grep -o 'every page that could not be read back.*' /tmp/pager-x.log | tail -n 1); $(tail -n 1 /tmp/pager-x.log), guest intact at pass $(guest_pass x)"
umount /tmp/disk
dmsetup remove pages >/dev/null
echo 500 >/proc/sys/vm/dirty_writeback_centisecs
