#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Boot the debug kernel to run the KUnit tests of drivers/pci/liveupdate.c, with KASAN,
# UBSAN, lockdep and failing allocations.
#
#   scripts/kunit.sh [PARAMETER=VALUE...]	seed=, tables=: see liveupdate_kunit.c
#
# The kernel's log is out/kunit/console.log.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

log=$out/kunit/console.log
append="console=ttyS0 panic=-1 nohz=off highres=off no_timer_check kho_scratch=4M,4M,4M"
# Nobody asks kmemleak here, and it takes half of the time
append+=" kmemleak=off liveupdate=on kunit.autorun=1 kunit.filter_glob=pci_liveupdate kunit_shutdown=reboot"

boot()
{
	timeout 1200 qemu-system-x86_64 -nodefaults -no-user-config -display none \
		-machine q35 -accel tcg,thread=single -smp 2 -m 1024 -serial stdio -no-reboot \
		-kernel "$out/build-debug/arch/x86/boot/bzImage" \
		-append "$append ${*/#/pci_liveupdate_kunit.}" </dev/null | tr -d '\r' >"$log"
}

# report [TABLES]: TABLES is how many were asked for, if that was said
report()
{
	awk -v asked="${1:-1}" '
		match($0, /    (not )?ok [0-9]+ [a-z]/) {
			result = ($0 ~ /not ok/ || /# SKIP/) ? "not ok" : "ok"
			sub(/.* ok [0-9]+ /, "")
			print result, ++n, "- KUnit:", $0
		}
		/# .*: (allocations failed|devices preserved|tables tried): / {
			sub(/.*# [a-z_]*: /, "")
			if (/^tables/)
				tables = $3 + 0
			numbers = numbers "# " $0 "\n"
		}
		/WARNING: |BUG: |KASAN: |UBSAN: |Oops: |Call Trace:/ { bad = bad "# " $0 "\n" }
		/Totals: pass:/ { complete = $NF == "total:" n }
		END {
			printf "%s# KUnit: %d cases\n%s", numbers, n, bad
			result = bad || !complete || tables < asked ? "not ok" : "ok"
			print result, n + 1, "- KUnit: the log is complete, and without a warning"
			exit result != "ok"
		}' "$log"
}

mkdir -p "$out/kunit"
lock "$out/kunit"
CONFIG=debug "$top/scripts/kernel.sh" | sed -u 's/^/# /'
boot "$@" || true
asked=
for parameter; do
	[ "${parameter%%=*}" != tables ] || asked=${parameter#*=}
done
report "$asked"
