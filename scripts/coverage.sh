#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Which lines of our own files do the tests in virtual machines reach? On a kernel of
# its own, CONFIG=gcov. What that kernel does at boot counts, too.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

selftest=$top/tools/testing/selftests/pci_liveupdate
build=$out/build-gcov
sources=(drivers/pci/liveupdate.c drivers/vfio/pci/vfio_pci_liveupdate.c)
failed=0

CONFIG=gcov "$top/scripts/kernel.sh"
lock "$build-coverage"
rm -rf "$build/coverage"
export COVERAGE=$build
"$selftest/robust.py" --config gcov || failed=1
"$selftest/undisturbed.py" --config gcov root_bus root_port switch switch_two pci_bridge pxb \
	'*, IOMMU' '*disturb' '*hotplug*' '*lost-bridge*' || failed=1
"$top/scripts/demo.py" --config gcov --test crash >/dev/null || failed=1
"$selftest/gcov.py" "$build" "${sources[@]}"
[ $failed = 0 ] || die "not all tests passed, so this isn't all"
