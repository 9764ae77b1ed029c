#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Does anything disturb preserved devices, or the bridges above them, during a live update?

    undisturbed.py [--config CONFIG] [PATTERN...]

Replaces the kernel for each topology of vmtest.py, without and with an IOMMU, and for some
command lines of the second kernel that have to do with PCI. From before the first device is
preserved until the last one is finished, no register in the config space of any function on
a preserved path may change, nor what sysfs says of it. Without an IOMMU no packet may be
lost. Afterwards the device must be an ordinary one. Some tests have something else happen
meanwhile: a neighbour is unplugged, a bridge loses its bus numbers. Patterns select tests
by name: 'switch*noari*'.

The result is KTAP. Logs are in out/undisturbed, the trace of config space only if the
test failed.
"""

import os
import re
import sys
from collections import defaultdict
from dataclasses import dataclass, field

sys.dont_write_bytecode = True      # no __pycache__ among the kernel's files
import cfgtrace                     # noqa: E402
import suite                        # noqa: E402
import vmtest                       # noqa: E402

PCI_COMMAND, BUS_MASTER = 4, 0x4
OPTIONS = [
    "", "pci=assign-busses", "pci=realloc=on", "pci=pcie_bus_perf", "pci=pcie_bus_safe",
    "pci=noari", "pci=noaer", "pcie_aspm=off", "pcie_ports=compat",
    # Translation Blocking is off by default, Source Validation on with an IOMMU
    "pci=config_acs=10@pci:0:0", "pci=hpbussize=4",
    "pci=resource_alignment=20@pci:8086:10c9",
]


@dataclass
class Incident:
    """What happens while devices are preserved."""
    vmm: str = ""           # option that makes the VMM do it, in both kernels
    qemu: tuple = ()        # more options
    room: bool = False      # nothing is in the last port
    # What the host tells QEMU when a line has these words in it
    answers: dict = field(default_factory=dict)
    changes: tuple = ()     # that there must be, in cfgtrace's words
    lost: tuple = ()        # preserved functions that the second kernel can't use
    end: str = "VMM: finished"      # pattern of the line with which that time ends
    # How often lines of the second kernel match these patterns
    lines: dict = field(default_factory=dict)


PLUG_IN = {"VMM: plug": ["device_add e1000e,id=new,bus=down1,romfile="]}

INCIDENTS = {
    "": Incident(),
    # Rescan the bus, unplug and replug the neighbours
    "disturb": Incident("--disturb"),
    # In any debug kernel lockdep complains about the order of pciehp's own locks
    "hotplug": Incident(
        "--hotplug 0000:04:00.0", room=True, answers=PLUG_IN,
        qemu=("-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"),
        lines={"0000:02:01.0: pciehp: .*Card present": 1}),
    "acpi-hotplug": Incident("--hotplug 0000:04:00.0", room=True, answers=PLUG_IN,
                             lines={"pciehp": 0}),
    # Both ports of the switch lose their bus numbers. The preserved one's may not go to the
    # other, which gets new ones. That the VMM misses 04:00.0 is because it counts NICs.
    "lost-bridge": Incident(
        answers={"Starting new kernel": ["stop", "o/w 0xcf8 0x80020018", "o/w 0xcfc 0",
                                         "o/w 0xcf8 0x80020818", "o/w 0xcfc 0", "cont"]},
        changes=("kernel 2 0000:02:00.0 xio3130-downstream: Primary Bus (0x18) 0x2 -> 0x0",
                 "kernel 2 0000:02:00.0 xio3130-downstream: Secondary Bus (0x19) 0x3 -> 0x0",
                 "kernel 2 0000:02:00.0 xio3130-downstream: Subordinate Bus (0x1a) 0x3 -> 0x0",
                 # The kernel stops what it won't enumerate
                 "kernel 2 0000:02:00.0 xio3130-downstream: Command (0x4) 0x107 -> 0x103"),
        lost=("0000:02:00.0", "0000:03:00.0"),
        end="VMM: FAIL .* retrieve device: No such device",
        lines={r"0000:02:00.0: .*has lost its bus numbers \[bus 03-03\]": 1,
               r"0000:03:00.0 \[8086:10c9\] was preserved but is not there": 1,
               "0000:03:": 1,
               "bdf=0000:02:01.0 .*buses=02-04-04 ": 1,
               "Unable to finish session": 0}),
}


@dataclass
class Scenario:
    topology: str
    iommu: bool
    options: str = ""       # for the second kernel
    incident: str = ""

    def name(self):
        return ", ".join([self.topology] + ["IOMMU"] * self.iommu +
                         [self.incident] * bool(self.incident) +
                         [self.options] * bool(self.options))

    def directory(self):
        return self.name().replace(", ", "-")

    def is_plain(self):
        return not self.options and not self.incident

    def append(self):
        """To the command line of the first kernel."""
        preserve, _ = vmtest.TOPOLOGIES[self.topology]
        return " ".join([f'preserve={preserve} next_options="{self.options}"',
                         f'options="{INCIDENTS[self.incident].vmm}"'] +
                        [vmtest.IOMMU] * self.iommu)

    def devices(self, rom):
        """For QEMU."""
        _, devices = vmtest.TOPOLOGIES[self.topology]
        if INCIDENTS[self.incident].room:
            devices = devices[:-1]
        return ["intel-iommu"] * self.iommu + [device.format(rom=rom) for device in devices]


def scenarios():
    for topology in vmtest.TOPOLOGIES:
        for iommu in False, True:
            for options in OPTIONS:
                yield Scenario(topology, iommu, options)
    for iommu in False, True:
        yield Scenario("switch", iommu, incident="disturb")
    # By this policy a NIC changes its links when it is used; one of them is above both NICs
    yield Scenario("switch", False, "pcie_aspm.policy=powersave", "hotplug")
    yield Scenario("switch", True, "pcie_aspm.policy=powersave", "acpi-hotplug")
    yield Scenario("switch", False, "pci=assign-busses", "lost-bridge")


def prepare(directory, config):
    return vmtest.prepare(suite.OUT, directory, config)


def boot(guest, scenario):
    """Returns the machine, switched off, and what stopped it early."""
    incident = INCIDENTS[scenario.incident]

    def drive(vm):
        vm.wait("VMM: kexec", 20 * guest.slow)
        vm.wait(incident.end, 20 * guest.slow)
        if not incident.lost:
            vm.run(0.1)     # for what is in the wire
            vm.end_traffic()
            vm.wait("VMM: done", 10 * guest.slow)
        else:
            vm.sending = False
        vm.wait("INIT: switching off", 20 * guest.slow)
        vm.wait_off(10 * guest.slow)

    # Rarely enough for the wire to hold what a busy host doesn't deliver for a second
    vm = guest.machine(f"{guest.directory}/{scenario.directory()}", scenario.append(),
                       interval=0.02, devices=scenario.devices(guest.rom),
                       options=incident.qemu, answers=incident.answers)
    return vm, vm.play(drive)


@dataclass
class Outcome:
    scenario: Scenario
    directory: str
    changes: list = field(default_factory=list)
    problems: list = field(default_factory=list)
    # (QEMU's name of the device, accesses in the first and in the second kernel)
    accesses: list = field(default_factory=list)


class Judge:
    def __init__(self, scenario, vm, outcome):
        self.scenario, self.vm, self.outcome = scenario, vm, outcome
        self.incident = INCIDENTS[scenario.incident]
        self.say = outcome.problems.append
        nics = list(dict.fromkeys(event.fields["nic"] for event in vm.find("pci", kernel=1)))
        preserve, _ = vmtest.TOPOLOGIES[scenario.topology]
        self.others = nics[preserve:]
        self.path = self.not_lost(event.fields["bdf"] for event in vm.find("pci", kernel=1)
                                  if event.fields["nic"] in nics[:preserve])
        self.kept = self.not_lost(nics[:preserve])

    def not_lost(self, bdfs):
        return [bdf for bdf in dict.fromkeys(bdfs) if bdf not in self.incident.lost]

    def time(self, name, **fields):
        return self.vm.first(name, **fields).time

    def line(self, kernel, pattern):
        return self.vm.times(kernel, pattern)[0]

    def judge(self):
        """Of a machine that got to its end."""
        self.judge_trace()
        self.judge_incident()
        self.judge_options()
        for bdf in self.path:
            self.judge_function(bdf)
        for bdf in self.kept:
            self.judge_device(bdf)
        for wire in self.vm.wires:
            if wire.bdf in self.kept and not self.scenario.iommu:
                window = self.time("kexec"), self.line(2, "INIT: stage 2")
                self.outcome.problems += wire.problems([window])

    def window(self, accesses):
        """The VMM marks both ends in the trace, unless it can't get that far."""
        clock = self.vm.wall_clock
        marks = [access.time for access in accesses
                 if (access.bdf, access.offset) == vmtest.MARK and not access.write]
        start = max(mark for mark in marks if mark < clock + self.time("preserved"))
        end = marks[-1] if not self.incident.lost else clock + self.line(2, self.incident.end)
        return start, end, clock + self.line(1, "Starting new kernel")

    def judge_trace(self):
        accesses = cfgtrace.read(self.vm.trace)
        window = self.window(accesses)
        seen = cfgtrace.counts(accesses, window[2], window[1])
        for bdf in self.path:
            if not sum(seen[bdf]):
                self.say(f"the trace has nothing of {bdf} in kernel 2: this run proves nothing")
        ours = self.incident.changes
        bdfs = dict.fromkeys([*self.path, *(change.split()[2] for change in ours)])
        found = cfgtrace.changes(accesses, bdfs, *window)
        for bdf in self.kept if self.scenario.iommu else ():
            found = self.without_pause(bdf, found)
        found = list(map(str, found))
        self.outcome.changes += [change for change in found if change not in ours]
        for change in ours:
            if change not in found:
                self.say(f"this didn't happen: {change}")
        for bdf in self.others:
            if not cfgtrace.changes(accesses, [bdf], *window):
                self.say(f"{bdf} isn't preserved and wasn't changed: this run proves nothing")
        self.count(accesses)

    def without_pause(self, bdf, changes):
        """With an IOMMU DMA pauses from freeze to attach."""
        pause = [change for change in changes if change.bdf == bdf
                 and change.register == "Command" and change.old ^ change.new == BUS_MASTER]
        if [(change.kernel, change.new & BUS_MASTER) for change in pause] != \
                [(1, 0), (2, BUS_MASTER)]:
            self.say(f"DMA of {bdf} didn't pause and go on: {', '.join(map(str, pause))}")
        return [change for change in changes if change not in pause]

    def judge_incident(self):
        for kernel in (1, 2) if self.incident.vmm else ():
            if not self.vm.first("disturbed", kernel=kernel):
                self.say(f"kernel {kernel} wasn't disturbed")
        for pattern, expected in self.incident.lines.items():
            count = len(self.vm.times(2, pattern))
            if count != expected:
                self.say(f"kernel 2 has {count} lines with '{pattern}', not {expected}")

    def judge_options(self):
        """That they mean what the test says."""
        for event in self.vm.find("ring"):
            if ("addr" in event.fields) == self.scenario.iommu:
                self.say("there is " + ("an" if "addr" not in event.fields else "no") + " IOMMU")
        for line in self.vm.lines:
            if "PCI: Unknown option" in line.text:
                self.say(f"kernel {line.kernel}: {line.text}")
        if self.scenario.is_plain():
            counts = [re.search(r"INIT: (\d+) of (\d+) services", line.text)
                      for line in self.vm.lines]
            if not any(count and count[1] == count[2] for count in counts):
                self.say("the services of ports were not started again")

    def count(self, accesses):
        names, numbers = cfgtrace.functions(accesses), []
        for kernel in 1, 2:
            start, end = (self.vm.wall_clock + self.line(kernel, text)
                          for text in ("Linux version", f"INIT: stage {kernel}"))
            numbers.append(cfgtrace.counts(accesses, start, end))
        for bdf in self.path:
            self.outcome.accesses.append((names[bdf], *(sum(count[bdf]) for count in numbers)))

    def judge_function(self, bdf):
        before, after = (self.vm.first("pci", bdf=bdf, kernel=kernel) for kernel in (1, 2))
        if not after:
            self.say(f"the VMM didn't show {bdf} in kernel 2")
            return
        for key in {**before.fields, **after.fields}:
            if key == "driver" and "buses" in before.fields and "compat" in self.scenario.options:
                continue
            # Nor does it matter for which of the NICs it was shown first
            if key == "nic":
                continue
            old, new = before.fields.get(key), after.fields.get(key)
            if old != new and not self.is_paused(bdf, key, old, new):
                self.say(f"{bdf}: {key} was {old} and is {new}")

    def is_paused(self, bdf, key, old, new):
        """The VMM shows the device while its DMA pauses."""
        shift = {"command": 0, "header": (64 - PCI_COMMAND - 1) * 8}.get(key)
        return (self.scenario.iommu and bdf in self.kept and shift is not None
                and int(old, 16) ^ int(new, 16) == BUS_MASTER << shift)

    def judge_device(self, bdf):
        self.outcome.problems += self.vm.nic_problems(bdf)
        if not any(f"INIT: ordinary {bdf}" in line.text for line in self.vm.lines):
            self.say(f"{bdf} isn't ordinary after finish")


def run(guest, scenario):
    vm, stopped = boot(guest, scenario)
    outcome = Outcome(scenario, vm.directory)
    if stopped:
        outcome.problems.append(stopped)
    else:
        try:
            Judge(scenario, vm, outcome).judge()
        except (ValueError, IndexError, AttributeError) as error:
            # What it looked for isn't there
            outcome.problems.append(f"can't judge: {error!r}")
    outcome.problems += vm.complaints()
    if not outcome.changes and not outcome.problems:
        os.remove(vm.trace)
    return outcome


# ---- the report ----

def report(number, outcome):
    details = outcome.changes + outcome.problems
    if details:
        details.append(f"logs: {os.path.relpath(outcome.directory)}")
    name = outcome.scenario.name()
    if not outcome.problems or outcome.changes:
        name += f": {len(outcome.changes)} changes"
    return suite.result(not details, number, name, details)


def compare_accesses(number, outcomes):
    """With the first kernel's boot, which is one without a live update."""
    totals = defaultdict(lambda: [0, 0, 0])
    fewer = True
    for outcome in outcomes:
        if outcome.scenario.is_plain():
            for name, plain, update in outcome.accesses:
                totals[name] = [a + b for a, b in zip(totals[name], (1, plain, update))]
                fewer &= 0 < update < plain
    if not totals:
        return suite.result(True, number, "fewer accesses than in a plain boot # SKIP", [])
    lines = [f"{'accesses to a function':24}{'plain boot':>12}{'live update':>13}{'ratio':>8}"]
    lines += [f"{name:24}{plain / functions:12.0f}{update / functions:13.0f}{update / plain:8.2f}"
              for name, (functions, plain, update) in sorted(totals.items())]
    return suite.result(fewer, number, "fewer accesses than in a plain boot", lines)


if __name__ == "__main__":
    suite.main(__doc__, "undisturbed", scenarios(), prepare, run, report, compare_accesses)
