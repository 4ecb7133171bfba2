# Runs Xen and dom0 in QEMU and follows its console. shellcheck shell=bash
# Sourced after lib.sh.

# qemu_boot FLAVOUR TESTDIR LOG TIMEOUT [LINE_COMMAND]
# TESTDIR becomes dom0's /test (its file `run` is what dom0 runs). Each console line goes to LOG and, as one argument, to
# LINE_COMMAND. Returns dom0's exit status; 124 when the deadline passed, 125 when Xen or QEMU died.
qemu_boot() {
    local flavour=$1 testdir=$2 log=$3 limit=$4 on_line=${5:-echo}
    local images=$cache/images xen=$cache/build/$flavour${XEN_DEBUG:+-debug}/xen/xen work status='' line deadline left pid
    [ -e "$xen" ] || die "hypervisor $flavour is not built: run 'ci/xen build $flavour'"
    work=$(mktemp -d "$cache/runs/boot.XXXXXX")
    # The kernel unpacks concatenated archives one over the other.
    (cd "$testdir" && find . -print0 | cpio --quiet -0 -o -H newc -R 0:0 >"$work/test.part")
    (cd "$work" && mkdir -p root && cd root && mkdir -p test && (cd test && cpio --quiet -i -d <"$work/test.part") &&
        find . -print0 | cpio --quiet -0 -o -H newc -R 0:0 >"$work/test.cpio")
    cat "$images/dom0.cpio" "$images/pager.cpio" "$work/test.cpio" >"$work/dom0.cpio"
    # Module names in QEMU's -initrd must not hold commas or spaces: short names in the working directory.
    ln -s "$images/vmlinux" "$work/vmlinux"
    ln -s "$xen" "$work/xen"

    local libs root_dir; libs=$(debroot_libs) root_dir=$(debroot)
    local qemu=(
        "$root_dir/lib64/ld-linux-x86-64.so.2" --library-path "$libs" "$root_dir/usr/bin/qemu-system-x86_64"
        -L "$root_dir/usr/share/qemu" -L "$root_dir/usr/share/seabios" -L "$root_dir/usr/lib/ipxe/qemu"
        -accel "tcg,thread=${XEN_TCG_THREADS:-multi}"
        # No MONITOR: Xen's idle loop would use MWAIT, which TCG answers with #GP. qemu64 has neither SMAP (PV dom0 dies
        # at its first iret) nor RDTSCP (intercepted, not decodable).
        -cpu qemu64,+svm,+npt,-monitor
        -smp 2 -m 2560 -nographic -no-reboot -nic none -monitor none -serial stdio
        -kernel xen
        # dom0 stays on the first CPU and guests on the second: QEMU 7.2 can break the first CPU's VMRUN when another thread
        # sets its FPU status.
        -append "console=com1 com1=115200,8n1 loglvl=all guest_loglvl=error dom0_mem=1G,max:1G dom0_max_vcpus=1 dom0_vcpus_pin spec-ctrl=no cpufreq=none noreboot ${XEN_APPEND:-}"
        -initrd "vmlinux console=hvc0 earlyprintk=xen loglevel=4 mitigations=off nokaslr,dom0.cpio"
    )
    # XEN_TCG_THREADS=single with XEN_QEMU_EXTRA="-icount shift=0" counts instructions: the guest's clock is their number.
    # XEN_QEMU_EXTRA: for a debugger, say "-gdb tcp:127.0.0.1:1234" (symbols: xen/xen-syms in the build).
    # shellcheck disable=SC2206
    qemu+=(${XEN_QEMU_EXTRA:-})
    deadline=$((SECONDS + limit))
    exec 7< <(cd "$work" && QEMU_MODULE_DIR="$root_dir/usr/lib/x86_64-linux-gnu/qemu" \
        exec timeout -k 5 $((limit + 20)) "${qemu[@]}" </dev/null 2>&1)
    pid=$!
    : >"$log"
    # LINE_COMMAND may set line_deadline (in SECONDS) for what it waits for: dom0 may be too dead to keep its own.
    line_deadline=$deadline
    while left=$(((line_deadline < deadline ? line_deadline : deadline) - SECONDS)); [ "$left" -gt 0 ]; do
        line=''
        if ! IFS= read -r -t "$left" -u 7 line && [ -z "$line" ]; then break; fi
        line=${line//$'\r'/}
        printf '%s\n' "$line" >>"$log"
        "$on_line" "$line"
        case $line in
            *@@dom0-exit\ *@@*) status=${line##*@@dom0-exit }; status=${status%%@@*}; deadline=$((SECONDS + 15)) ;;
            # Xen stays where it died (noreboot): give it a moment to print its trace.
            *"Panic on CPU"* | *"Kernel panic - not syncing"*) [ -n "$status" ] || { status=125; deadline=$((SECONDS + 5)); } ;;
        esac
    done
    [ -n "$status" ] || { if [ "$left" -le 0 ] || [ $((deadline - SECONDS)) -le 0 ]; then status=124; else status=125; fi; }
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    exec 7<&-
    rm -rf "$work"
    return "$status"
}

# A directory for the log of one run; only the newest dozen are kept.
new_run() {
    mkdir -p "$cache/runs"
    find "$cache/runs" -maxdepth 1 -name '*.log' -printf '%T@ %p\n' | sort -rn | tail -n +12 | cut -d' ' -f2- | xargs -r rm -f
    printf '%s/%s-%s-%s.log' "$cache/runs" "$1" "$(date +%Y%m%d-%H%M%S)" "$$"
}
