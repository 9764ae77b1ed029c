#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build with and without us, VFIO in the kernel and as modules. Any warning of Kconfig,
# compiler, objtool or modpost is a failure.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

selftest=$top/tools/testing/selftests/pci_liveupdate
base=("$selftest/config" "$selftest/config.x86_64")
n=0
failed=0

# begin NAME: use the build directory $dir. Warnings only appear when a file is
# compiled: where the last run had some, or was interrupted, start over, or this one
# wouldn't see them. ccache repeats them.
begin()
{
	dir=$out/build-matrix-$1
	[ ! -e "$dir/unclean" ] || rm -rf "$dir"
	mkdir -p "$dir"
	touch "$dir/unclean"
}

# end DESCRIPTION STATUS: say how it went
end()
{
	local result=ok

	if [ "$2" -ne 0 ] || grep -i 'warning: ' "$dir/config.log" "$dir/build.log" >&2; then
		result="not ok"
		failed=1
	else
		rm "$dir/unclean"
	fi
	n=$((n + 1))
	echo "$result $n - $1, $((SECONDS - start)) s"
}

# combination PCI_LIVEUPDATE VFIO: y or n, y or m
combination()
{
	local status=0 option start=$SECONDS

	begin "vfio-$2"
	{
		[ "$1" = y ] || off_config
		for option in IOMMUFD VFIO VFIO_PCI; do
			echo "CONFIG_$option=$2"
		done
	} >"$dir/combination"
	(
		configure "$dir" "${base[@]}" "$dir/combination"
		build "$dir" vmlinux modules
	) | sed -u 's/^/# /' || status=1
	end "PCI_LIVEUPDATE=$1 VFIO_PCI=$2" $status
}

"$top/scripts/tree.sh" | sed -u 's/^/# /'
lock "$out/build-matrix"
echo 1..4
combination y y
combination n y
combination n m
combination y m
exit $failed
