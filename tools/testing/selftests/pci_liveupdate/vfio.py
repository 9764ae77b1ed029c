#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What a VMM can rely on, and what can go wrong for it: see vfio.c.

    vfio.py [--config CONFIG] [PATTERN...]

Most devices are behind an IOMMU. Most is checked by vfio.c itself, with the kernel's libvfio
and its driver for igb. Patterns select tests by name: 'killed*'.

The result is KTAP. Logs are in out/vfio.
"""

import os
import sys
from dataclasses import dataclass, field

sys.dont_write_bytecode = True      # no __pycache__ among the kernel's files
import suite                        # noqa: E402
import vmtest                       # noqa: E402

PORT = "pcie-root-port,id=root{0},bus=pcie.0,addr={1:x}.0,chassis={0}"
IGB = "igb,bus=root{0},romfile="


def igbs(count):
    """One below each root port. The last one can be told to go."""
    for number in range(count):
        yield PORT.format(number, number + 4)
        name = ",id=last" * (number == count - 1)
        yield IGB.format(number) + name


# Neighbours, which a reset of the bus hits both
BUS = ["pci-bridge,id=bridge,bus=pcie.0,addr=4.0,chassis_nr=1",
       "igb,bus=bridge,addr=1.0,romfile=", "e1000e,bus=bridge,addr=2.0,romfile="]

KINDS = [
    "e1000,bus=pcie.0,addr=4.0,romfile=",                           # no FLR, no MSI
    "igb,bus=pcie.0,addr=5.0,romfile={rom}",                        # option ROM
    "pci-testdev,bus=pcie.0,addr=6.0,membar=1G,romfile=",           # BAR above 4 GiB
    "igb,bus=pcie.0,addr=7.0,multifunction=on,romfile=", "igb,bus=pcie.0,addr=7.1,romfile=",
]

# For five kernels in one initramfs, as KHO's scratch is as large, or for a gigabyte of DMA
LARGE = 2 * vmtest.RAM

# As if the guest had told ACPI's hot-plug that it has given the device in slot 0 of the last
# port back
EJECT = ["stop", "o/w 0xcd0 0", "o/w 0xcc8 1", "cont"]


@dataclass
class Scenario:
    test: str               # of vfio.c, if that is the VMM
    title: str
    devices: list
    preserve: int = 1
    updates: int = 1        # 0: no kexec
    options: str = vmtest.IOMMU     # for the kernel's command line
    next_options: str = ""          # for the next one's
    answers: dict = field(default_factory=dict)
    # (kernel, pattern): so many lines of its log match; None: any number
    lines: dict = field(default_factory=dict)
    vmm: str = "vfio"
    ram: int = vmtest.RAM

    def name(self):
        return f"{self.test}: {self.title}"

    def append(self):
        test = f'options="--test {self.test}" ' * (self.vmm == "vfio")
        return (f'{self.options} vfio_iommu_type1.allow_unsafe_interrupts=1 vmm={self.vmm} '
                f'{test}next_options="{self.next_options}" '
                f'preserve={self.preserve} updates={self.updates}')


ADOPTED = "liveupdate: adopted {} devices and {} bridges, {} missing"

SCENARIOS = [
    Scenario("waiting", "nobody can touch it, its user gets all back", BUS,
             lines={(1, "live update refused: its interrupts are enabled"): 1,
                    (2, ADOPTED.format(1, 1, 0)): 1,
                    # Closed, and opened as any other
                    (2, "0000:01:01.0: reset done"): 2}),
    Scenario("late", "attached when it is finished", list(igbs(1)),
             lines={(2, ADOPTED.format(1, 1, 0)): 1}),
    Scenario("killed", "the VMM dies at each step", list(igbs(3)), 3,
             lines={(2, ADOPTED.format(3, 3, 0)): 1}),
    Scenario("several", "8 devices, two VMMs, five live updates", list(igbs(8)), 8, 5, ram=LARGE,
             lines={(number, ADOPTED.format(8, 8, 0)): 1 for number in range(2, 7)}),
    Scenario("packets", "none of igb's and e1000e's is lost, five live updates",
             [vmtest.IGB0, f"{vmtest.E1000E},romfile="], 2, 5, options="", vmm="vmm",
             ram=LARGE,
             lines={(number, ADOPTED.format(2, 0, 0)): 1 for number in range(2, 7)}),
    Scenario("pulled", "while it is preserved", list(igbs(2)), 2,
             answers={"VMM: unplug": ["device_del last"]},
             lines={(2, ADOPTED.format(1, 1, 0)): 1}),
    Scenario("gone", "between the kernels, or while it waits", list(igbs(3)), 3,
             answers={"Starting new kernel": EJECT},
             lines={(2, ADOPTED.format(2, 3, 1)): 1,
                    (2, r"0000:03:00.0 \[8086:10c9\] was preserved but is not there"): 1,
                    (2, "0000:02:00.0: .*DMA stopped: removed before its live update"): 1}),
    Scenario("kinds", "no FLR, INTx only, option ROM, BAR above 4 GiB, functions", KINDS, 5,
             lines={(1, r"0000:00:06\.0: BAR 2 \[mem 0x[1-9a-f][0-9a-f]{8,}-"): 1,
                    (2, ADOPTED.format(5, 0, 0)): 1,
                    # The firmware's place is in a hole of e820: no rescan finds it again
                    (2, "INIT: not ordinary 0000:00:06.0, see sizes"): 1}),
    Scenario("minimal", "the VMM of the documentation", list(igbs(1)),
             lines={(2, ADOPTED.format(1, 1, 0)): 1}),
    Scenario("unprotected", "no IOMMU in the second kernel", list(igbs(1)),
             next_options="intel_iommu=off",
             lines={(2, "no IOMMU translates for it now"): 1}),
    Scenario("protected", "an IOMMU only in the second kernel", list(igbs(1)),
             options="", next_options=vmtest.IOMMU,
             lines={(2, "an IOMMU translates for it now"): 1,
                    (2, "DMA stopped: its file can't be retrieved"): 1}),
    Scenario("refused", "group, unbound, in low power, virtual functions, VGA",
             [*igbs(1), "VGA,bus=pcie.0,addr=2.0,romfile=", "VGA,bus=pcie.0,addr=3.0,romfile="],
             updates=0, lines={(1, "not preserved: a VGA device"): 1,
                               (1, "not preserved: virtual functions can't be"): 1,
                               (1, "not preserved: virtual functions are enabled"): 1,
                               (1, "live update refused: it is in low power"): 1}),
    # So many as on a kernel without all this
    Scenario("selftests", "the kernel's own of vfio", list(igbs(1)), updates=0,
             vmm="selftests.sh", ram=LARGE,
             lines={(1, "DMAR: .* fault addr"): None,    # they want some
                    **{(1, f"{name}: # Totals: {totals} error:0"): 1
                       for name, totals in vmtest.SELFTESTS.items()}}),
]


def prepare(directory, config):
    """The guest, by the number of live updates: each kernel is in the one before."""
    guests = {}
    for updates in sorted({max(scenario.updates, 1) for scenario in SCENARIOS}):
        path = f"{directory}/updates-{updates}"
        os.makedirs(path, exist_ok=True)
        # The kernel's own replace none
        tests = ["pci_liveupdate"] + ["vfio"] * (updates == 1)
        guests[updates] = vmtest.prepare(suite.OUT, path, config, updates, tests)
    return directory, guests


def boot(directory, guest, scenario):
    """Returns the machine, switched off, and what stopped it early."""
    def drive(vm):
        for _ in range(scenario.updates):
            vm.wait("VMM: kexec", 60 * guest.slow)
        if vm.wires:
            vm.wait("VMM: held", 60 * guest.slow)
            vm.run(0.1)     # for what is in the wire
            vm.end_traffic()
        vm.wait("VMM: done", 180 * guest.slow)
        vm.wait("INIT: switching off", 20 * guest.slow)
        vm.wait_off(10 * guest.slow)

    devices = [device.format(rom=guest.rom) for device in scenario.devices]
    # An IOMMU comes before the devices behind it
    vm = guest.machine(f"{directory}/{scenario.test}", scenario.append(),
                       devices=["intel-iommu", *devices], answers=scenario.answers,
                       ram=scenario.ram, interval=0.05)     # the ring has to last
    return vm, vm.play(drive)


def judge(vm, scenario):
    """Of a machine that got to its end."""
    if vm.kernels != scenario.updates + 1:
        yield f"there were {vm.kernels} kernels"
    for (kernel, pattern), expected in scenario.lines.items():
        count = len(vm.times(kernel, pattern))
        if expected not in (None, count):
            yield f"kernel {kernel} has {count} lines with '{pattern}', not {expected}"
    for wire in vm.wires:
        windows = [(vm.first("kexec", kernel=kernel).time,
                    vm.times(kernel + 1, f"INIT: stage {kernel + 1}")[0])
                   for kernel in range(1, vm.kernels)]
        yield from wire.problems(windows)
        yield from vm.nic_problems(wire.bdf)
    for line in vm.lines:
        if "INIT: not ordinary" in line.text and \
                not any(pattern in line.text for _, pattern in scenario.lines):
            yield line.text


@dataclass
class Outcome:
    name: str
    directory: str
    problems: list


def run(prepared, scenario):
    directory, guests = prepared
    vm, stopped = boot(directory, guests[max(scenario.updates, 1)], scenario)
    problems = [stopped] if stopped else list(judge(vm, scenario))
    return Outcome(scenario.name(), vm.directory, suite.conclude(vm, problems, scenario.lines))


if __name__ == "__main__":
    suite.main(__doc__, "vfio", SCENARIOS, prepare, run, suite.report)
