#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Does a native driver keep its device over a live update, and survive what can go wrong?

    native.py [--config CONFIG] [PATTERN...]

Replaces the kernel while two edu devices, one of them below a root port, compute for edu.c
through the driver in samples/liveupdate, which is a module in the demo kernel and built into
the debug kernel. Most is checked by edu.c itself. Here: from before the first device is
preserved until the first is retrieved, no register in the config space of a preserved
device or of a bridge above it may change; from then on to finish, only what the driver asks
for: its interrupt. Patterns select tests by name: 'removed*'.

The result is KTAP. Logs are in out/native, the trace of config space only if the test failed.
"""

import re
import sys
from dataclasses import dataclass, field

sys.dont_write_bytecode = True      # no __pycache__ among the kernel's files
import cfgtrace                     # noqa: E402
import suite                        # noqa: E402
import vmtest                       # noqa: E402

FIRST, PORT, LAST, NIC = "0000:00:03.0", "0000:00:02.0", "0000:01:00.0", "0000:00:04.0"
DEVICES = ["edu,bus=pcie.0,addr=3.0", "pcie-root-port,id=root,bus=pcie.0,addr=2.0,chassis=1",
           "edu,bus=root"]

# What a driver that connects its interrupt asks for
INTERRUPT = rf"kernel 2 ({FIRST}|{LAST}) edu: MSI Message (Control|Address|Data) "


@dataclass
class Scenario:
    title: str
    options: str = ""       # of edu.c
    next_options: str = ""  # for the second kernel's command line
    devices: tuple = ()     # more of QEMU's
    watched: tuple = (FIRST, PORT, LAST)    # these must not be disturbed
    intact: int = 2         # so many edu devices come back as they were
    allowed: tuple = ()     # patterns of changes that there may be in the watched ones
    adopted: str = "adopted 2 devices and 1 bridges, 0 missing"
    stopped: dict = field(default_factory=dict)     # by the second kernel, and why

    def name(self):
        return self.title


def stop(bdf):
    """A driver that can't take its device over gives its interrupt back; the kernel stops DMA."""
    return rf"kernel 2 {bdf} edu: Command .* (0x507 -> 0x503|0x503 -> 0x103)"


UNRETRIEVED = "its file can't be retrieved"
GONE = {"adopted": "adopted 1 devices and 0 bridges, 0 missing", "watched": (FIRST,), "intact": 1}

SCENARIOS = [
    Scenario("taken back"),
    Scenario("aborted and preserved again", "--abort"),
    # LAST's port stays what it is, LAST doesn't
    Scenario("preserved by old files, bound anew and preserved by another", "--outlive",
             watched=(FIRST, PORT)),
    Scenario("unbound, unloaded and bound before it is taken back", "--rebind"),
    Scenario("not taken back at first", "--forget"),
    Scenario("together with an igb of vfio-pci, at the second attempt",
             devices=("igb,bus=pcie.0,addr=4.0,romfile=",), watched=(FIRST, PORT, LAST, NIC),
             # The first fails because edu.c has enabled an interrupt
             allowed=(rf"kernel 1 {NIC} igb: MSI-X Message Control ",
                      rf"kernel 1 {NIC} igb: Command .* (0x6 -> 0x406|0x406 -> 0x6)"),
             adopted="adopted 3 devices and 1 bridges, 0 missing"),
    Scenario("removed while it is preserved", "--remove preserved", **GONE),
    Scenario("unbound while it is preserved", "--remove unbound", **GONE),
    Scenario("removed before it is taken back", "--remove incoming", watched=(FIRST,), intact=1,
             stopped={LAST: "removed before its live update was finished"}),
    Scenario("unbound before it is taken back", "--remove forsaken", intact=1,
             allowed=(stop(LAST),), stopped={LAST: "its driver isn't bound"}),
    Scenario("removed after it is taken back", "--remove retrieved", watched=(FIRST,)),
    Scenario("unbound after it is taken back", "--remove used", watched=(FIRST,)),
    Scenario("changed by somebody before it is taken back", "--remove damaged", intact=1,
             allowed=(stop(LAST),), stopped={LAST: UNRETRIEVED}),
    Scenario("an IOMMU that only the second kernel uses", "--iommu 2", "intel_iommu=on",
             devices=("intel-iommu",), intact=0, allowed=(stop(FIRST), stop(LAST)),
             stopped={FIRST: UNRETRIEVED, LAST: UNRETRIEVED}),
    Scenario("refused behind an IOMMU", "--iommu 1", devices=("intel-iommu",), watched=(),
             intact=0, adopted=""),
]


def prepare(directory, config):
    return vmtest.prepare(suite.OUT, directory, config)


def boot(guest, scenario):
    """Returns the machine, switched off, and what stopped it early."""
    def drive(vm):
        vm.wait("VMM: preserving", 30 * guest.slow)
        vm.wait("VMM: done", 60 * guest.slow)
        vm.wait("INIT: switching off", 20 * guest.slow)
        vm.wait_off(10 * guest.slow)

    directory = f"{guest.directory}/" + re.sub(r"\W+", "-", scenario.title)
    append = f'options="{scenario.options}" next_options="{scenario.next_options}"'
    if not scenario.watched:
        append += " intel_iommu=on"
    # An IOMMU comes before the devices behind it
    vm = guest.machine(directory, append, devices=[*scenario.devices, *DEVICES])
    return vm, vm.play(drive)


def judge_trace(vm, scenario):
    accesses = cfgtrace.read(vm.trace)
    start, retrieving, end = (access.time for access in accesses
                              if (access.bdf, access.offset) == vmtest.MARK and not access.write)
    kexec = next(line.time for line in vm.lines if "Starting new kernel" in line.text)
    for change in cfgtrace.changes(accesses, scenario.watched, start, end,
                                   vm.wall_clock + kexec):
        allowed = scenario.allowed + (INTERRUPT,) * (change.time > retrieving)
        if not any(re.search(pattern, str(change)) for pattern in allowed):
            yield str(change)
    for bdf in scenario.watched:
        if not sum(cfgtrace.counts(accesses, vm.wall_clock + kexec, end)[bdf]):
            yield f"the trace has nothing of {bdf} in kernel 2: this run proves nothing"


def judge(vm, scenario):
    """Of a machine that got to its end."""
    if scenario.watched:
        yield from judge_trace(vm, scenario)
        if not vm.find("left", bdf=FIRST, computing="1"):
            yield "nothing was computed while the kernel was replaced: this run proves nothing"
    if len(vm.find("intact")) != scenario.intact:
        yield f"{len(vm.find('intact'))} devices were intact, not {scenario.intact}"
    log = [line.text for line in vm.lines if line.kernel == 2]
    if scenario.adopted and sum(scenario.adopted in text for text in log) != 1:
        yield f"kernel 2 didn't say '{scenario.adopted}'"
    stopped = dict(found.groups() for found in
                   (re.search("(0000:.*): liveupdate: DMA stopped: (.*);", text) for text in log)
                   if found)
    if stopped != scenario.stopped:
        yield f"kernel 2 has stopped {stopped}, not {scenario.stopped}"


@dataclass
class Outcome:
    name: str
    directory: str
    problems: list
    computing: int          # so many factorials weren't ready when their device was taken back
    config: str


def run(guest, scenario):
    vm, stopped_early = boot(guest, scenario)
    if stopped_early:
        problems = [stopped_early]
    else:
        try:
            problems = list(judge(vm, scenario))
        except (ValueError, StopIteration) as error:
            problems = [f"can't judge: {error!r}"]      # what it looked for isn't there
    return Outcome(scenario.title, vm.directory, suite.conclude(vm, problems),
                   len(vm.find("found", computing="1")), guest.config)


def count_computing(number, outcomes):
    count = sum(outcome.computing for outcome in outcomes)
    name = f"{count} factorials were begun by one kernel, and ended when the next had the device"
    if not count and outcomes[0].config == "debug":
        name += " # SKIP the debug kernel boots for longer than the longest one"
    return suite.result(count or "SKIP" in name, number, name, [])


if __name__ == "__main__":
    suite.main(__doc__, "native", SCENARIOS, prepare, run, suite.report, count_computing)
