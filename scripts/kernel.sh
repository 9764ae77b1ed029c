#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build out/build-$CONFIG from out/linux:
#
#   CONFIG=demo		small and fast (the default)
#   CONFIG=debug	with lockdep, KASAN, kmemleak, KUnit, fault injection, ...
#   CONFIG=kcsan	with KCSAN for what touches our state
#   CONFIG=gcov		counts which lines of our files are reached: see coverage.sh
#   CONFIG=plain	the demo's, of the source without our changes
#   CONFIG=broken	the demo's, of the source with a mistake: see check-the-checks.sh
#   CONFIG=bench	with KUnit and nothing that takes time: see bench.py
#
# bzImage is in arch/x86/boot there, userspace's headers in usr-headers, and
# gen_init_cpio in usr; modules are where their source is.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

config=${CONFIG:-demo}
selftest=$top/tools/testing/selftests/pci_liveupdate
build=$out/build-$config

# sources DIR...: names of the files in C below these directories of the kernel
sources()
{
	(cd "$linux" && find "$@" -name '*.c' -printf '%f\n') | sort -u
}

fragments=("$selftest/config" "$selftest/config.x86_64")
flags=()
case $config in
demo)	;;
bench)	fragments+=("$selftest/config.bench") ;;
debug)	fragments+=("$selftest/config.debug") ;;
kcsan)	fragments+=("$selftest/config.kcsan")
	flags=(KCSAN_SANITIZE=n)
	for name in bus iov pci pci-driver pci-sysfs portdrv probe remove setup-{bus,res} \
		vfio_pci{,_config,_core} {vfio_pci_,}liveupdate; do
		flags+=("KCSAN_SANITIZE_$name.o=y")
	done ;;
gcov)	fragments+=("$selftest/config.gcov")
	flags=(GCOV_PROFILE_{vfio_pci_,}liveupdate.o=y) ;;
plain)	;;
broken)	;;
*)	die "CONFIG=$config: there are only demo, bench, debug, kcsan, gcov, plain and broken" ;;
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
	# With KASAN for what handles our objects. For all of the kernel it would take a third
	# of the time, and find others' bugs; code that starts a CPU can't do with it.
	flags=(KASAN_SANITIZE=n)
	while read -r name; do
		flags+=("KASAN_SANITIZE_${name/%c/o}=y")
	done < <(comm -23 <(sources drivers/{base,iommu,pci,vfio} kernel/{irq,liveupdate} \
				lib/{klist,kobject,xarray}.c samples/liveupdate) \
			<(sources arch/x86))
fi
lock "$build"
configure "$build" "${fragments[@]}"
build "$build" bzImage modules headers_install INSTALL_HDR_PATH="$build/usr-headers" \
	"${flags[@]}"
