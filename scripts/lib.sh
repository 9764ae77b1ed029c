# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What several of our scripts need; sourced, not run.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
out=$top/out
linux=$out/linux
cache=${XDG_CACHE_HOME:-${HOME:-$out}/.cache}/pci-liveupdate
mkdir -p "$out" "$cache"
# The caller's locale must not change sort orders or messages that we read, and what our
# Makefile was called with isn't for the kernel's
export LC_ALL=C PYTHONDONTWRITEBYTECODE=1
unset MAKEFLAGS MFLAGS MAKELEVEL
# Nor is the repository of a git hook that we were called from the one to commit to
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE

say()
{
	printf '%s: %s\n' "$(basename "$0" .sh)" "$*"
}

die()
{
	local line

	for line in "$@"; do
		say "$line" >&2
	done
	exit 1
}

# alive TEXT: pass on what is said; when nothing is for 18 s, say that, and for how long
alive()
{
	local line="" part status since=$SECONDS

	while true; do
		status=0
		IFS= read -r -t 18 part || status=$?
		line+=$part
		if [ $status = 0 ]; then
			printf '%s\n' "$line"
			line="" since=$SECONDS
		elif [ $status -gt 128 ]; then
			echo "# $1 after $((SECONDS - since)) s"
		else
			break
		fi
	done
	printf '%s' "$line"
}

# lock FILE [--shared]: hold FILE.lock until this (sub)shell ends
lock()
{
	local fd mode=${2:---exclusive}

	exec {fd}>"$1.lock"
	flock "$mode" --nonblock "$fd" && return
	say "waiting for another run to release $1.lock"
	flock "$mode" "$fd"
}

# debian_sources SUITE: sources.list lines for that suite on the Debian mirrors that
# this machine uses already. Of the archives there, only those with the label "Debian"
# have all suites; before the first "apt-get update" there are no labels.
debian_sources()
{
	local targets=(apt-get indextargets 'Created-By: Packages') uris

	# shellcheck disable=SC2016 # $(...) is for apt
	{
		uris=$("${targets[@]}" --format '$(REPO_URI) $(LABEL)' |
			awk '$2 == "Debian" && NF == 2 { print $1 }')
		[ -n "$uris" ] ||
			uris=$("${targets[@]}" --no-release-info --format '$(REPO_URI)' |
				grep -v security || true)
	}
	sort -u <<<"$uris" | awk -v suite="$1" 'NF {
		keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
		print "deb [signed-by=" keyring " target=Packages lang=none]", $0, suite, "main"
	}'
}

# private_apt DIR SUITES...: sets $apt: apt-get's options for those suites, with lists, cache
# and state below DIR. The system's apt never hears of these suites, and nothing counts as
# installed. Needs no root.
private_apt()
{
	local dir=$1 suite

	shift
	rm -rf "$dir"
	mkdir -p "$dir"/state/lists/partial "$dir"/cache/archives/partial
	for suite; do
		debian_sources "$suite"
	done >"$dir/sources.list"
	: >"$dir/status"
	# A mirror that lags behind will do: what we take from it is signed
	apt=(-qq
		-o Dir::Etc::sourcelist="$dir/sources.list" -o Dir::Etc::sourceparts=/dev/null
		-o Dir::State="$dir/state" -o Dir::State::status="$dir/status"
		-o Dir::Cache="$dir/cache" -o APT::Sandbox::User="$(id -un)"
		-o Acquire::Check-Valid-Until=false)
	apt-get "${apt[@]}" update >>"$dir/log" 2>&1 || true	# the suites that are there will do
}

# Why apt couldn't, from its log: in one line
apt_error()
{
	grep -m 1 'Failed to fetch' "$1" || grep -m 1 '^E: ' "$1" || tail -n 1 "$1"
}

# Our own files, by their in-tree paths, edited and new ones included. Outside of
# git (an unpacked archive of the repository) everything below these directories.
our_files()
(
	dirs=(arch drivers include kernel Documentation tools samples)
	cd "$top" || exit
	if [ "$(git rev-parse --show-toplevel 2>/dev/null)" = "$top" ]; then
		git ls-files --cached --others --exclude-standard -- "${dirs[@]}"
	else
		find "${dirs[@]}" -type f ! -name '*.pyc' 2>/dev/null || true
	fi | while read -r file; do
		# git also lists files that are deleted but not yet committed
		[ ! -f "$file" ] || echo "$file"
	done | sort
)

# The names of patches in lines of a quilt series
patch_names()
{
	sed 's/#.*//; /^[[:space:]]*$/d; s/[[:space:]].*//' "$@"
}

# The names of our patches, in their order
series()
{
	patch_names "$top/patches/series" 2>/dev/null || true
}

# Files of the kernel that our patches touch
patched_files()
{
	local patch

	for patch in $(series); do
		sed -n 's,^\(---\|+++\) [^/[:space:]]*/\([^[:space:]]*\).*,\2,p' "$top/patches/$patch"
	done | sort -u
}

# The directories with code that our patches touch, without those below another of them
patched_directories()
{
	patched_files | grep '\.c$' | grep -v '^tools/' | sed 's,[^/]*$,,' | sort -u |
		awk 'last == "" || index($0, last) != 1 { print; last = $0 }'
}

# Options that, with our config, have all code compiled that our patches touch
patched_config()
{
	printf 'CONFIG_%s=y\n' CARDBUS HOTPLUG_PCI_SHPC PCCARD PCI_DOE PCI_IDE PCI_TSM TSM
}

# Options for a kernel without all that is ours
off_config()
{
	printf '# CONFIG_%s is not set\n' {,SAMPLE_}PCI_LIVEUPDATE
}

# ---- building kernels ----

# sparse 0.6.4 doesn't know it
# shellcheck disable=SC2034 # for those who source this
sparse_flags=-D__typeof_unqual__=__typeof__

# sparse 0.6.4 takes no string for constant, and says so about each MODULE_*()
not_a_finding='error: bad constant expression'

# findings DIR: what compiler and sparse have said
findings()
{
	grep -E '(warning|error): ' "$1/build.log" | grep -v "$not_a_finding\$" || true
}

# kmake DIR TARGETS...: make in $linux for the build directory DIR. With time,
# user and host fixed, equal sources make equal objects, for ccache too; another
# clone of this repository shares its cache. Kconfig writes the versions of rustc
# and pahole into .config: hide them, as we need neither.
kmake()
{
	local dir=$1

	shift
	CCACHE_DIR=${CCACHE_DIR:-$cache/ccache} CCACHE_BASEDIR=${CCACHE_BASEDIR-$top} \
	KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 1970' KBUILD_BUILD_VERSION=1 \
	KBUILD_BUILD_USER=pci KBUILD_BUILD_HOST=liveupdate \
		make -C "$linux" O="$dir" CC="ccache ${cc:-gcc}" HOSTCC="ccache gcc" \
			RUSTC=none PAHOLE=none "$@"
}

# configure DIR FRAGMENTS...: the fragments on top of tinyconfig's, everything that none
# of them names is off. Every option must end up as the last fragment with it says.
configure()
{
	local dir=$1 log=$1/config.log missing

	shift
	# Nobody may change the source until we have built it
	lock "$linux" --shared
	# Slow, so not without need
	if [ -f "$dir/.config.ok" ] && cmp -s <(cat "$@") "$dir/.config.ok" &&
	   [ -z "$(find "$linux" -name 'Kconfig*' -newer "$dir/.config.ok" -print -quit)" ]; then
		return
	fi
	say "configuring $(basename "$dir")"
	rm -f "$dir/.config.ok"
	# Not "make tinyconfig" and then the fragments: what becomes visible with an
	# option of ours (VT with TTY, ...) would get its default, which is mostly y.
	(
		cd "$dir" &&	# merge_config.sh leaves its temporary files where it is
		"$linux/scripts/kconfig/merge_config.sh" -m -O "$dir" \
			"$linux"/kernel/configs/tiny{-base,}.config \
			"$linux/arch/x86/configs/tiny.config" "$@" &&
		mv "$dir/.config" "$dir/allno.config" &&
		KCONFIG_ALLCONFIG=$dir/allno.config kmake "$dir" allnoconfig
	) >"$log" 2>&1 || die "can't configure $dir:" "$(tail -n 1 "$log")" "all of it: $log"

	missing=$(cat "$@" | awk '
		match($0, /^CONFIG_[A-Z0-9_]+=/) { want[substr($0, 1, RLENGTH - 1)] = $0 }
		/^# CONFIG_[A-Z0-9_]+ is not set$/ { want[$2] = $0 }
		END { for (option in want) print want[option] }' | sort |
		while read -r line; do
			case $line in
			\#*)	! grep -q "^${line:2: -11}=" "$dir/.config" ;;
			*)	grep -qxF "$line" "$dir/.config" ;;
			esac || echo "$line"
		done)
	[ -z "$missing" ] || die "these options didn't survive in $dir/.config:" "$missing"
	cat "$@" >"$dir/.config.ok"
}

# build DIR TARGETS...: shows progress every 15 seconds and whatever isn't kbuild's
# usual chatter: warnings and errors. Everything is in DIR/build.log. How many steps a
# whole build takes is known from the last one.
build()
{
	local dir=$1 name log=$1/build.log start=$SECONDS next=$((SECONDS + 15)) n=0 line total=

	shift
	name=$(basename "$dir")
	say "building $name"
	[ -e "$dir/.built" ] || total=$(cat "$cache/steps-$name" 2>/dev/null || true)
	kmake "$dir" --no-print-directory -j"$(nproc)" "$@" 2>&1 | tee "$log" | {
		while IFS= read -r line; do
			case $line in
			"  "[A-Z]*) n=$((n + 1)) ;;
			make*directory* | "Kernel: "* | *"$not_a_finding" | *": note: in included file:") ;;
			*) printf '%s\n' "$line" ;;
			esac
			[ $SECONDS -lt $next ] || {
				say "$name: $n${total:+ of some $total} steps in $((SECONDS - start)) s"
				next=$((SECONDS + 15))
			}
		done
		say "$name: $n steps in $((SECONDS - start)) s"
		echo "$n" >"$dir/.steps"
	} || die "$name: build failed; everything is in $log"
	[ -e "$dir/.built" ] || cp "$dir/.steps" "$cache/steps-$name"
	touch "$dir/.built"
}
