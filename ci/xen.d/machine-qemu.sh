# SPDX-License-Identifier: MIT OR Apache-2.0
# QEMU's TCG as a machine with AMD's SVM and nested paging. shellcheck shell=bash disable=SC2154

# start_qemu SECONDS: its standard output is the console. Runs in the directory with xen, vmlinux
# and dom0.cpio.
start_qemu() {
    local libs root_dir; libs=$(debroot_libs) root_dir=$(debroot)
    local qemu=(
        "$root_dir/lib64/ld-linux-x86-64.so.2" --library-path "$libs" "$root_dir/usr/bin/qemu-system-x86_64"
        -L "$root_dir/usr/share/qemu" -L "$root_dir/usr/share/seabios" -L "$root_dir/usr/lib/ipxe/qemu"
        -accel "tcg,thread=${XEN_TCG_THREADS:-multi}"
        # No MONITOR: Xen's idle loop would use MWAIT, which TCG answers with #GP. qemu64 has
        # neither SMAP (PV dom0 dies at its first iret) nor RDTSCP (intercepted, not decodable).
        # SSE4.2: every CPU with EPT has it, and every CPU with NPT since 2011. The pager's
        # checksums use it.
        -cpu qemu64,+svm,+npt,-monitor,+ssse3,+sse4.1,+sse4.2
        -smp 2 -m "${XEN_MEMORY_MIB:-2560}" -nographic -no-reboot -nic none -monitor none -serial stdio
        -kernel xen
        # dom0 stays on the first CPU and guests on the second: QEMU 7.2 can break the first CPU's
        # VMRUN when another thread sets its FPU status.
        -append "$xen_options dom0_mem=1G,max:1G"
        -initrd "vmlinux $dom0_options,dom0.cpio"
    )
    # XEN_TCG_THREADS=single with XEN_QEMU_EXTRA="-icount shift=0" counts instructions: the guest's
    # clock is their number.
    # XEN_QEMU_EXTRA: for a debugger use "-gdb tcp:127.0.0.1:1234" (symbols: xen/xen-syms in the
    # build).
    # shellcheck disable=SC2206
    qemu+=(${XEN_QEMU_EXTRA:-})
    QEMU_MODULE_DIR="$root_dir/usr/lib/x86_64-linux-gnu/qemu" exec timeout -k 5 "$1" "${qemu[@]}"
}
