#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Replace the kernel in virtual machines, and see what becomes of preserved PCI devices.

    run.py [--core] [--config CONFIG] [--list | --kernels] [--verbose] [--repeat N]
           [--budget SECONDS] [PATTERN...]

Runs the scenarios of scenarios.py whose names match a pattern ('hotplug*'), each on the
kernels that it is for or, with --config, on that one; some at once. With --core, runs only
those that each change must pass, on the demo's kernel. With --budget, starts none later than
that; what was not started, or failed, comes first next time.

The result is KTAP. A failure shows what was wrong, the last lines of each kernel and where
all logs are: out/selftests/NAME-CONFIG, the trace of config space only if it failed. In the
end it says where the time went, added up over all machines: booting kernels, everything else
in them, and checks.
"""

import argparse
import dataclasses
import fcntl
import math
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from fnmatch import fnmatch
from functools import partial

sys.dont_write_bytecode = True      # no __pycache__ among the kernel's files
import checks                       # noqa: E402
import handover                     # noqa: E402
import scenarios                    # noqa: E402
import vmtest                       # noqa: E402

OUT = vmtest.HERE.removesuffix("tools/testing/selftests/pci_liveupdate") + "out"
DIRECTORY = f"{OUT}/selftests"
FIRST = f"{DIRECTORY}/first"        # what failed, or was not run for want of time
OUT_OF_TIME = "out of time"
LAST_LINES = 12
TRIES = 3


@dataclasses.dataclass
class Outcome:
    name: str
    seconds: float
    problems: list
    notes: list = dataclasses.field(default_factory=list)
    logs: list = dataclasses.field(default_factory=list)    # the last lines
    skipped: str | None = None                              # why
    spent: Counter = dataclasses.field(default_factory=Counter)     # seconds for what


# ---- a scenario, in a process of its own ----

def play(guests, scenario, config, directory, echo):
    """Returns the machine, switched off, and what stopped it early."""
    guest = guests.get(config, scenario.following, max(scenario.updates, 1), scenario.selftests)

    def drive(vm):
        limit = scenario.limit * guest.slow
        vm.all_count = bool({checks.traffic, checks.resumed, checks.contained} &
                            set(scenario.checks))
        if vm.wires and vm.all_count:
            for kernel in range(scenario.updates):
                vm.wait("VMM: kexec", limit)
            vm.wait("VMM: finished", limit)
            vm.end_traffic()
        vm.wait("INIT: switching off", limit)
        vm.wait_off(limit)

    vm = guest.machine(directory, scenario.command_line(), interval=scenario.interval,
                       options=[option.format(disk=guest.disk) for option in scenario.qemu],
                       ram=scenario.ram, answers=scenario.answers,
                       expected=scenario.all_lines(), echo=echo,
                       devices=scenario.all_devices(guest.rom))
    return vm, vm.play(drive)


def try_to_judge(run, check):
    try:
        return list(check(run))
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        # What it looked for isn't there
        return [f"can't judge {check.__name__}: {error!r}"]


def judge(run, stopped):
    if stopped and not run.scenario.problems:
        return [stopped, *checks.lines(run), *checks.complaints(run)]
    return [stopped] * bool(stopped) + [
        problem for check in (*checks.ALWAYS, *run.scenario.checks)
        for problem in try_to_judge(run, check)]


def must_be(patterns, problems):
    """A test of the checks: exactly this must be wrong."""
    return [f"not found wrong: {pattern}" for pattern in patterns
            if not any(re.search(pattern, problem) for problem in problems)] + \
        [problem for problem in problems
         if not any(re.search(pattern, problem) for pattern in patterns)]


def last_lines(vm):
    for kernel in range(vm.kernels + 1):
        for line in [line for line in vm.lines if line.kernel == kernel][-LAST_LINES:]:
            yield f"{line.time:8.3f} {line.text}"[:150]


def spent(vm):
    """Seconds from each kernel's start to its userspace, and on everything else."""
    boot = 0
    for kernel in range(1, vm.kernels + 1):
        start = vm.times(kernel, "Linux version")[0] if kernel > 1 else 0
        boot += (vm.times(kernel, "INIT: stage") or [vm.ended])[0] - start
    return Counter(boot=boot, wait=vm.ended - boot)


class Crash(Exception):
    """Of QEMU: says nothing of the guest, so to be tried again."""


def twin_of(scenario, config):
    """The machine to compare with."""
    return dataclasses.replace(scenario, **{"on": (config,), **scenario.twin})


def attempt(guests, verbose, scenario, config, directory):
    """Returns the run, and what is wrong with it."""
    echo = f"{scenario.name}-{config}| " if verbose else None
    twin = None
    if scenario.twin:
        other = twin_of(scenario, config)
        vm, stopped = play(guests, other, other.on[0], f"{directory}-twin", echo)
        if vm.crashed:
            raise Crash(f"twin: {stopped}")
        if stopped:
            return checks.Run(other, vm), [f"twin: {stopped}"]
        twin = checks.Run(other, vm)
    vm, stopped = play(guests, scenario, config, directory, echo)
    if vm.crashed:
        raise Crash(stopped)
    run = checks.Run(scenario, vm)
    run.twin = twin
    return run, judge(run, stopped)


def title(scenario, config):
    return f"{scenario.name} ({config})"


def run(guests, verbose, name, config, number):
    start = time.monotonic()
    # Its functions can't be sent from one process to another
    scenario = next(each for each in scenarios.ALL if each.name == name)
    name = title(scenario, config)
    directory = f"{DIRECTORY}/{scenario.name}-{config}" + (f"-{number}" if number else "")
    failed = []
    for _ in range(TRIES):
        try:
            result, problems = attempt(guests, verbose, scenario, config, directory)
            break
        except handover.TooLate:
            failed.append("too late, tried again")
        except Crash as crash:
            failed.append(f"QEMU has crashed, tried again: {crash}")
        except Exception:           # the others go on
            return Outcome(name, time.monotonic() - start, [traceback.format_exc()],
                           logs=[f"everything is in {os.path.relpath(directory)}"])
    else:
        return Outcome(name, time.monotonic() - start, failed)
    if scenario.problems:
        problems = must_be(scenario.problems, problems)
    outcome = Outcome(name, time.monotonic() - start, problems, result.notes + failed)
    for each in result, result.twin:
        if each:
            outcome.spent += spent(each.vm)
    outcome.spent["check"] = outcome.seconds - sum(outcome.spent.values())
    if problems:
        outcome.logs = [*last_lines(result.vm), f"everything is in {os.path.relpath(directory)}"]
    else:
        for each in result, result.twin:
            if each:
                os.remove(each.vm.trace)
    return outcome


# ---- all of them ----

def missing_devices(scenario, known):
    """QEMU's that this one doesn't have."""
    names = {device.split(",")[0] for device in scenario.devices}
    return ", ".join(sorted(name for name in names if f'name "{name}"' not in known))


def report(number, outcome):
    seconds = f"{outcome.seconds:.0f} s"
    if outcome.skipped:
        print(f"ok {number} - {outcome.name} # SKIP {outcome.skipped}")
    else:
        print("not ok" if outcome.problems else "ok", number, "-", f"{outcome.name}, {seconds}")
    for kind, texts in (("wrong: ", outcome.problems), ("", outcome.notes + outcome.logs)):
        for line in "\n".join(texts).splitlines():
            print(f"# {kind}{line}")
    sys.stdout.flush()


def select(core, config, patterns):
    """Scenarios and kernels. Whoever names both gets it."""
    for scenario in scenarios.ALL:
        if not patterns or any(fnmatch(scenario.name, pattern) for pattern in patterns):
            on = ["demo"] * bool(scenario.core) if core else scenario.kernels()
            for each in [config] if config and (on or patterns) else on:
                yield scenario, each


def machines(selected):
    """The scenarios' and their twins', and the kernel that each begins with."""
    for scenario, config in selected:
        yield scenario, config
        if scenario.twin:
            twin = twin_of(scenario, config)
            yield twin, twin.on[0]


def kernels(selected):
    """All that these boot."""
    return sorted({each for machine, first in machines(selected)
                   for each in (first, machine.following or first)})


def prepare(selected):
    """All kernels and initramfs are there before the first process is forked."""
    guests = vmtest.Guests(OUT, DIRECTORY)
    for machine, first in machines(selected):
        guests.get(first, machine.following, max(machine.updates, 1), machine.selftests)
    return guests


def run_all(work, runnable, end):
    """Yields the outcomes; none is started after the end."""
    waiting, running = list(runnable), set()
    # A kernel that looks for leaks waits for some seconds
    workers = os.cpu_count() + 1
    with ProcessPoolExecutor(workers, initializer=vmtest.run_with_parent) as pool:
        while waiting or running:
            while waiting and len(running) < workers and time.monotonic() < end:
                scenario, *how = waiting.pop(0)
                running.add(pool.submit(work, scenario.name, *how))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    for scenario, config, _ in waiting:
        yield Outcome(title(scenario, config), 0, [], skipped=OUT_OF_TIME)


def read_first():
    try:
        with open(FIRST) as file:
            return set(file.read().splitlines())
    except FileNotFoundError:
        return set()


def write_first(first, outcomes):
    """first: also all that is to be run, in case we don't get so far"""
    bad = {outcome.name for outcome in outcomes
           if outcome.problems or outcome.skipped == OUT_OF_TIME}
    good = {outcome.name for outcome in outcomes} - bad
    with open(FIRST, "w") as file:
        file.writelines(f"{name}\n" for name in sorted(first - good))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", action="store_true", help="only what every change must pass")
    parser.add_argument("--config", choices=["demo", "debug", "kcsan", "gcov", "broken"])
    parser.add_argument("--list", action="store_true", help="only show what would be run")
    parser.add_argument("--kernels", action="store_true", help="only show what CONFIG that needs")
    parser.add_argument("--verbose", action="store_true", help="show all consoles")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="each N times")
    parser.add_argument("--budget", type=int, metavar="SECONDS", help="start none later")
    parser.add_argument("pattern", nargs="*")
    args = parser.parse_args()
    for pattern in args.pattern:
        if not any(fnmatch(scenario.name, pattern) for scenario in scenarios.ALL):
            parser.error(f"no scenario has a name like {pattern}")
    selected = list(select(args.core, args.config, args.pattern))
    if not selected:
        parser.error("there is no such scenario")
    if args.list:
        for each in selected:
            print(title(*each) + (f": {each[0].core}" if args.core else ""))
        return
    if args.kernels:
        print("\n".join(kernels(selected)))
        return
    end = time.monotonic() + args.budget if args.budget is not None else math.inf
    for number in (signal.SIGINT, signal.SIGTERM):
        # All processes of ours end with this one
        signal.signal(number, lambda number, _: os._exit(128 + number))
    os.makedirs(DIRECTORY, exist_ok=True)
    lock = open(f"{DIRECTORY}.lock", "w")       # one run at a time
    fcntl.flock(lock, fcntl.LOCK_EX)
    known = subprocess.run([vmtest.QEMU, "-device", "help"], check=True,
                           stdout=subprocess.PIPE, text=True).stdout
    runnable, outcomes = [], []
    first = read_first()
    for scenario, config in sorted(selected, key=lambda each: title(*each) not in first):
        missing = missing_devices(scenario, known)
        if missing:
            outcomes.append(Outcome(title(scenario, config), 0, [],
                                    skipped=f"QEMU has no {missing}"))
        else:
            runnable += [(scenario, config, number) for number in range(args.repeat)]
    try:
        start = time.monotonic()
        guests = prepare([each[:2] for each in runnable] if start < end else [])
        built = time.monotonic() - start
    except vmtest.Failure as failure:
        sys.exit(f"run: {failure}")

    print(f"KTAP version 1\n1..{len(runnable) + len(outcomes)}", flush=True)
    for number, outcome in enumerate(outcomes, 1):
        report(number, outcome)
    first |= {title(*each[:2]) for each in runnable}
    for outcome in run_all(partial(run, guests, args.verbose), runnable, end):
        outcomes.append(outcome)
        report(len(outcomes), outcome)
        write_first(first, outcomes)
    total = sum((outcome.spent for outcome in outcomes), Counter(build=built))
    print("# spent:", *(f"{what} {seconds:.0f}" for what, seconds in total.items()))
    failed = sum(bool(outcome.problems) for outcome in outcomes)
    skipped = sum(bool(outcome.skipped) for outcome in outcomes)
    print(f"{len(outcomes) - failed - skipped} passed, {failed} failed, {skipped} skipped")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
