#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash
#
# In a kernel that counts which lines are reached (config.gcov): send the counters to the
# second serial port, for gcov.py.

# Files in debugfs have no size
cp -r /sys/kernel/debug/gcov / &&
	busybox stty -F /dev/ttyS1 raw &&
	busybox tar -C / -c gcov | busybox gzip >/dev/ttyS1
