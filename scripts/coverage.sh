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
rm -f "$out"/selftests/*-gcov/counters.tar.gz
"$selftest/run.py" --config gcov kunit faults off stress 'table_loop' 'file_*' 'edu_unbound_*' \
	'edu_removed_*' switch_two_nics disturb_iommu 'hotplug_*' lost_bridge \
	waiting late killed several packets pulled vanished surprise gone kinds minimal \
	unprotected protected refused selftests || status=1
"$selftest/gcov.py" || status=1
exit $status
