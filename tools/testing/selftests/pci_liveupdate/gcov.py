#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Which of our lines do KUnit and the tests in virtual machines reach?

    gcov.py

Adds up what the kernel of CONFIG=gcov has counted in all scenarios of run.py --config gcov.
Fails unless the lines that weren't reached are those of gcov.unreached, which says for each
why not.
"""

import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter

sys.dont_write_bytecode = True      # no __pycache__ among the kernel's files
import run                          # noqa: E402
import vmtest                       # noqa: E402

PARTS = ["", "_debugfs", "_incoming", "_outgoing", "_ports", "_table"]
SOURCES = [f"drivers/pci/liveupdate{part}.c" for part in PARTS]
SOURCES += ["drivers/vfio/pci/vfio_pci_liveupdate.c"]
UNREACHED = f"{vmtest.HERE}/gcov.unreached"
BUILD = f"{run.OUT}/build-gcov"


def unpack(path, directory):
    """The counters of each kernel of a virtual machine: directories with .gcda files."""
    kernels = []
    # Each kernel has sent an archive
    with tarfile.open(path, ignore_zeros=True) as archive:
        for member in archive:
            if member.name == "gcov":
                kernels.append(tempfile.mkdtemp(dir=directory))
            elif member.name.endswith(".gcda"):
                name = f"{kernels[-1]}/" + member.name.rpartition("build-gcov/")[2]
                os.makedirs(os.path.dirname(name), exist_ok=True)
                with open(name, "wb") as file:
                    shutil.copyfileobj(archive.extractfile(member), file)
    return kernels


def add_up(directory):
    """Returns how many kernels, and where the sum of their counters is."""
    total, number = None, 0
    for path in glob.glob(f"{run.DIRECTORY}/*-gcov/{vmtest.COUNTERS}"):
        try:
            kernels = unpack(path, directory)
        except (tarfile.ReadError, EOFError):
            sys.exit(f"{path} isn't complete: that test didn't get to its end")
        for kernel in kernels:
            number += 1
            if total:
                new = f"{directory}/total{number}"
                subprocess.run(["gcov-tool", "merge", "-o", new, total, kernel], check=True)
            total = new if total else kernel
    return number, total


def read_lines(total, source):
    """What gcov says of each line of this file that has code."""
    stem = os.path.splitext(source)[0]
    shutil.copy(f"{BUILD}/{stem}.gcno", f"{total}/{stem}.gcno")
    shown = subprocess.run(["gcov", "--branch-probabilities", "--json-format", "--stdout",
                            f"{total}/{stem}.gcda"], stdout=subprocess.PIPE, check=True).stdout
    for file in json.loads(shown)["files"]:
        if file["file"].endswith(source):
            return file["lines"]
    sys.exit(f"nothing was counted for {source}")


def functions(source):
    """The name of each line's function, and its text."""
    name = ""
    with open(f"{run.OUT}/linux/{source}") as file:
        for line in file:
            start = re.match(r"\w.*?(\w+)\(", line)
            name = start[1] if start else name
            yield f"{name}: {line.strip()}"


def per_cent(part, of):
    return f"{100 * part / of:.1f} % of {of}"


def report(source, lines):
    """Returns the lines that weren't reached: function and text."""
    names = list(functions(source))
    # A line has several entries if its function is inlined in several others
    reached = {line["line_number"] for line in lines if line["count"]}
    unreached = {line["line_number"] for line in lines} - reached
    branches = [branch["count"] for line in lines for branch in line["branches"]]
    print(f"{source}: reached {per_cent(len(reached), len(reached | unreached))} lines,",
          per_cent(sum(count > 0 for count in branches), len(branches)), "branches")
    return [names[number - 1] for number in sorted(unreached)]


def main():
    with open(UNREACHED) as file:
        known = Counter(line.strip() for line in file if line.strip() and line[0] != "#")
    with tempfile.TemporaryDirectory(dir=BUILD) as directory:
        number, total = add_up(directory)
        print(f"{number} kernels")
        unreached = Counter()
        for source in SOURCES:
            unreached.update(report(source, read_lines(total, source)))
    problems = [f"not reached: {line}" for line in (unreached - known).elements()]
    problems += [f"reached, or gone: {line}" for line in (known - unreached).elements()]
    for problem in problems:
        print(problem)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
