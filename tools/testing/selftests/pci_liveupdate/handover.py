# SPDX-License-Identifier: GPL-2.0
"""What one kernel has written for the next, in the guest's memory: read, and damaged.

Layouts are in linux/kho/abi/: kexec_handover.h, luo.h, block.h, iommu.h, pci.h and vfio_pci.h.
"""

import re
import struct

import vmtest

PAGE = 4096
PCI_VERSIONS = 101, 102
RECORD, DOMAIN, REQUESTER_ID = 64, 32, 40   # sizes
NOWHERE = 1 << 45                   # no memory is there
HOLE = vmtest.RAM - PAGE            # nor there, but below it
FDT_MAGIC = b"\xd0\x0d\xfe\xed"
# Levels of nodes above the bitmaps
RADIX_DEPTH = 5


class Memory:
    """The guest's, by physical address. The guest must be stopped."""

    def __init__(self, vm):
        self.memory = vm.memory
        self.used = list(vm.used_memory())

    def find(self, words):
        """All addresses where this is."""
        for start, end in self.used:
            found = self.memory.find(words, start, end)
            while found >= 0:
                yield found
                found = self.memory.find(words, found + 1, end)

    def pages(self, magic):
        """All pages that begin with this."""
        for start, end in self.used:
            for page in range(start, end, PAGE):
                if self.memory[page:page + len(magic)] == magic:
                    yield page

    def get(self, layout, address):
        return struct.unpack_from(f"<{layout}", self.memory, address)[0]

    def put(self, layout, address, value):
        struct.pack_into(f"<{layout}", self.memory, address, value)

    def add(self, layout, address, value):
        self.put(layout, address, self.get(layout, address) + value)


# ---- what KHO preserves ----

def maps(memory):
    """The address of each map of preserved memory that a KHO FDT in memory names."""
    for start in memory.pages(FDT_MAGIC):
        size, structs, strings = struct.unpack_from(">III", memory.memory, start + 4)
        fdt = memory.memory[start:start + size]
        if size > PAGE or not re.search(rb"kho-v\d", fdt):
            continue
        name = fdt.find(b"preserved-memory-map\0", strings) - strings
        # FDT_PROP, the length of a u64, and that name
        prop = fdt.find(struct.pack(">III", 3, 8, name), structs)
        if name >= 0 and prop >= 0:
            yield struct.unpack_from("<Q", fdt, prop + 12)[0]


def count_preserved(memory, root):
    """In pages of any order, as KHO counts them."""
    nodes = [root]
    for _ in range(RADIX_DEPTH):
        nodes = [child for node in nodes
                 for child in struct.unpack_from("<512Q", memory.memory, node) if child]
    return sum(int.from_bytes(memory.memory[leaf:leaf + PAGE], "little").bit_count()
               for leaf in nodes)


# ---- what the PCI core and vfio-pci hand over ----

class Handover(Memory):
    def __init__(self, vm):
        super().__init__(vm)
        self.table = self.get("Q", self.find_data("pci", self.is_table))
        self.block = self.get("Q", self.table + 8)

    def find_data(self, name, accept):
        """Where LUO has the address of what has this name."""
        for start in self.find(name.encode().ljust(48, b"\0")):
            address = self.get("Q", start + 48)
            if 0 < address < vmtest.RAM and address % PAGE == 0 and accept(address):
                return start + 48
        raise vmtest.Failure(f"there is no {name} in the guest's memory")

    def is_table(self, address):
        block = self.get("Q", address + 8)
        return (self.get("I", address) in PCI_VERSIONS and block % PAGE == 0
                and 0 < block < vmtest.RAM and 0 < self.get("Q", address + 16) < 1 << 16)

    @property
    def flb(self):
        return self.find_data("pci", self.is_table)

    @property
    def file(self):
        """Of the first device below a switch, or below a root port, or of that in slot 4."""
        return self.find_data("vfio-pci-v1",
                              lambda address: self.get("H", address + 4) in (0x300, 0x100, 0x20))

    @property
    def second_file(self):
        """Of the second device below a switch."""
        return self.find_data("vfio-pci-v1", lambda address: self.get("H", address + 4) == 0x400)

    @property
    def device(self):
        return self.get("Q", self.file)

    def blocks(self, block):
        """This one, and those after it."""
        while block:
            yield block
            block = self.get("Q", block)

    def slots(self, first, size):
        """The address of each record of this size, free ones among them."""
        for block in self.blocks(first):
            for slot in range(self.get("Q", block + 8)):
                yield block + 16 + size * slot

    def records(self):
        return self.slots(self.block, RECORD)

    def bdf(self, record):
        domain, bdf = struct.unpack_from("<IH", self.memory, record)
        return f"{domain:04x}:{bdf >> 8:02x}:{bdf >> 3 & 0x1f:02x}.{bdf & 7}"

    def references(self):
        """By BDF; that of a free slot is 'free'."""
        found = {}
        for record in self.records():
            count = self.get("I", record + 8)
            found[self.bdf(record) if count else "free"] = count
        return found

    # -- what the IOMMU core hands over --

    @property
    def translation(self):
        return self.get("Q", self.find_data("iommu", self.is_translation))

    def is_translation(self, address):
        return self.get("Q", address) == 4 and 0 < self.get("Q", address + 8) < vmtest.RAM

    def used_slots(self, head, size):
        """Of records that begin with 0 if they are free."""
        return (slot for slot in self.slots(self.get("Q", self.translation + head), size)
                if self.get("I", slot))

    def domains(self):
        return self.used_slots(8, DOMAIN)

    def page_blocks(self):
        yield from self.blocks(self.get("Q", self.translation + 24))
        for domain in self.domains():
            yield from self.blocks(self.get("Q", domain + 16))

    def page_tables(self):
        """And root and context tables."""
        for block in self.page_blocks():
            yield from struct.unpack_from(f"<{self.get('Q', block + 8)}Q", self.memory, block + 16)

    def put_in_requester_id(self, layout, offset, value):
        self.put(layout, next(self.used_slots(16, REQUESTER_ID)) + offset, value)

    def damage_top_table(self):
        """Of the first domain: it leads to what is none of its page tables."""
        top = self.get("Q", next(self.domains()) + 8)
        self.put("Q", top + 8 * 300, self.translation | 3)

    def translation_blocks(self):
        for head in 8, 16:
            yield from self.blocks(self.get("Q", self.translation + head))
        yield from self.page_blocks()

    # -- damage --

    def put_in_table(self, layout, offset, value):
        self.put(layout, self.table + offset, value)

    def first_record(self):
        return next(self.records())

    def damage_fdt(self):
        """The next kernel knows no such version of KHO."""
        for version in self.find(b"kho-v4\0"):
            page = version - version % PAGE
            if self.memory[page:page + 4] == FDT_MAGIC:
                self.memory[version + 5] = ord("9")

    def hide(self, name):
        """ACPI finds no table of this name, and the sum of all bytes is what it was."""
        for table in self.find(name):
            if self.memory[table + 10:table + 14] == b"BOCH":
                self.memory[table:table + 4] = name[::-1]

    def copy_record(self):
        first = self.first_record()
        self.memory[first + RECORD:first + 2 * RECORD] = self.memory[first:first + RECORD]


# ---- what a machine is asked for when a kernel hands over ----

class TooLate(Exception):
    """The guest was faster than the host, or the other way round; to be tried again."""


def at_handover(look):
    """The next kernel has yet to be unpacked when look(vm) is called."""
    def answer(vm, kernel):
        with vm.stopped():
            if vm.kernels != kernel:
                raise TooLate
            look(vm)
    return answer


def damage(how):
    return at_handover(lambda vm: how(Handover(vm)))


def inject(device, error):
    """It reports an error by AER. Both commands of the monitor say what they have done."""
    def answer(vm, kernel):
        vm.ask(f"pcie_aer_inject_error {device} {error}")
    return answer


@at_handover
def read_table(vm):
    given = Handover(vm)
    vm.found["table"] = given.references()
    vm.found.setdefault("versions", []).append(given.get("I", given.table))


@at_handover
def count_pages(vm):
    """Of the maps in memory only the outgoing one wasn't there at the kexec before."""
    memory = Memory(vm)
    roots = vm.found.setdefault("roots", set())
    new = set(maps(memory)) - roots
    roots |= new
    if len(new) != 1:
        raise vmtest.Failure(f"KHO has {len(new)} new maps of preserved memory")
    vm.found.setdefault("preserved", {})[vm.kernels] = count_preserved(memory, *new)


def remember_pages(vm, blocks, others=()):
    """Of a block's header the next kernel may change the first words. A context table is empty
    until the last CPU shuts down."""
    content = {**{page + 16: vm.memory[page + 16:page + PAGE] for page in blocks},
               **{page: vm.memory[page:page + PAGE] for page in others}}
    vm.found["content"] = {page: words for page, words in content.items() if any(words)}


@at_handover
def remember_table(vm):
    """And what is in its pages."""
    given = Handover(vm)
    remember_pages(vm, [given.table, *given.blocks(given.block)])


@at_handover
def remember_page_tables(vm):
    """And their table."""
    given = Handover(vm)
    remember_pages(vm, given.translation_blocks(), [given.translation, *given.page_tables()])


@at_handover
def remember_rings(vm):
    """The first descriptors, which the device has written, and won't write again."""
    vm.found["content"] = {watcher.page: vm.memory[watcher.page:watcher.page + 256]
                           for watcher in vm.watchers}


@at_handover
def look_for_pages(vm):
    """By what was in them: whoever frees one clears it."""
    vm.found["pages"] = {page: vm.memory[page:page + len(content)] != content
                         for page, content in vm.found["content"].items()}
