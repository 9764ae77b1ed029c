#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Which lines did the kernels in virtual machines reach?

    gcov.py BUILD FILE...

BUILD is where the kernel was built, with GCC 12 or newer. If COVERAGE is set to it, vmtest.py
saves counters there: from the memory of each kernel just before it is replaced, and of the
last one in the end. Thus nothing in the guest has to do it, and the freeze before a kexec
counts, too. Prints the coverage of each FILE, and the lines that weren't reached.
"""

import glob
import json
import os
import re
import struct
import subprocess
import sys
import uuid

LINK_BASE = 0xffffffff80000000      # __START_KERNEL_map
DIRECT_MAP = 0xffff888000000000     # without KASLR
ALIGN = 2 << 20                     # CONFIG_PHYSICAL_ALIGN
ARCS = 0                            # the only kind of counters that the kernel has
TAG_FUNCTION, TAG_COUNTERS = 0x01000000, 0x01a10000


def symbols(vmlinux):
    lines = subprocess.run(["nm", vmlinux], stdout=subprocess.PIPE, text=True, check=True)
    fields = (line.split() for line in lines.stdout.splitlines())
    return {name: int(address, 16) for address, _, name in fields}


class Image:
    """A kernel in a virtual machine's memory."""

    def __init__(self, memory, symbols, offset):
        self.memory, self.symbols, self.offset = memory, symbols, offset

    def physical(self, address):
        if address >= LINK_BASE:
            return address - LINK_BASE + self.offset
        return address - DIRECT_MAP

    def get(self, layout, address):
        values = struct.unpack_from(f"<{layout}", self.memory, self.physical(address))
        return values if len(values) > 1 else values[0]

    def variable(self, name):
        return self.get("Q", self.symbols[name])

    def text(self, address):
        start = self.physical(address)
        return self.memory[start:self.memory.find(b"\0", start)].decode(errors="replace")

    def is_kernel(self, number):
        """Former kernels may still be there; init tells each which one it is."""
        try:
            if self.variable("phys_base") != self.offset:
                return False
            stages = re.findall(r"luo_stage=(\d)", self.text(self.variable("saved_command_line")))
        except (struct.error, ValueError, IndexError):
            return False
        return int((stages or [1])[-1]) == number

    # struct gcov_info and struct gcov_fn_info of kernel/gcov/gcc_4_7.c

    def infos(self):
        info = self.variable("gcov_info_head")
        while info:
            yield info
            info = self.get("Q", info + 8)

    def counters(self, info, kinds):
        """Everything that a .gcda file has."""
        version, stamp, checksum, name = self.get("I12xIIQ", info)
        number, functions = self.get("I4xQ", info + 32 + 8 * kinds)
        found = []
        for address in self.get(f"{number}Q", functions) if number > 1 else \
                [self.get("Q", functions)]:
            ident, lines, cfg, count, values = self.get("8xIII4xI4xQ", address)
            found.append([ident, lines, cfg, [self.get("Q", values + 8 * i)
                                              for i in range(count)]])
        return self.text(name), {"head": [version, stamp, checksum], "functions": found}


def counter_kinds():
    """GCOV_COUNTERS"""
    major = int(subprocess.run(["gcc", "-dumpversion"], stdout=subprocess.PIPE,
                               text=True, check=True).stdout.split(".")[0])
    return 8 + (major >= 14) + (major >= 15)


def counters_directory(build):
    return f"{build}/coverage"


def save(memory, build, number):
    """The counters of this kernel, the first one being number 1."""
    table = symbols(f"{build}/vmlinux")
    for offset in range(-ALIGN * 8, len(memory), ALIGN):
        image = Image(memory, table, offset)
        if image.is_kernel(number):
            break
    else:
        raise ValueError(f"kernel {number} isn't in memory")
    kinds = counter_kinds()
    directory = counters_directory(build)
    os.makedirs(directory, exist_ok=True)
    with open(f"{directory}/{uuid.uuid4()}.json", "w") as file:
        json.dump(dict(image.counters(info, kinds) for info in image.infos()), file)


# ---- the report ----

def add(total, counters):
    for name, new in counters.items():
        old = total.setdefault(name, new)
        if old is new:
            continue
        if old["head"] != new["head"]:
            sys.exit(f"{name}: not all counters are of the same build")
        for function, more in zip(old["functions"], new["functions"]):
            function[3] = [a + b for a, b in zip(function[3], more[3])]


def write_gcda(path, counters):
    with open(path, "wb") as file:
        file.write(struct.pack("<4I", 0x67636461, *counters["head"]))
        for ident, lines, cfg, values in counters["functions"]:
            file.write(struct.pack("<5I", TAG_FUNCTION, 12, ident, lines, cfg))
            file.write(struct.pack(f"<2I{len(values)}Q", TAG_COUNTERS, 8 * len(values), *values))


def report(build, total, source):
    stem = os.path.splitext(source)[0]
    # The compiler's cache may know the name from another build
    counters = next((counters for name, counters in total.items()
                     if name.endswith(f"/{stem}.gcda")), None)
    if not counters:
        sys.exit(f"nothing was counted for {source}")
    write_gcda(f"{build}/{stem}.gcda", counters)
    shown = subprocess.run(["gcov", "-b", "-o", os.path.dirname(stem), f"{stem}.gcda"],
                           cwd=build, stdout=subprocess.PIPE, text=True, check=True).stdout
    print(source)
    part = next(part for part in shown.split("\n\n") if f"{source}'" in part)
    for line in part.splitlines():
        if re.match("Lines|Branches|Taken", line):
            print(f"  {line.replace(':', ': ')}")
    with open(f"{build}/{os.path.basename(source)}.gcov") as file:
        for line in file:
            if line.lstrip().startswith("#####:"):
                print(f"  not reached {line.strip()[6:].rstrip()}")


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    build, *sources = sys.argv[1:]
    total = {}
    files = glob.glob(f"{counters_directory(build)}/*.json")
    for path in files:
        with open(path) as file:
            add(total, json.load(file))
    print(f"{len(files)} kernels")
    for source in sources:
        report(build, total, source)


if __name__ == "__main__":
    main()
