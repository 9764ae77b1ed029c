#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash
#
# Run one of LUO's own selftests as a VMM is run: in stage 1 it leaves a process behind, and
# wants a kexec.
#
#	luo.sh --stage N --append TEXT --preserve N TEST

stage=$2
append=$4
test=$7
"$test" -s "$stage" 2>&1 | while read -r line; do
	echo "$test: $line"
done
[ "$stage" = 1 ] || echo "VMM: done"
[ "$stage" != 1 ] || vmm --stage 1 --append "$append" --preserve 0 --sessions 0
