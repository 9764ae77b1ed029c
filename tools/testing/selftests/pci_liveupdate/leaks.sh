#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash
#
# Memory that nobody can reach any more, if the kernel has kmemleak. An object must be
# five seconds old, and found twice, to be taken for lost.

leaks=/sys/kernel/debug/kmemleak
[ -e $leaks ] || exit 0

uptime()
{
	read -r seconds _ </proc/uptime
	echo "${seconds%.*}"
}

echo "INIT: looking for leaks"
start=$(uptime)
echo scan >$leaks
while [ "$(uptime)" -lt $((start + 6)) ]; do
	sleep 0.2
done
echo scan >$leaks
while read -r line; do
	echo "$line"
done <$leaks
