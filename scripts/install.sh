#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Install the Debian packages that the build and the tests need. Without missing
# ones it asks neither apt nor root.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

# What must be there (a command or a file), and the package that brings it. By
# command and not by package: however they came here, they will do.
needs="
gcc			gcc
/usr/include/stdio.h	libc6-dev
make			make
flex			flex
bison			bison
bc			bc
perl			perl
python3			python3
/usr/include/gelf.h	libelf-dev
/usr/include/uuid/uuid.h	uuid-dev
ccache			ccache
quilt			quilt
rsync			rsync
xz			xz-utils
flock			util-linux
git			git
gnuplot			gnuplot-nox
/bin/busybox		busybox-static
sparse			sparse
codespell		codespell
shellcheck		shellcheck
flake8			flake8
sphinx-build		python3-sphinx
dot			graphviz
"
# Further ones from our caller: packages with a command of the same name
for package; do
	needs+="$package $package"$'\n'
done
# 8.1 is the first with the igb NIC
qemu_min=8.1
log=$out/install.log

missing()
{
	local need package

	while read -r need package; do
		[ -n "$need" ] || continue
		[ -e "$need" ] || command -v "$need" >/dev/null || echo "$package"
	done <<<"$needs"
	# The package busybox isn't static
	! grep -qs /ld-linux /bin/busybox || echo busybox-static
}

newer()		# newer A B: version A is B or newer
{
	[ "$(printf '%s\n' "$1" "$2" | sort -V | tail -n 1)" = "$1" ]
}

qemu_good()
{
	local version

	version=$(qemu-system-x86_64 --version 2>/dev/null | sed -n 's/.* version \([0-9.]*\).*/\1/p')
	newer "${version:-0}" $qemu_min
}

apt()
{
	DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 \
		--no-install-recommends --no-remove "$@" >>"$log" 2>&1 </dev/null ||
		{ tail -n 20 "$log" >&2; die "apt-get failed; see $log"; }
}

# A release whose own QEMU is too old has a newer one in its backports. Private
# lists add them to the system's sources, and only QEMU's own packages are asked for
# from there: "-t" would take every dependency from backports and upgrade half of
# the system.
install_qemu()
{
	local candidate suite package packages=

	candidate=$(apt-cache policy qemu-system-x86 | sed -n 's/ *Candidate: \(.*:\)\?//p')
	if newer "${candidate:-0}" $qemu_min; then
		apt install qemu-system-x86
		return
	fi
	suite=$(. /etc/os-release && echo "$VERSION_CODENAME")-backports
	say "QEMU ${candidate:-0} is too old, taking it from $suite"
	tmp=$(mktemp -d)
	trap 'rm -rf "$tmp"' EXIT
	chmod 755 "$tmp"	# apt reads as another user
	mkdir -p "$tmp/parts" "$tmp/lists/partial"
	find /etc/apt/sources.list.d -type f \( -name '*.list' -o -name '*.sources' \) \
		-exec cp {} "$tmp/parts/" \; 2>/dev/null || true
	debian_sources "$suite" >"$tmp/parts/backports.list"
	set -- -o Dir::Etc::sourceparts="$tmp/parts" -o Dir::State::lists="$tmp/lists"
	apt "$@" update
	for package in qemu-system-x86 qemu-system-common qemu-system-data seabios; do
		packages+=" $package/$suite"
	done
	# shellcheck disable=SC2086 # several words
	apt "$@" install $packages
}

packages=$(missing | paste -sd ' ')
if [ -z "$packages" ] && qemu_good; then
	exit
fi
command -v apt-get >/dev/null ||
	die "these Debian packages, or what they are called here, are missing:" \
	    "$packages (and qemu-system-x86 >= $qemu_min, unless it's there)"
[ "$(id -u)" = 0 ] ||
	die "not root, can't install: apt-get install --no-install-recommends $packages" \
	    "and qemu-system-x86 >= $qemu_min, perhaps from backports, unless it's there"

lock "$cache/install"
packages=$(missing | paste -sd ' ')	# somebody else may have been faster
say "installing: $packages$(qemu_good || echo " qemu-system-x86")"
apt update
# shellcheck disable=SC2086 # several words
[ -z "$packages" ] || apt install $packages
qemu_good || install_qemu
packages=$(missing | paste -sd ' ')
[ -z "$packages" ] || die "installed, but still missing what these should bring: $packages"
qemu_good || die "installed, but qemu-system-x86_64 is still older than $qemu_min"
