# SPDX-License-Identifier: GPL-2.0
"""Runs scenarios in virtual machines, as many at once as there are CPUs. The result is KTAP."""

import argparse
import fcntl
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatch
from functools import partial

import vmtest

OUT = vmtest.HERE.removesuffix("tools/testing/selftests/pci_liveupdate") + "out"


def result(ok, number, text, details):
    print("ok" if ok else "not ok", number, "-", text)
    for line in "\n".join(details).splitlines():
        print("#", line)
    sys.stdout.flush()
    return ok


def conclude(vm, problems, expected=()):
    """All that is wrong with a machine. Nobody looks at the trace of a good one."""
    problems = problems + vm.complaints(expected)
    if not problems:
        os.remove(vm.trace)
    return problems


def report(number, outcome):
    """outcome: has a name, problems and the directory of the logs."""
    details = list(outcome.problems)
    if details:
        details.append(f"logs: {os.path.relpath(outcome.directory)}")
    return result(not details, number, outcome.name, details)


def main(doc, name, scenarios, prepare, run, report, extra=None):
    """doc: for --help; name: of the logs' directory.
    scenarios: all there are; each has a name().
    prepare(directory, config): what all have in common.
    run(prepared, scenario), in a process of its own: an outcome.
    report(number, outcome), extra(number, outcomes): print it, return whether it is good.
    """
    parser = argparse.ArgumentParser(description=doc,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=["demo", "debug", "kcsan", "gcov"],
                        default=os.environ.get("CONFIG") or "demo")
    parser.add_argument("pattern", nargs="*", default=["*"])
    args = parser.parse_args()
    scenarios = list(scenarios)
    for pattern in args.pattern:
        if not any(fnmatch(scenario.name(), pattern) for scenario in scenarios):
            parser.error(f"no test has the name {pattern}")
    selected = [scenario for scenario in scenarios
                if any(fnmatch(scenario.name(), pattern) for pattern in args.pattern)]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    directory = "-".join([f"{OUT}/{name}"] + [args.config] * (args.config != "demo"))
    os.makedirs(directory, exist_ok=True)
    lock = open(f"{directory}.lock", "w")       # one run at a time
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        prepared = prepare(directory, args.config)
    except vmtest.Failure as failure:
        sys.exit(f"{name}: {failure}")

    print(f"KTAP version 1\n1..{len(selected) + bool(extra)}", flush=True)
    outcomes, passed = [], True
    with ProcessPoolExecutor(os.cpu_count(), initializer=vmtest.run_with_parent) as pool:
        for outcome in pool.map(partial(run, prepared), selected):
            outcomes.append(outcome)
            passed &= report(len(outcomes), outcome)
    if extra:
        passed &= extra(len(selected) + 1, outcomes)
    sys.exit(not passed)
