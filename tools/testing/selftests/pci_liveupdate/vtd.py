# SPDX-License-Identifier: GPL-2.0
"""What QEMU's Intel IOMMU does for a device, seen from outside: its tables are in the guest's
memory.

References are to the Intel Virtualization Technology for Directed I/O specification, r5.0.
"""

import struct
from functools import partial

GLOBAL_STATUS = 0xfed9001c              # before the Root Table Address, sec 11.4.4.2
ENABLED = 1 << 31                       # Translation Enable Status
SCALABLE = 1 << 10                      # of the Root Table Address: Translation Table Mode
ADDRESS = 0x000f_ffff_ffff_f000
FIRST_STAGE = 1                         # of a PASID table entry: PASID Granular Translation Type
INTERVAL = 0.001                        # seconds between two looks at tables,
POLL = 0.02                             # and at registers


class Fault(Exception):
    """Nothing is mapped there."""


class Unit:
    def __init__(self, vm):
        self.vm = vm

    def registers(self):
        """Whether it translates, and the Root Table Address."""
        words = self.vm.ask(f"xp /3wx {GLOBAL_STATUS:#x}").replace(":", " ").split()
        status, low, high = (int(word, 16) for word in words if word.startswith("0x"))
        return bool(status & ENABLED), high << 32 | low

    def get(self, address, number):
        return struct.unpack_from(f"<{number}Q", self.vm.memory, address)

    def context(self, root, bdf):
        """The address of the context entry (sec 9.1 to 9.4). None: nothing leads there."""
        bus, devfn = bdf >> 8, bdf & 0xff
        pair = self.get((root & ADDRESS) + 16 * bus, 2)
        table, offset = (pair[devfn >> 7], 32 * (devfn & 0x7f)) if root & SCALABLE else \
            (pair[0], 16 * devfn)
        return (table & ADDRESS) + offset if table & 1 else None

    def locate(self, root, bdf):
        """Where the last entry for a device is: the context entry in legacy mode, the PASID table
        entry else (sec 9.5 and 9.6). None: one that leads there isn't present."""
        address = self.context(root, bdf)
        # To the PASID directory, and the PASID table
        for _ in range(2 if root & SCALABLE else 0):
            above = self.get(address, 1)[0] if address else 0
            address = above & ADDRESS if above & 1 else None
        return address

    def allows_ats(self, root, bdf):
        """What the context entry says: Translation Type 1, or Device-TLB Enable."""
        return bool(self.get(self.context(root, bdf), 1)[0] & 1 << 2)

    def entry(self, root, bdf):
        """None: it isn't present."""
        address = self.locate(root, bdf)
        entry = address and self.get(address, 8 if root & SCALABLE else 2)
        return entry if entry and entry[0] & 1 else None

    def translate(self, root, bdf, address):
        """The physical address of a page of 4 KiB."""
        return self.walk(root, bdf, address)[0]

    def walk(self, root, bdf, address):
        """Also how large it is in the tables (sec 9.7 to 9.9)."""
        entry = self.entry(root, bdf)
        if not entry:
            raise Fault(f"{bdf:#x} has no translation")
        present = 3                     # Read, Write
        if not root & SCALABLE:
            table, levels = entry[0], (entry[1] & 7) + 2
        elif entry[0] >> 6 & 7 == FIRST_STAGE:
            table, levels, present = entry[2], (entry[2] >> 2 & 3) + 4, 1
        else:
            table, levels = entry[0], (entry[0] >> 2 & 7) + 2
        for level in reversed(range(levels)):
            shift = 12 + 9 * level
            table = self.get((table & ADDRESS) + 8 * (address >> shift & 0x1ff), 1)[0]
            if not table & present:
                raise Fault(f"{bdf:#x} has nothing at {address:#x}")
            if not level or table & 1 << 7:     # a superpage
                return table & ADDRESS & -1 << shift | address & ~(-1 << shift), 1 << shift


class Translator:
    """Of addresses that a device uses; remembers pages, as the device's tables may go."""

    def __init__(self, unit, bdf):
        self.page = partial(unit.translate, unit.registers()[1], bdf)
        self.pages = {}

    def __call__(self, address):
        page = address & -4096
        if page not in self.pages:
            self.pages[page] = self.page(page)
        return self.pages[page] | address & 4095


def cut(vm, kernel):
    """A test of the watchers. QEMU has cached the entry, so that DMA goes on."""
    for watcher in vm.watchers:
        address = watcher.unit.locate(watcher.unit.registers()[1], watcher.bdf)
        vm.memory[address] ^= 1
        vm.run(0.1)
        vm.memory[address] ^= 1


def note_entry(bdf):
    """For a check that it stays."""
    def note(vm, kernel):
        unit = Unit(vm)
        vm.found.setdefault("entries", []).append(unit.entry(unit.registers()[1], bdf))
    return note


def note_page_sizes(vm, kernel):
    """Of the pages that the rings of all devices are in."""
    for watcher in vm.watchers:
        _, size = watcher.unit.walk(watcher.unit.registers()[1], watcher.bdf, watcher.address)
        vm.found.setdefault("sizes", []).append(size)


def note_ats(bdf):
    """Whether an entry that is kept lets its device cache translations."""
    def note(vm, kernel):
        unit = Unit(vm)
        vm.found.setdefault("ats", []).append(unit.allows_ats(unit.registers()[1], bdf))
    return note


class Watcher:
    """What a device gets for an address: "its page", "another page" or "nothing" (in tables of its
    own), "no entry" (of its own), or "off" (no device has any)."""

    def __init__(self, unit, bdf, address):
        self.unit, self.bdf, self.address = unit, bdf, address
        self.page = unit.translate(unit.registers()[1], bdf, address)
        self.seen = []                  # [state, first look, last look]
        self.due = 0                    # when registers are read next

    def look(self, now):
        if now >= self.due:
            self.due = now + POLL
            self.registers = self.unit.registers()
        state = self.state()
        if state != "its page":
            # The tables that were read may be those of the root before: be sure of it
            before = self.registers
            self.registers = self.unit.registers()
            if self.registers != before:
                return
        if not state:
            return
        if not self.seen or self.seen[-1][0] != state:
            self.seen.append([state, now, now])
        self.seen[-1][2] = now

    def spans(self, start, end):
        """(state, from, to) of all that was seen between these times."""
        for state, since, until in self.seen:
            if since < end and until > start:
                yield state, max(since, start), min(until, end)

    def state(self):
        enabled, root = self.registers
        if not enabled:
            return "off"
        entry = self.unit.entry(root, self.bdf)
        if not entry:
            return "no entry"
        try:
            page = self.unit.translate(root, self.bdf, self.address)
        except (Fault, struct.error):       # or led out of memory
            page = None
        if self.unit.entry(root, self.bdf) != entry:
            return None                     # these tables may have been freed meanwhile
        return {self.page: "its page", None: "nothing"}.get(page, "another page")
