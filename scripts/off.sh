#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# With PCI_LIVEUPDATE=n, each object in the directories that the series touches is what
# the kernel has there with nothing but our fixes: same code, same data, same symbols.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

selftest=$top/tools/testing/selftests/pci_liveupdate
work=$out/off
# Those of the PCI core and the driver core, which need nothing else of the series
fixes=(pci-msix-stale-mask pci-dpc pci-resize-lock driver-core-kexec)
# Fixes of LUO, exports, what LUO knows of images, functions for KHO, one of vfio-pci split in two,
# how a domain is attached, a walker of page tables, what iommufd keeps, and the modules that these
# are in: whatever the option says.
not_ours='kernel/liveupdate/(luo_core|luo_session|luo_file|luo_flb|luo_image|kexec_handover|kho_block).o'
not_ours+='|kernel/kexec_(core|file).o|arch/x86/kernel/(crash|kexec-bzimage64|machine_kexec_64).o'
not_ours+='|drivers/vfio/pci/(vfio_pci_config|vfio_pci_intrs|vfio-pci-core).o'
not_ours+='|drivers/iommu/(intel/(iommu|pasid)|generic_pt/fmt/iommu_[a-z0-9_]*).o'
not_ours+='|drivers/iommu/iommufd/[a-z_]*.o'

# The source with the fixes, of which only what they change takes room
base()
{
	local patches=("${fixes[@]/#/$top/patches/}") stamp

	patches=("${patches[@]/%/.patch}")
	stamp=$(cat "$out/linux.orig.id" "${patches[@]}" | sha1sum)
	[ "$stamp" != "$(cat "$work/base.stamp" 2>/dev/null)" ] || return 0
	# Not what was built from it: a file that isn't patched any more is older than its object
	rm -rf "$work"/{base,base.stamp,old}
	cp -al "$out/linux.orig" "$work/base"
	cat "${patches[@]}" | patch --silent --directory="$work/base" --strip=1
	echo "$stamp" >"$work/base.stamp"
}

compile()	# SOURCE DIR
{
	local linux=$1 dir=$2 targets

	mkdir -p "$dir"
	mapfile -t targets < <(patched_directories)
	configure "$dir" "$selftest"/config{,.x86_64} "$work/config"
	# What ccache does with paths would be seen in __FILE__. gcc orders functions by who
	# refers to them: give each a section of its own.
	CCACHE_BASEDIR="" build "$dir" KCFLAGS="-ffunction-sections -fdata-sections" \
		"${targets[@]}"
}

objects()
{
	cd "$1"
	patched_directories | while read -r dir; do
		find "$dir" -name '*.o'
	done | sort
}

# contents OBJECT: its sections with their relocations, one in a line, in no order. The
# numbers in names count what came before, which can be a line that generates no code.
contents()
{
	(cd "$1" && objdump --full-contents --reloc "$2") |
		sed -E 's/(__UNIQUE_ID_[A-Za-z_0-9]*_|CSWTCH\.)[0-9]+/\1/g' |
		awk '/^(Contents of section|RELOCATION RECORDS)/ { print "" } { printf "%s|", $0 }' |
		sort
}

# symbols OBJECT: size, type and name of each; numbers in names as above
symbols()
{
	nm -S "$1/$2" | awk '{
		name = $NF
		gsub(/[0-9._]+/, "", name)
		print (NF == 4 ? $2 : "-"), $(NF - 1), name
	}' | sort
}

compare()
{
	local object failed=0

	diff <(objects "$work/old") <(objects "$work/new" | grep -v /luo_image.o) || failed=1
	comm -23 <(patched_files | grep -v '^tools/' | sed -n 's/c$/o/p') <(objects "$work/new") |
		sed 's/^/not compiled: /' | grep . && failed=1
	say "comparing $(objects "$work/new" | wc -l) objects"
	while read -r object; do
		[[ ! $object =~ ^($not_ours)$ ]] || continue
		cmp -s <(contents "$work/old" "$object"; symbols "$work/old" "$object") \
			<(contents "$work/new" "$object"; symbols "$work/new" "$object") ||
			{ echo "differs: $object"; failed=1; }
	done < <(objects "$work/new")
	return $failed
}

"$top/scripts/tree.sh" | sed -u 's/^/# /'
lock "$work"
mkdir -p "$work"
{ patched_config; off_config; } >"$work/config"
base
for tree in old new; do
	[ $tree = old ] && source=$work/base || source=$out/linux
	(compile "$source" "$work/$tree") | sed -u 's/^/# /'
done
compare
