#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# All tests. Each line "ok" or "not ok" is one; the last line counts them.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

results=$out/check.log

# A program that prints lines of KTAP itself, and fails if not all of them are there
suite()
{
	echo "# $1"
	"$@" || echo "not ok - $1 ended with status $?"
}

# run NAME COMMAND...: a command that says with its exit status how it went
run()
{
	local name=$1 result=ok

	shift
	"$@" 2>&1 | sed -u 's/^/# /' || result="not ok"
	echo "$result - $name"
}

# fails TEST PATTERN...: the verdict must be FAIL, and report and console have a line
# for each of these patterns
fails()
{
	local report=$out/demo-$1/report.txt status=0 pattern

	"$top/scripts/demo.py" --test "$1" || status=$?
	[ $status = 1 ] || return 1
	shift
	for pattern; do
		grep -qE "$pattern" "$report" "${report%/*}/console.log" ||
			{ echo "not there: $pattern"; return 1; }
	done
}

all()
{
	local config

	for config in demo debug; do
		CONFIG=$config run "build, CONFIG=$config" "$top/scripts/kernel.sh"
		run "live update of a NIC, CONFIG=$config" \
			"$top/scripts/demo.py" --config $config
	done
	run "a VMM crashes before it holds its device" "$top/scripts/demo.py" --test crash
	# A test that can't fail is no test
	run "packets are lost if the NIC isn't preserved" \
		fails forget '[0-9]{2,} of [0-9]+ packets were lost' 'bus mastering was cleared'
	run "the checker of config space traces" \
		python3 -B "$top/tools/testing/selftests/pci_liveupdate/cfgtrace_test.py"
	suite "$top/tools/testing/selftests/pci_liveupdate/undisturbed.py"
	suite "$top/tools/testing/selftests/pci_liveupdate/native.py"
	suite "$top/tools/testing/selftests/pci_liveupdate/vfio.py"
	# Not "selftests": they fill gigabytes
	suite "$top/tools/testing/selftests/pci_liveupdate/vfio.py" --config debug \
		'[!s]*' 'several*'
	suite "$top/tools/testing/selftests/pci_liveupdate/native.py" --config debug \
		'taken*' 'preserved*' 'together*' 'unbound*' 'removed*'
	# Not "hotplug": lockdep doesn't like the order of pciehp's own locks
	suite "$top/tools/testing/selftests/pci_liveupdate/undisturbed.py" --config debug \
		root_bus 'switch_two, IOMMU' '*, disturb' '*lost-bridge*'
	suite "$top/scripts/kunit.sh" tables=100000
	suite "$top/tools/testing/selftests/pci_liveupdate/robust.py" 'table*' 'file*' off
	suite "$top/tools/testing/selftests/pci_liveupdate/robust.py" --config debug \
		'table, loop' 'file, state' faults stress
	suite "$top/scripts/luo-selftests.sh"
	suite "$top/scripts/build-matrix.sh"
	run "PCI_LIVEUPDATE=n changes no object" "$top/scripts/off.sh"
	suite "$top/scripts/lint.sh"
}

start=$SECONDS
lock "$out/check"
all 2>&1 | tee "$results"
passed=$(grep -c '^ok ' "$results" || true)
failed=$(grep -c '^not ok ' "$results" || true)
echo "# $((SECONDS - start)) s; log: out/check.log"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
