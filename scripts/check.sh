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
# Is there from the time when --all begins until its builds have passed
builds_due=$out/check.builds
selftest=$top/tools/testing/selftests/pci_liveupdate
all=${1:-}
late="# SKIP out of time"
# What run.py is to run. Patterns are split at blanks, without looking for files.
read -ra selection <<<"${T:-}"
[ -n "${T:-}$all" ] || selection=(--core)
selection+=(${CONFIG:+--config "$CONFIG"})

# Whether there is time for one more test; says so if there isn't
in_time()	# NAME
{
	[ $SECONDS -ge "$end" ] || return 0
	echo "ok - $1 $late"
	return 1
}

# suite KIND COMMAND...: a program that prints lines of KTAP itself; fails if not all of them
# are there, or if it does and doesn't say why. Its last line isn't ours.
suite()
{
	local kind=$1 log status=0 planned results start=$SECONDS

	shift
	log=$out/check.$(basename "${1%.*}").log
	echo "# $1"
	"$@" | sed -uE 's/^[0-9]+ passed, .*/# &/' | tee "$log" || status=$?
	planned=$(sed -n 's/^1\.\.//p' "$log" | tail -n 1)
	results=$(grep -cE '^(not )?ok ' "$log" || true)
	if [ "$results" != "$planned" ] ||
	   { [ $status != 0 ] && ! grep -q '^not ok ' "$log"; }; then
		echo "not ok - $1: status $status, $results of ${planned:-?} results"
	fi
	# run.py knows better
	[ "$kind" = machines ] || echo "# spent: $kind $((SECONDS - start))"
}

# run KIND NAME COMMAND...: a command that says with its exit status how it went
run()
{
	local kind=$1 name=$2 result=ok start=$SECONDS

	shift 2
	"$@" 2>&1 | sed -u 's/^/# /' || result="not ok"
	echo "$result - $name, $((SECONDS - start)) s"
	echo "# spent: $kind $((SECONDS - start))"
	[ "$result" = ok ]
}

# Fails if one can't be built: what is there is another kernel than the one to be tested
kernels()
{
	local configs config status=0

	configs=$("$selftest/run.py" --kernels "${selection[@]}") || exit
	for config in $configs; do
		CONFIG=$config run build "build, CONFIG=$config" "$top/scripts/kernel.sh" || status=1
	done
	return $status
}

scenarios()
{
	suite machines "$selftest/run.py" ${V:+--verbose} ${BUDGET:+--budget $((end - SECONDS))} \
		"${selection[@]}"
}

machines()
{
	kernels || return 0
	if [ -z "${T:-}" ] && in_time demo.py; then
		run wait "live update of a NIC" "$top/scripts/demo.py" || true
	fi
	scenarios
}

lint()		# [--no-build]
{
	if in_time lint.sh; then
		suite check "$top/scripts/lint.sh" "$@"
	fi
}

# At the same time, as configuring, linking and checkpatch keep one core busy
builds()
{
	touch "$builds_due"
	{
		lint >"$out/check.background.log" 2>&1 &
		if in_time build-matrix.sh; then
			suite build "$top/scripts/build-matrix.sh"
		fi
		if in_time off.sh; then
			run build "PCI_LIVEUPDATE=n changes no object" "$top/scripts/off.sh" || true
		fi
		wait $! || echo "not ok - lint.sh has ended with status $?"
		cat "$out/check.background.log"
	} | tee "$out/check.builds.log"
	grep -qE "^not ok|$late" "$out/check.builds.log" || rm "$builds_due"
}

tests()
{
	if [ -n "${T:-}" ]; then
		machines
		return
	fi
	run check "the checker of config space traces" python3 -B "$selftest/cfgtrace_test.py" || true
	if [ -z "$all" ]; then
		machines
		lint --no-build
	elif [ -e "$builds_due" ]; then
		builds
		machines
	else
		touch "$builds_due"
		machines
		builds
	fi
}

# The slowest tests, and how many seconds went into what
spent()
{
	sed -nE 's/^(not )?ok [0-9 ]*- (.*), ([0-9]+) s$/\3 s  \2/p' "$results" | sort -rn |
		awk 'NR <= 10 { print "# " $0 }'
	sed -n 's/^# spent: //p' "$results" | awk '
		{ for (i = 1; i < NF; i += 2) sum[$i] += $(i + 1) }
		END { for (what in sum) printf "# %s: %d s\n", what, sum[what] }' | sort
}

[ -z "$all" ] || [ "$all" = --all ] || die "usage: check.sh [--all]"
[[ ${BUDGET:-1} =~ ^[1-9][0-9]*$ ]] || die "BUDGET=$BUDGET isn't a number of minutes"
lock "$out/check"
start=$SECONDS
end=$((start + 60 * ${BUDGET:-100000}))
tests 2>&1 | alive "still at it" | tee "$results"
passed=$(grep '^ok ' "$results" | grep -vc '# SKIP' || true)
failed=$(grep -c '^not ok ' "$results" || true)
skipped=$(grep '^ok ' "$results" | grep -c '# SKIP' || true)
spent
echo "# $((SECONDS - start)) s in all; log: out/check.log"
! grep -q "$late" "$results" || echo "# $(grep -c "$late" "$results") not run: out of time"
echo "$passed passed, $failed failed, $skipped skipped"
# What can't be tested elsewhere must be tested here
[ "$failed" = 0 ] && [ "$passed" -gt 0 ] && { [ -z "${CI:-}" ] || [ "$skipped" = 0 ]; }
