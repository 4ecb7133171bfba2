#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""break.py SOCKET XEN-SYMS WHAT: breaks an invariant of the Rust hypervisor in a running machine.

Talks to QEMU's debugger stub. The hypervisor is the one of every other test.
  entry     makes an entry inconsistent: that of the first page that is requested while it is out
            says nominated, but no page can be nominated without a frame
  rights    when paging is first enabled, the crate expects another right of an entry than Xen gives
"""
import re
import socket
import subprocess
import sys
import time

# The machine may have to be packed and started first.
CONNECT_SECONDS = 300
# Numbers of registers in the stub's protocol, in the order of its answer to `g`.
RAX, RDX, RSP = 0, 3, 7
PAGING_OUT, PAGED = 9, 10
# In the value of p2m_rs_permissions the second bit is the right to write, in both vendors' tables.
NO_RIGHTS, WRITE = 2**64 - 1, 2


class Stub:
    """A machine that a debugger has stopped. After every method but `leave` it is stopped again."""

    def __init__(self, path):
        deadline = time.monotonic() + CONNECT_SECONDS
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(path)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        self.buffer = b""
        self.ask("?")
        # A debugger may set registers only after it has asked for their names.
        self.ask("qXfer:features:read:target.xml:0,ffb")

    def ask(self, command):
        text = command.encode()
        self.socket.sendall(b"$" + text + b"#%02x" % (sum(text) % 256))
        while not (found := re.search(rb"\$([^#]*)#..", self.buffer)):
            data = self.socket.recv(4096)
            if not data:
                sys.exit("break: the machine has ended")
            self.buffer += data
        self.buffer = self.buffer[found.end():]
        self.socket.sendall(b"+")
        return found[1].decode()

    def run(self, address, cpu=None):
        """Runs until a CPU (this one, if given) reaches the address. Yields which CPU."""
        self.ask(f"Z1,{address:x},1")
        while True:
            stopped = re.search("thread:([^;]*)", self.ask("c"))[1]
            self.ask("Hg" + stopped)
            if cpu in (None, stopped):
                break
            self.step(stopped)
        self.ask(f"z1,{address:x},1")
        return stopped

    def get(self, register):
        word = self.ask("g")[register * 16:register * 16 + 16]
        return int.from_bytes(bytes.fromhex(word), "little")

    def step(self, cpu):
        """Executes one instruction: a CPU that continues at a breakpoint would stop there again."""
        self.ask("vCont;s:" + cpu)

    def word_at(self, address):
        return int.from_bytes(bytes.fromhex(self.ask(f"m{address:x},8")), "little")

    def set(self, register, value):
        if self.ask(f"P{register:x}={value.to_bytes(8, 'little').hex()}") != "OK":
            sys.exit("break: a register cannot be set")

    def leave(self):
        self.ask("D")


def symbol(syms, name):
    for line in subprocess.run(["nm", syms], check=True, capture_output=True, text=True).stdout.splitlines():
        if line.endswith(f" {name}"):
            return int(line.split()[0], 16)
    sys.exit(f"break: no {name} in {syms}")


def break_entry(stub, syms):
    populate, get_entry = symbol(syms, "p2m_rs_populate"), symbol(syms, "xen_shim_get_entry")
    while True:
        cpu = stub.run(populate)
        stub.run(get_entry, cpu)
        stub.run(stub.word_at(stub.get(RSP)), cpu)
        # struct xen_shim_entry: the frame in RAX, the type in the lower half of RDX.
        types = stub.get(RDX)
        if types & 0xffffffff == PAGED:
            return stub.set(RDX, types - PAGED + PAGING_OUT)
        stub.step(cpu)


def break_rights(stub, syms):
    permissions = symbol(syms, "p2m_rs_permissions")
    while True:
        cpu = stub.run(permissions)
        stub.run(stub.word_at(stub.get(RSP)), cpu)
        # All ones: not a paging type.
        if (rights := stub.get(RAX)) != NO_RIGHTS:
            return stub.set(RAX, rights ^ WRITE)
        stub.step(cpu)


BREAK = {"entry": break_entry, "rights": break_rights}
if len(sys.argv) != 4 or sys.argv[3] not in BREAK:
    sys.exit(f"usage: break.py SOCKET XEN-SYMS {'|'.join(BREAK)}")
_, path, syms, what = sys.argv
stub = Stub(path)
BREAK[what](stub, syms)
stub.leave()
print(f"break: {what} broken", flush=True)
