#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Does anything disturb preserved devices, or the bridges above them, during a live update?

    undisturbed.py [--config demo|debug] [PATTERN...]

Replaces the kernel for each topology of vmtest.py, without and with an IOMMU, and for each
command line of the second kernel that has to do with PCI. From before the first device is
preserved until the last one is finished, no register in the config space of any function on
a preserved path may change, nor what sysfs says of it; no packet may be lost; and then the
device must be an ordinary one. Patterns select tests by name: 'switch*noari*'.

The result is KTAP. Logs are in out/undisturbed, the trace of config space only if the
test failed.
"""

import argparse
import fcntl
import multiprocessing
import os
import shutil
import signal
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial

sys.dont_write_bytecode = True      # no __pycache__ among the kernel's files
import cfgtrace                     # noqa: E402
import vmtest                       # noqa: E402

SELFTEST = "tools/testing/selftests/pci_liveupdate"
OUT = vmtest.HERE.removesuffix(SELFTEST) + "out"

IOMMU = "intel_iommu=on iommufd.allow_unsafe_interrupts=1"
OPTIONS = [
    "", "pci=assign-busses", "pci=realloc=on", "pci=pcie_bus_perf", "pci=pcie_bus_safe",
    "pci=noari", "pci=noaer", "pcie_aspm=off", "pcie_ports=compat",
    # Translation Blocking is off by default, Source Validation on with an IOMMU
    "pci=config_acs=10@pci:0:0", "pci=hpbussize=4",
]


@dataclass
class Scenario:
    topology: str
    iommu: bool
    options: str = ""       # for the second kernel
    disturb: bool = False   # unplug and replug the neighbours, in both kernels

    def name(self):
        return ", ".join([self.topology] + ["IOMMU"] * self.iommu +
                         ["disturb"] * self.disturb + [self.options] * bool(self.options))

    def directory(self):
        return self.name().replace(", ", "-")

    def is_plain(self):
        return not self.options and not self.disturb

    def append(self):
        """To the command line of the first kernel."""
        preserve, _ = vmtest.TOPOLOGIES[self.topology]
        return " ".join([f'preserve={preserve} next_options="{self.options}"'] +
                        ["vmm_options=--disturb"] * self.disturb + [IOMMU] * self.iommu)


def scenarios():
    for topology in vmtest.TOPOLOGIES:
        for iommu in False, True:
            for options in OPTIONS:
                yield Scenario(topology, iommu, options)
    for iommu in False, True:
        yield Scenario("switch", iommu, disturb=True)


@dataclass
class Guest:
    directory: str
    config: str
    kernel: str
    initrd: str
    rom: str


def prepare(directory, config):
    """What all virtual machines have in common."""
    build = f"{OUT}/build-{config}"
    built = f"{build}/arch/x86/boot/bzImage"
    if not os.path.exists(built):
        raise vmtest.Failure(f"there is no kernel: make kernel CONFIG={config}")
    guest = Guest(directory, config, f"{directory}/bzImage", f"{directory}/initrd",
                  f"{directory}/rom")
    # All tests are of this one, whatever is built meanwhile
    shutil.copy(built, guest.kernel)
    vmm = vmtest.build_vmm(f"{OUT}/linux/{SELFTEST}", f"{directory}/guest",
                           f"{build}/usr-headers/include")
    vmtest.initramfs(guest.initrd, f"{build}/usr/gen_init_cpio", guest.kernel, vmm)
    with open(guest.rom, "wb") as file:
        file.write(bytes(0x10000))
    return guest


def boot(guest, scenario):
    """Returns the machine, switched off, and what stopped it early."""
    _, devices = vmtest.TOPOLOGIES[scenario.topology]
    devices = [device.format(rom=guest.rom) for device in devices]
    append = scenario.append()
    slow = 1
    if guest.config == "debug":
        slow = 10
        append += f" {vmtest.DEBUG_OPTIONS}"
    directory = f"{guest.directory}/{scenario.directory()}"
    # Rarely enough for the wire to hold what a busy host doesn't deliver for a second
    with vmtest.VM(directory, guest.kernel, guest.initrd, append, interval=0.02,
                   devices=["intel-iommu"] * scenario.iommu + devices,
                   trace=f"{directory}/config-space.log") as vm:
        try:
            vm.wait("VMM: kexec", 20 * slow)
            vm.wait("VMM: finished", 20 * slow)
            vm.run(0.1)     # for what is in the wire
            vm.end_traffic()
            vm.wait("VMM: done", 10 * slow)
            vm.wait("INIT: switching off", 20 * slow)
            vm.wait_off(10 * slow)
        except vmtest.Failure as failure:
            vm.run(1)       # for its last words
            return vm, str(failure)
    return vm, None


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
        self.say = outcome.problems.append
        nics = list(dict.fromkeys(event.fields["nic"] for event in vm.find("pci", kernel=1)))
        preserve, _ = vmtest.TOPOLOGIES[scenario.topology]
        self.kept, self.others = nics[:preserve], nics[preserve:]
        self.path = list(dict.fromkeys(
            event.fields["bdf"] for event in vm.find("pci", kernel=1)
            if event.fields["nic"] in self.kept))

    def first(self, name, **fields):
        return next(iter(self.vm.find(name, **fields)), None)

    def time(self, name, **fields):
        return self.first(name, **fields).time

    def line(self, kernel, text):
        """When this kernel said so."""
        return next(line.time for line in self.vm.lines
                    if line.kernel == kernel and text in line.text)

    def judge(self):
        """Of a machine that got to its end."""
        self.judge_trace()
        for bdf in self.path:
            self.judge_function(bdf)
        for bdf in self.kept:
            self.judge_device(bdf)
        for wire in self.vm.wires:
            if wire.bdf in self.kept and not self.scenario.iommu:
                self.judge_packets(wire)
        for kernel in (1, 2) if self.scenario.disturb else ():
            if not self.first("disturbed", kernel=kernel):
                self.say(f"kernel {kernel} wasn't disturbed")

    def judge_trace(self):
        accesses = cfgtrace.read(self.vm.trace)
        clock = self.vm.wall_clock
        window = (clock + self.time("receiving"), clock + self.time("finished"),
                  clock + self.line(2, "Linux version"))
        self.outcome.changes += map(str, cfgtrace.changes(accesses, self.path, *window))
        for bdf in self.others:
            if not cfgtrace.changes(accesses, [bdf], *window):
                self.say(f"{bdf} isn't preserved and wasn't changed: this run proves nothing")
        self.count(accesses)

    def count(self, accesses):
        names, numbers = cfgtrace.functions(accesses), []
        for kernel in 1, 2:
            start, end = (self.vm.wall_clock + self.line(kernel, text)
                          for text in ("Linux version", f"INIT: stage {kernel}"))
            numbers.append(cfgtrace.counts(accesses, start, end))
        for bdf in self.path:
            self.outcome.accesses.append((names[bdf], *(sum(count[bdf]) for count in numbers)))

    def judge_function(self, bdf):
        before, after = (self.first("pci", bdf=bdf, kernel=kernel) for kernel in (1, 2))
        if not after:
            self.say(f"the VMM didn't show {bdf} in kernel 2")
            return
        for key in {**before.fields, **after.fields}:
            # Whether ports have a driver is for the command line to say
            if key == "driver" and "buses" in before.fields:
                continue
            old, new = before.fields.get(key), after.fields.get(key)
            if old != new:
                self.say(f"{bdf}: {key} was {old} and is {new}")

    def judge_device(self, bdf):
        held = self.first("held", bdf=bdf)
        if not held or held.fields.get("moved_pages", "0") != "0":
            self.say(f"{bdf}: its memory has moved" if held else f"{bdf} wasn't held")
        for event in self.vm.find("registers", bdf=bdf):
            if event.fields["intact"] != event.fields["of"]:
                self.say("{bdf}: only {intact} of {of} registers are intact"
                         .format(**event.fields))
        for event in self.vm.find("packets", bdf=bdf):
            if event.fields["disordered"] != "0" or event.fields["damaged"] != "0":
                self.say("{bdf}: {disordered} packets out of order, {damaged} damaged"
                         .format(**event.fields))
        if not any(f"INIT: ordinary {bdf}" in line.text for line in self.vm.lines):
            self.say(f"{bdf} isn't ordinary after finish")

    def judge_packets(self, wire):
        start, end = self.time("kexec"), self.line(2, "INIT: stage 2")
        sent = wire.sent_between(start, end)
        seen = [number for when, number in wire.seen if number in sent and when <= end]
        # A busy host delays some
        if not sent or len(seen) < len(sent) / 2:
            self.say(f"{wire.bdf}: of {len(sent)} packets sent while there was no userspace, "
                     f"{len(seen)} were received meanwhile")
        if wire.lost():
            self.say(f"{wire.bdf}: {len(wire.lost())} of {len(wire.sent)} packets were lost")


def run(guest, scenario):
    vm, stopped = boot(guest, scenario)
    outcome = Outcome(scenario, vm.directory)
    if stopped:
        outcome.problems.append(stopped)
    else:
        Judge(scenario, vm, outcome).judge()
    for line in vm.bad_lines()[:20]:
        outcome.problems.append(f"kernel {line.kernel} complained: {line.text}")
    if not outcome.changes and not outcome.problems:
        os.remove(vm.trace)
    return outcome


# ---- the report ----

def result(ok, number, text, details):
    print("ok" if ok else "not ok", number, "-", text)
    for line in "\n".join(details).splitlines():
        print("#", line)
    sys.stdout.flush()
    return ok


def report(number, outcome):
    details = outcome.changes + outcome.problems
    if details:
        details.append(f"logs: {os.path.relpath(outcome.directory)}")
    return result(not details, number,
                  f"{outcome.scenario.name()}: {len(outcome.changes)} changes", details)


def compare_accesses(number, outcomes):
    """With the first kernel's boot, which is one without a live update."""
    totals = defaultdict(lambda: [0, 0, 0])
    for outcome in outcomes:
        if outcome.scenario.is_plain():
            for name, *counts in outcome.accesses:
                totals[name] = [a + b for a, b in zip(totals[name], [1] + counts)]
    if not totals:
        return result(True, number, "fewer accesses than in a plain boot # SKIP", [])
    lines = [f"{'accesses to a function':24}{'plain boot':>12}{'live update':>13}{'ratio':>8}"]
    lines += [f"{name:24}{plain / functions:12.0f}{update / functions:13.0f}{update / plain:8.2f}"
              for name, (functions, plain, update) in sorted(totals.items())]
    fewer = all(update < plain for _, plain, update in totals.values())
    return result(fewer, number, "fewer accesses than in a plain boot", lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=["demo", "debug"],
                        default=os.environ.get("CONFIG") or "demo")
    parser.add_argument("pattern", nargs="*", default=["*"])
    args = parser.parse_args()
    selected = [scenario for scenario in scenarios()
                if any(fnmatch(scenario.name(), pattern) for pattern in args.pattern)]
    if not selected:
        parser.error("no test has such a name")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    directory = f"{OUT}/undisturbed" + "-debug" * (args.config == "debug")
    os.makedirs(directory, exist_ok=True)
    lock = open(f"{directory}.lock", "w")       # one run at a time
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        guest = prepare(directory, args.config)
    except vmtest.Failure as failure:
        sys.exit(f"undisturbed: {failure}")

    print(f"KTAP version 1\n1..{len(selected) + 1}", flush=True)
    outcomes, passed = [], True
    with multiprocessing.Pool(initializer=vmtest.run_with_parent) as pool:
        for outcome in pool.imap(partial(run, guest), selected):
            outcomes.append(outcome)
            passed &= report(len(outcomes), outcome)
    passed &= compare_accesses(len(selected) + 1, outcomes)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
