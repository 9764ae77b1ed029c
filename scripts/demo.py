#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Replace the kernel under a NIC that is receiving, and say what became of it.

    scripts/demo.py [--config CONFIG]

Two NICs behind a PCIe switch in QEMU receive numbered packets. One is preserved
over the kexec, the other isn't. Nothing in the report is from anywhere but this run.
Exits with 1 if the preserved NIC missed anything or a kernel complained, with 2
if there was nothing to judge.
"""

import argparse
import fcntl
import os
import signal
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
SELFTEST = "tools/testing/selftests/pci_liveupdate"
OUT = f"{TOP}/out"

sys.dont_write_bytecode = True      # no __pycache__ among the kernel's files
sys.path.insert(0, f"{TOP}/{SELFTEST}")
import cfgtrace                     # noqa: E402
import checks                       # noqa: E402
import vmtest                       # noqa: E402

BUS_MASTER = 0x4


def run(directory, config):
    """Returns the machine, switched off, and what stopped it early."""
    guest = vmtest.Guests(OUT, directory).get(config)

    def drive(vm):
        vm.wait("VMM: receiving", 30 * guest.slow)
        vm.wait("VMM: kexec", 10 * guest.slow)
        vm.wait("VMM: finished", 30 * guest.slow)
        vm.run(1)
        vm.end_traffic()
        vm.wait("VMM: done", 30)
        vm.wait_off(30 * guest.slow)

    vm = guest.machine(directory, vmtest.IOMMU, devices=["intel-iommu", *vmtest.SWITCH])
    return vm, vm.play(drive)


class Result:
    """What was measured; None is what the run didn't get to."""

    def __init__(self, vm, stopped):
        self.vm = vm
        self.stopped = stopped
        self.kept, self.other = vm.wires
        self.accesses = cfgtrace.read(vm.trace)
        self.kexec = self.time("kexec")
        self.userspace = next((line.time for line in vm.lines
                               if line.kernel == 2 and "INIT: stage 2" in line.text), None)
        self.held = self.time("held", bdf=self.kept.bdf)
        self.refused = len(checks.refused_dma(vm))
        self.problems = []
        self.judge()

    def time(self, name, **fields):
        event = self.vm.first(name, **fields)
        return event and event.time

    def value(self, key, name, **fields):
        event = self.vm.first(name, **fields)
        return event and event.fields[key]

    def function(self, bdf, kernel):
        """What sysfs showed of a function in this kernel."""
        event = self.vm.first("pci", bdf=bdf, kernel=kernel)
        return event.fields if event else {}

    def path(self, wire):
        """The functions from the root port to this NIC."""
        return [event.fields["bdf"] for event in self.vm.find("pci", kernel=1, nic=wire.bdf)]

    def in_kexec(self, wire):
        return wire.sent_between(self.kexec, self.held) if self.held else set()

    def early(self, wire):
        """Packets that were in memory before the new kernel had any userspace."""
        if not self.userspace:
            return set()
        return {n for when, n in wire.seen if self.kexec <= when <= self.userspace}

    def master_cleared(self, wire):
        """How often, on the way from preserve to finish, DMA was cut off."""
        end = self.time("finished") or self.vm.now()
        start = self.time("preserved") or end
        start, end = (self.vm.wall_clock + time for time in (start, end))
        path = self.path(wire)
        return sum(access.write and access.offset == 4 and not access.value & BUS_MASTER
                   for access in self.accesses
                   if access.bdf in path and start <= access.time <= end)

    # -- the verdict --

    def judge(self):
        if self.stopped:
            self.problems.append(self.stopped)
        else:
            self.judge_complete()
        if self.kexec:
            self.judge_packets()
            self.judge_functions()
            self.judge_translation()
        if self.held:
            self.judge_device()
        self.problems += self.vm.complaints()[:5]

    def judge_complete(self):
        """What isn't there can't be wrong, but isn't right either."""
        for name in ("held", "registers", "packets"):
            if not self.vm.first(name, bdf=self.kept.bdf):
                self.problems.append(f"the VMM said nothing about '{name}'")
        if not self.master_cleared(self.other):
            self.problems.append("the trace doesn't show how the other NIC was stopped")
        for kernel in (1, 2):
            if not self.vm.find("pci", nic=self.kept.bdf, kernel=kernel):
                self.problems.append(f"the VMM didn't show its device in kernel {kernel}")
        if not self.in_kexec(self.kept):
            self.problems.append("no packet was sent during the kexec: this run proves nothing")
        if not self.other.lost():
            self.problems.append(f"{self.other.bdf} wasn't preserved and lost nothing: "
                                 "this run proves nothing")

    def judge_translation(self):
        bdf = self.kept.bdf
        start, end = self.time("preserved"), self.time("finished")
        if bdf not in self.vm.translations or not start or not end:
            self.problems.append(f"nobody looked at the IOMMU's tables for {bdf}")
        else:
            self.problems += checks.not_its_page(bdf, self.vm.translations[bdf], start, end)
        if self.refused:
            self.problems.append(f"the IOMMU has refused DMA {self.refused} times")

    def judge_packets(self):
        kept = self.kept
        say = self.problems.append
        if kept.lost():
            say(f"{len(kept.lost())} of {len(kept.sent)} packets were lost, "
                f"number {kept.lost()[0]} first")
        if kept.disordered():
            say(f"{kept.disordered()} packets came twice or out of order")
        if kept.damaged:
            say(f"{kept.damaged} packets were damaged")
        if self.master_cleared(kept):
            say(f"bus mastering was cleared {self.master_cleared(kept)} times on the path")

    def judge_functions(self):
        for bdf in self.path(self.kept):
            before, after = self.function(bdf, 1), self.function(bdf, 2)
            for key in before:
                if after and before[key] != after[key]:
                    self.problems.append(
                        f"{bdf}: {key} was {before[key]} and is {after[key]}")

    def judge_device(self):
        bdf = self.kept.bdf
        say = self.problems.append
        for event in self.vm.find("registers", bdf=bdf):
            if event.fields["intact"] != event.fields["of"]:
                say(f"{bdf}: only {event.fields['intact']} of {event.fields['of']} "
                    "registers are intact")
        if self.value("moved_pages", "held", bdf=bdf) != "0":
            say(f"{bdf}: its memory has moved")
        counted = self.vm.first("packets", bdf=bdf)
        expected = {"bdf": bdf, "received": str(len(self.kept.sent)),
                    "missing": "0", "disordered": "0", "damaged": "0"}
        if counted and counted.fields != expected:
            say("the VMM counted: " + ", ".join(
                f"{count} {what}" for what, count in counted.fields.items() if what != "bdf"))


# ---- the report ----

def seconds(start, end):
    return f"{end - start:6.2f} s" if start and end else "     ?  "


def describe(function):
    if "buses" in function:
        return f"{function['driver']}, buses {function['buses']}"
    resources = dict(item.split(":") for item in function["resources"].split(","))
    bars = [resources[i].split("-")[0] for i in "012345" if i in resources]
    return f"{function['driver']}, BARs {' '.join(bars)}"


def same(before, after):
    if not after:
        return "not seen"
    changed = [f"{key} {after[key]}" for key in before if before[key] != after[key]]
    return ", ".join(changed) or "the same"


def mastering(result, wire):
    """Before and after: as the VMM left it and found it."""
    commands = [result.function(wire.bdf, kernel).get("command") for kernel in (1, 2)]
    return ", ".join("?" if command is None else "on" if int(command, 16) & BUS_MASTER else "off"
                     for command in commands)


def column(result, wire):
    """The report's table, one NIC."""
    registers = result.vm.first("registers", bdf=wire.bdf)
    return {
        "bus mastering before and after": mastering(result, wire),
        "  times it was cleared on the path": result.master_cleared(wire),
        "registers intact":
            "{intact} of {of}".format(**registers.fields) if registers else "?",
        "packets sent": len(wire.sent),
        "  during the kexec": len(result.in_kexec(wire)),
        "  in memory before any userspace": len(result.early(wire)),
        "packets received": len(wire.numbers()),
        "  out of order, twice or damaged": wire.disordered() + wire.damaged,
        "  slowest from wire to memory": f"{1000 * wire.longest_wait():.0f} ms",
        "packets lost": len(wire.lost()),
    }


def version(vm):
    line = next((line.text for line in vm.lines if "Linux version" in line.text), "?")
    return line.split("Linux version ")[-1].split()[0]


def table(result):
    kept, other = column(result, result.kept), column(result, result.other)
    lines = [f"{seconds(result.kexec, result.userspace)}  from the old kernel's last userspace"
             " to the new kernel's first",
             f"{seconds(result.kexec, result.held)}  until the VMM held its device again",
             "", f"{'Preserved':64}came back"]
    for bdf in result.path(result.kept):
        before, after = result.function(bdf, 1), result.function(bdf, 2)
        lines.append(f"  {bdf}  {describe(before):48}{same(before, after)}")
    lines += ["", f"{'':36}{'preserved':>15}{'not preserved':>17}",
              f"{'':36}{result.kept.bdf:>15}{result.other.bdf:>17}"]
    return lines + [f"{key:36}{kept[key]:>15}{other[key]:>17}" for key in kept] + [""]


def report(result, config):
    vm = result.vm
    lines = ["A NIC behind an IOMMU receives while its kernel is replaced",
             f"Linux {version(vm)} ({config}), VT-d, QEMU without hardware acceleration", ""]
    if result.kexec:
        lines += table(result)
    lines += [f"{len(vm.bad_lines())} warnings in {len(vm.lines)} lines "
              f"from {vm.kernels} kernels, {result.refused} requests that the IOMMU refused", ""]
    if result.problems:
        lines += ["FAIL"] + [f"  {problem}" for problem in result.problems]
    else:
        lines += [f"PASS: of {len(result.kept.sent)} packets, "
                  f"{len(result.in_kexec(result.kept))} of them sent during the kexec, "
                  "none was lost"]
    return "\n".join(lines) + "\n"


def write_packets(vm, path):
    with open(path, "w") as file:
        print("nic,number,sent,in memory", file=file)
        for wire in vm.wires:
            arrived = {n: when for when, n in wire.seen}
            for number, sent in enumerate(wire.sent):
                seen = f"{arrived[number]:.4f}" if number in arrived else ""
                print(f"{wire.bdf},{number},{sent:.4f},{seen}", file=file)


# ---- the plot ----

PLOT = """
set terminal svg size 960,540 font "Helvetica,15" background "white"
set output "{svg}"
set title "Packets at two NICs while the kernel is replaced" font ",19" offset 0,0.3
set xlabel "seconds since the old kernel's last userspace" textcolor rgb "#444444"
set ylabel "packets" textcolor rgb "#444444"
set key left top reverse Left spacing 1.4 samplen 2
set border 3 lc rgb "#999999"
set tics nomirror out textcolor rgb "#444444"
set grid ytics lc rgb "#e6e6e6" lt 1
set xrange [{first}:{last}]
set yrange [0:*]
set rmargin 4
set object rectangle from 0,graph 0 to {userspace},graph 1 fc rgb "#d9e3ee" fs noborder behind
set object rectangle from {userspace},graph 0 to {held},graph 1 fc rgb "#ecf1f6" fs noborder behind
set label "no userspace for {userspace:.1f} s" at {userspace}/2,graph 0.05 center \
    textcolor rgb "#5b7086"
set label "{other_lost} lost" at {last},{other_count} right offset 0,0.8 \
    textcolor rgb "#c25f1e"
set label "{kept_lost} lost" at {last},{kept_count} right offset 0,-1.8 \
    textcolor rgb "#1f5fa8"
set key invert
plot $sent with lines lw 10 lc rgb "#c4c8cc" title "sent to each", \
     $other with lines lw 3 lc rgb "#e07b39" title "in memory of the one not preserved", \
     $kept with lines lw 3 lc rgb "#1f5fa8" title "in memory of the preserved one"
"""


def series(name, times, kexec, end):
    """How many there were at each time, as data for gnuplot."""
    points = [(when - kexec, count + 1) for count, when in enumerate(times)]
    points.append((end, len(times)))
    rows = "\n".join(f"{when:.4f} {count}" for when, count in points)
    return f"${name} << end\n{rows}\nend\n"


def plot(result, svg):
    kept, other, kexec = result.kept, result.other, result.kexec
    if not result.userspace:
        return
    last = max(kept.sent[-1], result.held or 0) - kexec
    userspace = result.userspace - kexec
    data = [series("sent", kept.sent, kexec, last)]
    data += [series(name, [when for when, _ in wire.seen], kexec, last)
             for name, wire in (("kept", kept), ("other", other))]
    script = PLOT.format(
        svg=svg, userspace=userspace, first=kept.sent[0] - kexec, last=last,
        held=result.held - kexec if result.held else userspace,
        kept_lost=len(kept.lost()), kept_count=len(kept.seen),
        other_lost=len(other.lost()), other_count=len(other.seen))
    try:
        subprocess.run(["gnuplot"], input=("".join(data) + script).encode(), check=True)
        print(f"plot: {os.path.relpath(svg)}")
    except FileNotFoundError:
        print("no plot: gnuplot isn't installed")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=["demo", "debug"],
                        default=os.environ.get("CONFIG") or "demo")
    args = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    # out/demo, or out/demo-debug
    directory = "-".join([f"{OUT}/demo"] + [args.config] * (args.config != "demo"))
    os.makedirs(directory, exist_ok=True)
    lock = open(f"{directory}.lock", "w")       # one run at a time
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        result = Result(*run(directory, args.config))
    except vmtest.Failure as failure:
        print(f"demo: {failure}", file=sys.stderr)
        sys.exit(2)
    text = report(result, args.config)
    with open(f"{directory}/report.txt", "w") as file:
        file.write(text)
    print(text)
    write_packets(result.vm, f"{directory}/packets.csv")
    plot(result, f"{directory}.svg")
    print(f"logs: {os.path.relpath(directory)}")
    sys.exit(1 if result.problems else 0)


if __name__ == "__main__":
    main()
