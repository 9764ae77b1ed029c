#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash disable=SC2086 # two words
#
# Run the kernel's own selftests of vfio with the last of the devices. A line is what the
# kernel's log takes at a time.

for bdf; do :; done
for test in /bin/vfio_*_test; do
	# Fills a gigabyte for each test of each of 5 kinds of IOMMU
	[ "$test" = /bin/vfio_pci_driver_test ] && only="-v iommufd" || only=
	"$test" $only "$bdf" 2>&1 | while read -r line; do
		echo "${test##*/}: $line"
	done
done
echo "VMM: done"
