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

# A test that can't fail is no test: without preserving, packets must be lost
forget()
{
	local status=0

	"$top/scripts/demo.py" --vmm forget | tee "$out/forget.log" || status=$?
	[ $status = 1 ] && grep -qE '[0-9]{3} of [0-9]+ packets were lost' "$out/forget.log" &&
		grep -q 'bus mastering was cleared' "$out/forget.log"
}

all()
{
	local config

	for config in demo debug; do
		CONFIG=$config run "build, CONFIG=$config" "$top/scripts/kernel.sh"
		run "live update of a NIC, CONFIG=$config" \
			"$top/scripts/demo.py" --config $config
	done
	run "a VMM crashes before it holds its device" "$top/scripts/demo.py" --vmm crash
	run "packets are lost if the NIC isn't preserved" forget
	suite "$top/scripts/luo-selftests.sh"
	suite "$top/scripts/build-matrix.sh"
}

start=$SECONDS
lock "$out/check"
all 2>&1 | tee "$results"
passed=$(grep -c '^ok ' "$results" || true)
failed=$(grep -c '^not ok ' "$results" || true)
echo "# $((SECONDS - start)) s; log: out/check.log"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
