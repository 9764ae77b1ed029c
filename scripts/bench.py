#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""How fast it is: the table, the boot, the time without a VMM.

    scripts/bench.py [--runs N]

Table: KUnit's benchmark on the demo's kernel; growth is the time of an operation with 65,536
devices over that with 4,096.
Boot: a kernel that was started by kexec, unpatched and ours, with 0, 1, 16 and 128 preserved
NVMe controllers behind 16 root ports: accesses to configuration space until its first
userspace, time from the beginning of enumeration to there.
Blackout: from the old kernel's last userspace until the VMM holds its NIC, next to a kexec
that preserves the VMM's memory only.

Times of whole machines are those of QEMU's CPUs: what else runs on the host doesn't count.
Each is a median. The result is in out/bench, the plot is out/bench.svg.
"""

import argparse
import fcntl
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor

TOP = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
OUT = f"{TOP}/out"
LOGS = f"{OUT}/bench"

sys.dont_write_bytecode = True      # no __pycache__ among the kernel's files
sys.path.insert(0, f"{TOP}/tools/testing/selftests/pci_liveupdate")
import cfgtrace                     # noqa: E402
import scenarios                    # noqa: E402
import vmtest                       # noqa: E402

SIZES = (16, 256, 4096, 65536)
OPERATIONS = ("preserve", "unpreserve", "reuse", "refill", "index", "look-up")
# There are no I/O addresses for so many ports
DEVICES = list(scenarios.nvmes(16, 8, ",io-reserve=0"))
PRESERVED = (0, 1, 16, 128)
GROWTH, BLACKOUT = 1.2, 1.02        # the goals


# ---- the table ----

def kunit(name, options):
    """Returns {(what, size): number}."""
    log = f"{LOGS}/{name}.log"
    append = (f"console=ttyS0 panic=-1 oops=panic {vmtest.TICK} kho_scratch=4M,4M,4M liveupdate=on"
              " kunit.autorun=1 kunit.filter_glob=pci_liveupdate_bench"
              " pci_liveupdate_bench.run=1 kunit_shutdown=reboot")
    with open(log, "w") as file:
        subprocess.run(
            [vmtest.QEMU, "-nodefaults", "-no-user-config", "-display", "none",
             "-machine", "q35", "-accel", vmtest.ACCEL, "-m", "2048", "-serial", "stdio",
             "-no-reboot", "-kernel", f"{OUT}/build-demo/arch/x86/boot/bzImage",
             "-append", append, *options],
            stdin=subprocess.DEVNULL, stdout=file, check=True, timeout=120,
            preexec_fn=vmtest.run_with_parent)
    with open(log, errors="replace") as file:
        text = file.read()
    if not re.search(r"^\[[ 0-9.]+\] ok \d+ pci_liveupdate_bench", text, re.M):
        raise vmtest.Failure(f"KUnit's benchmark failed: see {log}")
    return {(what, int(size)): int(number) for what, size, number
            in re.findall(r" bench ([a-z-]+) (\d+) (\d+)", text)}


def medians(results):
    return {key: statistics.median(result[key] for result in results) for key in results[0]}


# ---- machines ----

class Machine(vmtest.VM):
    """Knows how long QEMU's CPUs have run until each line."""

    def take_line(self, text):
        self.__dict__.setdefault("cpu", []).append(
            time.clock_gettime(~self.process.pid << 3 | 2))     # CPUCLOCK_SCHED
        super().take_line(text)

    def at(self, kernel, pattern):
        """When this kernel said so: on the host's clock, and on that of QEMU's CPUs."""
        for line, cpu in zip(self.lines, self.cpu):
            if line.kernel == kernel and re.search(pattern, line.text):
                return line.time, cpu
        raise vmtest.Failure(f"kernel {kernel} never said '{pattern}'")


def play(vm, pattern):
    """To the point where somebody says so."""
    stopped = vm.play(lambda vm: vm.wait(pattern, 90))
    if stopped or vm.complaints():
        raise vmtest.Failure(f"{vm.directory}: {stopped or vm.complaints()}")
    return vm


def boot(guest, preserved, run, traced):
    """Returns the accesses to configuration space, or the CPU time, of the second boot."""
    directory = f"{LOGS}/boot-{guest.config}-{preserved}-{run}"
    os.makedirs(directory, exist_ok=True)
    trace = f"{directory}/config-space.log" if traced else None
    vm = play(Machine(directory, guest.kernel, guest.initrd,
                      f"preserve={preserved} options=--use={max(preserved, 1)}",
                      devices=DEVICES, trace=trace), "INIT: stage 2")
    if preserved and not vm.times(2, f"adopted {preserved} devices .* 0 missing"):
        raise vmtest.Failure(f"{directory}: the second kernel hasn't adopted all devices")
    end = vm.at(2, "INIT: stage 2")
    if not traced:
        # What comes before has loops to calibrate clocks
        return end[1] - vm.at(2, "PCI Root Bridge")[1]
    start = vm.at(2, "Linux version")
    accesses = cfgtrace.read(trace)
    os.remove(trace)
    return sum(vm.wall_clock + start[0] <= access.time <= vm.wall_clock + end[0]
               for access in accesses)


def blackout(guest, preserved, run):
    """Returns the CPU time and the time."""
    vm = play(Machine(f"{LOGS}/blackout-{preserved}-{run}", guest.kernel, guest.initrd,
                      f"preserve={preserved}", devices=scenarios.TOPOLOGIES["root_port"][0]),
              "VMM: finished")
    start, end = vm.at(1, "VMM: kexec"), vm.at(2, "VMM: held")
    return end[1] - start[1], end[0] - start[0]


def measure(runs):
    """All machines; two at once, as many as there are CPUs."""
    prepared = vmtest.Guests(OUT, LOGS)
    guests = {config: prepared.get(config) for config in ("plain", "demo")}
    kinds = [("plain", 0)] + [("demo", preserved) for preserved in PRESERVED]
    with ProcessPoolExecutor(os.cpu_count(), initializer=vmtest.run_with_parent) as pool:
        traced = {kind: pool.submit(boot, guests[kind[0]], kind[1], "trace", True)
                  for kind in kinds}
        boots = {kind: [] for kind in kinds}
        blackouts = {0: [], 1: []}
        for run in range(runs):
            for kind in kinds:
                boots[kind].append(pool.submit(boot, guests[kind[0]], kind[1], run, False))
            for preserved, futures in blackouts.items():
                futures.append(pool.submit(blackout, guests["demo"], preserved, run))
        return ({kind: future.result() for kind, future in traced.items()},
                {kind: statistics.median(future.result() for future in futures)
                 for kind, futures in boots.items()},
                {preserved: [statistics.median(numbers) for numbers
                             in zip(*(future.result() for future in futures))]
                 for preserved, futures in blackouts.items()})


# ---- the report ----

def growth(times, what):
    before, after = (times[what, size] for size in SIZES[-2:])
    return after / before if before else 0


def row(title, numbers, digits=0):
    return f"  {title:22}" + "".join(f"{number:9,.{digits}f}" for number in numbers)


def operations(title, times):
    return ["", f"{title:24}" + "".join(f"{size:>9,}" for size in SIZES) + "   growth",
            *(row(what, [times[what, size] for size in SIZES]) + f"{growth(times, what):9.2f}"
              for what in OPERATIONS)]


def memory(times):
    return ["", f"{'Preserved memory':24}" + "".join(f"{size:>9,}" for size in SIZES),
            row("pages", [times["pages", size] for size in SIZES]),
            row("bytes a device", [times["pages", size] * 4096 / size for size in SIZES], 1),
            row("pages, 90 % have left", [times["rest", size] for size in SIZES])]


def machines(accesses, boots, blackouts):
    base = "plain", 0
    lines = ["", f"{'Enumeration':30}{'config accesses':>16}{'CPU time':>10}{'ratio':>7}"]
    for kind in boots:
        name = "unpatched" if kind == base else f"{kind[1]} of {PRESERVED[-1]} preserved"
        lines.append(f"  {name:28}{accesses[kind]:16,}{boots[kind]:8.2f} s"
                     f"{boots[kind] / boots[base]:7.2f}")
    lines += ["", f"{'Blackout':30}{'time':>16}{'CPU time':>10}{'ratio':>7}"]
    for preserved, name in enumerate(("only memory preserved", "NIC preserved, too")):
        cpu, wall = blackouts[preserved]
        lines.append(f"  {name:28}{wall:14.2f} s{cpu:8.2f} s{cpu / blackouts[0][0]:7.2f}")
    return lines


def missed(instructions, times, accesses, blackouts):
    """The goals that weren't met."""
    for unit, result in (("instructions", instructions), ("ns", times)):
        for what in OPERATIONS:
            if growth(result, what) > GROWTH:
                yield f"growth of {what} in {unit}: {growth(result, what):.2f}, not {GROWTH}"
    counts = [accesses["demo", preserved] for preserved in PRESERVED]
    if counts[0] > accesses["plain", 0]:
        yield f"{counts[0] - accesses['plain', 0]} config accesses more than unpatched"
    if not all(more > fewer for more, fewer in zip(counts, counts[1:])):
        yield f"preserved devices don't take fewer config accesses: {counts}"
    for unit, plain, preserved in zip(("CPU time", "time"), *blackouts.values()):
        if preserved / plain > BLACKOUT:
            yield f"blackout in {unit}: {preserved / plain:.2f} of a plain kexec, not {BLACKOUT}"


def cpu_model():
    with open("/proc/cpuinfo") as file:
        found = re.search(r"model name\s*: (.*)", file.read())
    return found[1] if found else platform.machine()


PLOT = """
set terminal svg size 960,480 font "Helvetica,15" background "white"
set output "{svg}"
set title "To preserve one more device" font ",19"
set xlabel "devices that are preserved" textcolor rgb "#444444"
set ylabel "instructions" textcolor rgb "#444444"
set logscale xy
set format xy "%'.0f"
set border 3 lc rgb "#999999"
set tics nomirror out textcolor rgb "#444444"
set grid ytics lc rgb "#e6e6e6" lt 1
set xrange [10:100000]
set yrange [100:*]
plot $data using 1:2 with linespoints lw 3 pt 7 lc rgb "#1f5fa8" notitle
"""


def plot(instructions, svg):
    rows = "\n".join(f"{size} {instructions['preserve', size]}" for size in SIZES)
    subprocess.run(["gnuplot"], check=True,
                   input=(f"$data << end\n{rows}\nend\n" + PLOT.format(svg=svg)).encode())
    print(f"plot: {os.path.relpath(svg)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    os.makedirs(LOGS, exist_ok=True)
    lock = open(f"{LOGS}.lock", "w")        # one run at a time
    fcntl.flock(lock, fcntl.LOCK_EX)
    start = time.monotonic()
    try:
        instructions = kunit("instructions", ["-icount", "shift=0,sleep=off"])
        times = medians([kunit(f"time-{run}", []) for run in range(args.runs)])
        accesses, boots, blackouts = measure(args.runs)
    except (vmtest.Failure, subprocess.SubprocessError) as failure:
        sys.exit(f"bench: {failure}")
    lines = [f"{cpu_model()}, {os.cpu_count()} CPUs, QEMU without hardware acceleration, "
             f"medians of {args.runs} runs"]
    lines += operations("Instructions", instructions) + operations("Nanoseconds", times)
    lines += memory(times) + machines(accesses, boots, blackouts) + [""]
    lines += [f"not met: {goal}" for goal in missed(instructions, times, accesses, blackouts)]
    lines += [f"took {time.monotonic() - start:.0f} s"]
    text = "\n".join(lines) + "\n"
    with open(f"{LOGS}/report.txt", "w") as file:
        file.write(text)
    print(text, end="")
    plot(instructions, f"{LOGS}.svg")


if __name__ == "__main__":
    main()
