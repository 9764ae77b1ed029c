#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Does a live update cope with what can go wrong?

    robust.py [--config CONFIG] [PATTERN...]

table, file: what the first kernel tells the second is damaged on the way. The second must
say so once, stop the device before it does anything else to it, keep bus numbers, refuse to
give back the file, finish the session, and then do a live update itself.
faults: each memory allocation of the calls that a VMM makes fails once, see faults.c.
off: the kernel isn't told to do live updates.
stress: everything at the same time, see stress.c; then a live update.

Patterns select tests by name: 'table*'.

The result is KTAP. Logs are in out/robust.
"""

import os
import struct
import sys
from dataclasses import dataclass

sys.dont_write_bytecode = True      # no __pycache__ among the kernel's files
import cfgtrace                     # noqa: E402
import suite                        # noqa: E402
import vmtest                       # noqa: E402

BUS_MASTER = 0x4
NOWHERE = 1 << 45                   # no memory is there
HOLE = vmtest.RAM - 4096            # nor there, but below it
PAGE = 4096
DEVICES = vmtest.SWITCH[:4] + ["qemu-xhci,bus=down0", "qemu-xhci,bus=down1"]
BDFS = ["0000:03:00.0", "0000:04:00.0"]
# By these bridges would get other bus numbers
RENUMBER = "pci=assign-busses,hpbussize=4"


class Handover:
    """What the first kernel has written for the second, in the guest's memory.

    Layouts are in linux/kho/abi/: luo.h, block.h, pci.h and vfio_pci.h.
    """

    def __init__(self, memory):
        self.memory = memory
        self.flb = self.find("pci", self.is_table)
        self.table = self.get("Q", self.flb)
        self.block = self.get("Q", self.table + 8)
        count = self.get("Q", self.block + 8)
        self.records = [self.block + 16 + 64 * slot for slot in range(count)]
        self.file = self.find("vfio-pci-v1", self.is_file)
        self.device = self.get("Q", self.file)

    def get(self, layout, address):
        return struct.unpack_from(f"<{layout}", self.memory, address)[0]

    def put(self, layout, address, value):
        struct.pack_into(f"<{layout}", self.memory, address, value)

    def add(self, layout, address, value):
        self.put(layout, address, self.get(layout, address) + value)

    def find(self, name, accept):
        """Where LUO has the address of what has this name."""
        name = name.encode().ljust(48, b"\0")
        start = self.memory.find(name)
        while start >= 0:
            address = self.get("Q", start + 48)
            if 0 < address < vmtest.RAM and address % PAGE == 0 and accept(address):
                return start + 48
            start = self.memory.find(name, start + 1)
        raise vmtest.Failure(f"there is no {name} in the guest's memory")

    def is_table(self, address):
        return self.get("I", address) == 1 and self.get("Q", address + 16) == len(PATH)

    def is_file(self, address):
        return self.get("I", address) == 0 and self.get("H", address + 4) == 0x300


# The preserved device and the bridges above it
PATH = ["0000:00:02.0", "0000:01:00.0", "0000:02:00.0", BDFS[0]]


@dataclass
class Damage:
    how: callable       # done to a Handover
    says: str           # the message that there must be once
    error: str = "No such device"       # of retrieve
    quarantined: bool = True


def copy_record(given):
    first, second = given.records[:2]
    given.memory[second:second + 64] = given.memory[first:first + 64]


def unknown_flag(given):
    given.put("H", given.device + 6, 0x8000)


DAMAGES = {
    "table, version": Damage(lambda given: given.put("I", given.table, 99),
                             "it has version 99, this kernel reads version 1"),
    "table, address": Damage(lambda given: given.put("Q", given.flb, NOWHERE),
                             "no preserved memory at 0x200000000000"),
    "table, hole": Damage(lambda given: given.put("Q", given.flb, HOLE),
                          "no preserved memory at 0x3ffff000"),
    "table, chain": Damage(lambda given: given.put("Q", given.block, NOWHERE),
                           "its chain of blocks is broken"),
    "table, loop": Damage(lambda given: given.put("Q", given.block, given.block),
                          "its chain of blocks is broken"),
    "table, block": Damage(lambda given: given.put("Q", given.block + 8, 64),
                           "its chain of blocks is broken"),
    "table, count": Damage(lambda given: given.add("Q", given.table + 16, 1),
                           "it holds 4 records, not 5"),
    "table, record": Damage(lambda given: given.put("H", given.records[0] + 6, 0x8000),
                            "record of 0000:03:00.0: impossible flags"),
    "table, twice": Damage(copy_record, "record of 0000:03:00.0: two records for one device"),
    "file, flags": Damage(unknown_flag, "DMA stopped: its file can't be retrieved",
                          "Operation not supported", quarantined=False),
    "file, size": Damage(lambda given: given.put("I", given.device + 8, 1 << 31),
                         "DMA stopped: its file can't be retrieved",
                         "Invalid argument", quarantined=False),
    "file, state": Damage(lambda given: given.add("I", given.device + 8, -4),
                          "DMA stopped: its file can't be retrieved",
                          "Invalid argument", quarantined=False),
    "file, config": Damage(lambda given: given.put("I", given.device + 12, 1 << 31),
                           "DMA stopped: its file can't be retrieved",
                           "Invalid argument", quarantined=False),
    # It isn't known which device that was, before all files are finished
    "file, address": Damage(lambda given: given.put("Q", given.file, NOWHERE),
                            "DMA stopped: no driver has finished its live update",
                            "Invalid argument", quarantined=False),
    "file, hole": Damage(lambda given: given.put("Q", given.file, HOLE),
                         "DMA stopped: no driver has finished its live update",
                         "Invalid argument", quarantined=False),
    "file, device": Damage(lambda given: given.put("H", given.device + 4, 0x400),
                           "DMA stopped: no driver has finished its live update",
                           quarantined=False),
    "file, bridge": Damage(lambda given: given.put("H", given.device + 4, 0x200),
                           "DMA stopped: no driver has finished its live update",
                           quarantined=False),
}


class Run:
    """One virtual machine, and what is wrong with it."""

    def __init__(self, guest, name, append, devices, answers=None):
        self.name, self.problems, self.notes = name, [], []
        self.directory = f"{guest.directory}/{name.replace(', ', '-')}"
        self.slow = guest.slow
        self.vm = guest.machine(self.directory, append, devices=devices, interval=0.04,
                                answers=answers)

    def run(self, drive, judge):
        def to_the_end(vm):
            drive(self)
            vm.wait_off(20 * self.slow)

        stopped = self.vm.play(to_the_end)
        if stopped:
            self.problems.append(stopped)
        else:
            judge(self)
        self.problems += self.vm.complaints()
        return self

    def wait(self, pattern, limit=20):
        return self.vm.wait(pattern, limit * self.slow)

    def check_lines(self, kernel, pattern, expected=1):
        count = len(self.vm.times(kernel, pattern))
        if count != expected:
            self.problems.append(
                f"kernel {kernel} has {count} lines with '{pattern}', not {expected}")


# ---- damaged on the way ----

TOO_LATE = "the second kernel was faster"


def damage(guest, name):
    damage = DAMAGES[name]

    def drive(run):
        vm = run.vm
        run.wait("Starting new kernel")
        # The next kernel has yet to be unpacked
        with vm.stopped():
            if vm.kernels > 1:
                raise vmtest.Failure(TOO_LATE)
            damage.how(Handover(vm.memory))
        run.wait(f"VMM: FAIL .* retrieve device: {damage.error}")
        # That one is damaged no more
        run.wait("VMM: preserved")
        run.wait("INIT: stage 3")
        run.wait("VMM: done")
        run.wait("INIT: switching off")

    def judge(run):
        run.check_lines(2, damage.says)
        run.check_lines(2, "table isn't used", damage.quarantined)
        run.check_lines(2, f"{BDFS[0]}: liveupdate: DMA stopped")
        run.check_lines(2, "Unable to finish session", 0)
        run.check_lines(3, f"VMM: held bdf={BDFS[0]}")
        run.check_lines(3, f"INIT: ordinary {BDFS[0]}")
        judge_bus_numbers(run)
        if damage.quarantined:
            judge_quiesced(run)

    return Run(guest, name, f'again=1 next_options="{RENUMBER}"', DEVICES).run(drive, judge)


def judge_bus_numbers(run):
    if not run.vm.find("pci", kernel=1):
        run.problems.append("the VMM didn't show the bridges in kernel 1: this run proves nothing")
    for event in run.vm.find("pci", kernel=1):
        after = run.vm.first("pci", kernel=2, bdf=event.fields["bdf"])
        buses = event.fields.get("buses"), after and after.fields.get("buses")
        if buses[0] and buses[0] != buses[1]:
            run.problems.append("{}: buses were {}, are {}".format(event.fields["bdf"], *buses))


def judge_quiesced(run):
    """The first that the new kernel does to the device is to clear Bus Master Enable."""
    clock, vm = run.vm.wall_clock, run.vm
    accesses = cfgtrace.read(vm.trace)
    start, end = (clock + vm.times(kernel, text)[0]
                  for kernel, text in ((1, "Starting new kernel"), (2, "INIT: stage 2")))
    changes = [change for change in cfgtrace.changes(accesses, BDFS[:1], start, end, start)]
    if not changes:
        run.problems.append("the trace has no change of the device before userspace")
        return
    first = changes[0]
    if first.register != "Command" or first.old & ~first.new != BUS_MASTER:
        run.problems.append(f"before it was stopped: {first}")
    run.notes.append(f"{1000 * (end - first.time):.0f} ms before userspace: {first}")


# ---- without memory ----

# More than there are allocations, and than fit into one block of the table
TEST_DEVICES = 68


def faults(guest, name):
    # Not one with an interrupt: to route that when it is enabled, ACPI makes allocations, and
    # uses memory that it has freed if one of these fails
    devices = ["pci-bridge,id=bridge,bus=pcie.0,addr=2.0,chassis_nr=1"]
    devices += [f"pci-testdev,bus=bridge,addr={1 + number // 8}.{number % 8},multifunction=on"
                for number in range(TEST_DEVICES)]

    def drive(run):
        run.wait("VMM: kexec", 40)
        run.wait("VMM: done")
        run.wait("INIT: switching off")

    def judge(run):
        for call in "preserve", "unpreserve", "retrieve", "bind", "finish":
            last = run.vm.find("allocations", call=call)[-1].fields
            run.notes.append("{call}: {failed} allocations failed, {again} calls worked the "
                             "second time; did without {survived}".format(**last))
            if last["complete"] != "1":
                run.problems.append(f"{call}: there were not enough devices for all allocations")
            if call in ("preserve", "retrieve", "bind") and last["failed"] == "0":
                run.problems.append(f"{call}: no allocation failed, so this run proves nothing")

    return Run(guest, name, "vmm=faults preserve=0 loglevel=6", devices).run(drive, judge)


# ---- without live update ----

def off(guest, name):
    """vfio-pci is there all the same."""
    def drive(run):
        run.wait("VMM: FAIL /dev/liveupdate open: No such")
        run.wait("INIT: switching off")

    def judge(run):
        run.check_lines(1, "taint for vfio-noiommu cdev", len(BDFS))

    return Run(guest, name, "liveupdate=off", DEVICES).run(drive, judge)


# ---- all at once ----

STRESS_SECONDS = 30


def stress(guest, name):
    igb, removed, neighbour, hotplugged = (f"0000:{bus:02}:00.0" for bus in range(3, 7))
    devices = vmtest.SWITCH[:4] + [
        "xio3130-downstream,id=down2,bus=up,addr=2.0,chassis=4",
        "xio3130-downstream,id=down3,bus=up,addr=3.0,chassis=5",
        vmtest.IGB0 + ",bus=down0", "e1000,bus=down1,romfile=", "e1000,bus=down2,romfile="]
    answers = {"VMM: plug": ["device_add e1000,id=new,bus=down3,romfile="],
               "VMM: unplug": ["device_del new"]}
    options = f"{STRESS_SECONDS} {igb} {removed} {neighbour} {hotplugged}"

    def drive(run):
        run.wait("VMM: kexec", 20 + 12 * STRESS_SECONDS)
        run.wait("VMM: finished")
        run.vm.end_traffic()
        run.wait("VMM: done")
        run.wait("INIT: switching off")

    def judge(run):
        total = 0
        for event in run.vm.find("stress"):
            run.notes.append("{work}: {done} done, {refused} refused".format(**event.fields))
            total += int(event.fields["done"])
            if event.fields["done"] == "0":
                run.problems.append("{work} was never done".format(**event.fields))
        run.notes.append(f"stress operations: {total}")
        run.check_lines(1, "VMM: refused why=", 2)
        run.check_lines(1, "live update refused: ", 2)
        run.check_lines(2, f"INIT: ordinary {igb}")
        if run.vm.wires[0].lost():
            run.problems.append(f"{len(run.vm.wires[0].lost())} packets were lost")

    append = f'stress="{options}" loglevel=6'
    return Run(guest, name, append, devices, answers).run(drive, judge)


# ---- all of them ----

@dataclass
class Test:
    title: str
    run: callable       # with a guest and this title: a Run

    def name(self):
        return self.title


TESTS = [Test(name, damage) for name in DAMAGES] + \
    [Test("faults", faults), Test("off", off), Test("stress", stress)]


@dataclass
class Outcome:
    name: str
    problems: list
    notes: list


def run(guest, test):
    name = test.name()
    if name == "faults" and guest.config not in ("debug", "gcov"):
        return Outcome(f"{name} # SKIP this kernel has no fault injection", [], [])
    try:
        for _ in range(3):
            run = test.run(guest, name)
            if run.problems != [TOO_LATE]:
                break
    except (ValueError, LookupError, AttributeError, TypeError, struct.error) as error:
        return Outcome(name, [f"can't judge: {error!r}"], [])     # what it looked for isn't there
    if not run.problems:
        os.remove(run.vm.trace)
    else:
        run.notes.append(f"logs: {os.path.relpath(run.directory)}")
    return Outcome(name, run.problems, run.notes)


def prepare(directory, config):
    return vmtest.prepare(suite.OUT, directory, config, updates=2)


def report(number, outcome):
    return suite.result(not outcome.problems, number, outcome.name,
                        outcome.problems + outcome.notes)


if __name__ == "__main__":
    suite.main(__doc__, "robust", TESTS, prepare, run, report)
