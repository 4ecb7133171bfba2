# SPDX-License-Identifier: MIT OR Apache-2.0
# Helpers for test scripts inside dom0 (busybox sh). Every wait has a deadline. A test that fails
# prints the reason on one line.

bad() {
    echo "reason: $*"
    for log in /var/log/xen/console/guest-*.log; do
        [ -e "$log" ] && { echo "end of $log:"; tail -n 6 "$log"; }
    done
    for log in /tmp/pager-*.log; do
        [ -s "$log" ] && { echo "end of $log:"; tail -n 4 "$log"; }
    done
    exit 1
}

# The factor by which a slow machine gets more time.
slowness=$(cat /test/slowness 2>/dev/null || echo 1)

# How long a wait continues without progress.
patience=$((180 * slowness))
up_time() { cut -d. -f1 /proc/uptime; }

# Progress: the pages of every domain, resident and out; the lines that a guest printed of its
# pattern.
pages_of_all() { for each in $(dominfo all); do echo "$each $(dominfo "$each")"; done; }
guest_progress() { guest_log "$1" | grep -c '^pattern'; }

# wait_while FIGURE COMMAND...: waits until COMMAND succeeds. Fails when FIGURE (a command) has
# printed the same for $patience. Slowness is no failure: only the test's deadline ends a wait with
# progress.
wait_while() {
    local figure=$1 end=$(($(up_time) + patience)) before now; shift
    before=$($figure)
    # Polling takes time from the pager, which runs on the same CPU. A slow machine is polled rarely.
    until "$@"; do
        if [ "$(up_time)" -ge "$end" ]; then
            now=$($figure)
            [ "$now" != "$before" ] || return 1
            before=$now end=$(($(up_time) + patience))
        fi
        if [ "$slowness" = 1 ]; then sleep 0.5; else sleep 3; fi
    done
}
# wait_for COMMAND...: waits for a result of page-outs and page-ins, or for one that comes soon.
wait_for() { wait_while pages_of_all "$@"; }

# guest_create NAME MIB VCPUS "PARAMETERS OF THE GUEST'S PROGRAM" [XL OPTIONS]; sets $domid.
# The guest stays on the last CPU (ci/xen.d/machine-qemu.sh says why). Native TSC: here Xen cannot
# decode an intercepted RDTSCP. A guest that waits for its pages is slow, not stuck: its kernel's
# watchdogs are off, and tests look at its progress.
guest_create() {
    local name=$1 mib=$2 vcpus=$3 parameters=$4; shift 4
    cat >"/tmp/$name.cfg" <<CFG
type="pvh"
name="$name"
kernel="/guest/vmlinuz"
ramdisk="/guest/guest.cpio"
cmdline="console=hvc0 earlyprintk=xen loglevel=4 nokaslr mitigations=off nowatchdog workqueue.watchdog_thresh=0 $parameters"
memory=$mib
maxmem=$mib
vcpus=$vcpus
cpus="$(($(xl info | sed -n 's/^nr_cpus *: //p') - 1))"
tsc_mode="native"
on_crash="preserve"
on_poweroff="destroy"
CFG
    rm -f "/var/log/xen/console/guest-$name.log"
    xl create "$@" "/tmp/$name.cfg" >/tmp/create.log 2>&1 || { cat /tmp/create.log; bad "cannot create guest $name"; }
    domid=$(xl domid "$name")
}

guest_log() { cat "/var/log/xen/console/guest-$1.log" 2>/dev/null | tr -d '\r'; }
# The frames of the guest's pattern, as ` A-B ...`; the options that restrict our pager to them.
guest_only_gfns() { guest_log "$1" | sed -n 's/^pattern gfns//p' | tail -n 1; }
guest_only() { guest_only_gfns "$1" | sed 's/ / --only-gfns /g'; }
guest_filled() { guest_log "$1" | grep -q '^pattern filled'; }
# The last number after a word in the guest's last progress line.
guest_number() { guest_log "$1" | sed -n "s/^pattern pass.* *$2 \([0-9]*\).*/\1/p" | tail -n 1; }
guest_pass() { local n; n=$(guest_log "$1" | sed -n 's/^pattern pass \([0-9]*\) .*/\1/p' | tail -n 1); echo "${n:-0}"; }
# The longest time that a page took since the guest began.
guest_worst() { guest_log "$1" | sed -n 's/^pattern pass.* worst_us \([0-9]*\).*/\1/p' | sort -n | tail -n 1; }
guest_lost() { guest_log "$1" | grep -E 'Kernel panic|BUG:|kernel BUG|Oops'; }
past_pass() { [ "$(guest_pass "$1")" -ge "$2" ]; }
past_pass_or_lost() { past_pass "$@" || guest_lost "$1" >/dev/null; }

# guest_passes NAME N: waits for N more passes over all its memory, without any wrong word.
guest_passes() {
    local goal=$(($(guest_pass "$1") + $2))
    wait_while "guest_progress $1" past_pass_or_lost "$1" "$goal" ||
        bad "guest $1 stands still: pass $(guest_pass "$1"), wanted $goal, and no progress for $patience s"
    guest_intact "$1"
}
guest_intact() {
    ! guest_lost "$1" >/dev/null || bad "guest $1 died: $(guest_lost "$1" | head -n 1)"
    ! guest_log "$1" | grep -E '^pattern (pass.* bad [1-9]|error)' || bad "guest $1 found wrong words"
}
guest_ready() { wait_for guest_filled "$1" || bad "guest $1 did not come up"; }

# The guest's pages, resident and out.
size_of() { set -- $(dominfo "$1"); echo $(($1 + $2)); }
size_is_about() { local size; size=$(size_of "$1"); [ "$size" -ge $(($2 - 8)) ] && [ "$size" -le $(($2 + 8)) ]; }
ballooned() { size_is_about "$domid" "$2" || guest_lost "$1" >/dev/null; }
# guest_balloon NAME MIB PAGES: tells the guest to have so many MiB, and waits until it has about so
# many pages.
guest_balloon() {
    xl mem-set "$1" "$2" || bad "xl cannot tell guest $1 to have $2 MiB"
    wait_for ballooned "$1" "$3" || bad "guest $1 has $(size_of "$domid") pages, and was told to have $3"
    guest_intact "$1"
}

# xen_counters DOMID NAME...: the crate's counters of a domain, as Xen's debug key prints them.
xen_counters() {
    local id=$1 line name; shift
    xl debug-keys q
    line=$(xl dmesg | sed -n "/information for domain $id:/,/information for domain/s/.*paging: pager //p" | tail -n 1)
    for name; do echo "$line" | sed "s/.*, $name \([0-9]*\).*/\1/"; done
}

# as_in_table NAME OUTPUT: every "case = outcome" of the output must be that of NAME.table. Where
# this hypervisor is meant or known to differ, it must be that of NAME.for-c or NAME.for-rust, which
# say why.
as_in_table() {
    local name=$1 output=$2 override
    override=/test/$name.for-$(cat /test/flavour)
    [ -e "$override" ] || { override=/tmp/none; : >$override; }
    grep -v '^#' "$override" | awk -F' = ' 'FILENAME == "-" { other[$1] = $0; next } { print ($1 in other) ? other[$1] : $0 }' \
        - "/test/$name.table" >"/tmp/$name.wanted"
    diff -U 0 "/tmp/$name.wanted" "$output" | grep '^[-+][^-+]' >"/tmp/$name.diff" && {
        cat "/tmp/$name.diff"
        bad "$(grep -c '^+' "/tmp/$name.diff") of $(wc -l <"$output") cases differ (-: wanted, +: got): $(head -n 4 "/tmp/$name.diff" | tr '\n' ';')"
    }
    echo "note: $(wc -l <"$output") cases as in the table, $(grep -c ' = ' "$override") of them another way in this hypervisor"
}

# Numbers of a domain: tot_pages paged_pages max_pages flags.
pages() { set -- $(dominfo "$1"); echo "${1:-0}"; }
paged() { set -- $(dominfo "$1"); echo "${2:-0}"; }
# Free memory of the host.
free_pages() { dominfo host; }
free_at_least() { [ "$(free_pages)" -ge "$1" ]; }
paged_at_least() { [ "$(paged "$1")" -ge "$2" ]; }
paged_at_most() { [ "$(paged "$1")" -le "$2" ]; }

resident_at_most() { [ "$(pages "$1")" -le "$2" ]; }
crashed() { xl list "$1" | awk 'END { exit $5 !~ /c/ }'; }

target() { xenstore-write "/local/domain/$1/memory/target-tot_pages" "$2"; }

# pager_start NAME DOMID c|fixed|rust [OPTIONS...]: c is Debian's pager, fixed is the same with the
# response fields filled in that it leaves unset, rust is ours. Sets $pager.
pager_start() {
    local name=$1 domain=$2 which=$3; shift 3
    case $which in
        c) set -- xenpaging "$@" ;;
        fixed) set -- env LD_PRELOAD=/lib/respond-preload.so xenpaging "$@" ;;
        rust) set -- xenpaging-rust -v "$@" ;;
    esac
    case " $* " in *" -f "* | *" --swap "*) ;; *) set -- "$@" -f "/tmp/pagefile-$name" ;; esac
    "$@" -d "$domain" >"/tmp/pager-$name.log" 2>&1 &
    pager=$!
    echo "$pager" >>/tmp/pagers
}
pager_gone() { ! kill -0 "$pager" 2>/dev/null; }

# Without a pager no page of the domain is pinned, and its unlocked p2m defers no flush. The numbers
# are those of Xen's debug key; C prints none.
paging_left_nothing() {
    local of
    [ "$(cat /test/flavour)" = rust ] || return 0
    xl debug-keys q
    of=$(xl dmesg | sed -n "/information for domain $1:/,/information for domain/s/.*paging: .*, \(pages pinned\|defer_flush\) \([0-9]*\)$/\1 \2/p" |
        tail -n 2 | tr '\n' ' ')
    [ "$of" = "pages pinned 0 defer_flush 0 " ] || bad "after the pager is gone: ${of:-no word from Xen about domain $1}"
}

# SIGTERM: everything comes back, exit 0.
pager_stop() {
    kill -TERM "$pager" || bad "the pager is not there any more"
    wait_for pager_gone || bad "the pager does not end after SIGTERM, $(paged "$domid") pages still out"
    wait "$pager"
    local status=$?
    [ $status = 0 ] || bad "the pager exited with $status"
    [ "$(paged "$domid")" = 0 ] || bad "the pager ended with $(paged "$domid") pages still out"
    paging_left_nothing "$domid"
}

# Removes what a test leaves behind, in whatever state it is.
clean_up() {
    for p in $(cat /tmp/pagers 2>/dev/null); do kill -9 "$p" 2>/dev/null; done
    for d in $(xl list 2>/dev/null | awk 'NR > 2 { print $2 }'); do xl destroy "$d" >/dev/null 2>&1; done
    for d in $(dominfo all); do domkill "$d"; done
    rm -rf /tmp/pagefile-* /tmp/pager* /tmp/*.cfg /var/log/xen/console/* /run/xenpaging
}
