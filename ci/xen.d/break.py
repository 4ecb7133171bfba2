#!/usr/bin/env python3
"""break.py SOCKET XEN-SYMS entry|panic: breaks an invariant of the Rust hypervisor in a running machine.

Talks to QEMU's debugger stub; the hypervisor is the one that every other test runs, nothing is built for this.
entry: the first page that is asked for while it is out has an entry that says nominated, which no page can be without a frame.
panic: the next event from a pager finds a count below zero where the crate gives a slot of the ring back.
"""
import re
import socket
import subprocess
import sys
import time

# The machine may have to be packed and started first.
CONNECT_SECONDS = 300
# Numbers of registers in the stub's protocol, in the order of its answer to `g`.
RDX, RSP, RIP = 3, 7, 16
PAGING_OUT, PAGED = 9, 10
# The crate's, as `xen-glue` shortens its name.
ON_EVENT = "p2m_paging::paging::Paging_p2mp::platform::Xen_::on_event"


class Stub:
    """A machine that waits for its debugger to let it run. Every method leaves it stopped but `leave`."""

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
        # Who has not asked how the registers are called may not set them.
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
        """Until a CPU gets there (this one). Yields which."""
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
        """One instruction: a CPU that goes on from a breakpoint's place would stop there again."""
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


def block_before(syms, function, call):
    """Where the function gets ready for this call, which it makes when a check of its own fails."""
    code = subprocess.run(["objdump", "-d", "--no-show-raw-insn", f"--disassemble={function}", syms],
                          check=True, capture_output=True, text=True).stdout
    found = re.search(rf"^(\w+):\tlea [^\n]*%rdi[^\n]*\n\w+:\tcall [^\n]*{call}>", code, re.M)
    if not found:
        sys.exit(f"break: {function} has no check that ends in {call}")
    return int(found[1], 16)


def break_entry(stub, syms):
    populate, get_entry = symbol(syms, "p2mp_populate"), symbol(syms, "p2mx_get_entry")
    while True:
        cpu = stub.run(populate)
        stub.run(get_entry, cpu)
        stub.run(stub.word_at(stub.get(RSP)), cpu)
        # struct p2mx_entry: the frame in RAX, the type in the lower half of RDX.
        types = stub.get(RDX)
        if types & 0xffffffff == PAGED:
            return stub.set(RDX, types - PAGED + PAGING_OUT)
        stub.step(cpu)


def break_count(stub, syms):
    stub.run(symbol(syms, ON_EVENT))
    stub.set(RIP, block_before(syms, ON_EVENT, "panic_const_sub_overflow"))


if len(sys.argv) != 4 or sys.argv[3] not in ("entry", "panic"):
    sys.exit("usage: break.py SOCKET XEN-SYMS entry|panic")
_, path, syms, what = sys.argv
stub = Stub(path)
{"entry": break_entry, "panic": break_count}[what](stub, syms)
stub.leave()
print(f"break: {what} broken", flush=True)
