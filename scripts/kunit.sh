#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run the KUnit tests of drivers/pci/liveupdate.c with KASAN, UBSAN, lockdep and failing
# allocations.
#
#   scripts/kunit.sh [PARAMETER=VALUE...]	seed=, tables=: see liveupdate_kunit.c
#
# The kernel's log is out/build-kunit/test.log.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

build=$out/build-kunit
log=$build/test.log
debug=(
	DEBUG_ATOMIC_SLEEP DEBUG_KERNEL DEBUG_LIST FAILSLAB FAIL_PAGE_ALLOC FAULT_INJECTION
	FAULT_INJECTION_DEBUG_FS KASAN KASAN_INLINE KASAN_VMALLOC PROVE_LOCKING
	UBSAN UBSAN_BOUNDS UBSAN_SHIFT
	UNWINDER_FRAME_POINTER	# KASAN unwinds a lot
)

# What kmake() does, for a make that kunit.py calls
export CCACHE_DIR=${CCACHE_DIR:-$cache/ccache} CCACHE_BASEDIR=$top
export KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 1970' KBUILD_BUILD_VERSION=1
export KBUILD_BUILD_USER=pci KBUILD_BUILD_HOST=liveupdate

kunit()
{
	local option options=(
		--arch=x86_64 --build_dir="$build" --timeout=900
		--kunitconfig=drivers/pci/tests/.kunitconfig
		# A busy machine may starve the timer; a panic needn't wait for the timeout
		--kernel_args=no_timer_check --kernel_args=panic=-1
		--make_options=CC="ccache gcc" --make_options=HOSTCC="ccache gcc"
	)

	for option in "${debug[@]}"; do
		options+=(--kconfig_add="CONFIG_$option=y")
	done
	cd "$out/linux"
	rm -f "$log"
	python3 -B tools/testing/kunit/kunit.py run "${options[@]}" \
		"${@/#/--kernel_args=pci_liveupdate_kunit.}"
}

# The console ends its lines with CR, too
report()
{
	tr -d '\r' <"$log" | awk '
		match($0, /^    (not )?ok [0-9]+ [a-z]/) {
			result = ($1 == "not") ? "not ok" : "ok"
			if (/# SKIP/)
				result = "not ok"
			sub(/^ *(not )?ok [0-9]+ /, "")
			print result, ++n, "- KUnit:", $0
		}
		/# .*: (allocations failed|tables tried): / {
			sub(/^ *# [a-z_]*: /, "")
			numbers = numbers "# " $0 "\n"
		}
		/WARNING: |BUG: |KASAN: |UBSAN: |Oops: |Call Trace:/ { bad = bad "# " $0 "\n" }
		END {
			printf "%s# KUnit: %d cases\n", numbers, n
			if (bad || !n)
				printf "%snot ok %d - the log has no warnings\n", bad, n + 1
			exit !n || bad
		}'
}

"$top/scripts/tree.sh" | sed -u 's/^/# /'
mkdir -p "$build"
lock "$build"
lock "$out/linux" --shared
status=0
(kunit "$@") 2>&1 | sed -u 's/^/# /' || status=1
[ -e "$log" ] && report || status=1
exit $status
