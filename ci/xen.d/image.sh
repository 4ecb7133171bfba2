#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Makes the initramfs and kernel of dom0 and of the guest, in $cache/images. They are rebuilt when a
# package, a source or a script has changed. Needs no root: device nodes come from devtmpfs inside.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_fetched
lock_cache

images=$cache/images
modules=(xen-privcmd xenfs xen-evtchn xen-gntdev xen-gntalloc)
# Loaded by the tests that need a failing disk.
modules+=(crc16 mbcache jbd2 crc32c_generic ext4 brd dm-mod dm-flakey)
programs=(usr/lib/xen-4.17/bin/{xl,xenstored,xenconsoled,xen-init-dom0,xenpaging,xenctx,libxl-save-helper} usr/bin/xenstore sbin/dmsetup)

stamp() {
    { cat "$cache/fetched" "$cache/source-version"
      find "$here/guest" "$here/dom0" "$here/image.sh" "$here/packages.sh" -type f -print0 | sort -z | xargs -0 sha256sum; } |
        sha256sum | cut -d' ' -f1
}

kernel_of() {
    local kernel
    for kernel in "$(debroot)"/boot/vmlinuz-*; do
        # Debian's cloud kernel is built without dom0 support.
        case $1:$kernel in
            cloud:*-cloud-amd64) printf '%s' "$kernel"; return ;;
            dom0:*-cloud-amd64) ;;
            dom0:*-amd64) printf '%s' "$kernel"; return ;;
        esac
    done
    die "no $1 kernel in $(debroot)/boot: remove $cache/fetched and run 'ci/xen fetch'"
}

# Unpacks a bzImage's payload: under emulation dom0 boots seconds sooner if it need not unpack
# itself.
extract_kernel() {
    local from=$1 to=$2 sects offset length magic
    number_at() { od -An -j"$1" -N"$2" -tu"$2" "$from" | tr -d ' '; }
    sects=$(number_at 497 1) offset=$(number_at 584 4) length=$(number_at 588 4)
    # The last 4 bytes are the unpacked size, not part of the stream.
    head -c $(((sects + 1) * 512 + offset + length - 4)) "$from" | tail -c $((length - 4)) >"$to.packed"
    magic=$(od -An -N4 -tx1 "$to.packed" | tr -d ' ')
    case $magic in
        02214c18) lz4 -q -d -f "$to.packed" "$to" ;;
        fd377a58) xz -dc --single-stream <"$to.packed" >"$to" ;;
        1f8b*) gzip -dc <"$to.packed" >"$to" ;;
        28b52ffd) zstd -q -d -f "$to.packed" -o "$to" ;;
        *) die "cannot tell how $from is compressed (magic $magic)" ;;
    esac
    rm -f "$to.packed"
    [ "$(head -c 4 "$to" | tail -c 3)" = ELF ] || die "$from holds no ELF kernel"
}

# Cuts the zeros at the end of the last segment (20 MB of .bss, followed by a section with
# contents): a loader makes them itself. Bochs reads only one megabyte of its CD a second.
trim_kernel() {
    python3 - "$1" <<'PY'
import struct, sys
elf = bytearray(open(sys.argv[1], "rb").read())
heads, size, count = struct.unpack_from("<Q", elf, 32)[0], *struct.unpack_from("<HH", elf, 54)
loads = [at for at in range(heads, heads + size * count, size) if struct.unpack_from("<I", elf, at)[0] == 1]
last = max(loads, key=lambda at: struct.unpack_from("<Q", elf, at + 8))
offset, length = struct.unpack_from("<Q", elf, last + 8)[0], struct.unpack_from("<Q", elf, last + 32)[0]
length = len(elf[offset:offset + length].rstrip(b"\0"))
struct.pack_into("<Q", elf, last + 32, length)
# Removes the section headers, which were behind the cut.
struct.pack_into("<Q", elf, 40, 0)
struct.pack_into("<HH", elf, 60, 0, 0)
open(sys.argv[1], "wb").write(elf[:offset + length])
PY
}

pack() { (cd "$1" && find . -print0 | LC_ALL=C sort -z | cpio --quiet -0 -o -H newc -R 0:0) >"$2"; }

# Puts the libraries that the programs need, directly or not, into the image.
copy_libraries() {
    local dir=$1 lib; shift
    mkdir -p "$dir/lib64" "$dir/lib"
    cp "$(debroot)/lib64/ld-linux-x86-64.so.2" "$dir/lib64/"
    local program
    for program in "$@"; do
        "$(debroot)/lib64/ld-linux-x86-64.so.2" --library-path "$(debroot_libs)" --list "$program" |
            awk '$2 == "=>" { print $3 }'
    done | sort -u | while read -r lib; do
        [ -e "$lib" ] || die "a library is missing: $lib"
        cp -L "$lib" "$dir/lib/"
    done
    # xl cancels threads, for which glibc loads this library by name.
    cp -L "$(debroot)/lib/x86_64-linux-gnu/libgcc_s.so.1" "$dir/lib/"
}

build_guest() {
    local dir=$images/guest
    mkdir -p "$dir/sbin" "$dir/dev"
    gcc -static -O2 -Wall -Wextra -pthread -o "$dir/init" "$here"/guest/*.c || die "the guest's program does not compile"
    strip "$dir/init"
    ln "$dir/init" "$dir/sbin/poweroff"
    find "$(debroot)/lib/modules" -path '*cloud*' -name xen-privcmd.ko -exec cp {} "$dir/" \;
    [ -e "$dir/xen-privcmd.ko" ] || die "the guest's kernel package has no module xen-privcmd"
    pack "$dir" "$images/guest.cpio"
}

# Our programs that run in dom0 are compiled against the packaged headers and libraries, not the
# machine's.
compile_dom0() {
    local out=$1 source name flags
    local lib; lib=$(debroot)/usr/lib/x86_64-linux-gnu
    for source in "$here"/dom0/*.c; do
        [ -e "$source" ] || continue
        name=$(basename "$source" .c)
        flags=(-O2 -Wall -Wextra -I"$(debroot)/usr/include" -L"$lib" -Wl,-rpath-link,"$lib:$(debroot)/lib/x86_64-linux-gnu")
        case $name in
            *-preload) gcc "${flags[@]}" -shared -fPIC -o "$out/lib/$name.so" "$source" -ldl ;;
            *) gcc "${flags[@]}" -o "$out/bin/$name" "$source" -lxenctrl -lxenevtchn -lxencall -lxendevicemodel -lxenstore ;;
        esac || die "dom0 program $name does not compile"
    done
}

build_dom0() {
    local dir=$images/dom0 m p
    mkdir -p "$dir"/{bin,usr/bin,lib,modules,guest,test,etc/xen,proc,sys,dev,tmp,var,run/{xen,lock,xenstored}} \
        "$dir"/var/{lib/{xen,xenstored},log/xen/console}
    ln -s ../run "$dir/var/run"
    ln -s ../run/lock "$dir/var/lock"
    cp "$(debroot)/bin/busybox" "$dir/bin/busybox"
    for p in "${programs[@]}"; do cp -L "$(debroot)/$p" "$dir/usr/bin/"; done
    # xl runs this one from where Debian installs it.
    mkdir -p "$dir/usr/lib/xen-4.17/bin"
    ln -s /usr/bin/libxl-save-helper "$dir/usr/lib/xen-4.17/bin/"
    for p in read write ls list exists rm; do ln -s xenstore "$dir/usr/bin/xenstore-$p"; done
    for m in "${modules[@]}"; do
        p=$(find "$(debroot)/lib/modules" -path '*-amd64/*' ! -path '*cloud*' -name "$m.ko" -print -quit)
        [ -n "$p" ] || die "the dom0 kernel package has no module $m"
        cp "$p" "$dir/modules/"
    done
    echo 'autoballoon="off"' >"$dir/etc/xen/xl.conf"
    cp "$here/dom0/init" "$dir/init"
    chmod 755 "$dir/init"
    [ ! -e "$here/dom0/lib.sh" ] || cp "$here/dom0/lib.sh" "$dir/test/lib.sh"
    cp "$images/guest.cpio" "$(kernel_of cloud)" "$dir/guest/"
    mv "$dir"/guest/vmlinuz-* "$dir/guest/vmlinuz"
    compile_dom0 "$dir"
    copy_libraries "$dir" "$dir"/usr/bin/* $(find "$dir/bin" -type f ! -name busybox)
    pack "$dir" "$images/dom0.cpio"
}

# The small Debian, as dom0's /debian: files and package database as if installed; /bin and similar
# directories are merged into /usr.
build_debian() {
    local dir=$images/debian to=$images/debian/debian name deb list d
    mkdir -p "$to"/{dev,proc,sys,run,tmp,root,etc} "$to"/usr/{bin,sbin,lib,lib64} "$to"/var/{log,lib/dpkg/{info,updates}}
    for d in bin sbin lib lib64; do ln -s "usr/$d" "$to/$d"; done
    ln -s ../run "$to/var/run"
    while read -r name; do
        deb=$(echo "$cache"/apt/archives/"${name}"_*.deb)
        [ -e "$deb" ] || die "no package $name in $cache/apt: remove $cache/fetched and run 'ci/xen fetch'"
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$to" --keep-directory-symlink --no-same-owner \
            --exclude='./usr/share/'{doc,info,locale,man} --exclude='*/hwdb.d' --exclude='*/gconv'
        list=$name
        [ "$(dpkg-deb -f "$deb" Multi-Arch)" != same ] || list=$name:amd64
        dpkg-deb --fsys-tarfile "$deb" | tar -t | sed 's|^\.||; s|/$||; s|^$|/.|' >"$to/var/lib/dpkg/info/$list.list"
        { dpkg-deb -f "$deb" | sed '1a Status: install ok installed'; echo; } >>"$to/var/lib/dpkg/status"
    done <"$cache/apt/debian-root"
    [ -e "$to/bin/sh" ] || ln -s dash "$to/bin/sh"
    echo root:x:0:0:root:/root:/bin/sh >"$to/etc/passwd"
    echo root:x:0: >"$to/etc/group"
    # It counts as booted before: systemd asks nothing.
    echo 0123456789abcdef0123456789abcdef >"$to/etc/machine-id"
    pack "$dir" "$images/debian.cpio"
    rm -rf "$dir"
}

# The pager of this checkout, with its libraries, in an archive of its own: it changes more often
# than the rest.
build_pager() {
    local dir=$images/pager program=$root/target/release/xenpaging log=$cache/build-pager.log
    # The Rust of the checkout, whatever else the machine has.
    (cd "$root" && cargo build --quiet --locked --release -p xenpaging --bin xenpaging) >"$log" 2>&1 ||
        die "the pager does not build: $(grep -m1 '^error' "$log" || true) (all of it: $log)"
    [ "$images/pager.cpio" -nt "$program" ] && return
    say "packing the pager"
    rm -rf "$dir"
    mkdir -p "$dir/usr/bin"
    # The binary as it is in the package, and the package.
    cp "$("$root/ci/deb" "$images/deb" | tail -n 1)" "$dir/xenpaging.deb" || die "the pager's package does not build"
    dpkg-deb --fsys-tarfile "$dir/xenpaging.deb" | tar -xO ./usr/sbin/xenpaging >"$dir/usr/bin/xenpaging-rust"
    chmod 755 "$dir/usr/bin/xenpaging-rust"
    copy_libraries "$dir" "$dir/usr/bin/xenpaging-rust"
    pack "$dir" "$images/pager.cpio"
    rm -rf "$dir"
}

if [ "$(cat "$images/stamp" 2>/dev/null)" != "$(stamp)" ]; then
    say "building dom0's and the guest's images"
    rm -rf "$images"
    mkdir -p "$images"
    build_guest
    extract_kernel "$(kernel_of dom0)" "$images/vmlinux"
    trim_kernel "$images/vmlinux"
    build_dom0
    build_debian
    rm -rf "$images/guest" "$images/dom0"
    stamp >"$images/stamp"
fi
build_pager
