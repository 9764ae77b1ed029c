# SPDX-License-Identifier: GPL-2.0
"""What must hold when a scenario's machine is off. Each check tells what doesn't."""

import re
from collections import Counter
from datetime import datetime
from functools import cached_property
from itertools import takewhile

import cfgtrace
import handover
import vmtest

PCI_COMMAND, BUS_MASTER, INTX_DISABLE = 4, 0x4, 0x400
# Seconds: for so long a busy host may not let us look
BUSY = 1
# In that time a packet gets through wire and NIC, or QEMU makes room in a full wire
ON_THE_WAY = 0.5


class Run:
    """A machine that is off, and what it was to do."""

    def __init__(self, scenario, vm):
        self.scenario, self.vm = scenario, vm
        self.notes = []         # worth to be known, also if nothing is wrong
        self.twin = None        # the run to compare with
        nics = list(dict.fromkeys(event.fields["nic"] for event in vm.find("pci", kernel=1)))
        added = {event.fields["bdf"]: event.time for event in vm.find("added")}
        preserved = scenario.preserve + len(added)
        self.others = nics[preserved:]
        self.kept = self.not_lost(nics[:preserved])
        self.path, self.starts = [], {}
        for event in vm.find("pci", kernel=1):
            bdf, nic = event.fields["bdf"], event.fields["nic"]
            if nic in nics[:preserved] and bdf not in (*self.path, *scenario.lost):
                self.path.append(bdf)
                if nic in added:        # it isn't preserved earlier
                    self.starts[bdf] = added[nic]

    def not_lost(self, bdfs):
        return [bdf for bdf in dict.fromkeys(bdfs) if bdf not in self.scenario.lost]

    @cached_property
    def accesses(self):
        return cfgtrace.read(self.vm.trace)

    @cached_property
    def marks(self):
        return [access.time for access in self.accesses
                if (access.bdf, access.offset) == vmtest.MARK and not access.write]

    def mark_before(self, time):
        """Whoever says something has marked the trace right before."""
        return max(mark for mark in self.marks if mark < self.vm.wall_clock + time)

    def clock(self, kernel, pattern):
        """When this kernel first said so, in the time of the trace."""
        return self.vm.wall_clock + self.vm.times(kernel, pattern)[0]

    @cached_property
    def kexecs(self):
        return [self.vm.wall_clock + line.time for line in self.vm.lines
                if "Starting new kernel" in line.text]

    @cached_property
    def windows(self):
        """From before the first device is preserved until the last one is finished, again and
        again: (start, end). Where it doesn't get that far, to what goes wrong."""
        windows, start = [], None
        for event in self.vm.events:
            if event.name in ("preserved", "preserving") and start is None:
                start = self.mark_before(event.time)
            elif event.name == "finished" and start is not None:
                windows.append((start, self.mark_before(event.time)))
                start = None
        if start is not None:
            failed = [line.time for line in self.vm.lines if re.search(vmtest.FATAL, line.text)]
            if not failed:
                raise ValueError("devices were preserved, and nobody has finished or failed")
            windows.append((start, self.vm.wall_clock + failed[0]))
        if len(windows) != len(self.kexecs):
            raise ValueError(f"{len(self.kexecs)} kernels were started in {len(windows)} updates")
        return windows

    def last_below(self, bridge, start, end):
        """When it begins that the last device below is finished, and services may start."""
        below = {event.fields["nic"] for event in self.vm.find("pci", bdf=bridge)}
        marks = [self.mark_before(event.time) for event in self.vm.find("finishing")
                 if event.fields["nic"] in below]
        return max((mark for mark in marks if start < mark < end), default=end)

    def changes(self, bdfs):
        found = []
        for start, end in self.windows:
            for bdf in bdfs:
                since = self.mark_before(self.starts[bdf]) if bdf in self.starts else start
                until = end if bdf in self.kept else self.last_below(bdf, start, end)
                found += cfgtrace.changes(self.accesses, [bdf], since, until, self.kexecs)
        return sorted(found, key=lambda change: change.time)

    def boot_accesses(self, kernel):
        """How many each function had before there was any userspace."""
        return cfgtrace.counts(self.accesses, self.clock(kernel, "Linux version"),
                               self.clock(kernel, f"INIT: stage {kernel}"))


# ---- for every scenario ----

def kernels(run):
    if run.vm.kernels != run.scenario.updates + 1:
        yield f"there were {run.vm.kernels} kernels, not {run.scenario.updates + 1}"


def done(run):
    """Whatever ran in the guest got to its end, or was to fail."""
    last = run.vm.kernels
    to_fail = any(kernel == last and "VMM: FAIL" in pattern
                  for kernel, pattern in run.scenario.lines)
    if run.scenario.program != "ls" and not to_fail and not run.vm.times(last, "VMM: done"):
        yield "nobody has said that all was done"


def lines(run):
    for (kernel, pattern), expected in run.scenario.all_lines().items():
        count = len(run.vm.times(kernel, pattern))
        if expected not in (None, count):
            yield f"kernel {kernel} has {count} lines with '{pattern}', not {expected}"


def complaints(run):
    yield from run.vm.complaints()
    patterns = [pattern for _, pattern in run.scenario.lines]
    for line in run.vm.lines:
        if "PCI: Unknown option" in line.text or "INIT: not ordinary" in line.text and \
                not any(re.search(pattern, line.text) for pattern in patterns):
            yield f"kernel {line.kernel}: {line.text}"


ALWAYS = [kernels, done, lines, complaints]


# ---- for vmm.c ----

def trace(run):
    """No write has changed a value in a preserved function, or in a bridge above one."""
    demanded = run.scenario.changes
    bdfs = dict.fromkeys([*run.path, *(change.split()[2] for change in demanded)])
    found = run.changes(bdfs)
    if run.scenario.pauses:
        for bdf in run.kept:
            yield from missing_pause(bdf, found)
            found = [change for change in found if not is_pause(change, bdf)]
    found = [str(change) for change in found if not is_intx_off(change, run.kept)]
    yield from (change for change in found if change not in demanded and
                not any(re.match(pattern, change) for pattern in run.scenario.allowed))
    yield from (f"this didn't happen: {change}" for change in demanded if change not in found)
    yield from proof(run, run.path)
    for bdf in run.others:
        if not run.changes([bdf]):
            yield f"{bdf} isn't preserved and wasn't changed: this run proves nothing"


def proof(run, bdfs):
    """A function that nobody looks at isn't changed either."""
    for (_, end), kexec in zip(run.windows, run.kexecs):
        seen = cfgtrace.counts(run.accesses, kexec, end)
        for bdf in bdfs:
            if not sum(seen[bdf]):
                yield f"the trace has nothing of {bdf} after the kexec: this run proves nothing"


def is_pause(change, bdf):
    """With an IOMMU whose tables aren't kept DMA pauses from freeze to finish."""
    return (change.bdf == bdf and change.register == "Command" and
            change.old ^ change.new == BUS_MASTER)


def is_intx_off(change, bdfs):
    """Freeze disables it, as nobody handles it in the next kernel."""
    return (change.bdf in bdfs and change.kernel == 1 and change.register == "Command" and
            change.new & ~change.old == INTX_DISABLE and not change.old & ~change.new)


def missing_pause(bdf, changes, kernel=1):
    """DMA stops in this kernel, and goes on in the second one."""
    pause = [(change.kernel, change.new & BUS_MASTER) for change in changes
             if is_pause(change, bdf)]
    if pause != [(kernel, 0), (2, BUS_MASTER)]:
        yield f"DMA of {bdf} didn't pause in kernel {kernel} and go on, but {pause}"


def fewer_accesses(run):
    """Than in the first kernel's boot, which is one without a live update."""
    plain, update = (run.boot_accesses(kernel) for kernel in (1, 2))
    total = [0, 0]
    for bdf in run.path:
        first, second = sum(plain[bdf]), sum(update[bdf])
        if not 0 < second < first:
            yield f"{bdf}: {first} accesses in a plain boot, {second} in a live update"
        total = [total[0] + first, total[1] + second]
    run.notes.append(f"accesses to the path: {total[0]} in a plain boot, "
                     f"{total[1]} in a live update")


def functions(run):
    """What sysfs says of them is the same in all kernels."""
    for bdf in run.path:
        before = run.vm.first("pci", bdf=bdf, kernel=1)
        for kernel in range(2, run.vm.kernels + 1):
            after = run.vm.first("pci", bdf=bdf, kernel=kernel)
            if not after:
                yield f"the VMM didn't show {bdf} in kernel {kernel}"
                continue
            for key in {**before.fields, **after.fields}:
                old, new = before.fields.get(key), after.fields.get(key)
                if old != new and not may_differ(run, before, key, old, new):
                    yield f"{bdf}: {key} was {old} and is {new} in kernel {kernel}"


def may_differ(run, before, key, old, new):
    if key == "driver" and "buses" in before.fields and \
            "pcie_ports=compat" in run.scenario.next_append:
        return True
    if key == "nic":            # for which of the NICs it was shown first
        return True
    # The VMM shows the device while its DMA pauses
    shift = {"command": 0, "header": (64 - PCI_COMMAND - 1) * 8}.get(key)
    return (run.scenario.pauses and before.fields["bdf"] in run.kept and shift is not None
            and int(old, 16) ^ int(new, 16) == BUS_MASTER << shift)


def devices(run):
    """Those that were taken back work as before, and are ordinary afterwards."""
    for bdf in run.kept:
        held = run.vm.find("held", bdf=bdf)
        if len(held) != run.vm.kernels - 1:
            yield f"{bdf} was held {len(held)} times"
        for event in held:
            if event.fields.get("moved_pages", "0") != "0":
                yield f"{bdf}: its memory has moved"
        for event in run.vm.find("registers", bdf=bdf):
            if event.fields["intact"] != event.fields["of"]:
                yield "{bdf}: only {intact} of {of} registers are intact".format(**event.fields)
        for event in run.vm.find("packets", bdf=bdf):
            if event.fields["disordered"] != "0" or event.fields["damaged"] != "0":
                yield ("{bdf}: {disordered} packets out of order, {damaged} damaged"
                       .format(**event.fields))
        if not any(f"INIT: ordinary {bdf}" in line.text for line in run.vm.lines):
            yield f"{bdf} isn't ordinary after finish"


def iommu(run):
    """There is one if it was asked for."""
    for event in run.vm.find("ring"):
        if ("addr" in event.fields) == run.scenario.iommu:
            yield "there is " + ("no" if run.scenario.iommu else "an") + " IOMMU"


def pauses(run, bdf):
    """When DMA of this one paused, on the machine's clock."""
    if not run.scenario.pauses:
        return []
    changes = [change for change in run.changes([bdf]) if is_pause(change, bdf)]
    times = [change.time - run.vm.wall_clock for change in changes]
    if [bool(change.new & BUS_MASTER) for change in changes] != [False, True] * len(run.kexecs):
        raise ValueError(f"DMA of {bdf} didn't pause once in each update")
    return list(zip(times[::2], times[1::2]))


def paused_traffic(run):
    """If DMA stops from freeze to finish, packets that are sent meanwhile don't come in, and those
    that QEMU can't hold back are lost. No other one is."""
    for wire in run.vm.wires:
        if wire.bdf not in run.kept:
            continue
        sent, on_the_way = set(), set()
        for start, end in pauses(run, wire.bdf):
            sent |= wire.sent_between(start, end)
            on_the_way |= wire.sent_between(start - ON_THE_WAY, end + ON_THE_WAY)
            early = [number for when, number in wire.seen if number in sent and when < end]
            if early:
                yield f"{wire.bdf}: {len(early)} packets were received while DMA paused"
        lost = set(wire.lost())
        if lost - on_the_way:
            yield f"{wire.bdf}: packets were lost that weren't sent in a pause: {lost - on_the_way}"
        if len(wire.seen) < 20:
            yield f"{wire.bdf}: only {len(wire.seen)} packets were seen: this run proves nothing"
        run.notes.append(f"{wire.bdf}: {len(wire.sent)} packets, {len(sent)} of them sent while "
                         f"DMA paused, {len(lost)} lost")


def not_its_page(bdf, watcher, start, end):
    spans = list(watcher.spans(start, end))
    if not spans and end - start > BUSY:
        yield f"{bdf}: nobody looked at its tables from {start:.3f} to {end:.3f} s"
    yield from (f"{bdf}: it had {state} from {since:.3f} to {until:.3f} s"
                for state, since, until in spans if state != "its page")


def translation(run):
    """Whenever a device may do DMA the IOMMU knows its pages. If a VMM maps before it attaches,
    the tables that a device gets are full."""
    for bdf, watcher in run.vm.translations.items():
        if bdf not in run.kept:
            continue
        clock = run.vm.wall_clock
        gaps = pauses(run, bdf)
        for start, end in run.windows:
            start, end = start - clock, end - clock
            for first, last in [*gaps, (end, end)]:
                if start < first <= end:
                    yield from not_its_page(bdf, watcher, start, first)
                    start = last
        for start, end in gaps:
            states = [state for state, _, _ in watcher.spans(start, end)]
            run.notes.append(f"{bdf}: while DMA paused it had {', '.join(states)}")
            # One that shares an alias gets its tables when the first of these is attached. Tables
            # without an entry after them aren't the VMM's, or we came too late.
            first = next(each for each in run.kept if each[:7] == bdf[:7])
            if bdf == first and "no entry" in states and \
                    "map-late" not in run.scenario.options and \
                    "nothing" in takewhile(lambda state: state != "no entry", reversed(states)):
                yield f"{bdf}: it was attached before its pages were mapped"


def replaced(run):
    """A device that gets another address space with the same pages has them all the time."""
    start, end = (run.vm.first(name).time for name in ("replacing", "replaced"))
    if not run.vm.translations:
        yield "nobody looked at any tables"
    for bdf, watcher in run.vm.translations.items():
        yield from not_its_page(bdf, watcher, start, end)


def same_entry(run):
    """What was noted is the same each time."""
    first, *others = run.vm.found["entries"]
    if not first or not others or any(entry != first for entry in others):
        yield f"the entry was {[first, *others]}"


def passes_through(run):
    """What was noted is an entry without page tables."""
    for entry in run.vm.found["entries"]:
        # Translation Type in legacy mode, PASID Granular Translation Type: sec 9.3 and 9.6
        kind = entry and (entry[0] >> 2 & 3 == 2 if len(entry) == 2 else entry[0] >> 6 & 7 == 4)
        if not kind:
            yield f"the entry was {entry}"


def refused_dma(vm):
    """What the IOMMU has refused."""
    with open(vm.trace, errors="replace") as file:
        return re.findall("vtd_dmar_fault (sid .*)", file.read())


def faults(run):
    """No DMA is refused by the IOMMU."""
    refused = refused_dma(run.vm)
    if refused:
        yield f"{len(refused)} DMA faults, the first: {refused[0]}"


def cost(run):
    """What it costs to keep the page tables: in the old kernel, and between userspaces."""
    def guest(kernel, text):
        return float(re.search(r"\[ *([\d.]+)\]", next(
            line.text for line in run.vm.lines if line.kernel == kernel and text in line.text))[1])
    preserve = int(run.vm.first("took").fields["us"])
    freeze = guest(1, "Starting new kernel") - guest(1, "VMM: kexec")
    init = run.vm.times(2, "INIT: stage 2")[0] - run.vm.first("kexec").time
    run.notes.append(f"preserve {preserve / 1000:.1f} ms, freeze and shutdown {freeze * 1000:.0f} "
                     f"ms, to the next userspace {init:.2f} s, KHO pages "
                     f"{run.vm.found['preserved'][1]}")
    return []


def superpages(run):
    """Both kernels map memory in pages of 2 MiB."""
    sizes = run.vm.found["sizes"]
    if set(sizes) != {2 << 20} or len(sizes) != len(run.kexecs) + 1:
        yield f"pages had {sizes} bytes"


def forgotten(run):
    """ATS is on, so that what a device has cached is invalidated when it is finished."""
    with open(run.vm.trace, errors="replace") as file:
        found = re.findall(r"(\S+) vtd_inv_desc invalidate desc type device high \S+ low (\S+)",
                           file.read())
    # The Source-ID: sec 6.5.2.5
    times = [datetime.fromisoformat(when).timestamp() for when, low in found
             if int(low, 16) >> 32 & 0xffff == vmtest.requester_id(run.kept[0])]
    if run.vm.found["ats"] != [True] * len(run.kexecs):
        yield f"that it may cache was kept: {run.vm.found['ats']}"
    for _, end in run.windows:
        start = max(mark for mark in run.marks if mark < end)
        if not any(start < time < end for time in times):
            yield "what was cached wasn't invalidated at finish"


def ats_ends(run):
    """It is turned off in the second kernel, after bus mastering was."""
    bdf = run.kept[0]
    ends = [next((change.time for change in run.changes([bdf]) if change.kernel == 2 and
                  change.register == register and change.old & ~change.new & bit), None)
            for register, bit in (("Command", BUS_MASTER), ("ATS Control", 1 << 15))]
    if None in ends or ends[0] > ends[1]:
        yield f"{bdf}: bus mastering and ATS ended at {ends}"


def all_packets(run, bdfs):
    windows = [(run.vm.first("kexec", kernel=kernel).time,
                run.vm.times(kernel + 1, f"INIT: stage {kernel + 1}")[0])
               for kernel in range(1, run.vm.kernels)]
    for wire in run.vm.wires:
        if wire.bdf in bdfs:
            yield from wire.problems(windows)
            run.notes.append(f"{wire.bdf}: {len(wire.sent)} packets, {len(wire.lost())} lost")


def traffic(run):
    """All packets are there; while no userspace runs they come in, too."""
    if run.scenario.iommu:
        for check in translation, faults:
            yield from check(run)
    if run.scenario.pauses:
        yield from paused_traffic(run)
        return
    yield from all_packets(run, run.kept)


def resumed(run):
    """The last packet came in; the second kernel had paused DMA, and no DMA was refused."""
    yield from faults(run)
    for wire in run.vm.wires:
        if wire.bdf in run.kept:
            yield from missing_pause(wire.bdf, run.changes([wire.bdf]), kernel=2)


def contained(run):
    """That of the first device paused in the second kernel; the others' didn't."""
    first, *others = run.kept
    yield from faults(run)
    yield from missing_pause(first, run.changes([first]), kernel=2)
    yield from all_packets(run, others)


def versions(run):
    """That of the table is what the next kernel reads."""
    found = run.vm.found["versions"]
    if found != [101, 102]:
        yield f"the versions of the tables are {found}"


def noticed(run):
    """Interrupts of all kinds have come; in the last kernel, until the last packet."""
    for kernel in range(1, run.vm.kernels):
        kinds = {event.fields["kind"] for event in run.vm.find("noticed")
                 if event.kernel == kernel and event.fields["interrupts"] != "0"}
        if kinds != {"MSI-X", "MSI", "INTx"}:
            yield f"kernel {kernel} had {kinds}"


def let_go(run):
    """What isn't handed over may do no DMA any more when the next kernel starts."""
    last = len(run.kexecs)
    start, end = run.clock(last, "VMM: (preserved|held)"), run.kexecs[-1]
    for bdf in run.kept:
        stopped = [change for change in
                   cfgtrace.changes(run.accesses, [bdf], start, end, run.kexecs)
                   if change.register == "Command" and change.old & ~change.new & BUS_MASTER]
        if not stopped:
            yield f"{bdf} may still do DMA, and no kernel knows"


def loss(run):
    """What isn't preserved loses packets, or the wires prove nothing."""
    for wire in run.vm.wires:
        if wire.bdf in run.others and not wire.lost():
            yield f"{wire.bdf} wasn't preserved and lost nothing: this run proves nothing"


def services(run):
    """Those of the ports are started again."""
    counts = [re.search(r"INIT: (\d+) of (\d+) services", line.text) for line in run.vm.lines]
    if not any(count and count[1] == count[2] for count in counts):
        yield "the services of ports were not started again"


def disturbed(run):
    for kernel in (1, 2):
        if not run.vm.first("disturbed", kernel=kernel):
            yield f"kernel {kernel} wasn't disturbed"


def table(run):
    """At the kexec it held the path and nothing else, without a gap."""
    expected = run.scenario.table or Counter(
        event.fields["bdf"] for nic in run.kept
        for event in run.vm.find("pci", kernel=1, nic=nic))
    if run.vm.found["table"] != expected:
        yield f"the table was {run.vm.found['table']}, not {dict(expected)}"


def commands(run):
    """Some were in flight at the kexec, and completed while the kernel was replaced; all have
    completed in the end, once, with the right data."""
    if run.scenario.iommu:
        for check in translation, faults:
            yield from check(run)
    for bdf in run.kept:
        events = [run.vm.first(name, bdf=bdf) for name in ("leaving", "found", "going_on")]
        left, found, going_on = (int(event.fields["received"]) for event in events)
        if going_on >= int(events[-1].fields["submitted"]):
            yield f"{bdf}: no command was in flight at finish: this run proves nothing"
        total = run.vm.first("commands", bdf=bdf).fields
        if not left < found:
            yield f"{bdf}: {left} commands were completed before the kexec, {found} after it"
        if total["damaged"] != "0" or total["completed"] != total["submitted"]:
            yield f"{bdf}: {total}"
        run.notes.append(f"{bdf}: {left} commands were completed before the kexec, {found} when "
                         f"it was over, {going_on} at finish, {total['completed']} in the end")


FULL = [trace, functions, devices, iommu, traffic]
COMMANDS = [trace, functions, devices, iommu, commands]
PLAIN = [*FULL, fewer_accesses, services, loss]


# ---- for the edu devices ----

# What a driver that connects its interrupt asks for
INTERRUPT = r"kernel 2 \S+ edu: MSI Message (Control|Address|Data) "


def edu(run):
    """Nothing changes until the first device is retrieved; from then on to finish, only what
    the driver asks for: its interrupt."""
    watched = run.scenario.watched
    if watched:
        retrieving = run.mark_before(run.vm.first("retrieving").time)
        for change in run.changes(watched):
            allowed = run.scenario.allowed + (INTERRUPT,) * (change.time > retrieving)
            if not any(re.search(pattern, str(change)) for pattern in allowed):
                yield str(change)
        yield from proof(run, watched)
        if not run.vm.find("left", bdf=watched[0], computing="1"):
            yield "nothing was computed while the kernel was replaced: this run proves nothing"
    if len(run.vm.find("intact")) != run.scenario.intact:
        yield f"{len(run.vm.find('intact'))} devices were intact, not {run.scenario.intact}"
    stopped = dict(found.groups() for found in
                   (re.search("(0000:.*): liveupdate: DMA stopped: (.*);", line.text)
                    for line in run.vm.lines if line.kernel == 2) if found)
    if stopped != run.scenario.stopped:
        yield f"kernel 2 has stopped {stopped}, not {run.scenario.stopped}"


def still_computing(run):
    """A factorial that one kernel began ends when the next has the device. On a busy machine that
    has to be tried again: the longest one that there is takes some seconds."""
    if not run.vm.find("found", computing="1"):
        raise handover.TooLate
    return []


# ---- for damaged tables ----

def bus_numbers(run):
    if not run.vm.find("pci", kernel=1):
        yield "the VMM didn't show the bridges in kernel 1: this run proves nothing"
    for event in run.vm.find("pci", kernel=1):
        after = run.vm.first("pci", kernel=2, bdf=event.fields["bdf"])
        buses = event.fields.get("buses"), after and after.fields.get("buses")
        if buses[0] and buses[0] != buses[1]:
            yield "{}: buses were {}, are {}".format(event.fields["bdf"], *buses)


def quiesced(run):
    """The first that the new kernel does to the device is to clear Bus Master Enable."""
    end = run.clock(2, "INIT: stage 2")
    changes = cfgtrace.changes(run.accesses, run.kept[:1], run.kexecs[0], end, run.kexecs[:1])
    if not changes:
        yield "the trace has no change of the device before userspace"
        return
    first = changes[0]
    if first.register != "Command" or first.old & ~first.new != BUS_MASTER:
        yield f"before it was stopped: {first}"
    run.notes.append(f"{1000 * (end - first.time):.0f} ms before userspace: {first}")


# ---- for faults.c, stress.c and KUnit ----

def failing_allocations(run):
    for call in "preserve", "unpreserve", "retrieve", "bind", "attach", "finish":
        last = run.vm.find("allocations", call=call)[-1].fields
        run.notes.append("{call}: {failed} allocations failed, {again} calls worked the second "
                         "time; did without {survived}".format(**last))
        if last["complete"] != "1":
            yield f"{call}: there were not enough devices for all allocations"
        if call in ("preserve", "retrieve", "bind", "attach") and last["failed"] == "0":
            yield f"{call}: no allocation failed, so this run proves nothing"


def stress(run):
    total = 0
    for event in run.vm.find("stress"):
        run.notes.append("{work}: {done} done, {refused} refused".format(**event.fields))
        total += int(event.fields["done"])
        if event.fields["done"] == "0":
            yield "{work} was never done".format(**event.fields)
    run.notes.append(f"stress operations: {total}")


def kunit(run):
    """All cases have passed, none was left out."""
    log = [re.sub(r"^\[.*?\] ", "", line.text) for line in run.vm.lines]
    passed = [text for text in log if re.match(r" {4}ok \d+ [a-z]\w+$", text)]
    yield from (text.strip() for text in log if re.match(r" *not ok \d| +ok .*# SKIP", text))
    if not any(text.endswith(f"total:{len(passed)}") and "Totals: pass:" in text for text in log):
        yield f"the log isn't complete: it has {len(passed)} cases that passed"
    tables = 0
    run.notes.append(f"KUnit: {len(passed)} cases")
    for text in log:
        number = re.search(r"# \w+: ((?:allocations failed|devices preserved|tables tried): .*)",
                           text)
        if number:
            run.notes.append(number[1])
            tables = max(tables, int((re.findall(r"^tables tried: (\d+)", number[1]) or [0])[0]))
    asked = int(re.search(r"tables=(\d+)", run.scenario.append)[1])
    if tables < asked:
        yield f"{tables} tables were tried, not {asked}"


# ---- against another run ----

def same_accesses(run):
    """Each kernel's boot has the same accesses to config space, in the same order, as that of a
    kernel without us."""
    for kernel in range(1, run.vm.kernels + 1):
        sequences = []
        for each in run, run.twin:
            start, end = (each.clock(kernel, text)
                          for text in ("Linux version", f"INIT: stage {kernel}"))
            sequences.append([(access.bdf, access.offset, access.value, access.write)
                              for access in each.accesses if start <= access.time <= end])
        ours, theirs = sequences
        run.notes.append(f"kernel {kernel}: {len(ours)} accesses, without us {len(theirs)}")
        for number, (one, other) in enumerate(zip(ours, theirs)):
            if one != other:
                yield f"kernel {kernel}: access {number} is {one}, without us {other}"
                break
        if len(ours) != len(theirs):
            yield f"kernel {kernel}: {len(ours)} accesses, without us {len(theirs)}"


def reused(run):
    """A device doesn't write to memory that others have got."""
    events = run.vm.find("reused")
    if len(events) != 2:
        yield f"the memory was looked at {len(events)} times"
    yield from ("{when} finish {damaged} bytes had changed".format(**event.fields)
                for event in events if event.fields["damaged"] != "0")


def awake(run):
    """Freeze has woken the device that slept."""
    states = [change.new & 3 for change in
              cfgtrace.changes(run.accesses, ["0000:02:00.0"], kexecs=run.kexecs)
              if change.kernel == 1 and change.register == "PM Control/Status"]
    if 3 not in states or states[-1]:
        yield f"the power states of 0000:02:00.0 before the kexec are {states}"


def same_memory(run):
    """At the last kexec no more is preserved than if nothing ever had been."""
    last = run.vm.kernels - 1
    ours, plain = (each.vm.found["preserved"].get(last) for each in (run, run.twin))
    run.notes.append(f"pages that KHO preserves at each kexec: {run.vm.found['preserved']}, "
                     f"without any session: {run.twin.vm.found['preserved']}")
    if ours is None or ours != plain:
        yield f"KHO preserves {ours} pages in the end, not {plain}"


def freed(run):
    """With init_on_free=1 nothing is left of the pages that were remembered."""
    pages = run.vm.found["pages"]
    run.notes.append(f"{len(pages)} pages were remembered")
    if not pages:
        yield "no page was remembered: this run proves nothing"
    yield from (f"page {address:#x} isn't free in the end"
                for address, free in pages.items() if not free)
