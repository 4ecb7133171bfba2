# SPDX-License-Identifier: MIT OR Apache-2.0
# The packages that fetch downloads. shellcheck shell=bash disable=SC2034

# Installed on the machine: the compiler and tools that build Xen and the images.
build_tools=(dpkg-dev gcc make bc bison flex libelf-dev acpica-tools python3 cpio xz-utils lz4 binutils)

# Unpacked privately with all their dependencies: QEMU 7.2 (10.0 loses the PVH guest without a
# message), and dom0's programs and libraries, with the headers for the dom0 test programs.
rooted=(qemu-system-x86 xen-utils-4.17 xenstore-utils libxen-dev busybox-static)
# Bochs, for Intel's EPT, and the tools that make an image that it boots from. bochs-term: the
# smallest of its displays, unused.
rooted+=(bochs bochs-term bochsbios vgabios grub-pc-bin xorriso)

# The smallest Debian 12 that has systemd and installs packages: the root file system in which the
# pager's package is tested.
debian_root=(systemd dpkg base-files coreutils dash diffutils libc-bin)
rooted+=("${debian_root[@]}")

# Unpacked privately without their dependencies (these would be a whole installer for an initramfs).
# The versions come from these packages' dependencies.
kernels=(linux-image-amd64 linux-image-cloud-amd64)

# The source of every build. This version is tried first, so that a tree does not change under our
# patches when a mirror gets a newer version; then whatever else apt lists (a mirror drops sources
# that a newer version replaced).
xen_source=${XEN_SOURCE_VERSION:-4.17.5+72-g01140da4e8-1}
