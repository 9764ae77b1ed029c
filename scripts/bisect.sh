#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Apply the mailed series to a clean tree with git am, one patch after the other, and
# build after each: with the option on and off, VFIO in the kernel and as modules, with
# gcc and clang. With W=1 and sparse, nothing may say more than before the first patch.
# In the end the tree must be that of "make tree", but for whose copyright it is.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

selftest=$top/tools/testing/selftests/pci_liveupdate
work=$out/bisect
builds=(on off module clang)
clang="clang-19"	# Debian's own is older than the kernel wants
export GIT_AUTHOR_NAME=bisect GIT_AUTHOR_EMAIL=bisect@example.com
export GIT_COMMITTER_NAME=bisect GIT_COMMITTER_EMAIL=bisect@example.com

# The source as it is; git needs to know only what the series touches
clean_tree()
{
	local id

	id=$(cat "$out/linux.orig.id")
	if [ "$(cat "$work/id" 2>/dev/null)" != "$id" ]; then
		rm -rf "$linux" "$work/id"
		cp -al "$out/linux.orig" "$linux"
		git init -q "$linux"
		git -C "$linux" commit -q --allow-empty -m "$id"
		git -C "$linux" tag pristine
		echo "$id" >"$work/id"
	fi
	cd "$linux"
	git am --abort 2>/dev/null || true
	git reset -q --hard pristine
	patched_files | xargs git add -f
	git commit -q --allow-empty -m "what the series touches"
	git tag -f base >/dev/null
}

fragment()	# BUILD
{
	patched_config
	case $1 in
	on)	cat "$selftest/config.kunit" ;;
	off)	off_config ;;
	*)	printf 'CONFIG_%s=m\n' IOMMUFD VFIO VFIO_PCI ;;
	esac
}

# Directories with code, as far as they are there already
directories()
{
	patched_directories
	our_files | sed -n 's,^\(samples/.*/\)[^/]*\.c$,\1,p' | sort -u | while read -r dir; do
		[ ! -d "$dir" ] || echo "$dir"
	done
}

# With all patches applied, as the options aren't there before
configure_build()	# BUILD
{
	local dir=$work/$1

	mkdir -p "$dir"
	fragment "$1" >"$dir/fragment"
	configure "$dir" "$selftest"/config{,.x86_64} "$dir/fragment"
	cp "$dir/.config" "$dir/final.config"
}

changed()	# FILES...: by the last patch
{
	[ -n "$(git diff --name-only HEAD~ -- "$@")" ]
}

# What the checkers say, without line numbers
compile()	# BUILD
{
	local dir=$work/$1 targets

	changed '*.[chS]' '*Kconfig' '*Makefile' || return 0
	if changed '*Kconfig'; then
		cp "$dir/final.config" "$dir/.config"
		kmake "$dir" olddefconfig >"$dir/step.log" 2>&1 ||
			{ cat "$dir/step.log"; return 1; }
	fi
	mapfile -t targets < <(directories)
	(build "$dir" W=1 C=1 CF="$sparse_flags" "${targets[@]}") >"$dir/step.log" 2>&1 ||
		{ grep -E 'error|Error|undefined' "$dir/build.log"; return 1; }
	findings "$dir" | sed -E 's/:[0-9:]+ (warning|error): /: \1: /' | sort -u
}

step()
{
	local name cc failed=0

	for name in "${builds[@]}"; do
		cc=gcc
		[ "$name" != clang ] || cc=$clang
		"$@" "$name" || { echo "# in out/bisect/$name"; failed=1; }
	done
	return $failed
}

compile_base()
{
	compile "$1" >"$work/$1/base"
}

compile_patch()
{
	local now

	now=$(compile "$1") || { echo "$now"; return 1; }
	! comm -13 "$work/$1/base" - <<<"$now" | grep .
}

"$top/scripts/series.sh" "$work/series" | sed -u 's/^/# /'
linux=$work/linux
lock "$work"
clean_tree
rm -f "$work"/series/*/0000-*
git am -q "$work"/series/*/*.patch
step configure_build
our_files | xargs sed -i 's/\(Copyright (c) 2026, \).*/\1the PCI Live Update authors/'
different=$(rsync -rlpmcni --delete --exclude=/.git --exclude=/.pc --exclude=/patches "$out/linux/" .)
[ -z "$different" ] || die "git am doesn't make what is in out/linux:" "$different"

git reset -q --hard base
step compile_base || die "the source itself can't be built"
patches=("$work"/series/*/*.patch)
echo "1..${#patches[@]}"
failed=0
for i in "${!patches[@]}"; do
	git am -q "${patches[$i]}"
	result=ok
	step compile_patch | sed -u 's/^/# /' || { result="not ok"; failed=1; }
	echo "$result $((i + 1)) - $(basename "${patches[$i]}" .patch)"
done
exit $failed
