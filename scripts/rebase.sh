#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Which hooks don't apply to another tree, and what of them doesn't:
#
#   KERNEL=/path/to/linux	that tree; it isn't changed
#
# A patch after one that doesn't apply is tried on what the others have left.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

work=$out/rebase
rejected=$out/rebase.rej

[ -f "${KERNEL:-}/MAINTAINERS" ] || die "say which tree: make rebase-check KERNEL=/path/to/linux"
lock "$work"
rm -rf "$work"
mkdir "$work"
patched_files | rsync -lp --files-from=- --ignore-missing-args "$KERNEL/" "$work/"
cd "$work"
mapfile -t patches < <(series)
echo "1..${#patches[@]}"
failed=0
for i in "${!patches[@]}"; do
	rm -f "$rejected"
	if patch -p1 --batch --forward --fuzz=0 --silent --reject-file="$rejected" \
			<"$top/patches/${patches[$i]}" >patch.log; then
		echo "ok $((i + 1)) - ${patches[$i]}"
	else
		# A file that isn't there leaves nothing that was rejected
		{ cat patch.log; [ ! -e "$rejected" ] || cat "$rejected"; } | sed 's/^/# /'
		echo "not ok $((i + 1)) - ${patches[$i]}"
		failed=1
	fi
done
exit $failed
