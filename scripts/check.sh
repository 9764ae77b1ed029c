#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What each change must pass, or with --all, all tests. Each line "ok" or "not ok" is one; the
# last line counts them.
#
#   T="PATTERN..."	only the scenarios in virtual machines with names like these
#   V=1			show the consoles of these
#   CONFIG=...		on this kernel, not on those that they are for
#   BUDGET=MINUTES	start no test later than that; what wasn't run comes first next time

set -euo pipefail
. "$(dirname "$0")/lib.sh"

results=$out/check.log
selftest=$top/tools/testing/selftests/pci_liveupdate
all=${1:-}
# What run.py is to run. Patterns are split at blanks, without looking for files.
read -ra selection <<<"${T:-}"
[ -n "${T:-}$all" ] || selection=(--core)
selection+=(${CONFIG:+--config "$CONFIG"})

# Whether there is time for one more test; says so if there isn't
in_time()	# NAME
{
	[ $SECONDS -lt "$end" ] && return
	echo "ok - $1 # SKIP out of time"
	return 1
}

# suite KIND COMMAND...: a program that prints lines of KTAP itself; fails if not all of them
# are there, or if it does and doesn't say why. Its last line isn't ours.
suite()
{
	local kind=$1 log status=0 planned results start=$SECONDS

	shift
	in_time "$1" || return 0
	log=$out/check.$(basename "${1%.*}").log
	echo "# $1"
	"$@" | sed -uE 's/^[0-9]+ passed, .*/# &/' | tee "$log" || status=$?
	planned=$(sed -n 's/^1\.\.//p' "$log" | tail -n 1)
	results=$(grep -cE '^(not )?ok ' "$log" || true)
	if [ "$results" != "$planned" ] ||
	   { [ $status != 0 ] && ! grep -q '^not ok ' "$log"; }; then
		echo "not ok - $1: status $status, $results of ${planned:-?} results"
	fi
	# run.py says so itself
	[ "$kind" = machines ] || echo "# spent: $kind $((SECONDS - start))"
}

# run KIND NAME COMMAND...: a command that says with its exit status how it went
run()
{
	local kind=$1 name=$2 start=$SECONDS

	result=ok
	shift 2
	in_time "$name" || return 0
	"$@" 2>&1 | sed -u 's/^/# /' || result="not ok"
	echo "$result - $name, $((SECONDS - start)) s"
	echo "# spent: $kind $((SECONDS - start))"
}

scenarios()
{
	suite machines "$selftest/run.py" ${V:+--verbose} ${BUDGET:+--budget $((end - SECONDS))} \
		"${selection[@]}"
}

# At the same time, as configuring, linking and checkpatch keep one core busy
builds()
{
	suite check "$top/scripts/lint.sh" >"$out/check.background.log" 2>&1 &
	suite build "$top/scripts/build-matrix.sh"
	run build "PCI_LIVEUPDATE=n changes no object" "$top/scripts/off.sh"
	wait $! || echo "not ok - lint.sh has ended with status $?"
	cat "$out/check.background.log"
}

tests()
{
	local configs config

	configs=$("$selftest/run.py" --kernels "${selection[@]}") || exit
	for config in $configs; do
		CONFIG=$config run build "build, CONFIG=$config" "$top/scripts/kernel.sh"
		# The kernel that is there isn't the one to be tested
		[ "$result" = ok ] || return 0
	done
	if [ -n "${T:-}" ]; then
		scenarios
		return
	fi
	run wait "live update of a NIC" "$top/scripts/demo.py"
	run check "the checker of config space traces" python3 -B "$selftest/cfgtrace_test.py"
	if [ -z "$all" ]; then
		scenarios
		suite check "$top/scripts/lint.sh" --no-build
	elif grep -q '^ok .*build-matrix.* # SKIP out of time' "$results.last" 2>/dev/null; then
		builds
		scenarios
	else
		scenarios
		builds
	fi
}

# The slowest tests, and how many seconds went into what
times()
{
	sed -nE 's/^(not )?ok [0-9 ]*- (.*), ([0-9]+) s$/\3 s  \2/p' "$results" | sort -rn |
		sed 's/^/# /; 10q'
	sed -n 's/^# spent: //p' "$results" |
		awk '{ for (i = 1; i < NF; i += 2) sum[$i] += $(i + 1) }
			END { for (what in sum) printf "# %s %d s\n", what, sum[what] }' | sort
}

start=$SECONDS
end=$((${BUDGET:-100000} * 60))
lock "$out/check"
[ ! -e "$results" ] || mv "$results" "$results.last"
tests 2>&1 | alive "still at it" | tee "$results"
passed=$(grep '^ok ' "$results" | grep -vc '# SKIP' || true)
failed=$(grep -c '^not ok ' "$results" || true)
skipped=$(grep '^ok ' "$results" | grep -c '# SKIP' || true)
times
echo "# $((SECONDS - start)) s in all; log: out/check.log"
echo "$passed passed, $failed failed, $skipped skipped"
# What can't be tested elsewhere must be tested here
[ "$failed" = 0 ] && [ "$passed" -gt 0 ] && { [ -z "${CI:-}" ] || [ "$skipped" = 0 ]; }
