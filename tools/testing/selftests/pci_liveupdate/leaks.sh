#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash
#
# Memory that nobody can reach any more, if the kernel has kmemleak. An object must be
# five seconds old, and found twice, to be taken for lost.

leaks=/sys/kernel/debug/kmemleak
[ -e $leaks ] || exit 0

echo "INIT: looking for leaks"
echo scan >$leaks
sleep 5
echo scan >$leaks
while read -r line; do
	echo "$line"
done <$leaks
