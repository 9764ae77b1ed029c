#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Which accesses to PCI config space changed something, from QEMU's trace of all of them.

QEMU writes the trace with -trace pci_cfg_read -trace pci_cfg_write -msg timestamp=on -D TRACE.
From its beginning each function's config space is followed byte by byte: every read and
write shows what is there. Reported is a write of another value than was there, or to
what was never seen before; and a read of another value than was left there: hardware has
changed it, by a reset for example. Status bits don't count: software can't set them.

The trace doesn't say how wide an access was. A read is taken to be as wide as the
register, a write as wide as Linux makes it there, both wider if the value doesn't fit.
So a wider write whose upper bytes are 0 looks narrow, and what they changed is reported
as changed by hardware, at the next read. Where we have no name for a register, accesses
are taken to be as wide as the alignment allows: after a narrower write the bytes behind it
may be reported as cleared. A BIOS has other habits than Linux: begin after it.
"""

import argparse
import math
import re
import sys
from dataclasses import dataclass
from datetime import datetime

EMPTY = "empty"         # QEMU's name for a device that isn't there


@dataclass
class Access:
    time: float
    name: str           # QEMU's for the device
    bdf: str
    offset: int
    value: int
    write: bool


@dataclass
class Change:
    time: float
    kernel: int         # 1 is the first
    bdf: str
    name: str
    register: str
    offset: int
    old: int | None     # None: it isn't known
    new: int
    drift: bool         # a read saw it: nobody wrote this

    def __str__(self):
        where = "" if self.register.startswith("offset") else f" ({self.offset:#x})"
        old = "?" if self.old is None else f"{self.old:#x}"
        return (f"kernel {self.kernel} {self.bdf} {self.name}: {self.register}{where} "
                f"{old} -> {self.new:#x}" + ", reset or changed by hardware" * self.drift)


# ---- registers: offset, size, name, and what of it is status ----

@dataclass
class Register:
    offset: int
    size: int
    name: str
    status: int = 0         # bits that are cleared by writing 1, or only hardware sets
    moving: bool = False    # hardware changes it, but software can set it too

    def end(self):
        return self.offset + self.size

    def status_byte(self, offset):
        return self.status >> 8 * (offset - self.offset) & 0xff


ALL = 0xffffffff

COMMON = [
    (0x00, 2, "Vendor ID"), (0x02, 2, "Device ID"), (0x04, 2, "Command"),
    (0x06, 2, "Status", ALL), (0x08, 1, "Revision ID"), (0x09, 1, "Programming Interface"),
    (0x0a, 2, "Class"), (0x0c, 1, "Cache Line Size"), (0x0d, 1, "Latency Timer"),
    (0x0e, 1, "Header Type"), (0x0f, 1, "BIST", 0, True), (0x34, 1, "Capabilities Pointer"),
    (0x3c, 1, "Interrupt Line"), (0x3d, 1, "Interrupt Pin"),
]

HEADERS = {
    0: COMMON + [(0x10 + 4 * i, 4, f"BAR {i}") for i in range(6)] + [
        (0x28, 4, "CardBus CIS"), (0x2c, 2, "Subsystem Vendor ID"), (0x2e, 2, "Subsystem ID"),
        (0x30, 4, "ROM BAR"), (0x3e, 1, "Minimum Grant"), (0x3f, 1, "Maximum Latency")],
    1: COMMON + [
        (0x10, 4, "BAR 0"), (0x14, 4, "BAR 1"), (0x18, 1, "Primary Bus"),
        (0x19, 1, "Secondary Bus"), (0x1a, 1, "Subordinate Bus"),
        (0x1b, 1, "Secondary Latency Timer"),
        # The windows' lowest bits tell their type; Linux leaves them out when it writes
        (0x1c, 1, "I/O Base", 0xf), (0x1d, 1, "I/O Limit", 0xf),
        (0x1e, 2, "Secondary Status", ALL),
        (0x20, 2, "Memory Base", 0xf), (0x22, 2, "Memory Limit", 0xf),
        (0x24, 2, "Prefetchable Memory Base", 0xf), (0x26, 2, "Prefetchable Memory Limit", 0xf),
        (0x28, 4, "Prefetchable Base Upper 32 Bits"),
        (0x2c, 4, "Prefetchable Limit Upper 32 Bits"),
        (0x30, 2, "I/O Base Upper 16 Bits"), (0x32, 2, "I/O Limit Upper 16 Bits"),
        (0x38, 4, "ROM BAR"), (0x3e, 2, "Bridge Control", 0x400)],
}

# Where Linux writes several registers of a bridge at once
WRITE_WIDTHS = {0x18: 4, 0x1c: 2, 0x20: 4, 0x24: 4, 0x30: 4}


def msi(control):
    """The registers' places depend on what the capability can do."""
    data = 0xc if control & 0x80 else 8
    registers = [(2, 2, "Message Control"), (4, 4, "Message Address"), (data, 2, "Message Data")]
    if control & 0x80:
        registers.append((8, 4, "Message Upper Address"))
    if control & 0x100:
        registers += [(data + 4, 4, "Mask Bits"), (data + 8, 4, "Pending Bits", ALL)]
    return registers


STANDARD = {
    0x01: ("PM", [(4, 2, "Control/Status", 0xe000), (6, 1, "Bridge Extensions"),
                  (7, 1, "Data", ALL)]),
    0x03: ("VPD", [(2, 2, "Address", 0, True), (4, 4, "Data", 0, True)]),
    0x05: ("MSI", msi),
    0x07: ("PCI-X", [(2, 2, "Command"), (4, 4, "Status", ALL)]),
    0x0c: ("SHPC", [(2, 1, "DWORD Select"), (3, 1, "Interrupts Pending", ALL),
                    (4, 4, "Data", 0, True)]),
    0x10: ("PCIe", [
        (0x08, 2, "Device Control"), (0x0a, 2, "Device Status", ALL),
        (0x10, 2, "Link Control"), (0x12, 2, "Link Status", ALL),
        (0x18, 2, "Slot Control"), (0x1a, 2, "Slot Status", ALL),
        (0x1c, 2, "Root Control"), (0x20, 4, "Root Status", ALL),
        (0x28, 2, "Device Control 2"), (0x2a, 2, "Device Status 2", ALL),
        (0x30, 2, "Link Control 2"), (0x32, 2, "Link Status 2", ALL),
        (0x38, 2, "Slot Control 2"), (0x3a, 2, "Slot Status 2", ALL)]),
    0x11: ("MSI-X", [(2, 2, "Message Control")]),
    0x13: ("AF", [(4, 1, "Control"), (5, 1, "Status", ALL)]),
}

VC = ("VC", [(0x0c, 2, "Port Control"), (0x0e, 2, "Port Status", ALL)]
      + [(0x14 + 12 * i, 4, f"Resource Control {i}") for i in range(8)]
      + [(0x1a + 12 * i, 2, f"Resource Status {i}", ALL) for i in range(8)])

RESIZABLE = [(8 + 8 * i, 4, f"Control {i}") for i in range(6)]

PHYSICAL = [(8, 4, "Control"), (0xc, 4, "Status", ALL)]

EXTENDED = {
    0x01: ("AER", [
        (0x04, 4, "Uncorrectable Error Status", ALL), (0x08, 4, "Uncorrectable Error Mask"),
        (0x0c, 4, "Uncorrectable Error Severity"), (0x10, 4, "Correctable Error Status", ALL),
        (0x14, 4, "Correctable Error Mask"),
        (0x18, 4, "Capabilities and Control", 0x81f),   # the bits about the first error
        *[(0x1c + 4 * i, 4, f"Header Log {i}", ALL) for i in range(4)],
        (0x2c, 4, "Root Error Command"), (0x30, 4, "Root Error Status", ALL),
        (0x34, 4, "Error Source", ALL),
        *[(0x38 + 4 * i, 4, f"TLP Prefix Log {i}", ALL) for i in range(4)]]),
    0x02: VC,
    0x04: ("Power Budgeting", [(4, 1, "Data Select"), (8, 4, "Data", ALL)]),
    0x08: ("MF" + VC[0], VC[1]),
    0x09: VC,
    0x0d: ("ACS", [(6, 2, "Control"), (8, 4, "Egress Control Vector")]),
    0x0e: ("ARI", [(6, 2, "Control")]),
    0x0f: ("ATS", [(6, 2, "Control")]),
    0x10: ("SR-IOV", [
        (0x08, 2, "Control"), (0x0a, 2, "Status", ALL), (0x10, 2, "NumVFs"),
        (0x12, 1, "Function Dependency Link"),
        (0x14, 2, "First VF Offset", 0, True), (0x16, 2, "VF Stride", 0, True),
        (0x20, 4, "System Page Size"),
        *[(0x24 + 4 * i, 4, f"VF BAR {i}") for i in range(6)]]),
    0x13: ("PRI", [(4, 2, "Control"), (6, 2, "Status", ALL), (0xc, 4, "Allocation")]),
    0x15: ("Resizable BAR", RESIZABLE),
    0x17: ("TPH", [(8, 4, "Control")]
           + [(0xc + 2 * i, 2, f"Steering Tag {i}") for i in range(64)]),
    0x18: ("LTR", [(4, 4, "Maximum Latencies")]),
    0x19: ("Secondary PCIe", [(4, 4, "Link Control 3"), (8, 4, "Lane Error Status", ALL)]),
    0x1b: ("PASID", [(6, 2, "Control")]),
    0x1d: ("DPC", [
        (0x06, 2, "Control"), (0x08, 2, "Status", ALL), (0x0a, 2, "Source ID", ALL),
        (0x0c, 4, "RP PIO Status", ALL), (0x10, 4, "RP PIO Mask"), (0x14, 4, "RP PIO Severity"),
        (0x18, 4, "RP PIO SysError"), (0x1c, 4, "RP PIO Exception"),
        *[(0x20 + 4 * i, 4, f"RP PIO Log {i}", ALL) for i in range(9)]]),
    0x1e: ("L1SS", [(8, 4, "Control 1"), (0xc, 4, "Control 2")]),
    0x1f: ("PTM", [(8, 4, "Control")]),
    0x24: ("VF Resizable BAR", RESIZABLE),
    0x25: ("Data Link Feature", [(8, 4, "Status", ALL)]),
    0x26: ("16 GT/s", PHYSICAL),
    0x29: ("NPEM", PHYSICAL),
    0x2a: ("32 GT/s", PHYSICAL),
    0x2e: ("DOE", [(8, 4, "Control"), (0xc, 4, "Status", ALL),
                   (0x10, 4, "Write Mailbox", 0, True), (0x14, 4, "Read Mailbox", 0, True)]),
    0x2f: ("Device 3", PHYSICAL),
    0x30: ("IDE", [(8, 4, "Control")]),
    0x31: ("64 GT/s", PHYSICAL),
}


# ---- one function ----

def fitting(value):
    """The narrowest access that can have this value."""
    return 1 if value < 1 << 8 else 2 if value < 1 << 16 else 4


def alignment(offset):
    return next(width for width in (4, 2, 1) if offset % width == 0)


def constants(accesses):
    """What reads have shown of headers and capability lists, by offset: those don't change."""
    seen = {}
    for access in accesses:
        if not access.write and access.value not in (0xff, 0xffff, 0xffffffff):   # no answer
            for i in range(fitting(access.value)):
                seen[access.offset + i] = access.value >> 8 * i & 0xff
    return seen


def number(seen, offset, size):
    return sum(seen.get(offset + i, 0) << 8 * i for i in range(size))


def capabilities(seen):
    """The name and registers at each capability's position."""
    found = {}
    position = seen.get(0x34, 0) & ~3
    while position >= 0x40 and position not in found:
        name, registers = STANDARD.get(seen.get(position), ("", []))
        if registers is msi:
            registers = msi(number(seen, position + 2, 2))
        found[position] = name, registers
        position = seen.get(position + 1, 0) & ~3
    position = 0x100
    while position >= 0x100 and position not in found:
        header = number(seen, position, 4)
        found[position] = EXTENDED.get(header & 0xffff, ("", []))
        position = header >> 20 & ~3
    return found


def layout(seen):
    """The register at each byte."""
    registers = [Register(*fields) for fields in HEADERS.get(seen.get(0xe, 0xff) & 0x7f, COMMON)]
    found = capabilities(seen)
    # Capabilities have various lengths: one ends at the latest where the next begins
    for start, end in zip(sorted(found), sorted(found)[1:] + [4096]):
        name, contents = found[start]
        for offset, size, register, *rest in contents:
            if start + offset + size <= end:
                registers.append(Register(start + offset, size, f"{name} {register}", *rest))
    return {i: register for register in registers
            for i in range(register.offset, register.end())}


class Function:
    """The config space of a function, as far as the trace has shown it."""

    def __init__(self, accesses):
        seen = constants(accesses)
        self.registers = layout(seen)
        self.write_widths = WRITE_WIDTHS if seen.get(0xe, 0) & 0x7f == 1 else {}
        self.value = bytearray(4096)
        self.known = bytearray(4096)
        self.unproved = bytearray(4096)     # bits that a write has changed and no read has shown

    def width(self, access):
        offset = access.offset
        register = self.registers.get(offset)
        if access.write and offset in self.write_widths:
            width = self.write_widths[offset]
        elif register:
            width = min(register.end() - offset, alignment(offset))
        else:
            gap = next((i for i in range(4) if offset + i in self.registers), 4)
            width = min(alignment(offset), alignment(gap))
            if not access.write and any(self.known[offset + 1:offset + width]):
                width = 1       # better keep what we know than guess that it is 0
        return max(width, fitting(access.value))

    def pieces(self, access):
        """The registers that the access covers, each with the offsets of its bytes in it."""
        offset, end = access.offset, access.offset + self.width(access)
        while offset < end:
            register = self.registers.get(offset)
            if not register:
                stop = next((i for i in range(offset, end) if i in self.registers), end)
                register = Register(offset, stop - offset, f"offset {offset:#x}", moving=True)
            yield register, range(offset, min(register.end(), end))
            offset = register.end()

    def get(self, register):
        value = int.from_bytes(self.value[register.offset:register.end()], "little")
        return value & ~register.status

    def write(self, register, offset, byte):
        """Returns the bits that this changes."""
        changed = byte ^ self.value[offset] if self.known[offset] else 0xff
        changed &= ~register.status_byte(offset)
        self.unproved[offset] |= changed
        return changed

    def read(self, register, offset, byte):
        """Returns the bits that nobody has changed and are different all the same."""
        ignored = register.status_byte(offset) | self.unproved[offset]
        self.unproved[offset] = 0
        if register.moving or not self.known[offset]:
            return 0
        return (byte ^ self.value[offset]) & ~ignored

    def take(self, access):
        """Returns the registers changed, each with its old and new value."""
        look = self.write if access.write else self.read
        changed = []
        for register, offsets in self.pieces(access):
            known = all(self.known[register.offset:register.end()])
            old = self.get(register) if known else None
            bits = 0
            for offset in offsets:
                byte = access.value >> 8 * (offset - access.offset) & 0xff
                bits |= look(register, offset, byte)
                self.value[offset] = byte
                self.known[offset] = True
            if bits:
                changed.append((register, old, self.get(register)))
        return changed


# ---- the whole trace ----

# QEMU 11 writes the time as a date, older ones in seconds behind the process ID
LINE = re.compile(r"(?:\d+@(\d+\.\d+):|(\d{4}-\S+Z) )pci_cfg_(read|write) (.+) "
                  r"([0-9a-f]{2}:[0-9a-f]{2}\.[0-7]) @0x([0-9a-f]+) (?:->|<-) 0x([0-9a-f]+)\n")


def read(path):
    """The accesses in a trace, which may have other events too and end within a line."""
    accesses = []
    with open(path, errors="replace") as file:
        for found in filter(None, map(LINE.fullmatch, file)):
            time, date, kind, name, bdf, offset, value = found.groups()
            time = time or datetime.fromisoformat(date).timestamp()
            accesses.append(Access(float(time), name, f"0000:{bdf}", int(offset, 16),
                                   int(value, 16), kind == "write"))
    return accesses


def functions(accesses):
    """QEMU's name for each."""
    return {access.bdf: access.name for access in accesses if access.name != EMPTY}


def changes(accesses, bdfs, start=-math.inf, end=math.inf, kexecs=()):
    """What changed in these functions; kexecs: when the second and further kernels started"""
    found = []
    for bdf in bdfs:
        own = [access for access in accesses if access.bdf == bdf]
        if not functions(own):
            raise ValueError(f"{bdf} isn't in the trace")
        function = Function(own)
        for access in own:
            if access.write and access.name == EMPTY:
                continue
            for register, old, new in function.take(access):
                if start <= access.time <= end:
                    kernel = 1 + sum(access.time >= kexec for kexec in kexecs)
                    found.append(Change(access.time, kernel, bdf, access.name, register.name,
                                        register.offset, old, new, not access.write))
    return sorted(found, key=lambda change: change.time)


def counts(accesses, start=-math.inf, end=math.inf):
    """How many reads and writes each function had; those of the trace that had none too"""
    numbers = {bdf: [0, 0] for bdf in functions(accesses)}
    for access in accesses:
        if access.name != EMPTY and start <= access.time <= end:
            numbers[access.bdf][access.write] += 1
    return {bdf: tuple(pair) for bdf, pair in numbers.items()}


def full_bdf(text):
    found = re.fullmatch(r"(?:0000:)?([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])", text.lower())
    if not found:
        raise argparse.ArgumentTypeError(f"'{text}' isn't like 0000:03:00.0")
    return f"0000:{found[1]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace")
    parser.add_argument("--start", type=float, default=-math.inf, help="seconds, as in the trace")
    parser.add_argument("--end", type=float, default=math.inf)
    parser.add_argument("--kexec", type=float, default=math.inf,
                        help="when the second kernel started")
    parser.add_argument("--function", type=full_bdf, action="append", metavar="BDF",
                        help="look only at this one; can be repeated")
    args = parser.parse_args()
    try:
        accesses = read(args.trace)
    except OSError as error:
        parser.error(str(error))
    names = functions(accesses)
    bdfs = list(dict.fromkeys(args.function or sorted(names)))
    numbers = counts(accesses, args.start, args.end)
    if not any(map(any, numbers.values())):
        parser.error(f"{args.trace} has no config access in this time")
    try:
        found = changes(accesses, bdfs, args.start, args.end, [args.kexec])
    except ValueError as error:
        parser.error(str(error))
    for bdf in bdfs:
        print("{} {}: {} reads, {} writes".format(bdf, names[bdf], *numbers[bdf]))
    for change in found:
        print(f"{change.time:.6f} {change}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
