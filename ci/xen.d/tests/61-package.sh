# SPDX-License-Identifier: MIT OR Apache-2.0
# Our Debian package in a Debian 12 whose first process is systemd. It installs. A unit for a domain
# that does not exist fails with one line. xenpaging@DOMID is active once the pager says that it is
# ready, and a guest goes on at half its memory. A pager that hangs is not killed, but told to bring
# everything back. A stop does so, too, and so does a purge, after which no file is left.
# image: debian
# deadline: 1800
# c-defect: a hypercall whose argument was paged out fails, and Linux dies of it
# Run by a shell of its own: busybox has a dpkg, too.
in_debian() { PATH=/usr/sbin:/usr/bin nsenter -t "$init" -m -p -r -w /bin/sh -c '"$@"' sh "$@"; }
up() { init=$(cat "/proc/$started/task/$started/children") && init=${init% } && in_debian systemctl -q is-active basic.target; } 2>/dev/null
# The package's files and those that it may have made, without those of the package manager and of
# systemd's own services.
files() { (cd /debian && find . -path ./var/lib/dpkg -prune -o -path ./var/log -prune -o -path ./var/lib/systemd -prune -o -type f -print | sort); }
unit() { in_debian systemctl show -P "$1" "xenpaging@$domid"; }
unit_is() { [ "$(unit "$1")" = "$2" ]; }
start() { in_debian systemctl start "xenpaging@$domid" || bad "the unit does not start: $(in_debian journalctl -b -n 3 -o cat -u "xenpaging@$domid")"; }
resident() { wait_for resident_at_most "$domid" "$1" || bad "$(pages "$domid") pages, not $1, are still in"; }
ended() { case $(unit ActiveState) in inactive | failed) return 0 ;; esac; return 1; }
all_home() { ended && unit_is ExecMainStatus 0 && [ "$(paged "$domid")" = 0 ]; }

unshare -m -p -f sh -c 'mount --bind /debian /debian && cd /debian && mount -t proc proc proc && mount -t xenfs xenfs proc/xen &&
    mount -t sysfs sys sys && mount -t cgroup2 cgroup sys/fs/cgroup && mount --rbind /dev dev && mount -t tmpfs run run &&
    mount --move . / && exec env -i container=dom0 chroot . /lib/systemd/systemd --unit=basic.target --show-status=no --log-target=journal' &
started=$!
wait_for up || bad "systemd does not come up"
echo "$init" >>/tmp/pagers
cp /xenpaging.deb /debian/tmp/
before=$(files)

in_debian dpkg -i /tmp/xenpaging.deb >/tmp/dpkg 2>&1 || bad "dpkg -i: $(tail -n 1 /tmp/dpkg)"
! grep -iE 'warning|error' /tmp/dpkg || bad "dpkg -i: $(grep -iE 'warning|error' /tmp/dpkg | head -n 1)"
in_debian xenpaging --version || bad "the pager does not run"

domid=999
! in_debian systemctl start xenpaging@999 2>/dev/null || bad "a unit started for no domain"
said=$(in_debian journalctl -o cat -t xenpaging)
[ "$said" = 'xenpaging: there is no domain 999' ] || bad "of domain 999 is said: $said"
unit_is ExecMainStatus 3 || bad "exit status $(unit ExecMainStatus) for no domain"

echo 'XENPAGING_OPTIONS=-r 512' >>/debian/etc/default/xenpaging
guest_create v 96 1 "mib=16"
guest_ready v
guest_passes v 1
target "$domid" 49152
start
unit_is SubState running || bad "started, but $(unit SubState)"
resident 12800
guest_passes v 1
in_debian systemctl status "xenpaging@$domid" --no-pager >/tmp/status || bad "systemctl status: exit $?"
grep 'Status: ".*out' /tmp/status || bad "no metrics in: $(cat /tmp/status)"
kicked=$(unit WatchdogTimestampMonotonic)
kicked_again() { [ "$(unit WatchdogTimestampMonotonic)" -gt "$kicked" ]; }
wait_for kicked_again || bad "the watchdog is not told that the pager lives"
in_debian systemctl stop "xenpaging@$domid" || bad "systemctl stop: exit $?"
all_home || bad "stopped with $(unit ExecMainStatus), $(paged "$domid") pages out"
guest_passes v 1

target "$domid" 81920
in_debian sh -c 'mkdir -p /run/systemd/system/xenpaging@.service.d && printf "[Service]\nWatchdogSec=10\n" >/run/systemd/system/xenpaging@.service.d/soon.conf
    systemctl daemon-reload'
start
resident 20992
in_debian kill -STOP "$(unit MainPID)"
wait_for unit_is Result watchdog || bad "a pager that hangs: $(unit Result), $(unit SubState)"
wait_for all_home || bad "a pager that hung left $(paged "$domid") pages out"
guest_passes v 1

in_debian systemctl reset-failed
start
resident 20992
in_debian dpkg --purge p2m-paging-xenpaging >/tmp/dpkg 2>&1 || bad "dpkg --purge: $(tail -n 1 /tmp/dpkg)"
[ "$(paged "$domid")" = 0 ] || bad "purged with $(paged "$domid") pages out"
guest_passes v 1
files >/tmp/after
echo "$before" | diff - /tmp/after || bad "a purge leaves what was not there, or takes what was"
! in_debian dpkg -s p2m-paging-xenpaging >/dev/null 2>&1 || bad "still known to dpkg"
echo "note: systemd $(in_debian systemctl --version | sed -n 's/^systemd //p'), guest intact at pass $(guest_pass v)"
