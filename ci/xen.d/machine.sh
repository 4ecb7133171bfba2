# SPDX-License-Identifier: MIT OR Apache-2.0
# Runs Xen and dom0 in an emulated machine and follows its console. shellcheck shell=bash
# Sourced after lib.sh.

# A machine has two CPUs. qemu: AMD's SVM with nested paging. bochs: Intel's VMX with EPT, a few
# times slower.
machine=${XEN_MACHINE:-qemu}
case $machine in
    qemu) slowness=1 ;;
    bochs) slowness=6 ;;
    *) die "unknown machine '$machine': say qemu or bochs" ;;
esac
. "$here/machine-$machine.sh"

xen_options="console=com1 com1=115200,8n1 loglvl=all guest_loglvl=error dom0_max_vcpus=1 dom0_vcpus_pin spec-ctrl=no cpufreq=none bootscrub=0 noreboot ${XEN_APPEND:-}"
dom0_options="console=hvc0 earlyprintk=xen loglevel=4 mitigations=off nokaslr"

# boot_machine FLAVOUR TESTDIR LOG TIMEOUT [LINE_COMMAND]
# TESTDIR becomes dom0's /test (dom0 runs its file `run`). Each console line goes to LOG and, as one
# argument, to LINE_COMMAND. XEN_IMAGES: the names of more images for dom0. Returns dom0's exit
# status; 124 when the deadline has passed, 125 when Xen or the machine has died.
boot_machine() {
    local flavour=$1 testdir=$2 log=$3 limit=$4 on_line=${5:-echo}
    local images=$cache/images xen=$cache/build/$flavour${XEN_DEBUG:+-debug}/xen/xen work status='' line deadline left pid image
    [ -e "$xen" ] || die "hypervisor $flavour is not built: run 'ci/xen build $flavour'"
    work=$(mktemp -d "$cache/runs/boot.XXXXXX")
    # The kernel unpacks concatenated archives one over the other.
    (cd "$testdir" && find . -print0 | cpio --quiet -0 -o -H newc -R 0:0 >"$work/test.part")
    (cd "$work" && mkdir -p root && cd root && mkdir -p test && (cd test && cpio --quiet -i -d <"$work/test.part") &&
        find . -print0 | cpio --quiet -0 -o -H newc -R 0:0 >"$work/test.cpio")
    for image in dom0 pager ${XEN_IMAGES:-}; do cat "$images/$image.cpio"; done | cat - "$work/test.cpio" >"$work/dom0.cpio"
    # Short names: module names in QEMU's -initrd must not contain commas or spaces.
    ln -s "$images/vmlinux" "$work/vmlinux"
    ln -s "$xen" "$work/xen"

    deadline=$((SECONDS + limit))
    # start_qemu or start_bochs: ends when the machine ends, or when it is killed.
    exec 7< <(cd "$work" && "start_$machine" $((limit + 20)) </dev/null 2>&1)
    pid=$!
    # shellcheck disable=SC2064
    trap "kill $pid; exit 143" INT TERM
    : >"$log"
    # LINE_COMMAND may set line_deadline (in SECONDS) for what it waits for: dom0 may be dead and
    # unable to keep its own.
    line_deadline=$deadline
    while left=$(((line_deadline < deadline ? line_deadline : deadline) - SECONDS)); [ "$left" -gt 0 ]; do
        line=''
        if ! IFS= read -r -t "$left" -u 7 line && [ -z "$line" ]; then break; fi
        line=${line//$'\r'/}
        printf '%s\n' "$line" >>"$log"
        "$on_line" "$line"
        case $line in
            *@@dom0-exit\ *@@*) status=${line##*@@dom0-exit }; status=${status%%@@*}; deadline=$((SECONDS + 15)) ;;
            # Xen stays where it died (noreboot): it gets a moment to print its trace.
            *"Panic on CPU"* | *"Kernel panic - not syncing"*) [ -n "$status" ] || { status=125; deadline=$((SECONDS + 5)); } ;;
        esac
    done
    [ -n "$status" ] || { if [ "$left" -le 0 ] || [ $((deadline - SECONDS)) -le 0 ]; then status=124; else status=125; fi; }
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    trap - INT TERM
    exec 7<&-
    rm -rf "$work"
    return "$status"
}

# A directory for the log of one run; only the newest dozen are kept.
new_run() {
    mkdir -p "$cache/runs"
    find "$cache/runs" -maxdepth 1 -name '*.log' -printf '%T@ %p\n' | sort -rn | tail -n +12 | cut -d' ' -f2- | xargs -r rm -f
    printf '%s/%s-%s-%s.log' "$cache/runs" "$1" "$(date +%Y%m%d-%H%M%S)" "$BASHPID"
}
