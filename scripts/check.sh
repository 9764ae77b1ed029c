#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# All tests. Each line "ok" or "not ok" is one; the last line counts them.
#
#   T="PATTERN..."	only the scenarios in virtual machines with names like these
#   V=1			show the consoles of these
#   CONFIG=...		on this kernel, not on those that they are for

set -euo pipefail
. "$(dirname "$0")/lib.sh"

results=$out/check.log
selftest=$top/tools/testing/selftests/pci_liveupdate

# A program that prints lines of KTAP itself; fails if not all of them are there, or if it
# does and doesn't say why. Its last line isn't ours.
suite()
{
	local log status=0 planned results

	log=$out/check.$(basename "${1%.*}").log
	echo "# $1"
	"$@" | sed -uE 's/^[0-9]+ passed, .*/# &/' | tee "$log" || status=$?
	planned=$(sed -n 's/^1\.\.//p' "$log" | tail -n 1)
	results=$(grep -cE '^(not )?ok ' "$log" || true)
	if [ "$results" != "$planned" ] ||
	   { [ $status != 0 ] && ! grep -q '^not ok ' "$log"; }; then
		echo "not ok - $1: status $status, $results of ${planned:-?} results"
	fi
}

# run NAME COMMAND...: a command that says with its exit status how it went
run()
{
	local name=$1 result=ok

	shift
	"$@" 2>&1 | sed -u 's/^/# /' || result="not ok"
	echo "$result - $name"
}

scenarios()
{
	local patterns=()

	# Split at blanks, without looking for files
	read -ra patterns <<<"${T:-}"
	suite "$selftest/run.py" ${V:+--verbose} ${CONFIG:+--config "$CONFIG"} "${patterns[@]}"
}

all()
{
	local config

	# Some scenarios have two kernels
	for config in demo debug plain ${CONFIG:-}; do
		CONFIG=$config run "build, CONFIG=$config" "$top/scripts/kernel.sh"
	done
	if [ -n "${T:-}" ]; then
		scenarios
		return
	fi
	run "live update of a NIC" "$top/scripts/demo.py"
	run "the checker of config space traces" python3 -B "$selftest/cfgtrace_test.py"
	scenarios
	# At the same time, as configuring, linking and checkpatch keep one core busy
	suite "$top/scripts/lint.sh" >"$out/check.background.log" 2>&1 &
	suite "$top/scripts/build-matrix.sh"
	run "PCI_LIVEUPDATE=n changes no object" "$top/scripts/off.sh"
	wait $! || echo "not ok - lint.sh has ended with status $?"
	cat "$out/check.background.log"
}

start=$SECONDS
lock "$out/check"
all 2>&1 | tee "$results"
passed=$(grep '^ok ' "$results" | grep -vc '# SKIP' || true)
failed=$(grep -c '^not ok ' "$results" || true)
skipped=$(grep '^ok ' "$results" | grep -c '# SKIP' || true)
echo "# $((SECONDS - start)) s; log: out/check.log"
echo "$passed passed, $failed failed, $skipped skipped"
# What can't be tested elsewhere must be tested here
[ "$failed" = 0 ] && [ "$passed" -gt 0 ] && { [ -z "${CI:-}" ] || [ "$skipped" = 0 ]; }
