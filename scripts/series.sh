#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Write the series as they are mailed to out/series, or to the directory given. "# group NAME"
# in patches/series begins one: its mails are a cover letter, patches/cover-NAME, and a patch for
# each that follows. "Files:" in a patch's header names those of our files that come with it.
# Author, Signed-off-by and copyright are of git's user.name and user.email.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

series=$(realpath -m "${1:-$out/series}")
# Only the files that the series touches: what git am takes depends on nothing else
repo=$series.git

groups()
{
	sed -n 's/^# group //p' "$top/patches/series"
}

# group NAME: its patches
group()
{
	sed -n "/^# group $1\$/,/^# group /p" "$top/patches/series" | patch_names
}

# field NAME PATCH: a field of the header
field()
{
	sed -n "/^\$/q; s/^$1: //p" "$top/patches/$2"
}

# What the commit says: the subject, and what stands between the header and "---"
message()
{
	field Subject "$1"
	echo
	sed '1,/^$/d; /^---$/,$d' "$top/patches/$1"
}

# A file of ours: the copyright is that of whoever signs off
named()
{
	sed "s/\(Copyright .*\)the PCI Live Update authors\$/\1$name/" "$1"
}

# Copy those of our files that come with a patch
bring()
{
	local pattern file

	for pattern in $(field Files "$1"); do
		our_files | while read -r file; do
			# shellcheck disable=SC2053 # a glob
			[[ $file == $pattern ]] || continue
			[ ! -e "$file" ] || die "$file comes with $1, and with a patch before it"
			(cd "$top" && cp --parents "$file" "$repo")
			named "$top/$file" >"$file"
		done
	done
}

commit()
{
	git add -A
	git commit -q "$@"
}

# The result must be what is built and tested
check()
{
	local file

	patched_files | cat - <(our_files) | while read -r file; do
		[ -e "$file" ] || die "no patch in patches/ names $file in its Files:"
		cmp "$file" <(named "$out/linux/$file") ||
			die "$file isn't what is in out/linux"
	done
}

"$top/scripts/tree.sh"
lock "$out/linux" --shared
lock "$repo"
for part in $(groups); do
	[ -s "$top/patches/cover-$part" ] || die "no patches/cover-$part"
done
rm -rf "$repo"
git init -q -b series "$repo"
cd "$repo"
# What git am takes isn't a matter of taste
git config commit.gpgsign false
git config diff.noprefix false
git config diff.mnemonicPrefix false
git config core.hooksPath /dev/null
# Also if they are set for this repository only
for key in user.name user.email; do
	! value=$(git -C "$top" config $key) || git config $key "$value"
done
name=$(git var GIT_AUTHOR_IDENT | sed 's/ <.*//; s,[&/\\],\\&,g')
set -f	# patterns are for bring()
patched_files | rsync -lp --files-from=- "$out/linux.orig/" .
commit -m "$(cat "$out/linux.orig.id")"
git tag root
[ "$(series)" = "$(for part in $(groups); do group "$part"; done)" ] ||
	die "patches/series has patches before the first group"
before=root
mails=()
for part in $(groups); do
	git checkout -q -b "$part"
	for patch in $(group "$part"); do
		git apply --index "$top/patches/$patch"
		bring "$patch"
		message "$patch" | commit -s -F -
	done
	git config "branch.$part.description" "$(cat "$top/patches/cover-$part")"
	dir=$series/$((${#mails[@]} + 1))-$part
	mails+=("$dir")
	rm -rf "$dir"
	git format-patch -q --cover-letter --cover-from-description=subject -o "$dir" "$before..$part"
	before=$part
done
check

set +f
git checkout -q -b am root
for dir in "${mails[@]}"; do
	git am -q --empty=drop "$dir"/*.patch || die "git am doesn't take what was written to $dir"
done
git diff --quiet "$before" || die "git am makes something else of the mails"
say "$(find "${mails[@]}" -name '*.patch' | wc -l) mails in $series/*," \
	"for $(cat "$out/linux.orig.id")"
