#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Make out/linux: the Linux source with patches/ applied and our files added.
#
#   KERNEL=/path/to/linux	use this source instead of Debian's linux-source
#
# out/linux.orig is the untouched source, kept so that a changed series doesn't need to
# unpack it again. Files whose content stays the same keep their time stamps: the next
# build compiles only what changed.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

package="linux-source-7.3"
suites=(trixie-backports sid experimental)	# the most stable one first
orig=$out/linux.orig
tmp=$out/linux.tmp
export QUILT_PATCHES=patches QUILT_SERIES=series QUILT_PC=.pc

# ---- the source ----

# Download the package from the first suite that has it
fetch()
{
	local dir=$cache/fetch log=$cache/fetch.log suite version

	: >"$log"
	for suite in "${suites[@]}"; do
		say "looking for $package in Debian $suite"
		private_apt "$dir" "$suite"
		cat "$dir/log" >>"$log"
		version=$(apt-cache "${apt[@]}" madison "$package" |
			awk '{ print $3 }' | sort -V | tail -n 1)
		[ -n "$version" ] || continue
		say "downloading $package $version (some 160 MB)"
		(cd "$dir" && apt-get "${apt[@]}" download "$package=$version") >>"$log" 2>&1 || continue
		# Only a complete file, checked by apt, gets a name that we trust
		mv "$dir/${package}"_*.deb "$cache/"
		rm -rf "$dir"
		return
	done
	[ -s "$dir/sources.list" ] || echo "apt's sources name no Debian mirror" >>"$log"
	die "no kernel source: $package is neither in $cache" \
	    "nor, on the Debian mirror in apt's sources, in any of: ${suites[*]}." "$(apt_error "$log")" \
	    "Put ${package}_*.deb there yourself, or use a source tree: make KERNEL=/path/to/linux;" \
	    "all of it: $log"
}

newest_deb()
{
	find "$cache/" -maxdepth 1 -name "${package}_*.deb" | sort -V | tail -n 1
}

is_git()
{
	[ "$(git -C "$1" rev-parse --show-toplevel 2>/dev/null)" = "$(realpath "$1")" ] &&
		git -C "$1" rev-parse -q --verify HEAD >/dev/null
}

# Sets $deb or $KERNEL, and $id: what the source is, in one line.
find_source()
{
	if [ -n "${KERNEL:-}" ]; then
		KERNEL=$(realpath "$KERNEL")
		[ -f "$KERNEL/kernel/liveupdate/Kconfig" ] ||
			die "KERNEL=$KERNEL isn't a Linux source tree with kernel/liveupdate/"
		if is_git "$KERNEL"; then
			id="$KERNEL $(git -C "$KERNEL" rev-parse HEAD)"
			id+=" $(git -C "$KERNEL" diff HEAD | sha256sum | cut -c 1-16)"
		else
			id="$KERNEL $(cd "$KERNEL" && find . -type f -printf '%P %s %T@\n' |
				sort | sha256sum | cut -c 1-16)"
		fi
		return
	fi
	deb=$(newest_deb)
	if [ -z "$deb" ]; then
		(
			lock "$cache/fetch"
			[ -n "$(newest_deb)" ] || fetch		# or somebody else was faster
		)
		deb=$(newest_deb)
	fi
	id=$(basename "$deb" _all.deb)
}

# $orig: the source as it is. Here and below nothing takes over time stamps (tar -m,
# rsync without -t): what changes becomes newer than any object built from an
# earlier tree, so that make can't take the old one for current.
unpack()
{
	[ "$(cat "$orig.id" 2>/dev/null)" != "$id" ] || return 0
	say "unpacking $id"
	rm -rf "$orig" "$orig.id" "$orig.tmp"
	mkdir "$orig.tmp"
	if [ -z "${KERNEL:-}" ]; then
		dpkg-deb --fsys-tarfile "$deb" | tar -xO "./usr/src/$package.tar.xz" |
			tar -xJm --strip-components=1 -C "$orig.tmp"
	elif is_git "$KERNEL"; then
		# Uncommitted changes count, build products don't
		git -C "$KERNEL" ls-files -z |
			rsync -rlp --from0 --files-from=- --ignore-missing-args "$KERNEL/" "$orig.tmp/"
	else
		rsync -rlp --exclude=/.git --exclude=/.pc --exclude=/patches "$KERNEL/" "$orig.tmp/"
		make -s -C "$orig.tmp" mrproper
	fi
	mv "$orig.tmp" "$orig"
	echo "$id" >"$orig.id"
}

# ---- the series and our files, in $tmp ----

# $tmp holds only the files that the series touches: patched, with quilt's .pc.
apply()
{
	local patch log=$tmp/quilt.log

	rm -rf "$tmp"
	mkdir "$tmp"
	# As seen from out/linux: quilt refresh there edits the repository's patches
	ln -s ../../patches "$tmp/patches"
	[ -n "$(series)" ] || return 0
	for patch in $(series); do
		[ -f "$top/patches/$patch" ] || die "patches/series names $patch, which doesn't exist"
	done
	patched_files | rsync -lp --files-from=- --ignore-missing-args "$orig/" "$tmp/"
	if (cd "$tmp" && quilt --quiltrc - push -a --fuzz=0) >"$log" 2>&1; then
		rm "$log"
		return
	fi
	# Once more with -f: leaves the rejected hunks beside their files
	(cd "$tmp" && quilt --quiltrc - push -f --fuzz=0) >>"$log" 2>&1 || true
	cat "$log" >&2
	die "patches/$(cd "$tmp" && quilt --quiltrc - top) doesn't apply to $id; out/linux is unchanged." \
	    "rejected: $(cd "$top" && find out/linux.tmp -name '*.rej' | paste -sd ' ')" \
	    "To mend it: cd out/linux.tmp, work the rejected hunks in, quilt refresh," \
	    "quilt push -a for the rest; then run make again."
}

# Files that somebody changed in out/linux and not in the series or the repository
# would be lost; so is a patch that is only popped there.
check_edits()
{
	local file good edited=()

	while read -r file; do
		good=$tmp/$file
		[ -e "$good" ] || good=$orig/$file
		cmp -s "$good" "$linux/$file" || edited+=("$file")
	done < <(cd "$linux" && find . \( -path ./.pc -o -name __pycache__ \) -prune -o \
		-type f ! -name '*.[do]' -newer "$linux.stamp" -printf '%P\n')
	[ ${#edited[@]} -eq 0 ] ||
		die "changed by hand in out/linux, would be overwritten: ${edited[*]}" \
		    "Save it (there: quilt push -a, quilt refresh; our own files: copy them here)" \
		    "or drop it: rm -r out/linux"
}

# Bring what is in $tmp into out/linux. $linux.stamp says what out/linux is made of, and
# then lists the files that aren't simply those of $orig.
place()
{
	local base="" last=$out/linux.last file

	if [ -f "$linux.stamp" ] && [ -d "$linux" ]; then
		check_edits
		base=$(head -n 1 "$linux.stamp")
	fi
	if [ "$base" = "$id" ]; then
		mv "$linux.stamp" "$last"	# interrupted from here on: starts over
		tail -n +3 "$last" | while read -r file; do
			if [ -e "$tmp/$file" ]; then
				continue
			elif [ -e "$orig/$file" ]; then
				cp "$orig/$file" "$linux/$file"
			else
				rm -f "$linux/$file"
			fi
		done
		rsync -rlpc "$tmp/" "$linux/"
	else
		rm -rf "$linux.new" "$linux.stamp"
		cp -dR --preserve=mode "$orig" "$linux.new"
		rsync -rlp "$tmp/" "$linux.new/"
		rm -rf "$linux"
		mv "$linux.new" "$linux"
	fi
	{
		echo "$id"
		echo "$stamp"
		(cd "$tmp" && find . -type f -printf '%P\n')
	} >"$last"
	mv "$last" "$linux.stamp"
	rm -rf "$tmp"
}

# A hash of everything that out/linux is made from
make_stamp()
(
	cd "$top"
	{
		echo "$id"
		series
		for patch in $(series); do
			cat "patches/$patch" 2>/dev/null || true
		done
		our_files
		our_files | tr '\n' '\0' | xargs -0r cat
	} | sha256sum
)

current()
{
	[ "$(sed -n 2p "$linux.stamp" 2>/dev/null)" = "$stamp" ] &&
		[ "$(cat "$linux/.pc/applied-patches" 2>/dev/null)" = "$(series)" ]
}

find_source
stamp=$(make_stamp)
! current || exit 0
lock "$linux"
! current || exit 0	# it was another run that had the lock
unpack
apply
our_files | rsync -lp --files-from=- "$top/" "$tmp/"
place
say "out/linux is $id, $(series | wc -l) patches, $(our_files | wc -l) files of ours"
