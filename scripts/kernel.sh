#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build out/build-$CONFIG from out/linux:
#
#   CONFIG=demo		small and fast, with KUnit (the default)
#   CONFIG=debug	with lockdep, KASAN, kmemleak, fault injection, ...
#   CONFIG=kcsan	with KCSAN for what touches our state
#   CONFIG=gcov		counts which lines of our files are reached: see coverage.sh
#   CONFIG=plain	the demo's without KUnit, of the source without our changes
#   CONFIG=broken	the demo's, of the source with a mistake: see check-the-checks.sh
#
# bzImage is in arch/x86/boot there, userspace's headers in usr-headers, and
# gen_init_cpio in usr; modules are where their source is.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

config=${CONFIG:-demo}
selftest=$top/tools/testing/selftests/pci_liveupdate
build=$out/build-$config

fragments=("$selftest/config" "$selftest/config.x86_64")
flags=()
parts=(liveupdate{,_debugfs,_incoming,_outgoing,_ports,_table})	# of the PCI core
case $config in
demo)	fragments+=("$selftest/config.kunit") ;;
debug)	fragments+=("$selftest"/config.{kunit,debug}) ;;
kcsan)	fragments+=("$selftest/config.kcsan")
	flags=(KCSAN_SANITIZE=n)
	for name in bus iov pci pci-driver pci-sysfs portdrv probe remove setup-{bus,res} \
		vfio_pci{,_config,_core,_liveupdate} "${parts[@]}"; do
		flags+=("KCSAN_SANITIZE_$name.o=y")
	done ;;
gcov)	fragments+=("$selftest"/config.{kunit,gcov})
	for name in vfio_pci_liveupdate "${parts[@]}"; do
		flags+=("GCOV_PROFILE_$name.o=y")
	done ;;
plain)	;;
broken)	fragments+=("$selftest/config.kunit") ;;
*)	die "CONFIG=$config: there are only demo, debug, kcsan, gcov, plain and broken" ;;
esac

"$top/scripts/tree.sh"
mkdir -p "$build"
if [ "$config" = plain ]; then
	linux=$out/linux.orig
	cat "${fragments[@]}" | grep -v PCI_LIVEUPDATE >"$build/fragment"
	fragments=("$build/fragment")
elif [ "$config" = broken ]; then
	linux=$out/linux.broken
elif [ "$config" = debug ]; then
	# Of all code KASAN would take a third of the time. $(obj) is where make is at work.
	kasan="$(printf '%s%% ' drivers/{acpi/pci,base,iommu,pci,vfio} fs/{kernfs,sysfs} \
		kernel/{irq,liveupdate,resource} samples/liveupdate)"
	kasan+="$(printf '%s ' lib/{interval_tree,iov_iter,klist,kobject,rbtree,usercopy,xarray})"
	flags=("KASAN_SANITIZE=\$(if \$(filter $kasan,\$(obj) \$(obj)/\$(target-stem)),y,n)")
fi
lock "$build"
configure "$build" "${fragments[@]}"
build "$build" bzImage modules headers_install INSTALL_HDR_PATH="$build/usr-headers" \
	"${flags[@]}"
if [ "$config" = debug ]; then
	for object in drivers/{base/core,iommu/iommu,pci/probe} lib/usercopy \
		"${parts[@]/#/drivers/pci/}"; do
		nm "$build/$object.o" | grep ' __\(asan\|kasan_check\)_' >/dev/null ||
			die "$object.o has no KASAN"
	done
fi
