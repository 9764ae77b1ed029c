#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Which lines of our files do the tests reach? They run on a kernel of its own,
# CONFIG=gcov. What each kernel does at boot counts, too.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

selftest=$top/tools/testing/selftests/pci_liveupdate
status=0

CONFIG=gcov "$top/scripts/kernel.sh"
rm -f "$out"/*-gcov/*/counters.tar.gz
"$selftest/robust.py" --config gcov 'table, loop' 'file*' faults off stress || status=1
"$selftest/undisturbed.py" --config gcov switch_two 'switch, IOMMU, disturb' \
	'*hotplug*' '*lost-bridge*' || status=1
"$selftest/vfio.py" --config gcov || status=1
"$selftest/native.py" --config gcov 'unbound*' 'removed*' || status=1
"$selftest/gcov.py" || status=1
exit $status
