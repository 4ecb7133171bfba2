# SPDX-License-Identifier: MIT OR Apache-2.0
# A debugger in dom0 reads and writes a guest's memory (XEN_DOMCTL_gdbsx_guestmemio). A nominated
# page that it writes becomes resident first. A page that is out is requested.
# deadline: 120
# own-boot: C takes the hypervisor with it
# c-defect: a debugger that reads a page that is out makes Xen map a frame that is none (dbg_hvm_va2mfn), and it panics
memops debugger >/tmp/debugger.out || { tail -n 2 /tmp/debugger.out; bad "memops stopped"; }
as_in_table debugger /tmp/debugger.out
