# SPDX-License-Identifier: MIT OR Apache-2.0
# Bochs as a machine of two CPUs with Intel's VMX and EPT. shellcheck shell=bash disable=SC2154

# start_bochs SECONDS: its standard output is the console. Runs in the directory with xen, vmlinux
# and dom0.cpio.
start_bochs() {
    local plugins; plugins=$(debroot)/usr/lib/x86_64-linux-gnu/bochs/plugins
    make_iso
    make_bochsrc >bochsrc
    mkfifo console commands
    # It starts in its debugger, and ends when its input for commands is closed.
    exec 8<>commands
    echo c >&8
    LTDL_LIBRARY_PATH=$plugins BXSHARE=$(debroot)/usr/share/bochs timeout -k 5 "$1" \
        "$(debroot)/lib64/ld-linux-x86-64.so.2" --library-path "$(debroot_libs):$plugins" "$(debroot)/usr/bin/bochs-bin" \
        -q -f bochsrc <&8 >bochs.out 2>&1 7<&- &
    local bochs=$!
    trap 'kill "$bochs"' TERM
    cat console &
    wait "$bochs"
}

# GRUB starts Xen, the dom0 kernel and its initramfs. Multiboot 1: with 2 GRUB sets a video mode,
# and Xen dies.
make_iso() {
    local file
    mkdir -p iso/boot
    for file in xen vmlinux; do cp -L "$file" "iso/boot/$file"; done
    # The CD is slow: the kernel unpacks this file faster than GRUB reads it unpacked.
    gzip -c dom0.cpio >iso/boot/dom0.cpio
    cat >grub.cfg <<CFG
set gfxpayload=text
set root=(cd)
multiboot /boot/xen $xen_options dom0_mem=512M,max:512M cpuidle=0 apicv=0 x2apic=no altp2m=1
module /boot/vmlinux vmlinux $dom0_options
module /boot/dom0.cpio dom0.cpio
boot
CFG
    debroot_run usr/bin/grub-mkimage -O i386-pc-eltorito -d "$(debroot)/usr/lib/grub/i386-pc" -p /boot -c grub.cfg \
        -o iso/boot/eltorito.img biosdisk iso9660 multiboot normal configfile
    debroot_run usr/bin/xorriso -as mkisofs -quiet -R -b boot/eltorito.img -no-emul-boot -boot-load-size 4 -boot-info-table \
        -o boot.iso iso 2>xorriso.out || { cat xorriso.out; return 1; }
}

# 50 million instructions of a CPU are a second. Xen's options for this machine are in make_iso:
# with APICv the guest hangs soon after paging starts, and with x2APIC Xen panics when it sends the
# second CPU an IPI.
make_bochsrc() {
    cat <<CFG
config_interface: textconfig
display_library: rfb, options="timeout=0"
plugin_ctrl: speaker=0, serial=1
cpu: model=corei7_haswell_4770, count=2, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=1
memory: guest=1024, host=1024
romimage: file="$(debroot)/usr/share/bochs/BIOS-bochs-latest", options=fastboot
vgaromimage: file="$(debroot)/usr/share/vgabios/vgabios.bin"
ata0-master: type=cdrom, path="boot.iso", status=inserted
boot: cdrom
clock: sync=none
com1: enabled=1, mode=file, dev=console
sound: driver=dummy
log: bochs.log
panic: action=report
error: action=report
info: action=ignore
debug: action=ignore
CFG
}
